"""The results of a kit: figures and their goals."""

import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_MAX_DETAILS: Final = 20


@dataclass(frozen=True, slots=True)
class Figure:
    """A measurement, its goal, and whether the goal is met; ``details`` describe a failure.

    ``timed`` figures depend on the load of the machine: only a long run on an idle machine can fail on them.
    """

    label: str
    measured: str
    goal: str
    is_met: bool
    details: tuple[str, ...] = ()
    timed: bool = False


def none_of(label: str, wrong: Iterable[str], total: int) -> Figure:
    """A figure for events that must not happen, in ``total`` tries."""
    events = tuple(wrong)
    hidden = len(events) - _MAX_DETAILS
    details = events[:_MAX_DETAILS] + ((f"and {hidden} more",) if hidden > 0 else ())
    return Figure(label, f"{len(events)} of {total}", "0", not events and total > 0, details)


def at_most(label: str, measured: float, limit: float, unit: str) -> Figure:
    timed = unit in ("s", "ms", "times")
    shown = f"{measured:.3g}" if measured < 1000 else f"{measured:.0f}"
    return Figure(label, f"{shown} {unit}", f"≤ {limit:g} {unit}", measured <= limit, timed=timed)


def failed(kit: str, error: BaseException) -> Figure:
    """The figure for a kit that raised an exception."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return Figure(f"{kit} finished", "no", "yes", is_met=False, details=tuple(lines[-_MAX_DETAILS:]))


def at_least(label: str, count: int, minimum: int) -> Figure:
    return Figure(label, str(count), f"≥ {minimum}", count >= minimum)


def table(figures: Iterable[Figure], *, long: bool) -> str:
    """One line for each figure; details of failures are indented below it."""
    rows = []
    for figure in figures:
        verdict = "" if figure.is_met else "  NOT MET"
        if figure.timed and not figure.is_met and not long:
            verdict += " (a timing: ignored without --long)"
        rows.append(f"  {figure.label:<66} {figure.measured:>16}  {figure.goal}{verdict}")
        rows += [f"      {line}" for line in figure.details]
    return "\n".join(rows)
