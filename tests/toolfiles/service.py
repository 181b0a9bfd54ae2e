"""A reloader at work on one directory, for tests and kits."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from bridge.events import Event, SnapshotReplaced
from bridge.registry import Registry
from bridge.secrets import Sources
from bridge.toolfiles.directory import Shelf
from bridge.toolfiles.reloader import Reloader
from bridge.toolfiles.watch.scan import Directories


class Service:
    """A reloader at work on one directory, and what was heard of it."""

    def __init__(
        self,
        root: Path,
        *,
        events: bool,
        poll: float,
        directories: Directories | None = None,
        alone: bool = True,
    ) -> None:
        self.root = root
        self.registry = Registry()
        self.swaps: list[SnapshotReplaced] = []
        self.announced: list[float] = []
        self.environ: dict[str, str] = {}
        self._moved = anyio.Event()
        self.shelf = Shelf(
            directories or Directories((str(root),)), self.registry, Sources(self.environ), poll=poll
        )
        self.reloader = Reloader(
            self.shelf, emit=self.hear, announce=self.announce, events=events, alone=alone
        )

    def hear(self, event: Event) -> None:
        assert isinstance(event, SnapshotReplaced)
        self.swaps.append(event)
        self._move()

    async def announce(self) -> None:
        self.announced.append(anyio.current_time())
        self._move()

    def _move(self) -> None:
        self._moved.set()
        self._moved = anyio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(30):
            while not condition():
                await self._moved.wait()

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
    alone: bool = True,
) -> AsyncIterator[Service]:
    service = Service(root, events=events, poll=poll, directories=directories, alone=alone)
    await service.reloader.reload()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.reloader.run)
        yield service
        tasks.cancel_scope.cancel()
