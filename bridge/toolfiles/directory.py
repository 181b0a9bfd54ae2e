"""Checks the tool directories for changes, loads the files and swaps the new snapshot in.

Nothing here waits: a process can serve its first list of tools before it has an event loop.
"""

from collections.abc import Iterable
from time import monotonic

from bridge.events import SnapshotReplaced
from bridge.registry import Registry
from bridge.secrets import Sources
from bridge.toolfiles.loaded import Loaded
from bridge.toolfiles.loader import load
from bridge.toolfiles.place import Directories, Place
from bridge.toolfiles.watch.debounce import Debouncer
from bridge.toolfiles.watch.scan import files_at


class ToolDirectory:
    """Not safe for concurrent calls. All times are from ``time.monotonic``.

    ``loaded`` is the last load. ``keep``: a broken file's last good version stays served.
    ``poll`` is the interval between two polls, in seconds.
    """

    def __init__(
        self,
        directories: Directories,
        registry: Registry,
        sources: Sources,
        *,
        keep: bool = True,
        poll: float = 2.0,
    ) -> None:
        self.loaded = Loaded()
        self.poll = poll
        self.directories = directories
        self.debouncer = Debouncer(directories, self._last_good, poll)
        self.is_served = False
        self._registry = registry
        self._sources = sources
        self._keep = keep

    def start(self) -> SnapshotReplaced:
        """Load all files as they are now, and serve them. For the first load only."""
        started = monotonic()
        self.debouncer.scan(started)
        return self.swap(self.load(), started)

    def check(
        self, time: float, paths: Iterable[str] = (), *, everything: bool = False, compare_bytes: bool = False
    ) -> None:
        """Check the files at ``paths`` and all that are not stable, or all files."""
        places = files_at(paths, self.directories, self.debouncer.folders)
        if everything or places is None:
            self.debouncer.scan(time, compare_bytes=compare_bytes)
        else:
            self.debouncer.check(time, places)

    def load(self) -> Loaded:
        """The load that results from the last check; ``loaded`` itself if nothing differs."""
        return load(
            self.directories,
            self.debouncer.contents,
            self._sources,
            self.loaded,
            self.debouncer.changed,
            keep=self._keep,
            folder_problems=self.debouncer.folder_problems,
        )

    def swap(self, loaded: Loaded, started: float) -> SnapshotReplaced:
        """Serve ``loaded`` from now on; ``started`` is when this reload began."""
        change = self._registry.replace(loaded.snapshot)
        self.loaded = loaded
        self.is_served = True
        # Only now: after a load that failed, the next one must look at these places again.
        self.debouncer.changed.clear()
        return SnapshotReplaced(
            added=change.added,
            changed=change.changed,
            removed=change.removed,
            broken=loaded.broken,
            visible=change.visible,
            rerouted=change.rerouted,
            seconds=monotonic() - started,
        )

    def _last_good(self, place: Place) -> bytes | None:
        return self.loaded.last_good(place)
