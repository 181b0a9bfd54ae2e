"""Who holds a name: one file each, and nobody loses what it holds before it has what it asks for."""

from collections.abc import Collection, Mapping
from typing import TypeAlias

from bridge.toolfiles.files import Place

Wishes: TypeAlias = Mapping[Place, Collection[str]]
"""The names that files ask for, in order of precedence."""


def settle(wishes: Wishes, held: dict[str, Place]) -> set[Place]:
    """The files that get all that they ask for; ``held`` becomes what it is then.

    Who gets it lets go of what else it held. So a name goes to the next in the same moment, and two
    files may swap theirs.
    """
    granted: set[Place] = set()
    asking = dict(wishes)
    while fitting := _alone(asking, held) or _together(asking, held):
        for name in [name for name, place in held.items() if place in fitting]:
            del held[name]
        for place in fitting:
            held |= dict.fromkeys(asking.pop(place), place)
        granted |= fitting
    return granted


def _alone(asking: Wishes, held: Mapping[str, Place]) -> set[Place]:
    """Those who ask for nothing that another one holds."""
    free = {
        place: names for place, names in asking.items() if all(held.get(n, place) == place for n in names)
    }
    return set(_first(free))


def _together(asking: Wishes, held: Mapping[str, Place]) -> set[Place]:
    """Those who ask for what others among them hold, if these get what they ask for."""
    fitting = asking
    while True:
        free = {p: names for p, names in fitting.items() if all(held.get(n, p) in fitting for n in names)}
        kept = free if len(free) < len(fitting) else _first(free)
        if len(kept) == len(fitting):
            return set(kept)
        fitting = kept


def _first(asking: Wishes) -> Wishes:
    """Of those who ask for the same name, the first."""
    kept = {}
    wanted: set[str] = set()
    for place, names in asking.items():
        if wanted.isdisjoint(names):
            kept[place] = names
            wanted.update(names)
    return kept
