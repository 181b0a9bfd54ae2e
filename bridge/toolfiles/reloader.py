"""Wakes when something changes, looks at it, and swaps in what it comes to.

An event of the file system says only where to look first. A poll finds what events miss: writes from
another machine, files behind links, a directory that was removed and made again.
"""

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final, Literal

import anyio
from anyio import to_thread
from watchfiles import awatch

from bridge.events import SnapshotReplaced
from bridge.toolfiles.directory import Shelf
from bridge.toolfiles.loaded import Loaded
from bridge.toolfiles.watch.debounce import GONE
from bridge.toolfiles.watch.scan import Folder

_log: Final = logging.getLogger("bridge")

_THOROUGH: Final = 10
"""Every so many polls look at the bytes of all files, not only at what they are known by."""
_ANNOUNCEMENTS: Final = 4
"""At most so many within a second: a burst is heard at once, a storm in sums."""
_LAG: Final = 0.5
"""Seconds by which another process may be later to serve what both were told of."""
_REST: Final = 60.0
"""Seconds between two attempts to watch, at most; but never less than a poll."""
_REARM: Final = 1.0
"""Seconds from one set of watches to the next, at least: to set them takes the event loop's time."""
_LONGEST: Final = 4 * GONE
"""How long a reload that was asked for waits for files that move, in seconds."""


class Reloader:
    """Reloads when asked, on events and on polls, one at a time.

    ``announce`` is awaited after a swap that clients would see; ``emit`` hears of every one. Without
    ``events``, polls are all there is. One that is not ``alone`` announces when other processes have had time
    to reload the same files, for clients may list the tools there.
    """

    def __init__(
        self,
        shelf: Shelf,
        *,
        emit: Callable[[SnapshotReplaced], None],
        announce: Callable[[], Awaitable[None]],
        events: bool = True,
        alone: bool = True,
    ) -> None:
        self.mode: Literal["events", "polling"] = "events" if events else "polling"
        self._shelf = shelf
        self._settling = shelf.settling
        self._emit = emit
        self._announce = announce
        self._alone = alone
        self._poll = shelf.poll
        self._lock = anyio.Lock()
        self._polls = 0
        self._paths: set[str] = set()
        self._everything = False
        self._asked = False
        self._woken = anyio.Event()
        self._armed: AbstractSet[Folder] = frozenset()
        self._armed_at = -math.inf
        self._rearm_due: float | None = None
        self._crowded = False
        self._rearm = anyio.Event()
        self._found_by_poll = False
        self._unheard: list[float] = []
        self._announced: deque[float] = deque(maxlen=_ANNOUNCEMENTS)

    async def reload(self) -> SnapshotReplaced:
        """Look at everything, wait until what moves has settled, and answer what came of it.

        The first one takes files as they are.
        """
        async with self._lock:
            started = anyio.current_time()
            await self._look(everything=True, bytes_too=True)
            while (due := self._settling.due) is not None and due <= started + _LONGEST:
                await anyio.sleep_until(due)
                await self._look()
            return await self._swap(await to_thread.run_sync(self._shelf.load), started)

    def ask(self) -> None:
        """Have ``run`` reload soon, with a report even if nothing moved."""
        self._asked = True
        self._woken.set()

    async def run(self) -> None:
        """Reload when asked and whenever something changes; ends when it is cancelled."""
        async with anyio.create_task_group() as tasks:
            if self.mode == "events":
                tasks.start_soon(self._watch)
            next_poll = anyio.current_time() + self._poll
            while True:
                times = [next_poll, self._settling.due, self._announceable, self._rearm_due]
                wait = min(time for time in times if time is not None) - anyio.current_time()
                with anyio.move_on_after(max(wait, 0)):
                    await self._woken.wait()
                self._woken = anyio.Event()
                asked, self._asked = self._asked, False
                polled = anyio.current_time() >= next_poll
                try:
                    if asked:
                        await self.reload()
                    async with self._lock:
                        await self._reload_what_moved(polled=polled)
                except Exception:  # noqa: BLE001 - the outermost loop: our own fault is told, what serves serves on
                    _log.exception("reload failed; the tools stay as they were")
                if polled:
                    next_poll = anyio.current_time() + self._poll

    async def _reload_what_moved(self, *, polled: bool) -> None:
        started = anyio.current_time()
        paths, self._paths = self._paths, set()
        everything, self._everything = self._everything or polled, False
        self._polls += polled
        await self._look(paths, everything=everything, bytes_too=polled and self._polls % _THOROUGH == 0)
        self._found_by_poll |= polled and (bool(self._settling.moved) or self._settling.due is not None)
        if everything or self._settling.moved:
            loaded = await to_thread.run_sync(self._shelf.load)
            if loaded is self._shelf.loaded:
                self._settling.moved.clear()
                self._found_by_poll &= self._settling.due is not None
            else:
                await self._swap(loaded, started)
        await self._announce_if_due()

    async def _look(
        self, paths: Iterable[str] = (), *, everything: bool = False, bytes_too: bool = False
    ) -> None:
        now = anyio.current_time()
        look = partial(self._shelf.look, now, paths, everything=everything, bytes_too=bytes_too)
        await to_thread.run_sync(look)
        if self._rearm_due is None and self._settling.watchable != self._armed:
            self._rearm_due = self._armed_at + _REARM
        if self._rearm_due is not None and self._rearm_due <= anyio.current_time():
            self._rearm.set()
            self._rearm_due = None

    async def _swap(self, loaded: Loaded, started: float) -> SnapshotReplaced:
        """Serve what was loaded from now on, and tell of it."""
        is_first = not self._shelf.is_served
        event = self._shelf.swap(loaded, started)
        if event.visible and not is_first:  # at start nobody is there to hear of it
            self._unheard.append(anyio.current_time() + self._lag)
        self._found_by_poll = False
        await self._announce_if_due()
        self._emit(event)
        return event

    @property
    def _lag(self) -> float:
        """Seconds after which all processes serve what was just swapped in here."""
        if self._alone:
            return 0
        return _LAG + (self._poll if self._found_by_poll else 0)

    @property
    def _announceable(self) -> float | None:
        """When clients may be told of what they have not heard yet."""
        if not self._unheard:
            return None
        is_full = len(self._announced) == _ANNOUNCEMENTS
        return max(min(self._unheard), self._announced[0] + 1 if is_full else 0)

    async def _announce_if_due(self) -> None:
        now = anyio.current_time()
        if self._announceable is not None and self._announceable <= now:
            self._unheard = [due for due in self._unheard if due > now]
            self._announced.append(now)
            await self._announce()

    # --- events ---

    async def _watch(self) -> None:
        """Listen, and start again whenever a folder is another one, as inotify would stay blind for ever.

        Where watching fails, polls find what changes, and it is tried again, less and less often.
        """
        rest = self._poll
        while True:
            self._rearm, self._armed = anyio.Event(), self._settling.watchable
            self._armed_at, self._rearm_due = anyio.current_time(), None
            self._tell_of_crowds()
            try:
                await self._listen()
            except FileNotFoundError:  # a directory went in this very moment: a poll sees it come back
                with anyio.move_on_after(self._poll):
                    await self._rearm.wait()
            except (OSError, RuntimeError) as problem:
                rest = self._poll if self.mode == "events" else min(2 * rest, max(_REST, self._poll))
                if self.mode == "events":
                    self.mode = "polling"
                    message = (
                        "cannot watch (%s): looking every %g s until that works again; "
                        "raise the limits fs.inotify.max_user_* or the limit of open files"
                    )
                    _log.warning(message, type(problem).__name__, self._poll)
                await anyio.sleep(rest)

    def _tell_of_crowds(self) -> None:
        found, watched = len(self._settling.folders), len(self._armed)
        was_crowded, self._crowded = self._crowded, found > watched
        if self._crowded and not was_crowded:
            message = "%d of %d folders are watched; changes in the others are found every %g s"
            _log.warning(message, watched, found, self._poll)
        elif was_crowded and not self._crowded:
            _log.info("all folders are watched again")

    async def _listen(self) -> None:
        folders = self._shelf.directories.paths(self._armed)
        if not folders:
            await self._rearm.wait()
            return
        changes = awatch(
            *folders,
            watch_filter=None,
            recursive=False,  # True follows links, wherever they lead
            debounce=50,
            step=25,
            rust_timeout=200,
            yield_on_timeout=True,
            stop_event=self._rearm,
            force_polling=False,
            ignore_permission_denied=False,  # True ignores limits and missing directories, too
        )
        is_first = True
        async for batch in changes:
            if self.mode == "polling":
                self.mode = "events"
                _log.info("watching for changes again")
            self._everything |= is_first  # what moved before the watch was set
            self._paths |= {path for _, path in batch}
            if batch or is_first:
                self._woken.set()
            is_first = False
