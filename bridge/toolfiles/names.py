"""Assigns names of tools to files. A name has at most one holder.

A file gets all names that it requests, or keeps all that it held before. ``assign`` repeats two steps until neither
grants a request:

1. Grant each request whose names are all free, or held by the requesting file itself.
2. If there is none: grant the largest group of requests whose names are all free or held within the group. So two
   files can swap their names, and names can move on in a circle.

Of several requests for one name the first wins. A file whose request is granted releases its other names in the
same step, so that they are free for the next file. A file whose request is never granted loses nothing.
"""

from collections.abc import Collection, Mapping
from copy import copy
from typing import TypeAlias

from bridge.toolfiles.place import Place

NameRequests: TypeAlias = Mapping[Place, Collection[str]]
"""The names that each file requests, the request with precedence first."""


class NameTable:
    """Which file holds which names; copies share their storage until one of them changes."""

    def __init__(self, held: NameRequests | None = None) -> None:
        self._held: dict[Place, Collection[str]] = {}
        self._holders: dict[str, Place] = {}
        self._is_shared = False
        for place, names in (held or {}).items():
            self._grant(place, names)

    def copy(self) -> "NameTable":
        self._is_shared = True  # also in the copy: whichever changes first gets its own storage
        return copy(self)

    @property
    def held(self) -> NameRequests:
        return self._held

    def holder(self, name: str) -> Place | None:
        return self._holders.get(name)

    def release(self, place: Place) -> None:
        """Free all names that a file holds, if any."""
        if place in self._held:
            self._unshare()
            for name in self._held.pop(place):
                del self._holders[name]

    def assign(self, requests: NameRequests) -> set[Place]:
        """Grant as many requests as possible; returns the files whose request was granted."""
        granted: set[Place] = set()
        open_requests = dict(requests)
        while group := _independent(open_requests, self._holders) or _circular(open_requests, self._holders):
            names_of = {place: open_requests.pop(place) for place in group}
            # Most files request what they hold: without a change the storage stays shared.
            changes = {place: names for place, names in names_of.items() if names != self._held.get(place)}
            # All are released before one is granted, as the files of a group may swap names.
            for place in changes:
                self.release(place)
            for place, names in changes.items():
                self._grant(place, names)
            granted |= group
        return granted

    def _grant(self, place: Place, names: Collection[str]) -> None:
        self._unshare()
        self._held[place] = names
        self._holders |= dict.fromkeys(names, place)

    def _unshare(self) -> None:
        if self._is_shared:
            self._held, self._holders, self._is_shared = dict(self._held), dict(self._holders), False


def _independent(requests: NameRequests, held: Mapping[str, Place]) -> set[Place]:
    """The files that request no name that another file holds."""
    free = {
        place: names for place, names in requests.items() if all(held.get(n, place) == place for n in names)
    }
    return set(_without_conflicts(free))


def _circular(requests: NameRequests, held: Mapping[str, Place]) -> set[Place]:
    """The largest group of files that request only names that are free or held within the group."""
    group = requests
    while True:
        # Each file that leaves the group keeps its names, which may block others: so this repeats.
        free = {p: names for p, names in group.items() if all(held.get(n, p) in group for n in names)}
        smaller = free if len(free) < len(group) else _without_conflicts(free)
        if len(smaller) == len(group):
            return set(smaller)
        group = smaller


def _without_conflicts(requests: NameRequests) -> NameRequests:
    """The requests without those that share a name with an earlier one."""
    kept = {}
    requested: set[str] = set()
    for place, names in requests.items():
        if requested.isdisjoint(names):
            kept[place] = names
            requested.update(names)
    return kept
