"""tools/call over HTTP with all servers: medians of interleaved rounds, and ratios to the peers."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.bench.processes import memory
from tests.bench.rounds import (
    Runs,
    Schedule,
    Variant,
    column_titles,
    cost,
    figures,
    has_few_calls,
    measure,
    p99,
    rate,
    ratio,
    variants,
)
from tests.bench.subjects import BRIDGE, SUBJECTS, Served, served
from tests.bench.table import row, title

CONNECTIONS: Final = (1, 16, 64)


def main(url: str, folder: Path, *, quick: bool) -> None:
    schedule = Schedule.of(quick=quick)
    with ExitStack() as stack:
        servers = [stack.enter_context(served(each, url, folder / each.name)) for each in SUBJECTS]
        measured = [variant for server in servers for variant in variants(server)]
        idle_memory = {server.subject.name: memory(server.pid) for server in servers}
        runs = measure(measured, Served.call, CONNECTIONS, schedule, folder)
    title(f"tools/call over HTTP, {schedule}")
    row("", *column_titles(CONNECTIONS), "MB")
    for variant in measured:
        each = [runs[variant.name, n] for n in CONNECTIONS]
        row(variant.name, *figures(each), f"{idle_memory[variant.server.subject.name]:.0f}")
    _ratios(measured, runs)


def _ratios(measured: Iterable[Variant], runs: Runs) -> None:
    """Prints the ratios of restbridge to each peer."""
    ours = [variant for variant in measured if variant.server.subject is BRIDGE]
    title("restbridge compared with its peers: calls/s at 16 and 64, CPU per call at 16, p99 at 64")
    short = {"modern": "mod.", "handshake": "hands."}
    row(
        "",
        *(
            f"{short[variant.era]} {metric}"
            for variant in ours
            for metric in ("rate 16", "rate 64", "CPU", "p99")
        ),
    )
    for peer in measured:
        if peer.server.subject is BRIDGE:
            continue
        cells = []
        for variant in ours:
            pairs = {n: (runs[variant.name, n], runs[peer.name, n]) for n in CONNECTIONS}
            cells += [f"{ratio(rate, *pairs[n]):.2f} x" for n in (16, 64)]
            for metric, connections, form in ((cost, 16, ".3f"), (p99, 64, ".2f")):
                cells.append(
                    "-"
                    if has_few_calls(pairs[connections][1])
                    else f"{ratio(metric, *pairs[connections]):{form}} x"
                )
        row(f"compared with {peer.name}", *cells)
