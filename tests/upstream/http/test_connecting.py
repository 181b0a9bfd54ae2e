import asyncio
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import anyio
import pytest

from bridge import __version__
from bridge.errors import BridgeError, NotSent
from bridge.spec import Json
from bridge.upstream.client import Client
from tests.upstream.certificates import Authority
from tests.upstream.faulty import JSON, Faulty, serve
from tests.upstream.forwarder import forward
from tests.upstream.sending import Caller, upstream

pytestmark = pytest.mark.anyio

ONCE: Json = {"max": 0}


async def failure(caller: Caller, url: str, **keys: Json) -> BridgeError:
    with anyio.fail_after(30), pytest.raises(BridgeError) as caught:
        await caller.send(upstream(url, retries=ONCE, **keys))
    return caught.value


@dataclass
class Silent:
    """A server that answers the first bytes of a connection with ``answer``, and then only reads.

    ``arrived`` is set when it waits for the client after that, and ``left`` when the client has closed the connection.
    """

    answer: bytes = b""
    port: int = 0
    received: bytes = b""
    arrived: anyio.Event = field(default_factory=anyio.Event)
    left: anyio.Event = field(default_factory=anyio.Event)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = await reader.read(65536)
        writer.write(self.answer)
        self.arrived.set()
        while data := await reader.read(65536):
            self.received += data
        writer.close()
        self.left.set()


@asynccontextmanager
async def silent(answer: bytes = b"") -> AsyncIterator[Silent]:
    server = Silent(answer)
    async with await asyncio.start_server(server.converse, "127.0.0.1", 0) as listener:
        server.port = listener.sockets[0].getsockname()[1]
        yield server


@pytest.mark.parametrize(
    ("origin", "authority", "host"),
    [
        ("https://api.test", "api.test:443", "api.test"),
        ("https://api.test:8443", "api.test:8443", "api.test:8443"),
        ("https://[2001:db8::1]", "[2001:db8::1]:443", "[2001:db8::1]"),
    ],
)
async def test_the_request_for_a_tunnel_is_sent_byte_for_byte(
    caller: Caller, origin: str, authority: str, host: str
) -> None:
    async with forward("502 Bad Gateway") as proxy:
        error = await failure(caller, origin, proxy=f"http://user:p%40ss@{proxy.place}")
    assert error.code == "proxy-failed"
    assert proxy.heads[0].split("\r\n") == [
        f"CONNECT {authority} HTTP/1.1",
        f"Host: {host}",
        f"User-Agent: restbridge/{__version__}",
        "Proxy-Authorization: Basic dXNlcjpwQHNz",
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("answer", "is_accepted"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 200 Connection established\r\nContent-Length: 2\r\n\r\nhi", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 299 Fine\r\nTransfer-Encoding: chunked\r\n\r\n", True),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", False),
        (b"SSH-2.0-OpenSSH_9.6\r\n", False),
        (b"HTTP/1.1 200 OK\r\nX-Endless: " + 70_000 * b"a", False),
    ],
)
async def test_a_tunnel_begins_after_a_2xx_in_valid_http(
    caller: Caller, *, answer: bytes, is_accepted: bool
) -> None:
    keys: dict[str, Json] = {"retries": ONCE, "timeout": {"connect": "50ms"} if is_accepted else {}}
    async with silent(answer) as proxy:
        to = upstream("https://api.test", proxy=f"http://127.0.0.1:{proxy.port}", **keys)
        with anyio.fail_after(30), pytest.raises(NotSent) as caught:
            await caller.send(to)
        await proxy.left.wait()
    assert caught.value.code == ("connect-timeout" if is_accepted else "proxy-failed")
    assert (b"\r\n\r\n\x16\x03\x01" in proxy.received) is is_accepted


async def test_a_proxy_that_closes_the_connection_has_its_own_code(caller: Caller) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        error = await failure(caller, "https://api.test", proxy=f"http://127.0.0.1:{port}")
    assert (type(error), error.code) == (NotSent, "proxy-failed")


async def test_the_certificate_behind_a_tunnel_is_verified(caller: Caller, authority: Authority) -> None:
    async with serve(authority.server("other.test")) as faulty, forward() as proxy:
        keys: dict[str, Json] = {"tls": {"caFile": str(authority.file)}, "proxy": f"http://{proxy.place}"}
        error = await failure(caller, faulty.url, **keys)
        assert (type(error), error.code) == (NotSent, "tls-name")
        assert faulty.exchanges == []


async def test_plain_http_behind_a_tunnel_fails_with_advice(caller: Caller, faulty: Faulty) -> None:
    async with forward() as proxy:
        url = faulty.url.replace("http:", "https:")
        error = await failure(caller, url, proxy=f"http://{proxy.place}")
    assert (type(error), error.code) == (NotSent, "tls-failed")
    assert "it may speak plain HTTP on that port" in str(error)


@pytest.mark.parametrize("is_tunnel", [False, True])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_a_call_that_is_cancelled_while_connecting_closes_its_connection(
    caller: Caller, *, answer: bytes, is_tunnel: bool
) -> None:
    async with silent(answer if is_tunnel else b"") as server:
        keys: dict[str, Json] = {"proxy": f"http://127.0.0.1:{server.port}"} if is_tunnel else {}
        with anyio.fail_after(30):
            async with anyio.create_task_group() as calls:
                calls.start_soon(caller.send, upstream(f"https://127.0.0.1:{server.port}", **keys))
                await server.arrived.wait()
                calls.cancel_scope.cancel()
            await server.left.wait()


async def test_an_ipv6_address_is_connected_to(caller: Caller) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async with await asyncio.start_server(answer, "::1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        reply = await caller.send(upstream(f"http://[::1]:{port}"))
    assert f"\r\nHost: [::1]:{port}\r\n".encode() in reply.content


async def test_if_tls_fails_with_one_address_the_next_one_is_tried(authority: Authority) -> None:
    client = Client(lookup=lambda _host, _port: ["127.0.0.2", "127.0.0.1"])
    async with serve(authority.server("shop.test"), host="shop.test") as faulty:
        to = upstream(faulty.url, tls={"caFile": str(authority.file)})

        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        async with await asyncio.start_server(hang_up, "127.0.0.2", faulty.port):
            assert (await Caller(client).send(to)).content == JSON
    await client.aclose()


class _Early(asyncio.Protocol):
    """Sends a reply before any request; in TLS 1.2 it arrives together with the end of the handshake."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        early = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly"
        cast("asyncio.Transport", transport).write(early)  # a cast, as uvloop's is no asyncio.Transport


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_bytes_before_the_first_request_are_not_its_reply(
    caller: Caller, authority: Authority, scheme: str
) -> None:
    context = authority.server("127.0.0.1") if scheme == "https" else None
    if context:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    loop = asyncio.get_running_loop()
    async with await loop.create_server(_Early, "127.0.0.1", 0, ssl=context) as server:
        url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        error = await failure(caller, url, tls={"caFile": str(authority.file)} if context else {})
    assert (type(error), error.code) == (NotSent, "connect-failed")


async def test_a_connection_that_opens_after_the_client_was_closed_is_not_used(faulty: Faulty) -> None:
    asked, answered = threading.Event(), threading.Event()

    def lookup(_host: str, _port: int) -> list[str]:
        asked.set()
        answered.wait()
        return ["127.0.0.1"]

    client = Client(lookup=lookup)
    async with anyio.create_task_group() as calls:

        async def call() -> None:
            error = await failure(Caller(client), f"http://shop.test:{faulty.port}")
            assert (type(error), error.code) == (NotSent, "connect-failed")

        calls.start_soon(call)
        await anyio.to_thread.run_sync(asked.wait)
        await client.aclose()
        answered.set()
    assert faulty.exchanges == []
