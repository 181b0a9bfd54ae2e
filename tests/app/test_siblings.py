import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest

from bridge.app.siblings import MAX_DATAGRAM_BYTES, Siblings, remove_socket, require_short_path
from bridge.errors import StartError
from bridge.spec import Json

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:  # tmp_path may be too long for a socket
        yield Path(name)


@asynccontextmanager
async def running(*siblings: Siblings) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for each in siblings:
            await tasks.start(each.run)
        yield
        tasks.cancel_scope.cancel()


class Heard:
    """What a worker gets by broadcast."""

    def __init__(self, worker: Siblings, kind: str = "cancel") -> None:
        self._sending, self._receiving = anyio.create_memory_object_stream[Json](10_000)
        worker.handle(kind, self._sending.send_nowait)

    async def next(self) -> Json:
        with anyio.fail_after(30):
            return await self._receiving.receive()

    def close(self) -> None:
        self._sending.close()
        self._receiving.close()


@pytest.fixture
def trio(folder: Path) -> list[Siblings]:
    return [Siblings(folder, name) for name in ("1-a", "2-b", "3-c")]


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def test_a_broadcast_reaches_every_sibling_and_not_the_sender(trio: list[Siblings]) -> None:
    heard = [Heard(each) for each in trio]
    async with running(*trio):
        payload = {"caller": "ann", "session": "s", "request": 7}
        trio[0].broadcast("cancel", payload)
        for each in heard[1:]:
            assert await each.next() == payload
        trio[1].broadcast("cancel", "second")
        assert await heard[0].next() == "second"  # and not its own, which would have come first
    for each in heard:
        each.close()
    assert [(each.ignored, each.lost) for each in trio] == [(0, 0)] * 3


async def test_a_worker_without_siblings_sends_nothing() -> None:
    alone = Siblings()
    alone.broadcast("cancel", 1)
    assert await alone.ask("status", None, 30) == {}
    assert alone.lost == 0


async def test_an_answer_of_any_size_reaches_the_one_who_asked(trio: list[Siblings]) -> None:
    async def answer(payload: Json) -> Json:
        return {"text": payload * 1_000_000}

    trio[1].answer("status", answer)
    async with running(*trio):
        answers = await trio[0].ask("status", "x", 30)
    assert answers == {"2-b": {"text": "x" * 1_000_000}, "3-c": None}
    assert [each.ignored for each in trio] == [0, 0, 1]  # the third knows no such question


async def test_a_sibling_that_does_not_answer_in_time_is_named(trio: list[Siblings]) -> None:
    async def hang(_: Json) -> Json:
        await anyio.sleep_forever()

    trio[1].answer("status", hang)
    async with running(*trio[:2]):
        assert await trio[0].ask("status", None, 0.05) == {"2-b": None}


async def test_a_sibling_that_has_ended_is_asked_until_its_socket_is_removed(
    folder: Path, trio: list[Siblings]
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as killed:
        killed.bind(str(folder / "9-z.sock"))
    assert await trio[0].ask("status", None, 30) == {"9-z": None}
    trio[0].broadcast("cancel", None)
    assert trio[0].lost == 1
    remove_socket(folder, "9-z")
    remove_socket(folder, "9-z")
    assert await trio[0].ask("status", None, 30) == {}


async def test_a_message_waits_while_the_queue_of_a_sibling_is_full(trio: list[Siblings]) -> None:
    heard = Heard(trio[1])
    async with running(*trio[:2]):
        for number in range(1000):  # the sibling cannot read meanwhile: this loop has no await
            trio[0].broadcast("cancel", number)
        assert [await heard.next() for _ in range(1000)] == list(range(1000))
    heard.close()
    assert trio[0].lost == 0


async def test_messages_past_what_may_wait_are_lost(folder: Path, trio: list[Siblings]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(folder / "9-z.sock"))
        async with running(trio[0]):
            for _ in range(2000):
                trio[0].broadcast("cancel", None)
            assert 0 < trio[0].lost < 1000
            await until(lambda: trio[0].lost > 1000)  # those that wait are given up
        before = trio[0].lost
        trio[0].broadcast("cancel", None)  # nothing waits if nothing runs
        assert trio[0].lost == before + 1


async def test_bad_messages_are_ignored_and_counted(
    folder: Path, trio: list[Siblings], caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: Json) -> None:
        raise ValueError("not understood")

    async def refuse_to_answer(_: Json) -> Json:
        raise ValueError("not understood")

    async def fail_to_answer(_: Json) -> Json:
        raise ZeroDivisionError

    def fail(_: Json) -> None:
        raise ZeroDivisionError

    worker = trio[0]
    worker.handle("odd", refuse)
    worker.handle("fault", fail)
    worker.answer("odd", refuse_to_answer)
    worker.answer("fault", fail_to_answer)
    heard = Heard(worker)
    messages = [
        b"",
        b"no JSON",
        b"[]",
        b'{"kind": 1, "payload": 1}',
        b'{"kind": "unknown", "payload": 1}',
        b'{"kind": "odd", "payload": 1}',
        json.dumps({"kind": "cancel", "payload": "x" * MAX_DATAGRAM_BYTES}).encode(),
    ]
    async with running(worker, trio[1]):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            for message in messages:
                sender.sendto(message, str(folder / "1-a.sock"))
                await anyio.lowlevel.checkpoint()
        trio[1].broadcast("fault", None)
        trio[1].broadcast("cancel", "good")
        assert await heard.next() == "good"
        assert worker.ignored == len(messages)
        assert await trio[1].ask("odd", None, 30) == {"1-a": None}
        assert await trio[1].ask("fault", None, 30) == {"1-a": None}
    heard.close()
    assert worker.ignored == len(messages) + 1
    assert caplog.messages == ["a message of another worker failed"] * 2


async def test_an_answer_that_breaks_off_is_no_answer(folder: Path, trio: list[Siblings]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.settimeout(0)
        other.bind(str(folder / "9-z.sock"))

        async def write_half() -> None:
            await anyio.wait_readable(other)
            _, (descriptor,), _, _ = socket.recv_fds(other, 1000, 1)
            os.write(descriptor, b'{"half')
            os.close(descriptor)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write_half)
            assert await trio[0].ask("status", None, 30) == {"9-z": None}
    assert trio[0].ignored == 1


def test_a_path_that_is_too_long_for_a_socket_is_reported(folder: Path) -> None:
    require_short_path(folder)
    with pytest.raises(StartError, match="set TMPDIR to a folder with a shorter path"):
        require_short_path(folder / ("x" * 100))
