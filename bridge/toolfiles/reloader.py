"""Reloads tool files when they change, and announces the changes to clients.

========================  =====================================================================================
cause                     what ``run`` does
========================  =====================================================================================
file system event         checks the files that the event names, or scans if it may affect other files
a change is due           checks the files that are not stable (see ``watch/debounce``)
poll                      scans. Finds what events miss: writes by another machine, files behind links, a
                          directory that was recreated. Every ``_FULL_POLL_INTERVAL`` polls it compares bytes.
``request_reload``        scans, compares bytes, and emits a report even if nothing changed
new set of folders        sets the watches again, at most once in ``_REARM_SECONDS``
========================  =====================================================================================

``mode`` is ``events``, or ``polling`` after setting the watches failed. In ``polling``, watching is retried with a
growing pause; the first batch of events sets ``events`` again.

A visible change is announced at once, but at most ``_MAX_ANNOUNCEMENTS_PER_SECOND`` times: changes that come
too fast share one announcement. With several processes an announcement waits until the others had time to reload.
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
from bridge.toolfiles.directory import ToolDirectory
from bridge.toolfiles.loaded import Loaded
from bridge.toolfiles.place import Folder
from bridge.toolfiles.watch.debounce import DELETION_SECONDS

_log: Final = logging.getLogger(__name__)

_FULL_POLL_INTERVAL: Final = 10
"""Every tenth poll compares the bytes of all files, not only their stats: times of a file system may be coarse."""
_MAX_ANNOUNCEMENTS_PER_SECOND: Final = 4
_PROCESS_LAG_SECONDS: Final = 0.5
"""How much later another process may serve a change that both processes get an event for."""
_MAX_RETRY_SECONDS: Final = 60.0
"""The longest pause before watching is tried again; but never less than the poll interval."""
_REARM_SECONDS: Final = 1.0
"""The least time between two sets of watches. Setting them blocks the event loop."""
_MAX_RELOAD_WAIT_SECONDS: Final = 4 * DELETION_SECONDS
"""How long ``reload`` waits for files that are not stable."""


class Reloader:
    """Reloads on request, on events and on polls, one reload at a time.

    ``emit`` is called after every swap, ``announce`` is awaited after a swap that is visible to clients.
    Without ``events`` it only polls. Unless ``is_only_process``, announcements wait for the other processes,
    because clients may list the tools there.
    """

    def __init__(
        self,
        directory: ToolDirectory,
        *,
        emit: Callable[[SnapshotReplaced], None],
        announce: Callable[[], Awaitable[None]],
        events: bool = True,
        is_only_process: bool = True,
    ) -> None:
        self.mode: Literal["events", "polling"] = "events" if events else "polling"
        self._directory = directory
        self._debouncer = directory.debouncer
        self._emit = emit
        self._announce = announce
        self._is_only_process = is_only_process
        self._poll = directory.poll
        self._lock = anyio.Lock()
        self._polls = 0
        self._paths: set[str] = set()
        self._needs_scan = False
        self._is_requested = False
        self._wake = anyio.Event()
        self._armed: AbstractSet[Folder] = frozenset()
        self._armed_at = -math.inf
        self._rearm_due: float | None = None
        self._has_unwatched = False
        self._rearm = anyio.Event()
        self._is_found_by_poll = False
        self._unannounced: list[float] = []
        self._announcements: deque[float] = deque(maxlen=_MAX_ANNOUNCEMENTS_PER_SECOND)

    async def reload(self) -> SnapshotReplaced:
        """Scan, wait until changing files are stable, and load; returns what changed.

        The first reload takes files as they are.
        """
        async with self._lock:
            started = anyio.current_time()
            await self._check(everything=True, compare_bytes=True)
            # Longer waits, as for a file that seems cut short, are left to ``run``.
            while (due := self._debouncer.due) is not None and due <= started + _MAX_RELOAD_WAIT_SECONDS:
                await anyio.sleep_until(due)
                await self._check()
            return await self._swap(await to_thread.run_sync(self._directory.load), started)

    def request_reload(self) -> None:
        """Have ``run`` reload soon and emit a report, even if nothing changed."""
        self._is_requested = True
        self._wake.set()

    async def run(self) -> None:
        """Reload on request and whenever something changes, until cancelled."""
        async with anyio.create_task_group() as tasks:
            if self.mode == "events":
                tasks.start_soon(self._watch)
            next_poll = anyio.current_time() + self._poll
            while True:
                times = [next_poll, self._debouncer.due, self._announcement_due, self._rearm_due]
                wait = min(time for time in times if time is not None) - anyio.current_time()
                with anyio.move_on_after(max(wait, 0)):
                    await self._wake.wait()
                # Before anything is taken: what comes from now on sets the new event, and so the next round.
                self._wake = anyio.Event()
                is_requested, self._is_requested = self._is_requested, False
                polled = anyio.current_time() >= next_poll
                try:
                    if is_requested:  # outside the lock, which ``reload`` takes itself
                        await self.reload()
                    async with self._lock:
                        await self._reload_changed(polled=polled)
                except Exception:  # noqa: BLE001 - the outermost loop: our own fault is logged, and serving goes on
                    _log.exception("reload failed; the tools stay as they were")
                if polled:  # from its end: on a slow disk there is still a pause between two polls
                    next_poll = anyio.current_time() + self._poll

    async def _reload_changed(self, *, polled: bool) -> None:
        started = anyio.current_time()
        # Taken before the first await: events that arrive during the check are for the next round.
        paths, self._paths = self._paths, set()
        everything, self._needs_scan = self._needs_scan or polled, False
        self._polls += polled
        await self._check(
            paths, everything=everything, compare_bytes=polled and self._polls % _FULL_POLL_INTERVAL == 0
        )
        # Kept until the change is served: other processes find it only at their own polls.
        self._is_found_by_poll |= polled and (
            bool(self._debouncer.changed) or self._debouncer.due is not None
        )
        if everything or self._debouncer.changed:  # a scan is also for secrets, whose files may have changed
            loaded = await to_thread.run_sync(self._directory.load)
            if loaded is self._directory.loaded:
                self._debouncer.changed.clear()
                # Something that a poll found may still wait to be stable.
                self._is_found_by_poll &= self._debouncer.due is not None
            else:
                await self._swap(loaded, started)
        await self._announce_if_due()

    async def _check(
        self, paths: Iterable[str] = (), *, everything: bool = False, compare_bytes: bool = False
    ) -> None:
        now = anyio.current_time()
        check = partial(self._directory.check, now, paths, everything=everything, compare_bytes=compare_bytes)
        await to_thread.run_sync(check)
        if self._rearm_due is None and self._debouncer.watchable != self._armed:
            self._rearm_due = self._armed_at + _REARM_SECONDS
        if self._rearm_due is not None and self._rearm_due <= anyio.current_time():
            self._rearm.set()
            self._rearm_due = None

    async def _swap(self, loaded: Loaded, started: float) -> SnapshotReplaced:
        """Serve ``loaded`` from now on, announce it and emit the event."""
        is_first = not self._directory.is_served
        event = self._directory.swap(loaded, started)
        if event.visible and not is_first:  # at startup there are no clients yet
            self._unannounced.append(anyio.current_time() + self._announcement_delay)
        self._is_found_by_poll = False
        await self._announce_if_due()
        self._emit(event)
        return event

    @property
    def _announcement_delay(self) -> float:
        """Seconds until all processes serve what was just swapped in here."""
        if self._is_only_process:
            return 0
        return _PROCESS_LAG_SECONDS + (self._poll if self._is_found_by_poll else 0)

    @property
    def _announcement_due(self) -> float | None:
        """When the next announcement may be made; None if there is nothing to announce."""
        if not self._unannounced:
            return None
        # The deque holds the last announcements only: the next one may be made a second after the first of them.
        is_full = len(self._announcements) == _MAX_ANNOUNCEMENTS_PER_SECOND
        return max(min(self._unannounced), self._announcements[0] + 1 if is_full else 0)

    async def _announce_if_due(self) -> None:
        now = anyio.current_time()
        if self._announcement_due is not None and self._announcement_due <= now:
            self._unannounced = [due for due in self._unannounced if due > now]
            self._announcements.append(now)
            await self._announce()

    async def _watch(self) -> None:
        """Watch for events, and set new watches whenever the folders differ: inotify watches inodes, not paths.

        While watching fails, polls find changes. It is retried with a growing pause.
        """
        pause = self._poll
        while True:
            # Together, without an await in between: folders found from now on set the new event.
            self._rearm, self._armed = anyio.Event(), self._debouncer.watchable
            self._armed_at, self._rearm_due = anyio.current_time(), None
            self._log_unwatched()
            try:
                await self._receive_events()
            except FileNotFoundError:  # a directory was removed just now: a poll finds it when it is back
                with anyio.move_on_after(self._poll):
                    await self._rearm.wait()
            except (OSError, RuntimeError) as problem:  # a limit of the system, or watchfiles' own error
                pause = (
                    self._poll
                    if self.mode == "events"
                    else min(2 * pause, max(_MAX_RETRY_SECONDS, self._poll))
                )
                if self.mode == "events":
                    self.mode = "polling"
                    message = (
                        "cannot watch folders (%s): polling every %g s until watching works again; "
                        "raise fs.inotify.max_user_watches, fs.inotify.max_user_instances or the limit of open files"
                    )
                    _log.warning(message, type(problem).__name__, self._poll)
                await anyio.sleep(pause)

    def _log_unwatched(self) -> None:
        folders, watched = len(self._debouncer.folders), len(self._armed)
        had_unwatched, self._has_unwatched = self._has_unwatched, folders > watched
        if self._has_unwatched and not had_unwatched:
            message = "%d of %d folders are watched; changes in the others are found by polling every %g s"
            _log.warning(message, watched, folders, self._poll)
        elif had_unwatched and not self._has_unwatched:
            _log.info("all folders are watched again")

    async def _receive_events(self) -> None:
        folders = self._directory.directories.paths(self._armed)
        if not folders:  # no directory exists yet: a poll finds it
            await self._rearm.wait()
            return
        changes = awatch(
            *folders,
            watch_filter=None,  # the default one hides folders such as .git; ``files_at`` decides
            recursive=False,  # True follows links out of the directory
            debounce=50,
            step=25,  # the thread wakes up this often while it waits, so a shorter one costs CPU without a change
            rust_timeout=200,
            yield_on_timeout=True,  # the first batch, even an empty one, shows that the watches are set
            stop_event=self._rearm,
            force_polling=False,  # None: WATCHFILES_FORCE_POLLING or WSL would decide
            ignore_permission_denied=False,  # True also hides limits and missing directories
        )
        is_first = True
        async for batch in changes:
            if self.mode == "polling":
                self.mode = "events"
                _log.info("watching folders works again")
            self._needs_scan |= is_first  # changes made before the watches were set
            self._paths |= {path for _, path in batch}
            if batch or is_first:
                self._wake.set()
            is_first = False
