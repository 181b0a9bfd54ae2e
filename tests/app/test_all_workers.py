import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest

from bridge.app.all_workers import AllWorkers
from bridge.app.runtime import Runtime
from bridge.app.startup import StartupState, directories
from bridge.app.worker import Worker
from bridge.protocol.in_flight import ClientKey
from bridge.secrets import Sources
from bridge.settings import Settings

pytestmark = pytest.mark.anyio

TOOL = "description: Get a thing.\nrequest: {method: GET, url: http://localhost:1/x}\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:  # tmp_path may be too long for a socket
        yield Path(name)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    (tmp_path / "get.yaml").write_text(TOOL)
    return tmp_path


def runtime(tools: Path, worker: Worker | None) -> Runtime:
    settings = Settings(tools=(tools,))
    startup = StartupState.load(settings, directories(settings), Sources({}), worker)
    assert startup
    return Runtime(startup)


@asynccontextmanager
async def workers(tools: Path, folder: Path) -> AsyncIterator[tuple[Runtime, Runtime]]:
    names = ("1-aa", "2-bb")
    first, second = [
        runtime(tools, Worker(number, name, 2, 0, str(folder), number - 1, restarts=3))
        for number, name in enumerate(names, 1)
    ]
    async with anyio.create_task_group() as tasks:
        for each in (first, second):
            await tasks.start(each.siblings.run)
        yield first, second
        tasks.cancel_scope.cancel()
    for each in (first, second):
        await each.client.aclose()


async def test_a_cancellation_reaches_the_call_in_another_worker(tools: Path, folder: Path) -> None:
    async with workers(tools, folder) as (first, second):
        client = ClientKey(None, "ann", "a session")
        one, another = (second.server.in_flight.add(client, id) for id in (1, 2))
        first.server.in_flight.cancel(client, 1)
        with anyio.fail_after(30), one:
            await anyio.sleep_forever()
        assert not another.cancel_called
        first.server.in_flight.end(client)
        with anyio.fail_after(30), another:
            await anyio.sleep_forever()


async def test_a_cancellation_that_is_not_understood_is_ignored(tools: Path, folder: Path) -> None:
    async with workers(tools, folder) as (first, second):
        first.siblings.broadcast("cancel", [1])
        await first.siblings.ask("nothing", None, 30)  # the message before was read
        assert second.siblings.ignored == 2


async def test_one_process_is_the_only_worker(tools: Path) -> None:
    alone = runtime(tools, None)
    status = await alone.all_workers.status()
    (worker,) = status["workers"]
    assert worker.items() >= {
        "name": "1",
        "answered": True,
        "pid": os.getpid(),
        "restarts": 0,
        "digest": status["digest"],
        "generation": 1,
        "tools": 1,
        "calls": 0,
        "streams": 0,
    }.items()  # fmt: skip
    (tools / "get.yaml").write_text(TOOL.replace("thing", "book"))
    reloaded = await alone.all_workers.reload()
    assert reloaded["changed"] == ("get",)
    assert [(each["name"], each["digest"]) for each in reloaded["workers"]] == [("1", reloaded["digest"])]
    assert (await alone.all_workers.status())["workers"][0]["generation"] == 2
    await alone.client.aclose()


async def test_the_status_of_each_worker_is_in_that_of_any(tools: Path, folder: Path) -> None:
    async with workers(tools, folder) as both:
        for each in both:
            listed = (await each.all_workers.status())["workers"]
            assert [(one["name"], one["answered"], one["restarts"]) for one in listed] == [
                ("1-aa", True, 3),
                ("2-bb", True, 3),
            ]
            assert len({one["digest"] for one in listed}) == 1


async def test_a_reload_waits_until_every_worker_has_loaded(tools: Path, folder: Path) -> None:
    async with workers(tools, folder) as (first, second):
        (tools / "more.yaml").write_text(TOOL)
        reloaded = await second.all_workers.reload()
        assert reloaded["added"] == ("more",)
        assert [(each["name"], each["broken"]) for each in reloaded["workers"]] == [
            ("1-aa", []),
            ("2-bb", []),
        ]
        assert [len(each.registry.current.tools) for each in (first, second)] == [2, 2]
        assert {each["digest"] for each in reloaded["workers"]} == {reloaded["digest"]}


async def test_a_worker_that_does_not_answer_is_named(tools: Path, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hanging:
        hanging.bind(str(folder / "2-bb.sock"))
        first = runtime(tools, Worker(1, "1-aa", 2, 0, str(folder), 0))
        quick = AllWorkers(first.admin, first.siblings, status_seconds=0.05, reload_seconds=0.05)
        for answer in (await quick.status(), await quick.reload()):
            listed = answer["workers"]
            assert [(one["name"], one["answered"]) for one in listed] == [("1-aa", True), ("2-bb", False)]
        await first.client.aclose()
