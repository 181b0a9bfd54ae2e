"""tools/call over HTTP, all subjects in turns: medians of interleaved rounds, and ratios to the peers."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.bench.processes import memory
from tests.bench.rounds import Lane, Pace, Run, Runs, cost, lanes, median, rate, ratio, take
from tests.bench.subjects import BRIDGE, SUBJECTS, Served, served
from tests.bench.table import row, title

CONNECTIONS: Final = (1, 16, 64)
_FEW: Final = 20
"""Calls of a run below which its figures say nothing."""


def main(url: str, folder: Path, *, quick: bool) -> None:
    pace = Pace.of(quick=quick)
    with ExitStack() as stack:
        servers = [stack.enter_context(served(each, url, folder / each.name)) for each in SUBJECTS]
        asked = [lane for server in servers for lane in lanes(server)]
        resting = {server.subject.name: memory(server.pid) for server in servers}
        runs = take(asked, Served.call, CONNECTIONS, pace, folder)
    title(f"tools/call over HTTP, {pace}")
    row(
        "",
        *(f"{head} at {n}" for head in ("calls/s", "CPU ms", "p50 ms", "p99 ms") for n in CONNECTIONS),
        "MB",
    )
    for lane in asked:
        each = [runs[lane.name, n] for n in CONNECTIONS]
        figures = [f"{median(rate, runs_):.0f}" for runs_ in each]
        for of, form in ((cost, ".3f"), (_p50, ".2f"), (_p99, ".2f")):
            figures += ["-" if _say_nothing(runs_) else f"{median(of, runs_):{form}}" for runs_ in each]
        row(lane.name, *figures, f"{resting[lane.server.subject.name]:.0f}")
    _ratios(asked, runs)


def _ratios(asked: Iterable[Lane], runs: Runs) -> None:
    """Ours beside each peer."""
    ours = [lane for lane in asked if lane.server.subject is BRIDGE]
    title("restbridge beside the peers: calls/s at 16 and 64, CPU per call at 16, p99 at 64")
    short = {"modern": "mod.", "handshake": "hands."}
    row("", *(f"{short[lane.era]} {what}" for lane in ours for what in ("rate 16", "rate 64", "CPU", "p99")))
    for peer in asked:
        if peer.server.subject is BRIDGE:
            continue
        figures = []
        for lane in ours:
            pairs = {n: (runs[lane.name, n], runs[peer.name, n]) for n in CONNECTIONS}
            figures += [f"{ratio(rate, *pairs[n]):.2f} x" for n in (16, 64)]
            for of, at, form in ((cost, 16, ".3f"), (_p99, 64, ".2f")):
                figures.append("-" if _say_nothing(pairs[at][1]) else f"{ratio(of, *pairs[at]):{form}} x")
        row(f"beside {peer.name}", *figures)


def _say_nothing(runs: Iterable[Run]) -> bool:
    return any(run.load.calls < _FEW for run in runs)


def _p50(run: Run) -> float:
    return run.load.p50


def _p99(run: Run) -> float:
    return run.load.p99
