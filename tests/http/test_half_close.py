"""A client that closes its sending side after a request gets the response. One that has left ends its request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from bridge.access.quotas import Quotas
from bridge.http.connection import Timeouts
from tests.http.test_connection import serving
from tests.http.test_framing import Replies

pytestmark = pytest.mark.anyio

LARGE = 8 * 1024 * 1024
STREAM = [(b"content-type", b"text/event-stream")]


class WaitingApp:
    """Reads the body, and responds after ``release``. The path selects the kind of response."""

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
            await self._wait_for_release(receive)
        if not is_started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(LARGE if scope["path"] == "/large" else 1)})

    async def _wait_for_release(self, receive: Receive) -> None:
        async with anyio.create_task_group() as tasks:

            async def leave() -> None:
                await receive()
                self.left.set()
                tasks.cancel_scope.cancel()

            tasks.start_soon(leave)
            await self.release.wait()
            tasks.cancel_scope.cancel()


class RawClient:
    """A client that has one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def half_close(self, data: bytes = b"") -> None:
        self._writer.write(data)
        self._writer.write_eof()

    async def read_until(self, end: bytes) -> bytes:
        with anyio.fail_after(5):
            return await self._reader.readuntil(end)

    async def read_to_end(self) -> bytes:
        with anyio.fail_after(5):
            return await self._reader.read()

    async def leave(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@asynccontextmanager
async def serving_waiting_app(quotas: Quotas | None = None) -> AsyncIterator[tuple[WaitingApp, int]]:
    app = WaitingApp()
    async with serving(Timeouts(), quotas, app) as port:
        yield app, port


@asynccontextmanager
async def connected(port: int, data: bytes = b"") -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    client = RawClient(reader, writer)
    yield client
    await client.leave()


def request(path: bytes, method: bytes = b"POST", version: bytes = b"1.1") -> bytes:
    return b"%s /%s HTTP/%s\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}" % (method, path, version)


async def wait_for_two_probes(port: int) -> None:
    """Clients that were half-closed before the call have been probed twice when this returns."""
    async with connected(port) as client:
        client.half_close(request(b"slow"))
        for _ in range(2):
            await client.read_until(b"HTTP/1.1 102 Processing\r\n\r\n")


async def test_a_half_closed_client_gets_its_response() -> None:
    async with serving_waiting_app() as (app, port):
        for data in (
            request(b"quick"),
            request(b"quick") + request(b"quick"),
            request(b"quick").replace(b"th: 2", b"th: 9002") + bytes(9000),
            request(b"quick").replace(b"th: 2", b"th: 67002") + bytes(67000),
        ):
            async with connected(port) as client:
                client.half_close(data)
                answer = await client.read_to_end()
            assert Replies(answer).statuses == [200] * data.count(b"POST")
        assert app.paths == ["/quick"] * 5


async def test_it_gets_102_processing_while_its_call_runs() -> None:
    async with serving_waiting_app() as (app, port), connected(port) as client:
        client.half_close(request(b"slow"))
        await client.read_until(b"HTTP/1.1 102 Processing\r\n\r\n")
        app.release.set()
        assert Replies(await client.read_to_end()).statuses == [200]
        assert not app.left.is_set()


async def test_it_gets_the_rest_of_an_event_stream() -> None:
    async with serving_waiting_app() as (app, port), connected(port, request(b"stream")) as client:
        await client.read_until(b"data: 1\n\n\r\n")
        client.half_close()
        await client.read_until(b"3\r\n:\n\n\r\n")
        app.release.set()
        assert await client.read_to_end() == b"1\r\n\0\r\n0\r\n\r\n"


async def test_it_gets_the_rest_of_an_event_stream_without_chunks() -> None:
    async with (
        serving_waiting_app() as (app, port),
        connected(port, request(b"stream", version=b"1.0")) as client,
    ):
        await client.read_until(b"data: 1\n\n")
        client.half_close()
        await client.read_until(b":\n\n")
        app.release.set()
        assert (await client.read_to_end()).replace(b":\n\n", b"") == b"\0"


@pytest.mark.parametrize("path", [b"slow", b"stream"])
async def test_a_client_that_leaves_ends_its_request(path: bytes) -> None:
    async with serving_waiting_app() as (app, port):
        async with connected(port, request(path)):
            await app.entered.wait()
        with anyio.fail_after(5):
            await app.left.wait()


async def test_closing_its_side_ends_a_stream_that_only_the_client_can_end() -> None:
    async with serving_waiting_app() as (app, port), connected(port, request(b"stream", b"GET")) as client:
        await client.read_until(b"data: 1\n\n\r\n")
        client.half_close()
        assert await client.read_to_end() == b""
        await app.left.wait()


@pytest.mark.parametrize(
    "data", [request(b"slow", version=b"1.0"), request(b"text"), request(b"slow") + request(b"slow")]
)
async def test_no_probe_is_sent_to_a_client_that_cannot_parse_it(data: bytes) -> None:
    async with serving_waiting_app() as (app, port), connected(port) as client:
        client.half_close(data)
        await app.entered.wait()
        await wait_for_two_probes(port)
        app.release.set()
        answer = await client.read_to_end()
        assert b"HTTP/1.1 102" not in answer
        assert answer.count(b"HTTP/1.1 200 ") == data.count(b"POST")


async def test_a_half_closed_client_may_read_late() -> None:
    async with serving_waiting_app() as (app, port), connected(port) as client:
        client.half_close(request(b"large"))
        await app.entered.wait()
        app.release.set()
        app.release = anyio.Event()
        await wait_for_two_probes(port)
        assert len(await client.read_to_end()) > LARGE
        app.release.set()


async def test_an_incomplete_request_of_a_half_closed_client_is_dropped() -> None:
    half = request(b"half").removesuffix(b"}")
    quotas = Quotas()
    async with serving_waiting_app(quotas) as (app, port):
        for data in (b"", half, half[:20], half.replace(b"th: 2", b"th: 20000") + bytes(9000)):
            async with connected(port) as client:
                client.half_close(data)
                assert await client.read_to_end() == b""
        async with connected(port) as client:
            client.half_close(request(b"early").replace(b"th: 2", b"th: 20000") + bytes(9000))
            assert Replies(await client.read_to_end()).statuses == [200]
        app.release.set()
        for last in (half, half[:20]):
            async with connected(port) as client:
                client.half_close(request(b"slow") + last)
                assert Replies(await client.read_to_end()).statuses == [200]
        assert app.paths == ["/early", "/slow", "/slow"]
    assert quotas.incoming_bytes.total == 0
