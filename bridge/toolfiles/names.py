"""Who holds a name: one file each, and nobody loses what it holds before it has what it asks for."""

from collections.abc import Collection, Mapping
from copy import copy
from typing import TypeAlias

from bridge.toolfiles.watch.scan import Place

Wishes: TypeAlias = Mapping[Place, Collection[str]]
"""The names that files ask for, in order of precedence."""


class Names:
    """The names that are held; a file holds all that it asked for together, or what it held before."""

    def __init__(self, held: Wishes | None = None) -> None:
        self._held: dict[Place, Collection[str]] = {}
        self._holders: dict[str, Place] = {}
        self._is_shared = False
        for place, names in (held or {}).items():
            self._grant(place, names)

    def copy(self) -> "Names":
        """Costs nothing before one of the two changes."""
        self._is_shared = True
        return copy(self)

    @property
    def held(self) -> Wishes:
        return self._held

    def holder(self, name: str) -> Place | None:
        return self._holders.get(name)

    def release(self, place: Place) -> None:
        """Let go of all that a file holds, if anything."""
        if place in self._held:
            self._own()
            for name in self._held.pop(place):
                del self._holders[name]

    def settle(self, wishes: Wishes) -> set[Place]:
        """The files that get all that they ask for.

        Who gets it lets go of what else it held. So a name goes to the next in the same moment, and two
        files may swap theirs.
        """
        granted: set[Place] = set()
        asking = dict(wishes)
        while fitting := _alone(asking, self._holders) or _together(asking, self._holders):
            wished = {place: asking.pop(place) for place in fitting}
            others = {place: names for place, names in wished.items() if names != self._held.get(place)}
            for place in others:
                self.release(place)
            for place, names in others.items():
                self._grant(place, names)
            granted |= fitting
        return granted

    def _grant(self, place: Place, names: Collection[str]) -> None:
        self._own()
        self._held[place] = names
        self._holders |= dict.fromkeys(names, place)

    def _own(self) -> None:
        if self._is_shared:
            self._held, self._holders, self._is_shared = dict(self._held), dict(self._holders), False


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
