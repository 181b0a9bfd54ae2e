"""Responses over TLS to clients that read slowly, or not at all."""

import asyncio
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import anyio
import pytest
from anyio import to_thread

from bridge.access.quotas import Quotas
from bridge.address import Address
from bridge.caller import Caller
from bridge.http.connection import Timeouts
from bridge.http.handshakes import Handshakes
from bridge.http.paced_transport import PacedTransport
from bridge.http.server import Listening, serve_app
from bridge.http.tls import ServerTls, TlsFiles, TlsState
from bridge.settings import Limits
from tests.http.test_connection import LARGE, _too_many, app, serving
from tests.http.test_tls import HOST, trusting, until
from tests.upstream.certificates import Authority

pytestmark = pytest.mark.anyio

GET = b"GET /large HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def tls(authority: Authority) -> ServerTls:
    return ServerTls(TlsState.load(TlsFiles(*authority.issue(HOST))))


def connected(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A client that takes few bytes unless it reads."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect((HOST, port))
    return context.wrap_socket(plain, server_hostname=HOST)


def read_all(client: ssl.SSLSocket) -> int:
    size = 0
    while part := client.recv(65536):
        size += len(part)
    return size


@pytest.mark.slow
async def test_an_unread_response_over_tls_counts_until_the_connection_is_aborted(
    authority: Authority, tls: ServerTls, caplog: pytest.LogCaptureFixture
) -> None:
    quotas = Quotas(Limits.model_validate({"perCaller": {"results": "1MiB"}}))
    async with serving(Timeouts(response=0.5), quotas, tls=tls) as port:
        with await to_thread.run_sync(connected, port, trusting(authority)) as slow:
            slow.sendall(GET + b"\r\n")
            await until(lambda: _too_many(quotas))
            assert not _too_many(quotas, Caller("bob"))
            await until(lambda: not _too_many(quotas))
    assert caplog.messages == [
        "refused a request of ann from 127.0.0.1 with 408: The client did not read the response in time."
    ]


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"], ids=["stays open", "closes"])
async def test_a_client_that_reads_late_over_tls_gets_the_whole_response(
    authority: Authority, tls: ServerTls, close: bytes
) -> None:
    quotas = Quotas(Limits.model_validate({"perCaller": {"results": "1MiB"}}))
    async with serving(Timeouts(), quotas, tls=tls) as port:
        with await to_thread.run_sync(connected, port, trusting(authority)) as late:
            late.sendall(GET + close + b"\r\n")
            await until(lambda: _too_many(quotas))
            if not close:  # the next request has it
                late.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            with anyio.fail_after(30):
                assert await to_thread.run_sync(read_all, late) > LARGE
            assert not _too_many(quotas)


@asynccontextmanager
async def stopping(tls: ServerTls) -> AsyncIterator[tuple[int, Callable[[], None]]]:
    """A server with a grace period of a minute: its port, and what stops it. The block ends when it has stopped."""
    up, stop = anyio.Event(), anyio.Event()
    urls: list[str] = []

    def started(url: str) -> None:
        urls.append(url)
        up.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve_app, app, Listening(Address(HOST, 0), 60, tls=tls), stop, started)
        await up.wait()
        yield int(urls[0].rpartition(":")[2]), stop.set


@pytest.mark.slow
async def test_a_client_that_does_not_read_does_not_delay_the_stop(
    authority: Authority, tls: ServerTls
) -> None:
    with anyio.fail_after(30):  # less than the grace period
        async with stopping(tls) as (port, stop):
            idle = await to_thread.run_sync(connected, port, trusting(authority))
            idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await to_thread.run_sync(idle.recv, 12) == b"HTTP/1.1 200"
            stop()
    idle.close()


async def test_the_stop_waits_for_a_client_that_still_reads(authority: Authority, tls: ServerTls) -> None:
    with anyio.fail_after(60):
        async with stopping(tls) as (port, stop):
            late = await to_thread.run_sync(connected, port, trusting(authority))
            late.sendall(GET + b"\r\n")
            assert await to_thread.run_sync(late.recv, 12) == b"HTTP/1.1 200"
            stop()
            assert await to_thread.run_sync(read_all, late) > LARGE - 4096
            late.close()


def _get_and_close(port: int, context: ssl.SSLContext) -> bytes:
    with connected(port, context) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return client.recv(12)


async def test_a_lost_connection_holds_no_buffers_of_tls(authority: Authority, tls: ServerTls) -> None:
    """Each has 256 KiB, also where the garbage collector does not run for a while."""
    gc.collect()
    gc.disable()
    try:
        async with serving(Timeouts(), tls=tls) as port:
            for _ in range(3):
                found = await to_thread.run_sync(_get_and_close, port, trusting(authority))
                assert found == b"HTTP/1.1 200"
            await until(lambda: not any(type(each).__name__ == "SSLProtocol" for each in gc.get_objects()))
    finally:
        gc.enable()


async def test_what_is_written_after_the_connection_is_lost_is_dropped(
    authority: Authority, tls: ServerTls
) -> None:
    made: list[PacedTransport] = []

    class Kept(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(PacedTransport(cast("asyncio.Transport", transport)))

    async with anyio.create_task_group() as tasks:
        handshakes = Handshakes(tls, print, Kept, tasks)
        ours, theirs = socket.socketpair()
        handshakes.start(ours, HOST)
        _, writer = await asyncio.open_connection(sock=theirs, ssl=trusting(authority), server_hostname=HOST)
        await until(lambda: bool(made))
        made[0].abort()
        made[0].lose()
        made[0].write(b"x")
        assert (made[0].is_closing(), made[0].get_write_buffer_size()) == (True, 0)
        made[0].close()
        writer.transport.abort()
