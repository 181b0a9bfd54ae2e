"""What a kit found: figures beside what they must hold."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured, what it must be, and whether it is; ``found`` says what was seen where it is not.

    ``timed``: it depends on what else the machine does, so that it proves nothing in a short run.
    """

    what: str
    measured: str
    goal: str
    held: bool
    found: tuple[str, ...] = ()
    timed: bool = False


def none_of(what: str, wrong: Iterable[str], total: int) -> Figure:
    """A figure of what must not happen, in ``total`` tries."""
    found = tuple(wrong)
    return Figure(what, f"{len(found)} of {total}", "0", not found and total > 0, found[:20])


def at_most(what: str, measured: float, most: float, unit: str) -> Figure:
    timed = unit in ("s", "ms", "times")
    return Figure(what, f"{measured:.3g} {unit}", f"≤ {most:g} {unit}", measured <= most, timed=timed)


def at_least(what: str, count: int, least: int) -> Figure:
    return Figure(what, str(count), f"≥ {least}", count >= least)


def table(figures: Iterable[Figure]) -> str:
    rows = []
    for figure in figures:
        verdict = "" if figure.held else "  NOT HELD"
        rows.append(f"  {figure.what:<66} {figure.measured:>16}  {figure.goal}{verdict}")
        rows += [f"      {line}" for line in figure.found]
    return "\n".join(rows)
