import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.access.quotas import Limits
from bridge.access.throttle import Guesses
from bridge.caller import Caller
from bridge.errors import TooMany
from bridge.http.connection import Patience, _Gathered
from bridge.http.server import serve_app
from bridge.protocol.notifications import come_from
from bridge.settingsfile import Limits as Words

pytestmark = pytest.mark.anyio

ANN = Caller("ann")
LARGE = 8 * 1024 * 1024
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers at once, to ``/large`` with 8 MiB; of a POST the body is waited for."""
    if scope["type"] != "http":
        return
    come_from(ANN, scope)
    if scope["path"] == "/early":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"well", "more_body": True})
    if scope["method"] == "POST":
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
    body = bytes(LARGE) if scope["path"] == "/large" else b"well"
    if scope["path"] != "/early":
        await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(
    patience: Patience, limits: Limits | None = None, app: ASGIApp = app, guesses: Guesses | None = None
) -> AsyncIterator[int]:
    ports: list[int] = []
    up, stop = anyio.Event(), anyio.Event()

    def started(url: str) -> None:
        ports.append(int(url.rpartition(":")[2]))
        up.set()

    async def serve() -> None:
        await serve_app(app, "127.0.0.1", 0, stop, started, limits=limits, patience=patience, guesses=guesses)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await up.wait()
        yield ports[0]
        stop.set()


async def told(port: int, *said: bytes) -> bytes:
    """All that is answered to what is said, until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for each in said:
        writer.write(each)
        await writer.drain()
    with anyio.fail_after(30):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("pieces", [1, 50])
async def test_a_head_is_bounded(pieces: int) -> None:
    header = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 1000) for number in range(100))
    large = header[:66_000]  # what comes after the answer would reset the connection
    size = len(large) // pieces
    said = [large[start : start + size] for start in range(0, len(large), size)]
    async with serving(Patience()) as port:
        answer = await told(port, HEAD, *said)
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert answer.endswith(b"\r\n\r\nThe head of the request is larger than 64 KiB.")
        assert (await told(port, HEAD + large + b"\r\n\r\n")).startswith(b"HTTP/1.1 431 ")
        assert b"HTTP/1.1 200" in await told(
            port, HEAD + header[:50_000].rpartition(b"\r\n")[0] + b"\r\nConnection: close\r\n\r\n"
        )
        assert (await told(port, b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


async def test_who_takes_too_long_is_linesso(caplog: pytest.LogCaptureFixture) -> None:
    body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"
    answers: list[bytes] = []

    async def ask(*said: bytes) -> None:
        answers.append(await told(port, *said))

    async with serving(Patience(first=0.1, head=0.1, body=0.1)) as port, anyio.create_task_group() as tasks:
        for said in ((), (HEAD,), (body,), (HEAD + b"\r\n" + HEAD,)):
            tasks.start_soon(ask, *said)
        tasks.start_soon(ask, body.replace(b" / ", b" /early "))
    early = next(answer for answer in answers if b"408" not in answer)  # it had begun, and ends
    assert early.endswith(b"\r\n\r\n4\r\nwell\r\n")
    answers.remove(early)
    assert len(answers) == 4
    assert all(
        b"HTTP/1.1 408 " in answer and answer.endswith(b"The request takes too long.") for answer in answers
    )
    assert sum(answer.startswith(b"HTTP/1.1 200 ") for answer in answers) == 1
    lines = [message.partition(" from ")[0] for message in caplog.messages]
    assert lines[0].startswith("refused a request")
    assert sum(int(words[1]) if words[1].isdigit() else 1 for words in map(str.split, lines)) == 5


async def test_a_slow_request_is_refused_once_while_its_answer_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Patience(head=0.1), guesses=Guesses(every=1.5, at_once=0)) as port:
        assert (await told(port, HEAD)).startswith(b"HTTP/1.1 408 ")
    assert [message.partition(" from ")[0] for message in caplog.messages] == ["refused a request"]


async def test_who_does_not_read_is_held_for_a_while_and_counts_against_its_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = Limits(Words.model_validate({"perCaller": {"results": "1MiB"}}))
    async with serving(Patience(reader=0.5), limits) as port:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", port))
            slow.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            with anyio.fail_after(30):
                while not _too_many(limits):
                    await anyio.lowlevel.checkpoint()
            assert not _too_many(limits, Caller("bob"))
            with anyio.fail_after(30):
                while _too_many(limits):
                    await anyio.lowlevel.checkpoint()
    assert caplog.messages == [
        "refused a request of ann from 127.0.0.1 with 408: What was answered is not read."
    ]


def _too_many(limits: Limits, caller: Caller = ANN) -> bool:
    try:
        limits.check("results", caller)
    except TooMany:
        return True
    return False


async def test_who_reads_after_a_while_gets_all() -> None:
    limits = Limits(Words.model_validate({"perCaller": {"results": "1MiB"}}))
    async with serving(Patience(), limits) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with anyio.fail_after(30):
            while not _too_many(limits):
                await anyio.lowlevel.checkpoint()
            assert len(await reader.read()) > LARGE
            assert not _too_many(limits)
        writer.close()


def test_what_is_written_to_a_client_that_is_gone_is_dropped() -> None:
    faults: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, fault: faults.append(fault))
        async with await asyncio.start_server(
            lambda _reader, writer: writer.close(), "127.0.0.1", 0
        ) as server:
            port = server.sockets[0].getsockname()[1]
            transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
            gathered = _Gathered(transport, lambda: False)
            gathered.write(b"late")
            transport.abort()
            await asyncio.sleep(0)
            gathered.close()

    uvloop.run(main())
    assert faults == []


async def test_a_connection_on_which_nothing_begins_ends() -> None:
    async with serving(Patience(head=0.1)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"\r\n")
        with anyio.fail_after(30):
            assert (await reader.readuntil(b"0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.write(b"\r\n")
            assert (await reader.read()).endswith(b"\r\n\r\nThe request takes too long.")
        writer.close()


async def test_no_answer_comes_in_the_middle_of_another() -> None:
    released = anyio.Event()

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"be", "more_body": True})
            await released.wait()
            await send({"type": "http.response.body", "body": b"gun"})
        else:
            await app(scope, receive, send)

    async with serving(Patience(body=0.1), app=hang) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"\r\nPOST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        with anyio.fail_after(10):
            await reader.readuntil(b"\r\n\r\n2\r\nbe\r\n")
            released.set()
            answer = await reader.read()
        writer.close()
    assert answer.startswith(b"3\r\ngun\r\n0\r\n\r\nHTTP/1.1 408 ")


async def test_a_caller_who_sends_too_much_at_a_time_is_refused_and_no_other() -> None:
    limits = Limits()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: "
    large = head + b"4000001\r\n\r\n" + bytes(4_000_000)
    async with serving(Patience(), limits) as port:
        held = []
        with anyio.fail_after(30):
            for number in range(1, 4):
                held.append(await asyncio.open_connection("127.0.0.1", port))
                held[-1][1].write(large)
                while limits.arriving.total < number * 4_000_000:
                    await anyio.lowlevel.checkpoint()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head + b"900001\r\n\r\n" + bytes(900_000))
            refused = await held[0][0].read()
            assert refused.startswith(b"HTTP/1.1 429 ")
            for sender in (writer, held[1][1], held[2][1]):
                sender.write(b"x")
            for waiting in (reader, held[1][0], held[2][0]):
                assert (await waiting.read()).startswith(b"HTTP/1.1 200 ")
        for sender in (writer, *(each for _, each in held)):
            sender.close()
        assert limits.arriving.total == 0
