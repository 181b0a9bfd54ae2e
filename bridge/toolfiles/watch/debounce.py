"""The contents of tool files, as far as they are stable: a change counts once two checks agree on it.

Each file is in one of these states. Times are from the start of the state; ``poll`` is the interval between polls.

================  ====================================  =====================================================
state             how a file gets there                 how it leaves
================  ====================================  =====================================================
stable            its bytes are in ``contents``         a check finds another stat: it is changing or missing
changing          it is new, or its stat is another     same stat after ``QUIET_SECONDS``: it is read.
                                                        Another stat: the wait starts again, but all waits
                                                        together take at most ``MAX_WAIT_SECONDS``.
missing           it had contents, and has no stat now  still missing after ``DELETION_SECONDS``: deleted.
                                                        It is back: changing, or stable if it is the same.
cut short         it was read, and its bytes are a      read again after one ``poll``, and then accepted
                  strict prefix of the last good ones
changed while     the stat after reading is another     read again after ``QUIET_SECONDS``
it was read
unreadable now    no file descriptor is left            it keeps its contents; read again after one ``poll``
================  ====================================  =====================================================

A file in a folder that cannot be listed is not checked: it keeps its state. If a whole directory is gone, its
files keep their contents until the directory is back. The first scan skips all waits.
"""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bridge.diagnostics import Finding
from bridge.toolfiles.place import Content, Directories, FileStat, Folder, Place, Signature
from bridge.toolfiles.watch.scan import OUT_OF_DESCRIPTORS, read, scan_directories, stat_file, watchable

QUIET_SECONDS: Final = 0.05
DELETION_SECONDS: Final = 0.25
MAX_WAIT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Change:
    """A file that is not stable: its stat at the last check (None: no file), when it changed first, when to act."""

    stat: FileStat | None
    since: float
    due: float
    was_cut_short: bool = False


class Debouncer:
    """Keeps ``contents`` up to date. Times are seconds of one monotonic clock. Not safe for concurrent calls.

    ``changed`` are the places whose contents changed; who has processed them clears it.
    ``last_good`` returns the bytes of a file when it was last valid. ``folders`` and ``folder_problems`` are
    results of the last scan. ``watchable`` are the folders to watch for events.
    """

    def __init__(
        self, directories: Directories, last_good: Callable[[Place], bytes | None], poll: float
    ) -> None:
        self.contents: dict[Place, Content] = {}
        self.changed: set[Place] = set()
        self.folders: set[Folder] = set()
        self.watchable: AbstractSet[Folder] = frozenset()
        self.folder_problems: dict[Place, Finding] = {}
        self._directories = directories
        self._last_good = last_good
        self._poll = poll
        self._max_files = directories.max_entries * len(directories.roots)
        self._has_scanned = False
        self._known: dict[Place, FileStat] = {}
        self._changes: dict[Place, _Change] = {}

    @property
    def due(self) -> float | None:
        """When to check the files that are not stable; None if all are."""
        return min((change.due for change in self._changes.values()), default=None)

    def check(self, time: float, places: Iterable[Place] = ()) -> None:
        """Check some files, and all that are not stable."""
        for place in {*places, *self._changes}:
            self._compare(place, stat_file(place), time)

    def scan(self, time: float, *, compare_bytes: bool = False) -> None:
        """Check every file by its stat and, with ``compare_bytes``, by its bytes too.

        The first scan takes files as they are.
        """
        found = scan_directories(self._directories)
        self.folder_problems = found.folder_problems
        if OUT_OF_DESCRIPTORS in found.folder_problems.values():
            # If these folders were given up, watching would stop, free descriptors, and start again, in a loop.
            self.folders = self.folders | found.folders
        else:
            self.folders = found.folders
        self.watchable = watchable(self.folders)
        for place in {**found.stats, **self._known, **self._changes}:
            stat = found.stats.get(place)
            if stat or found.is_absent(place):
                self._compare(place, stat, time, compare_bytes=compare_bytes)
        self._has_scanned = True

    def _compare(
        self, place: Place, stat: FileStat | None, time: float, *, compare_bytes: bool = False
    ) -> None:
        change = self._changes.pop(place, None)
        # Between two scans events may name any number of new files.
        if place not in self._known and len(self._known) >= self._max_files:
            return  # a scan reports that there are too many
        if stat == self._known.get(place):
            if not (compare_bytes and isinstance(stat, Signature)):
                return  # a change that was undone is forgotten
            change = _Change(stat, time, time)  # due at once: its stat says that nobody writes to it
        elif change is None or change.stat != stat:
            since = change.since if change else time  # kept, so that all waits together have a bound
            wait = QUIET_SECONDS if stat else DELETION_SECONDS
            change = _Change(
                stat, since, min(time + wait, since + MAX_WAIT_SECONDS) if self._has_scanned else time
            )
        if time < change.due:
            self._changes[place] = change
        else:
            self._accept(place, change, time)

    def _accept(self, place: Place, change: _Change, time: float) -> None:
        if change.stat is None:
            # Otherwise the whole directory is gone. The file keeps its contents, and the next scan checks it again.
            if Path(place.directory).is_dir():
                del self._known[place], self.contents[place]
                self.changed.add(place)
            return
        found = (
            (change.stat, change.stat) if isinstance(change.stat, Finding) else read(place, self._directories)
        )
        if found is None:
            self._changes[place] = replace(change, due=time + QUIET_SECONDS)
        elif found[1] is OUT_OF_DESCRIPTORS and place in self.contents:
            # A fault of this process, not of the file.
            self._changes[place] = replace(change, due=time + self._poll)
        elif not change.was_cut_short and self._is_cut_short(place, found[1]):
            # A writer may have been stopped, or its disk is full. Once only: the file may be meant to be shorter.
            self._changes[place] = replace(change, due=time + self._poll, was_cut_short=True)
        else:
            self._known[place], self.contents[place] = found
            self.changed.add(place)

    def _is_cut_short(self, place: Place, content: Content) -> bool:
        good = self._last_good(place)
        return (
            isinstance(content, bytes)
            and good is not None
            and len(content) < len(good)
            and good.startswith(content)
        )
