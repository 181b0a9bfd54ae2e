import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.access.quotas import Quotas
from bridge.access.throttle import AddressThrottle
from bridge.address import Address
from bridge.caller import Caller
from bridge.errors import TooMany
from bridge.events import ignore
from bridge.http.connection import Connection, Timeouts, _BufferedTransport
from bridge.http.rejection_log import RejectionLog
from bridge.http.server import Listening, serve_app
from bridge.http.tls import ServerTls
from bridge.protocol.caller_context import set_caller
from bridge.settings import Limits

pytestmark = pytest.mark.anyio

ANN = Caller("ann")
LARGE = 8 * 1024 * 1024
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Responds at once; to ``/large`` with 8 MiB; to a POST after its body, but to ``/early`` before."""
    if scope["type"] != "http":
        return
    set_caller(ANN, scope)
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
    timeouts: Timeouts,
    quotas: Quotas | None = None,
    app: ASGIApp = app,
    throttle: AddressThrottle | None = None,
    tls: ServerTls | None = None,
) -> AsyncIterator[int]:
    ports: list[int] = []
    up, stop = anyio.Event(), anyio.Event()

    def started(url: str) -> None:
        ports.append(int(url.rpartition(":")[2]))
        up.set()

    async def serve() -> None:
        rejections = RejectionLog(ignore)
        limits = (quotas or Quotas(), rejections, timeouts, throttle or AddressThrottle())
        listening = Listening(Address("127.0.0.1", 0), tls=tls)
        await serve_app(app, listening, stop, started, connection=partial(Connection, *limits))
        rejections.flush()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await up.wait()
        yield ports[0]
        stop.set()


async def exchange(port: int, *segments: bytes) -> bytes:
    """Send the segments; return all bytes that the server sends until the connection closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for segment in segments:
        writer.write(segment)
        await writer.drain()
    with anyio.fail_after(30):
        received = await reader.read()
    writer.close()
    return received


@pytest.mark.parametrize("pieces", [1, 50])
async def test_the_size_of_a_head_is_limited(pieces: int) -> None:
    header = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 1000) for number in range(100))
    large = header[:66_000]  # bytes that arrive after the response would reset the connection
    size = len(large) // pieces
    segments = [large[start : start + size] for start in range(0, len(large), size)]
    async with serving(Timeouts()) as port:
        answer = await exchange(port, HEAD, *segments)
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert answer.endswith(b"\r\n\r\nThe head of the request is larger than 64 KiB.")
        assert (await exchange(port, HEAD + large + b"\r\n\r\n")).startswith(b"HTTP/1.1 431 ")
        assert b"HTTP/1.1 200" in await exchange(
            port, HEAD + header[:50_000].rpartition(b"\r\n")[0] + b"\r\nConnection: close\r\n\r\n"
        )
        assert (await exchange(port, b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


@pytest.mark.slow
async def test_a_client_that_is_too_slow_is_disconnected(caplog: pytest.LogCaptureFixture) -> None:
    body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"
    answers: list[bytes] = []

    async def send_and_collect(*segments: bytes) -> None:
        answers.append(await exchange(port, *segments))

    async with (
        serving(Timeouts(first_request=0.1, head=0.1, body=0.1)) as port,
        anyio.create_task_group() as tasks,
    ):
        for segments in ((), (HEAD,), (body,), (HEAD + b"\r\n" + HEAD,)):
            tasks.start_soon(send_and_collect, *segments)
        tasks.start_soon(send_and_collect, body.replace(b" / ", b" /early "))
    early = next(answer for answer in answers if b"408" not in answer)  # its response had started
    assert early.endswith(b"\r\n\r\n4\r\nwell\r\n")
    answers.remove(early)
    assert len(answers) == 4
    assert all(
        b"HTTP/1.1 408 " in answer and answer.endswith(b"The request did not arrive in time.")
        for answer in answers
    )
    assert sum(answer.startswith(b"HTTP/1.1 200 ") for answer in answers) == 1
    lines = [message.partition(" from ")[0] for message in caplog.messages]
    assert lines[0].startswith("refused a request")
    counts = [line.split()[1] for line in lines]  # "refused a request", "refused 4 requests"
    assert sum(int(count) if count.isdigit() else 1 for count in counts) == 5


@pytest.mark.slow
async def test_a_slow_request_is_logged_once_while_its_refusal_is_delayed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Timeouts(head=0.1), throttle=AddressThrottle(interval=1.5, burst=0)) as port:
        assert (await exchange(port, HEAD)).startswith(b"HTTP/1.1 408 ")
    assert [message.partition(" from ")[0] for message in caplog.messages] == ["refused a request"]


@pytest.mark.slow
async def test_an_unread_response_counts_for_its_caller_until_the_connection_is_aborted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    quotas = Quotas(Limits.model_validate({"perCaller": {"results": "1MiB"}}))
    async with serving(Timeouts(response=0.5), quotas) as port:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", port))
            slow.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            with anyio.fail_after(30):
                while not _too_many(quotas):
                    await anyio.lowlevel.checkpoint()
            assert not _too_many(quotas, Caller("bob"))
            with anyio.fail_after(30):
                while _too_many(quotas):
                    await anyio.lowlevel.checkpoint()
    assert caplog.messages == [
        "refused a request of ann from 127.0.0.1 with 408: The client did not read the response in time."
    ]


def _too_many(quotas: Quotas, caller: Caller = ANN) -> bool:
    try:
        with quotas.hold("results", caller):
            return False
    except TooMany:
        return True


async def test_a_client_that_reads_late_gets_the_whole_response() -> None:
    quotas = Quotas(Limits.model_validate({"perCaller": {"results": "1MiB"}}))
    async with serving(Timeouts(), quotas) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with anyio.fail_after(30):
            while not _too_many(quotas):
                await anyio.lowlevel.checkpoint()
            assert len(await reader.read()) > LARGE
            assert not _too_many(quotas)
        writer.close()


async def test_bytes_written_to_a_client_that_has_left_are_dropped() -> None:
    """anyio fails the test if a callback of the event loop raises."""
    loop = asyncio.get_running_loop()
    async with await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
        buffered = _BufferedTransport(transport, lambda: False)
        buffered.write(b"late")
        transport.abort()
        await asyncio.sleep(0)
        buffered.close()


@pytest.mark.slow
async def test_a_connection_without_a_next_request_is_closed() -> None:
    async with serving(Timeouts(head=0.1)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"\r\n")
        with anyio.fail_after(30):
            assert (await reader.readuntil(b"0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.write(b"\r\n")
            assert (await reader.read()).endswith(b"\r\n\r\nThe request did not arrive in time.")
        writer.close()


@pytest.mark.slow
async def test_a_refusal_is_sent_after_the_response_in_progress() -> None:
    released = anyio.Event()

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"be", "more_body": True})
            await released.wait()
            await send({"type": "http.response.body", "body": b"gun"})
        else:
            await app(scope, receive, send)

    async with serving(Timeouts(body=0.1), app=hang) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"\r\nPOST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        with anyio.fail_after(10):
            await reader.readuntil(b"\r\n\r\n2\r\nbe\r\n")
            released.set()
            answer = await reader.read()
        writer.close()
    assert answer.startswith(b"3\r\ngun\r\n0\r\n\r\nHTTP/1.1 408 ")


async def test_only_the_caller_with_too_many_incoming_bytes_is_refused() -> None:
    quotas = Quotas()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: "
    large = head + b"4000001\r\n\r\n" + bytes(4_000_000)
    async with serving(Timeouts(), quotas) as port:
        senders = []
        with anyio.fail_after(30):
            for number in range(1, 4):
                senders.append(await asyncio.open_connection("127.0.0.1", port))
                senders[-1][1].write(large)
                while quotas.incoming_bytes.total < number * 4_000_000:
                    await anyio.lowlevel.checkpoint()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head + b"900001\r\n\r\n" + bytes(900_000))
            refused = await senders[0][0].read()
            assert refused.startswith(b"HTTP/1.1 429 ")
            for sender in (writer, senders[1][1], senders[2][1]):
                sender.write(b"x")
            for waiting in (reader, senders[1][0], senders[2][0]):
                assert (await waiting.read()).startswith(b"HTTP/1.1 200 ")
        for sender in (writer, *(each for _, each in senders)):
            sender.close()
        assert quotas.incoming_bytes.total == 0
