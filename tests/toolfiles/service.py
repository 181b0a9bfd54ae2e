"""A running reloader on one directory, for tests and kits."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from bridge.events import Event, SnapshotReplaced
from bridge.registry import Registry
from bridge.secrets import Sources
from bridge.toolfiles.directory import ToolDirectory
from bridge.toolfiles.place import Directories
from bridge.toolfiles.reloader import Reloader


class Service:
    """A running reloader on one directory; records its events and announcements."""

    def __init__(
        self,
        root: Path,
        *,
        events: bool,
        poll: float,
        directories: Directories | None = None,
        is_only_process: bool = True,
    ) -> None:
        self.root = root
        self.registry = Registry()
        self.swaps: list[SnapshotReplaced] = []
        self.announced: list[float] = []
        self.environ: dict[str, str] = {}
        self._changed = anyio.Event()
        self.tool_directory = ToolDirectory(
            directories or Directories((str(root),)), self.registry, Sources(self.environ), poll=poll
        )
        self.reloader = Reloader(
            self.tool_directory,
            emit=self.on_event,
            announce=self.announce,
            events=events,
            is_only_process=is_only_process,
        )

    def on_event(self, event: Event) -> None:
        assert isinstance(event, SnapshotReplaced)
        self.swaps.append(event)
        self._notify()

    async def announce(self) -> None:
        self.announced.append(anyio.current_time())
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(30):
            while not condition():
                await self._changed.wait()

    def description(self, name: str = "a") -> str | None:
        found = self.registry.current.find(name)
        return found.spec.description if found else None

    async def says(self, description: str | None, name: str = "a") -> None:
        try:
            await self.until(lambda: self.description(name) == description)
        except TimeoutError as late:
            late.add_note(f"{self.root}: {name} says {self.description(name)}, not {description}")
            raise


@asynccontextmanager
async def serving(
    root: Path,
    *,
    events: bool = True,
    poll: float = 60,
    directories: Directories | None = None,
    is_only_process: bool = True,
) -> AsyncIterator[Service]:
    service = Service(
        root, events=events, poll=poll, directories=directories, is_only_process=is_only_process
    )
    await service.reloader.reload()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.reloader.run)
        yield service
        tasks.cancel_scope.cancel()
