"""Subjects under load in turns, so that a bad moment of the machine meets all of them."""

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
class Lane:
    """One way of asking a subject; ``label`` stands for its name, where it is not alone with that."""

    server: Served
    era: Era
    label: str = ""

    @property
    def name(self) -> str:
        eras = self.server.subject.eras
        named = self.label or self.server.subject.name
        return f"{named}, {self.era}" if len(eras) > 1 else named


def lanes(server: Served, label: str = "") -> list[Lane]:
    """One for each era that the subject speaks."""
    return [Lane(server, era, label) for era in server.subject.eras]


@dataclass(frozen=True, slots=True)
class Pace:
    """How long it is measured; ``seconds`` are those of one run."""

    rounds: int
    seconds: int

    @classmethod
    def of(cls, *, quick: bool) -> "Pace":
        return cls(1, 1) if quick else cls(5, 3)

    def __str__(self) -> str:
        return f"medians of {self.rounds} rounds of {self.seconds} s"


@dataclass(frozen=True, slots=True)
class Run:
    """``cpu`` is the server's, in seconds."""

    load: Load
    cpu: float


_FEW: Final = 20

Ask: TypeAlias = Callable[[Served, Era], Message]
Runs: TypeAlias = Mapping[tuple[str, int], list[Run]]
"""By a lane's name and a number of connections, a run for each round."""


def take(asked: Sequence[Lane], ask: Ask, connections: Sequence[int], pace: Pace, folder: Path) -> Runs:
    """``ask`` makes the request before each run: of a session of its own, where there are any."""
    runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for _ in range(pace.rounds):
        for number in connections:
            for lane in asked:
                what = ask(lane.server, lane.era)
                wrk(lane.server.port, what, number, 1, folder)  # what rested since the last round is closed
                before = cpu(lane.server.pid)
                load = wrk(lane.server.port, what, number, pace.seconds, folder)
                runs[lane.name, number].append(Run(load, cpu(lane.server.pid) - before))
    return runs


def median(of: Callable[[Run], float], runs: Iterable[Run]) -> float:
    return statistics.median(map(of, runs))


def ratio(of: Callable[[Run], float], ours: Iterable[Run], theirs: Iterable[Run]) -> float:
    """Of the two runs of each round, then the median."""
    return statistics.median(of(a) / of(b) for a, b in zip(ours, theirs, strict=True))


def rate(run: Run) -> float:
    return run.load.rate


def cost(run: Run) -> float:
    """CPU milliseconds of the server per request."""
    return run.cpu / max(run.load.calls, 1) * 1000


def p50(run: Run) -> float:
    return run.load.p50


def p99(run: Run) -> float:
    return run.load.p99


def heads(in_flight: Sequence[int]) -> list[str]:
    """Of ``figures``."""
    return [
        f"{what} at {number}" for what in ("calls/s", "CPU ms", "p50 ms", "p99 ms") for number in in_flight
    ]


def figures(each: Sequence[list[Run]]) -> list[str]:
    """What was measured with each number of calls in flight."""
    told = [f"{median(rate, runs):.0f}" for runs in each]
    for of, form in ((cost, ".3f"), (p50, ".2f"), (p99, ".2f")):
        told += ["-" if say_nothing(runs) else f"{median(of, runs):{form}}" for runs in each]
    return told


def say_nothing(runs: Iterable[Run]) -> bool:
    """Whether one had too few calls."""
    return any(run.load.calls < _FEW for run in runs)


def compare(
    what: str, pairs: Sequence[tuple[Lane, Lane]], ask: Ask, connections: int, folder: Path, *, quick: bool
) -> None:
    """Prints what each lane does, then the first of each pair beside the second.

    What is in flight when a run ends costs and does not count: few ``connections`` for slow requests.
    """
    pace = Pace.of(quick=quick)
    asked = list(dict.fromkeys(lane for pair in pairs for lane in pair))
    runs = take(asked, ask, (connections,), pace, folder)
    title(f"{what}, {connections} at a time, {pace}")
    row("", "a second", "CPU ms each")
    for lane in asked:
        each = runs[lane.name, connections]
        row(lane.name, f"{median(rate, each):.0f}", f"{median(cost, each):.3f}")
    for ours, theirs in pairs:
        both = runs[ours.name, connections], runs[theirs.name, connections]
        row(f"{ours.name} beside {theirs.name}", f"{ratio(rate, *both):.2f} x", f"{ratio(cost, *both):.3f} x")
