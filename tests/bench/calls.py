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
        figures += [f"{median(cost, runs_):.3f}" for runs_ in each]
        figures += [f"{median(_p50, runs_):.2f}" for runs_ in each]
        figures += [f"{median(_p99, runs_):.2f}" for runs_ in each]
        row(lane.name, *figures, f"{resting[lane.server.subject.name]:.0f}")
    _ratios(asked, runs)


def _ratios(asked: Iterable[Lane], runs: Runs) -> None:
    """Ours beside each peer."""
    ours = [lane for lane in asked if lane.server.subject is BRIDGE]
    title("restbridge beside the peers: calls/s at 16 and 64, CPU per call at 16, p99 at 64")
    row("", *(f"{lane.era} {what}" for lane in ours for what in ("rate 16", "rate 64", "CPU", "p99")))
    for peer in asked:
        if peer.server.subject is BRIDGE:
            continue
        figures = []
        for lane in ours:
            pairs = {n: (runs[lane.name, n], runs[peer.name, n]) for n in CONNECTIONS}
            figures += [f"{ratio(rate, *pairs[n]):.2f} x" for n in (16, 64)]
            figures.append(f"{ratio(cost, *pairs[16]):.3f} x")
            figures.append(f"{ratio(_p99, *pairs[64]):.2f} x")
        row(f"beside {peer.name}", *figures)


def _p50(run: Run) -> float:
    return run.load.p50


def _p99(run: Run) -> float:
    return max(run.load.p99, 0.01)
