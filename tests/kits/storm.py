"""A storm in tools directories: every kind of edit, in parallel, while readers look at what serves.

Each version of the file says its number in three places. A definition is *torn* if they differ. A version
is *missed* if it never serves. Kinds that events do not tell are found by the poll, which is left at 2 s.
"""

import os
import shutil
import statistics
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio

from bridge.secrets import Sources
from bridge.tool.compiler import Tool
from bridge.toolfiles.loader import load_once
from bridge.toolfiles.watch.scan import Directories
from tests.kits.figures import Figure, at_least, at_most, none_of
from tests.toolfiles.edits import MISSED, SEEN, Edit, rename_over
from tests.toolfiles.service import Service
from tests.toolfiles.test_bad_files import BAD

_VERSION: Final = """\
description: w{number} of the file.
inputSchema: {{type: object, properties: {{w{number}: {{type: string}}}}}}
request: {{method: GET, url: http://localhost:1/w{number}}}
"""
_PACE: Final = 0.3
"""Seconds from one edit to the next: more than four notifications a second would wait for each other."""


@dataclass
class Found:
    """What one run saw."""

    edits: int = 0
    looks: int = 0
    delays: list[float] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)


class Directory(Service):
    """One tools directory with a reloader at work on it."""

    def __init__(self, root: Path, *, events: bool, poll: float) -> None:
        super().__init__(root, events=events, poll=poll)
        self.path = root / "a.yaml"
        root.mkdir(parents=True)
        self.path.write_text(_VERSION.format(number=0))

    async def serves(self, version: str, after: int = 0) -> None:
        """Until a version serves, and clients were told more than ``after`` times."""
        await self.until(lambda: self.version == version and len(self.announced) > after)

    @property
    def tool(self) -> Tool | None:
        return self.registry.current.find("a")

    @property
    def version(self) -> str:
        """The version that serves; ``torn`` if it is several, empty if there is none."""
        tool = self.tool
        if tool is None:
            return ""
        said = {
            tool.spec.description.split()[0],
            *tool.definition["inputSchema"]["properties"],
            tool.spec.request.url.rpartition("/")[2],
        }
        return said.pop() if len(said) == 1 else "torn"


async def run(*, long: bool) -> list[Figure]:
    rounds = 1000 if long else 8
    with TemporaryDirectory() as name:
        place = Path(name)
        seen, blind, polled = Found(), Found(), Found()
        async with anyio.create_task_group() as tasks:
            for edit in SEEN:
                tasks.start_soon(_edits, place / "events", edit, seen, rounds)
        async with anyio.create_task_group() as tasks:
            for edit in MISSED:
                tasks.start_soon(_edits, place / "blind", edit, blind, rounds // 4)
            for edit in SEEN + MISSED:
                tasks.start_soon(_edits, place / "polled", edit, polled, rounds // 4)
        return [
            at_least("kinds of edits that are accepted", len(SEEN + MISSED), 18),
            *_figures("with events", seen, 0.15),
            *_figures("with events that tell nothing", blind, 2.5),
            *_figures("with polls alone", polled, 2.5),
            *await _refusals(place / "refused", every=1 if long else 8),
            *await _nothing(place / "nothing", 200 if long else 10),
            *await _gale(place / "gale", seconds=20 if long else 3),
        ]


def _figures(how: str, found: Found, most: float) -> Iterator[Figure]:
    yield none_of(f"missed edits, {how}", found.missed, found.edits)
    yield none_of(f"torn definitions, {how}", found.torn, found.looks)
    cuts = statistics.quantiles(found.delays, n=100, method="inclusive")
    yield at_most(f"write → swapped and announced, p50, {how}", cuts[49] * 1000, most * 1000, "ms")
    yield at_most(f"write → swapped and announced, p99, {how}", cuts[98] * 1000, most * 1000, "ms")


async def _edits(place: Path, edit: Edit, found: Found, rounds: int) -> None:
    directory = Directory(place / edit.__name__ / "tools.d", events=place.name != "polled", poll=2.0)
    async with _working(directory, found):
        rename_over(directory.path, _VERSION.format(number=0) + "deprecated: Begun.\n")
        await directory.serves("w0", after=0)  # the watch is set, and all begin together
        await anyio.sleep(_PACE)
        for number in range(1, rounds + 1):
            found.edits += 1
            heard, began = len(directory.announced), anyio.current_time()
            if (writing := edit(directory.path, _VERSION.format(number=number))) is not None:
                await writing
                began = anyio.current_time()
            try:
                await directory.serves(f"w{number}", after=heard)
            except TimeoutError:
                found.missed.append(f"{edit.__name__}: w{number}; {directory.version or 'nothing'} serves")
            else:
                found.delays.append(directory.announced[-1] - began)
            await anyio.sleep_until(began + _PACE)


@asynccontextmanager
async def _working(directory: Directory, found: Found) -> AsyncIterator[None]:
    """The reloader, and a reader, at work."""

    async def read() -> None:
        while True:
            found.looks += 1
            if directory.version == "torn":
                found.torn.append(f"{directory.root.parent.name}: {directory.tool}")
            await anyio.sleep(0.01)

    await directory.reloader.reload()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(directory.reloader.run)
        tasks.start_soon(read)
        yield
        tasks.cancel_scope.cancel()


# --- what is refused ---


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere.yaml")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100_000_000)


_SPECIAL: Final = {
    "pipe": _pipe,
    "folder": _folder,
    "device": _device,
    "loop": _loop,
    "dangling": _dangling,
    "sparse": _sparse,
}
"""What stands where a file belongs."""


def _put(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Makes it elsewhere, and puts it in one step where the file was."""

    def put(path: Path) -> None:
        made = path.with_name(".made")
        make(made)
        if made.is_dir():
            path.unlink()
        made.rename(path)

    return put


def _copy(case: Path) -> Callable[[Path], None]:
    def copy(path: Path) -> None:
        path.write_bytes(case.read_bytes())

    return copy


async def _refusals(root: Path, every: int) -> list[Figure]:
    """Broken files one after the other: the last good one serves, ``check`` agrees, and good ones are taken again."""
    cases = [(f"{case.parent.name}/{case.name}", _put(_copy(case))) for case in sorted(BAD.glob("*/*.yaml"))]
    cases = [case for case in cases if "upstream" not in case[0]][::every]
    cases += [(name, _put(make)) for name, make in _SPECIAL.items()]
    directory, found = Directory(root, events=True, poll=2.0), Found()
    shutil.copy(BAD / "shop.upstream.yaml", root)
    kinds: set[str] = set()
    wrong: list[str] = []
    recoveries: list[float] = []
    async with _working(directory, found):
        for number, (name, put) in enumerate(cases, 1):
            before, swaps = directory.version, len(directory.swaps)
            put(directory.path)
            await directory.until(lambda: len(directory.swaps) > swaps)  # noqa: B023
            told = [str(diagnostic) for diagnostic in directory.shelf.loaded.diagnostics]
            codes = {d.code for d in directory.shelf.loaded.diagnostics if d.severity == "error"}
            checked = [str(d) for d in load_once(Directories((str(root),)), Sources({})).diagnostics]
            if directory.shelf.loaded.broken:
                kinds |= {name.partition("/")[0]} & {*codes, *_SPECIAL}
                if directory.version != before or told != checked or not told:
                    wrong.append(f"{name}: {directory.version} serves, {told}, check says {checked}")
            if directory.path.is_dir():
                directory.path.rmdir()
            began = anyio.current_time()
            rename_over(directory.path, _VERSION.format(number=number))
            await directory.serves(f"w{number}")
            recoveries.append(anyio.current_time() - began)
    return [
        at_least("kinds of files that are refused", len(kinds), 24),
        none_of("refused files that cost the last good one, or the verdict of check", wrong, len(cases)),
        at_most("recovery, longest", max(recoveries) * 1000, 1000, "ms"),
    ]


# --- what is no news, and what is too much ---


def _nothings(path: Path, number: int) -> Iterator[None]:
    text = path.read_text()
    path.touch()
    yield
    path.chmod((0o600, 0o644)[number % 2])
    yield
    path.write_text(text)
    yield
    path.write_text(f"{text.partition('#')[0]}# no. {number}\n")
    yield
    path.with_name("README.md").write_text(f"no. {number}")
    yield
    path.with_name(".a.yaml.swp").write_text(f"no. {number}")
    yield
    path.write_text(f"{text.partition('timeout')[0].partition('#')[0]}timeout: {number % 9 + 1}s\n")
    yield


async def _nothing(root: Path, rounds: int) -> list[Figure]:
    """Edits that clients would not see, and one that they do at the end."""
    directory, found, count = Directory(root, events=True, poll=0.2), Found(), 0
    async with _working(directory, found):
        for number in range(rounds):
            for _ in _nothings(directory.path, number):
                count += 1
                await anyio.sleep(0.02)
        early = [str(at) for at in directory.announced]
        rename_over(directory.path, _VERSION.format(number=1))
        await directory.serves("w1")
    return [none_of("notifications of edits that change nothing (7 kinds)", early, count)]


async def _gale(root: Path, seconds: int) -> list[Figure]:
    """150 writes a second over ten files."""
    directory, found, count = Directory(root, events=True, poll=2.0), Found(), 150 * seconds
    async with _working(directory, found):
        began = anyio.current_time()
        for number in range(1, count + 1):
            (root / f"{'abcdefghij'[number % 10]}.yaml").write_text(_VERSION.format(number=number))
            await anyio.sleep_until(began + number / 150)
        last = anyio.current_time()
        wanted = {f"w{number} of the file." for number in range(count - 9, count + 1)}
        await directory.until(
            lambda: {t.spec.description for t in directory.registry.current.tools} == wanted
        )
        converged = anyio.current_time() - last
        await directory.until(lambda: directory.announced[-1] > last)
    heard = directory.announced
    most = max(sum(at <= later < at + 1 for later in heard) for at in heard)
    return [
        at_most("150 writes a second: converged after the last", converged * 1000, 1000, "ms"),
        at_most("  notifications in any one second", most, 4, "sent"),
    ]
