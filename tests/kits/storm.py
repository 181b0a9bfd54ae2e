"""Many edits of tools directories: every kind of edit, in parallel, while a reader checks the served tools.

Each version of the file contains its number in three places. A definition is *torn* if they differ. A version
is *missed* if it is never served. Edits without a file event are detected by polling, with the default of 2 s.
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
from bridge.toolfiles.place import Directories
from tests.kits.figures import Figure, at_least, at_most, none_of
from tests.toolfiles.edits import WITH_EVENTS, WITHOUT_EVENTS, Edit, rename_over
from tests.toolfiles.service import Service
from tests.toolfiles.test_bad_files import BAD

_VERSION: Final = """\
description: w{number} of the file.
inputSchema: {{type: object, properties: {{w{number}: {{type: string}}}}}}
request: {{method: GET, url: http://localhost:1/w{number}}}
"""
_PACE: Final = 0.3
"""Interval between edits: more than four notifications a second would be delayed."""


@dataclass
class Results:
    """The results of one run; ``delays`` are in seconds."""

    edits: int = 0
    reads: int = 0
    delays: list[float] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)


class Directory(Service):
    """One tools directory with a running reloader."""

    def __init__(self, root: Path, *, events: bool, poll: float) -> None:
        super().__init__(root, events=events, poll=poll)
        self.path = root / "a.yaml"
        root.mkdir(parents=True)
        self.path.write_text(_VERSION.format(number=0))

    async def wait_for_version(self, version: str, after: int = 0) -> None:
        """Waits until a version is served and clients have more than ``after`` notifications."""
        await self.until(lambda: self.version == version and len(self.announced) > after)

    @property
    def tool(self) -> Tool | None:
        return self.registry.current.find("a")

    @property
    def version(self) -> str:
        """The served version; ``torn`` if there are several, empty if there is none."""
        tool = self.tool
        if tool is None:
            return ""
        versions = {
            tool.spec.description.split()[0],
            *tool.definition["inputSchema"]["properties"],
            tool.spec.request.url.rpartition("/")[2],
        }
        return versions.pop() if len(versions) == 1 else "torn"


async def run(*, long: bool) -> list[Figure]:
    rounds = 1000 if long else 8
    with TemporaryDirectory() as name:
        place = Path(name)
        with_events, without_events, polled = Results(), Results(), Results()
        async with anyio.create_task_group() as tasks:
            for edit in WITH_EVENTS:
                tasks.start_soon(_edits, place / "events", edit, with_events, rounds)
        async with anyio.create_task_group() as tasks:
            for edit in WITHOUT_EVENTS:
                tasks.start_soon(_edits, place / "no-events", edit, without_events, rounds // 4)
            for edit in WITH_EVENTS + WITHOUT_EVENTS:
                tasks.start_soon(_edits, place / "polled", edit, polled, rounds // 4)
        return [
            at_least("kinds of edits", len(WITH_EVENTS + WITHOUT_EVENTS), 18),
            *_figures("with file events", with_events, 0.15),
            *_figures("without file events", without_events, 2.5),
            *_figures("with polling only", polled, 2.5),
            *await _broken_files(place / "broken", every=1 if long else 8),
            *await _no_notifications(place / "nothing", 200 if long else 10),
            *await _burst(place / "burst", seconds=20 if long else 3),
        ]


def _figures(how: str, results: Results, limit: float) -> Iterator[Figure]:
    yield none_of(f"missed edits, {how}", results.missed, results.edits)
    yield none_of(f"torn definitions, {how}", results.torn, results.reads)
    cuts = statistics.quantiles(results.delays, n=100, method="inclusive")
    yield at_most(f"write → swapped and announced, p50, {how}", cuts[49] * 1000, limit * 1000, "ms")
    yield at_most(f"write → swapped and announced, p99, {how}", cuts[98] * 1000, limit * 1000, "ms")


async def _edits(place: Path, edit: Edit, results: Results, rounds: int) -> None:
    directory = Directory(place / edit.__name__ / "tools.d", events=place.name != "polled", poll=2.0)
    async with _working(directory, results):
        rename_over(directory.path, _VERSION.format(number=0) + "deprecated: Started.\n")
        await directory.wait_for_version("w0", after=0)  # the watch is active
        await anyio.sleep(_PACE)
        for number in range(1, rounds + 1):
            results.edits += 1
            notified, started = len(directory.announced), anyio.current_time()
            if (writing := edit(directory.path, _VERSION.format(number=number))) is not None:
                await writing
                started = anyio.current_time()
            try:
                await directory.wait_for_version(f"w{number}", after=notified)
            except TimeoutError:
                results.missed.append(
                    f"{edit.__name__}: w{number}; {directory.version or 'nothing'} is served"
                )
            else:
                results.delays.append(directory.announced[-1] - started)
            await anyio.sleep_until(started + _PACE)


@asynccontextmanager
async def _working(directory: Directory, results: Results) -> AsyncIterator[None]:
    """Runs the reloader and a reader."""

    async def read() -> None:
        while True:
            results.reads += 1
            if directory.version == "torn":
                results.torn.append(f"{directory.root.parent.name}: {directory.tool}")
            await anyio.sleep(0.01)

    await directory.reloader.reload()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(directory.reloader.run)
        tasks.start_soon(read)
        yield
        tasks.cancel_scope.cancel()


# --- broken files ---


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
"""What replaces the tool file."""


def _replace_by(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Creates the replacement under another name and renames it over the file."""

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


async def _broken_files(root: Path, every: int) -> list[Figure]:
    """A series of broken files: the last good one is served, ``check`` agrees, and a good one is loaded again."""
    cases = [
        (f"{case.parent.name}/{case.name}", _replace_by(_copy(case))) for case in sorted(BAD.glob("*/*.yaml"))
    ]
    cases = [case for case in cases if "upstream" not in case[0]][::every]
    cases += [(name, _replace_by(make)) for name, make in _SPECIAL.items()]
    directory, results = Directory(root, events=True, poll=2.0), Results()
    shutil.copy(BAD / "shop.upstream.yaml", root)
    kinds: set[str] = set()
    wrong: list[str] = []
    recoveries: list[float] = []
    async with _working(directory, results):
        for number, (name, put) in enumerate(cases, 1):
            before, swaps = directory.version, len(directory.swaps)
            put(directory.path)
            await directory.until(lambda: len(directory.swaps) > swaps)  # noqa: B023
            reported = [str(diagnostic) for diagnostic in directory.tool_directory.loaded.diagnostics]
            codes = {d.code for d in directory.tool_directory.loaded.diagnostics if d.severity == "error"}
            checked = [str(d) for d in load_once(Directories((str(root),)), Sources({})).diagnostics]
            if directory.tool_directory.loaded.broken:
                kinds |= {name.partition("/")[0]} & {*codes, *_SPECIAL}
                if directory.version != before or reported != checked or not reported:
                    wrong.append(
                        f"{name}: {directory.version} is served, {reported}, check reports {checked}"
                    )
            if directory.path.is_dir():
                directory.path.rmdir()
            started = anyio.current_time()
            rename_over(directory.path, _VERSION.format(number=number))
            await directory.wait_for_version(f"w{number}")
            recoveries.append(anyio.current_time() - started)
    return [
        at_least("kinds of files that are rejected", len(kinds), 24),
        none_of("rejected files after which the last good version or check is wrong", wrong, len(cases)),
        at_most("recovery, longest", max(recoveries) * 1000, 1000, "ms"),
    ]


# --- invisible edits, and bursts ---


def _invisible_edits(path: Path, number: int) -> Iterator[None]:
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


async def _no_notifications(root: Path, rounds: int) -> list[Figure]:
    """Edits that clients cannot see, and a visible one at the end."""
    directory, results, count = Directory(root, events=True, poll=0.2), Results(), 0
    async with _working(directory, results):
        for number in range(rounds):
            for _ in _invisible_edits(directory.path, number):
                count += 1
                await anyio.sleep(0.02)
        early = [str(at) for at in directory.announced]
        rename_over(directory.path, _VERSION.format(number=1))
        await directory.wait_for_version("w1")
    return [none_of("notifications of edits that change nothing (7 kinds)", early, count)]


async def _burst(root: Path, seconds: int) -> list[Figure]:
    """150 writes a second over ten files."""
    directory, results, count = Directory(root, events=True, poll=2.0), Results(), 150 * seconds
    async with _working(directory, results):
        started = anyio.current_time()
        for number in range(1, count + 1):
            (root / f"{'abcdefghij'[number % 10]}.yaml").write_text(_VERSION.format(number=number))
            await anyio.sleep_until(started + number / 150)
        last = anyio.current_time()
        expected = {f"w{number} of the file." for number in range(count - 9, count + 1)}
        await directory.until(
            lambda: {t.spec.description for t in directory.registry.current.tools} == expected
        )
        converged = anyio.current_time() - last
        await directory.until(lambda: directory.announced[-1] > last)
    sent = directory.announced
    peak = max(sum(at <= later < at + 1 for later in sent) for at in sent)
    return [
        at_most("150 writes a second: converged after the last", converged * 1000, 1000, "ms"),
        at_most("  notifications in any one second", peak, 4, "sent"),
    ]
