"""What a kit found: figures beside what they must hold."""

import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_SHOWN: Final = 20


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
    shown = found[:_SHOWN] + ((f"and {len(found) - _SHOWN} more",) if len(found) > _SHOWN else ())
    return Figure(what, f"{len(found)} of {total}", "0", not found and total > 0, shown)


def at_most(what: str, measured: float, most: float, unit: str) -> Figure:
    timed = unit in ("s", "ms", "times")
    shown = f"{measured:.3g}" if measured < 1000 else f"{measured:.0f}"
    return Figure(what, f"{shown} {unit}", f"≤ {most:g} {unit}", measured <= most, timed=timed)


def failed(kit: str, problem: BaseException) -> Figure:
    """A kit that did not come to its end, and why."""
    said = "".join(traceback.format_exception(problem)).splitlines()
    return Figure(f"{kit} came to its end", "no", "yes", held=False, found=tuple(said[-_SHOWN:]))


def at_least(what: str, count: int, least: int) -> Figure:
    return Figure(what, str(count), f"≥ {least}", count >= least)


def table(figures: Iterable[Figure], *, long: bool) -> str:
    """What stands under a figure, indented, is what was seen where it is not held."""
    rows = []
    for figure in figures:
        verdict = "" if figure.held else "  NOT HELD"
        if figure.timed and not figure.held and not long:
            verdict += " (a time: counts with --long alone)"
        rows.append(f"  {figure.what:<66} {figure.measured:>16}  {figure.goal}{verdict}")
        rows += [f"      {line}" for line in figure.found]
    return "\n".join(rows)
