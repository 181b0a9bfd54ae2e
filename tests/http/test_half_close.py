"""A client that closes its side after its request gets its answer; one that has left ends what it asked for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from bridge.access.quotas import Limits
from bridge.http.connection import Patience
from tests.http.test_connection import serving
from tests.http.test_framing import LOOPS, Replies

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", LOOPS)]

LARGE = 8 * 1024 * 1024
STREAM = [(b"content-type", b"text/event-stream")]


class Waiting:
    """An app that reads the body, and answers once it is released or its client has left; its path says how."""

    def __init__(self) -> None:
        self.entered = anyio.Event()
        self.release = anyio.Event()
        self.left = anyio.Event()
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        message: Message = {"more_body": scope["path"] != "/early"}
        while message["more_body"]:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
        self.paths.append(scope["path"])
        self.entered.set()
        is_started = scope["path"] in ("/stream", "/text")
        if is_started:
            headers = STREAM if scope["path"] == "/stream" else []
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        if scope["path"] not in ("/quick", "/early"):
            await self._released(receive)
        if not is_started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(LARGE if scope["path"] == "/large" else 1)})

    async def _released(self, receive: Receive) -> None:
        async with anyio.create_task_group() as tasks:

            async def leave() -> None:
                await receive()
                self.left.set()
                tasks.cancel_scope.cancel()

            tasks.start_soon(leave)
            await self.release.wait()
            tasks.cancel_scope.cancel()


class Asking:
    """A client of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def half_close(self, data: bytes = b"") -> None:
        self._writer.write(data)
        self._writer.write_eof()

    async def until(self, end: bytes) -> bytes:
        with anyio.fail_after(5):
            return await self._reader.readuntil(end)

    async def rest(self) -> bytes:
        with anyio.fail_after(5):
            return await self._reader.read()

    async def leave(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@asynccontextmanager
async def waiting(limits: Limits | None = None) -> AsyncIterator[tuple[Waiting, int]]:
    app = Waiting()
    async with serving(Patience(), limits, app) as port:
        yield app, port


@asynccontextmanager
async def asking(port: int, said: bytes = b"") -> AsyncIterator[Asking]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    client = Asking(reader, writer)
    yield client
    await client.leave()


def request(path: bytes, method: bytes = b"POST", version: bytes = b"1.1") -> bytes:
    return b"%s /%s HTTP/%s\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}" % (method, path, version)


async def probed(port: int) -> None:
    """Clients that had closed their side before have been probed twice by now."""
    async with asking(port) as client:
        client.half_close(request(b"slow"))
        for _ in range(2):
            await client.until(b"HTTP/1.1 102 Processing\r\n\r\n")


async def test_a_client_that_closes_its_side_is_answered() -> None:
    async with waiting() as (app, port):
        for said in (
            request(b"quick"),
            request(b"quick") + request(b"quick"),
            request(b"quick").replace(b"th: 2", b"th: 9002") + bytes(9000),
            request(b"quick").replace(b"th: 2", b"th: 67002") + bytes(67000),
        ):
            async with asking(port) as client:
                client.half_close(said)
                answer = await client.rest()
            assert Replies(answer).statuses == [200] * said.count(b"POST")
        assert app.paths == ["/quick"] * 5


async def test_it_is_told_that_its_call_takes_time() -> None:
    async with waiting() as (app, port), asking(port) as client:
        client.half_close(request(b"slow"))
        await client.until(b"HTTP/1.1 102 Processing\r\n\r\n")
        app.release.set()
        assert Replies(await client.rest()).statuses == [200]
        assert not app.left.is_set()


async def test_it_reads_on_in_an_event_stream() -> None:
    async with waiting() as (app, port), asking(port, request(b"stream")) as client:
        await client.until(b"data: 1\n\n\r\n")
        client.half_close()
        await client.until(b"3\r\n:\n\n\r\n")
        app.release.set()
        assert await client.rest() == b"1\r\n\0\r\n0\r\n\r\n"


@pytest.mark.parametrize("path", [b"slow", b"stream"])
async def test_one_that_has_left_ends_its_request(path: bytes) -> None:
    async with waiting() as (app, port):
        async with asking(port, request(path)):
            await app.entered.wait()
        with anyio.fail_after(5):
            await app.left.wait()


async def test_a_stream_that_only_the_client_ends_is_not_kept_for_one_that_closes_its_side() -> None:
    async with waiting() as (app, port), asking(port, request(b"stream", b"GET")) as client:
        await client.until(b"data: 1\n\n\r\n")
        client.half_close()
        assert await client.rest() == b""
        await app.left.wait()


@pytest.mark.parametrize(
    "said", [request(b"slow", version=b"1.0"), request(b"text"), request(b"slow") + request(b"slow")]
)
async def test_nothing_is_sent_to_a_client_that_could_not_read_it(said: bytes) -> None:
    async with waiting() as (app, port), asking(port) as client:
        client.half_close(said)
        await app.entered.wait()
        await probed(port)
        app.release.set()
        answer = await client.rest()
        assert b"HTTP/1.1 102" not in answer
        assert Replies(answer).statuses == [200] * said.count(b"POST")


async def test_a_client_that_closes_its_side_may_read_late() -> None:
    async with waiting() as (app, port), asking(port) as client:
        client.half_close(request(b"large"))
        await app.entered.wait()
        app.release.set()
        app.release = anyio.Event()
        await probed(port)
        assert len(await client.rest()) > LARGE
        app.release.set()


async def test_what_is_incomplete_when_the_client_closes_its_side_is_dropped() -> None:
    half = request(b"half").removesuffix(b"}")
    limits = Limits()
    async with waiting(limits) as (app, port):
        for said in (b"", half, half[:20], half.replace(b"th: 2", b"th: 20000") + bytes(9000)):
            async with asking(port) as client:
                client.half_close(said)
                assert await client.rest() == b""
        async with asking(port) as client:
            client.half_close(request(b"early").replace(b"th: 2", b"th: 20000") + bytes(9000))
            assert Replies(await client.rest()).statuses == [200]
        app.release.set()
        for last in (half, half[:20]):
            async with asking(port) as client:
                client.half_close(request(b"slow") + last)
                assert Replies(await client.rest()).statuses == [200]
        assert app.paths == ["/early", "/slow", "/slow"]
    assert limits.arriving.total == 0
