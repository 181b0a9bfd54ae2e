"""What the directories hold, as far as it has settled: a change counts once two looks agree on it.

========================  ==================================================================
a file appears or moves   is read when it is the same at two looks, ``QUIET`` apart
it never comes to rest    is read after ``PATIENCE`` all the same
it is gone                counts as deleted if it is still gone after ``GONE``
it was cut short          new bytes that the last good ones begin with wait one poll
its folder is unreadable  it stays what it was
no descriptor is left     it stays what it was, and is read at the next poll
========================  ==================================================================
"""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bridge.diagnostics import Finding
from bridge.toolfiles.watch.scan import (
    OUT_OF_DESCRIPTORS,
    Content,
    Directories,
    Folder,
    Look,
    Place,
    Signature,
    look,
    read,
    survey,
    watchable,
)

QUIET: Final = 0.05
GONE: Final = 0.25
PATIENCE: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Change:
    """What was seen last (None: no file), since when something moves there, and when it counts."""

    look: Look | None
    since: float
    due: float
    cut_short: bool = False


class Settling:
    """Keeps ``contents`` up to date; times are seconds of one clock, handed in. One caller at a time.

    ``moved`` are the places whose contents became others; who has taken note of them clears it.
    ``last_good`` answers the bytes of a file when it was last right. ``folders`` and ``blind`` are those
    of the last look at all; ``watchable`` are the folders to watch for events.
    """

    def __init__(
        self, directories: Directories, last_good: Callable[[Place], bytes | None], poll: float
    ) -> None:
        self.contents: dict[Place, Content] = {}
        self.moved: set[Place] = set()
        self.folders: set[Folder] = set()
        self.watchable: AbstractSet[Folder] = frozenset()
        self.blind: dict[Place, Finding] = {}
        self._directories = directories
        self._last_good = last_good
        self._poll = poll
        self._room = directories.max_entries * len(directories.roots)
        self._begun = False
        self._known: dict[Place, Look] = {}
        self._changes: dict[Place, _Change] = {}

    @property
    def due(self) -> float | None:
        """When to look at what has not settled yet; None if everything has."""
        return min((change.due for change in self._changes.values()), default=None)

    def look(self, now: float, places: Iterable[Place] = ()) -> None:
        """Look at some files, and at all that move."""
        for place in {*places, *self._changes}:
            self._take(place, look(place), now)

    def look_at_all(self, now: float, *, bytes_too: bool = False) -> None:
        """Look at every file, by what it is known by or, with ``bytes_too``, by what is in it.

        The first look at all takes files as they are.
        """
        found = survey(self._directories)
        self.blind = found.blind
        if (
            OUT_OF_DESCRIPTORS in found.blind.values()
        ):  # else watching would stop, and so free some, again and again
            self.folders = self.folders | found.folders
        else:
            self.folders = found.folders
        self.watchable = watchable(self.folders)
        for place in {**found.looks, **self._known, **self._changes}:
            seen = found.looks.get(place)
            if seen or found.sees(place):
                self._take(place, seen, now, bytes_too=bytes_too)
        self._begun = True

    def _take(self, place: Place, seen: Look | None, now: float, *, bytes_too: bool = False) -> None:
        change = self._changes.pop(place, None)
        if place not in self._known and len(self._known) >= self._room:
            return  # a look at all says that there are too many
        if seen == self._known.get(place):
            if not (bytes_too and isinstance(seen, Signature)):
                return
            change = _Change(seen, now, now)
        elif change is None or change.look != seen:
            since = change.since if change else now
            wait = QUIET if seen else GONE
            change = _Change(seen, since, min(now + wait, since + PATIENCE) if self._begun else now)
        if now < change.due:
            self._changes[place] = change
        else:
            self._settle(place, change, now)

    def _settle(self, place: Place, change: _Change, now: float) -> None:
        if change.look is None:
            if Path(place.directory).is_dir():  # else it is the directory that is gone
                del self._known[place], self.contents[place]
                self.moved.add(place)
            return
        found = (
            (change.look, change.look) if isinstance(change.look, Finding) else read(place, self._directories)
        )
        if found is None:
            self._changes[place] = replace(change, due=now + QUIET)
        elif found[1] is OUT_OF_DESCRIPTORS and place in self.contents:
            self._changes[place] = replace(change, due=now + self._poll)
        elif not change.cut_short and self._is_cut_short(place, found[1]):
            self._changes[place] = replace(change, due=now + self._poll, cut_short=True)
        else:
            self._known[place], self.contents[place] = found
            self.moved.add(place)

    def _is_cut_short(self, place: Place, content: Content) -> bool:
        good = self._last_good(place)
        return (
            isinstance(content, bytes)
            and good is not None
            and len(content) < len(good)
            and good.startswith(content)
        )
