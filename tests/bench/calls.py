"""tools/call over HTTP, all subjects in turns: medians of interleaved rounds, and ratios to the peers."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.bench.processes import memory
from tests.bench.rounds import (
    Lane,
    Pace,
    Runs,
    cost,
    figures,
    heads,
    lanes,
    p99,
    rate,
    ratio,
    say_nothing,
    take,
)
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
    row("", *heads(CONNECTIONS), "MB")
    for lane in asked:
        each = [runs[lane.name, n] for n in CONNECTIONS]
        row(lane.name, *figures(each), f"{resting[lane.server.subject.name]:.0f}")
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
        told = []
        for lane in ours:
            pairs = {n: (runs[lane.name, n], runs[peer.name, n]) for n in CONNECTIONS}
            told += [f"{ratio(rate, *pairs[n]):.2f} x" for n in (16, 64)]
            for of, at, form in ((cost, 16, ".3f"), (p99, 64, ".2f")):
                told.append("-" if say_nothing(pairs[at][1]) else f"{ratio(of, *pairs[at]):{form}} x")
        row(f"beside {peer.name}", *told)
