"""What the directories hold, and the tools that it comes to: looked at, loaded and swapped in.

Nothing here waits, so that a process can serve its first list before it has an event loop.
"""

import time
from collections.abc import Iterable

from bridge.events import SnapshotReplaced
from bridge.registry import Registry
from bridge.secrets import Sources
from bridge.toolfiles.loaded import Loaded
from bridge.toolfiles.loader import load
from bridge.toolfiles.watch.debounce import Settling
from bridge.toolfiles.watch.scan import Directories, Place, spoken_of


class Shelf:
    """For one caller at a time; all times are ``time.monotonic``'s.

    ``loaded`` is the last load, with all that is wrong. ``keep``: whether a broken file's last good one
    serves on. ``poll`` is how often its caller looks, in seconds.
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
        self.settling = Settling(directories, self._last_good, poll)
        self.is_served = False
        self._registry = registry
        self._sources = sources
        self._keep = keep

    def begin(self) -> SnapshotReplaced:
        """Load everything for the first time, files as they are, and serve it."""
        started = time.monotonic()
        self.settling.look_at_all(started, bytes_too=True)
        return self.swap(self.load(), started)

    def look(
        self, now: float, paths: Iterable[str] = (), *, everything: bool = False, bytes_too: bool = False
    ) -> None:
        """Look at the files that ``paths`` speak of and at all that move, or at everything."""
        places = spoken_of(paths, self.directories, self.settling.folders)
        if everything or places is None:
            self.settling.look_at_all(now, bytes_too=bytes_too)
        else:
            self.settling.look(now, places)

    def load(self) -> Loaded:
        """What the files come to by the last look; ``loaded`` itself if nothing differs."""
        return load(
            self.directories,
            self.settling.contents,
            self._sources,
            self.loaded,
            self.settling.moved,
            keep=self._keep,
            blind=self.settling.blind,
        )

    def swap(self, loaded: Loaded, started: float) -> SnapshotReplaced:
        """Serve what was loaded from now on; answers what that changed."""
        change = self._registry.replace(loaded.snapshot)
        self.loaded = loaded
        self.is_served = True
        self.settling.moved.clear()
        return SnapshotReplaced(
            added=change.added,
            changed=change.changed,
            removed=change.removed,
            broken=loaded.broken,
            visible=change.visible,
            rerouted=change.rerouted,
            seconds=time.monotonic() - started,
        )

    def _last_good(self, place: Place) -> bytes | None:
        return self.loaded.last_good(place)
