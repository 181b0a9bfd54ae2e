"""Interleaved load on several servers, so that other load on the machine affects all of them alike."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from tests.bench.load import Load, wrk
from tests.bench.messages import Era, Message
from tests.bench.processes import cpu
from tests.bench.subjects import Served
from tests.bench.table import row, title


@dataclass(frozen=True, slots=True)
class Variant:
    """A server and the protocol era of its requests; ``label`` replaces its name if several servers share it."""

    server: Served
    era: Era
    label: str = ""

    @property
    def name(self) -> str:
        eras = self.server.subject.eras
        name = self.label or self.server.subject.name
        return f"{name}, {self.era}" if len(eras) > 1 else name


def variants(server: Served, label: str = "") -> list[Variant]:
    """One for each era that the server supports."""
    return [Variant(server, era, label) for era in server.subject.eras]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The number of rounds, and the length of one run in seconds."""

    rounds: int
    seconds: int

    @classmethod
    def of(cls, *, quick: bool) -> "Schedule":
        return cls(1, 1) if quick else cls(5, 3)

    def __str__(self) -> str:
        return f"medians of {self.rounds} rounds of {self.seconds} s"


@dataclass(frozen=True, slots=True)
class Run:
    """The result of wrk, and the CPU seconds of the server."""

    load: Load
    cpu: float


_MIN_CALLS: Final = 20

RequestFactory: TypeAlias = Callable[[Served, Era], Message]
Runs: TypeAlias = Mapping[tuple[str, int], list[Run]]
"""By a variant's name and a number of connections, a run for each round."""


def measure(
    measured: Sequence[Variant],
    make_request: RequestFactory,
    connections: Sequence[int],
    schedule: Schedule,
    folder: Path,
) -> Runs:
    """Measures all servers. ``make_request`` makes the request of each run, in a new session if the server has sessions."""
    runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for _ in range(schedule.rounds):
        for number in connections:
            for variant in measured:
                request = make_request(variant.server, variant.era)
                # A warm-up: connections that were idle since the last round are closed in it.
                wrk(variant.server.port, request, number, 1, folder)
                before = cpu(variant.server.pid)
                load = wrk(variant.server.port, request, number, schedule.seconds, folder)
                runs[variant.name, number].append(Run(load, cpu(variant.server.pid) - before))
    return runs


def median(metric: Callable[[Run], float], runs: Iterable[Run]) -> float:
    return statistics.median(map(metric, runs))


def ratio(metric: Callable[[Run], float], ours: Iterable[Run], theirs: Iterable[Run]) -> float:
    """The median over rounds of the ratio of the two runs in a round."""
    return statistics.median(metric(a) / metric(b) for a, b in zip(ours, theirs, strict=True))


def rate(run: Run) -> float:
    return run.load.rate


def cost(run: Run) -> float:
    """CPU milliseconds of the server per request."""
    return run.cpu / max(run.load.calls, 1) * 1000


def p50(run: Run) -> float:
    return run.load.p50


def p99(run: Run) -> float:
    return run.load.p99


def column_titles(in_flight: Sequence[int]) -> list[str]:
    """The column titles of ``figures``."""
    return [
        f"{what} at {number}" for what in ("calls/s", "CPU ms", "p50 ms", "p99 ms") for number in in_flight
    ]


def figures(each: Sequence[list[Run]]) -> list[str]:
    """The cells of one row: each metric at each number of calls in flight."""
    cells = [f"{median(rate, runs):.0f}" for runs in each]
    for metric, form in ((cost, ".3f"), (p50, ".2f"), (p99, ".2f")):
        cells += ["-" if has_few_calls(runs) else f"{median(metric, runs):{form}}" for runs in each]
    return cells


def has_few_calls(runs: Iterable[Run]) -> bool:
    """Whether a run had too few calls for percentiles."""
    return any(run.load.calls < _MIN_CALLS for run in runs)


def compare(
    label: str,
    pairs: Sequence[tuple[Variant, Variant]],
    make_request: RequestFactory,
    connections: int,
    folder: Path,
    *,
    quick: bool,
) -> None:
    """Prints the figures of each variant, then the first of each pair compared with the second.

    Requests in flight at the end of a run use CPU but are not counted, so slow requests need few ``connections``.
    """
    schedule = Schedule.of(quick=quick)
    measured = list(dict.fromkeys(variant for pair in pairs for variant in pair))
    runs = measure(measured, make_request, (connections,), schedule, folder)
    title(f"{label}, {connections} at a time, {schedule}")
    row("", "a second", "CPU ms each")
    for variant in measured:
        each = runs[variant.name, connections]
        row(variant.name, f"{median(rate, each):.0f}", f"{median(cost, each):.3f}")
    for ours, theirs in pairs:
        both = runs[ours.name, connections], runs[theirs.name, connections]
        row(
            f"{ours.name} compared with {theirs.name}",
            f"{ratio(rate, *both):.2f} x",
            f"{ratio(cost, *both):.3f} x",
        )
