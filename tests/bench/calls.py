"""tools/call over HTTP, all subjects in turns: medians of interleaved rounds, and ratios to the peers."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.load import Load, wrk
from tests.bench.messages import Era
from tests.bench.processes import cpu, memory
from tests.bench.subjects import BRIDGE, SUBJECTS, Served, served
from tests.bench.table import row, title

CONNECTIONS: Final = (1, 16, 64)


@dataclass(frozen=True, slots=True)
class Lane:
    """One way of asking a subject."""

    server: Served
    era: Era

    @property
    def name(self) -> str:
        eras = self.server.subject.eras
        return f"{self.server.subject.name}, {self.era}" if len(eras) > 1 else self.server.subject.name


@dataclass(frozen=True, slots=True)
class Run:
    load: Load
    cpu: float

    @property
    def cost(self) -> float:
        """CPU milliseconds of the server per call."""
        return self.cpu / max(self.load.calls, 1) * 1000


def compare(url: str, folder: Path, *, rounds: int, seconds: float) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(served(each, url, folder / each.name)) for each in SUBJECTS]
        lanes = [Lane(server, era) for server in servers for era in server.subject.eras]
        resting = {server.subject.name: memory(server.pid) for server in servers}
        runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
        for _ in range(rounds):
            for connections in CONNECTIONS:
                for lane in lanes:
                    runs[lane.name, connections].append(_run(lane, connections, seconds, folder))
    title(f"tools/call over HTTP, medians of {rounds} rounds of {seconds:g} s")
    row(
        "",
        *(f"{head} at {n}" for head in ("calls/s", "CPU ms", "p50 ms", "p99 ms") for n in CONNECTIONS),
        "MB",
    )
    for lane in lanes:
        each = [runs[lane.name, n] for n in CONNECTIONS]
        figures = [f"{_median(run.load.rate for run in runs_):.0f}" for runs_ in each]
        figures += [f"{_median(run.cost for run in runs_):.3f}" for runs_ in each]
        figures += [f"{_median(run.load.p50 for run in runs_):.2f}" for runs_ in each]
        figures += [f"{_median(run.load.p99 for run in runs_):.2f}" for runs_ in each]
        row(lane.name, *figures, f"{resting[lane.server.subject.name]:.0f}")
    _ratios(lanes, runs)


def _run(lane: Lane, connections: int, seconds: float, folder: Path) -> Run:
    server = lane.server
    before = cpu(server.pid)
    load = wrk(server.port, server.call(lane.era), connections, seconds, folder)
    return Run(load, cpu(server.pid) - before)


def _ratios(lanes: Iterable[Lane], runs: Mapping[tuple[str, int], list[Run]]) -> None:
    """Ours beside each peer: rates and costs of the same round, then the median."""
    ours = [lane for lane in lanes if lane.server.subject is BRIDGE]
    title("restbridge beside the peers: calls/s at 16 and 64, CPU per call at 16, p99 at 64")
    row("", *(f"{lane.era} {what}" for lane in ours for what in ("rate 16", "rate 64", "CPU", "p99")))
    for peer in lanes:
        if peer.server.subject is BRIDGE:
            continue
        figures = []
        for lane in ours:
            pairs = {n: list(zip(runs[lane.name, n], runs[peer.name, n], strict=True)) for n in CONNECTIONS}
            figures += [f"{_median(a.load.rate / b.load.rate for a, b in pairs[n]):.2f} x" for n in (16, 64)]
            figures.append(f"{_median(a.cost / b.cost for a, b in pairs[16]):.3f} x")
            figures.append(f"{_median(a.load.p99 / max(b.load.p99, 0.01) for a, b in pairs[64]):.2f} x")
        row(f"beside {peer.name}", *figures)


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)
