"""An upstream that goes wrong on purpose: the path picks the fault, and all that it hears is kept."""

import asyncio
import gzip
import socket
import ssl
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

JSON = b'{"answer": 42}'
_TLS_HANDSHAKE = b"\x16"
_RESET = struct.pack("ii", 1, 0)


@dataclass
class Exchange:
    """One request on one connection, and the means to answer it badly.

    ``connection`` and ``number`` count from 1: the connection, and the request on it.
    """

    connection: int
    number: int
    head: bytes
    body: bytes
    server: "Faulty"
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode()

    @property
    def target(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query))

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]

    async def send(self, *parts: bytes) -> None:
        """Write part by part, each read before the next; quietly if nobody listens any more."""
        with suppress(ConnectionError):
            for number, part in enumerate(parts):
                for _ in range(4 if number else 0):  # rounds of the loop that a client in this process shares
                    await asyncio.sleep(0)
                self.writer.write(part)
                await self.writer.drain()

    async def reply(self, body: bytes = JSON, status: str = "200 OK", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        await self.send("\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body)

    async def gone(self) -> None:
        """Wait until the client has closed the connection."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass
        self.server.left.set()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        connection: socket.socket = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.writer.transport.abort()


Fault = Callable[[Exchange], Awaitable[None]]
FAULTS: dict[str, Fault] = {}


def fault(answer: Fault) -> Fault:
    FAULTS[answer.__name__] = answer
    return answer


@dataclass
class Faulty:
    """The server: ``heard`` are all exchanges; ``go`` lets those on that wait for it."""

    scheme: str = "http"
    host: str = "127.0.0.1"
    port: int = 0
    heard: list[Exchange] = field(default_factory=list)
    connections: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    listener: asyncio.Server | None = None
    open: dict[asyncio.StreamWriter, asyncio.Task[None]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port}"

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self.open[writer] = task
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await self._exchanges(self.connections, reader, writer)
        writer.close()
        del self.open[writer]

    async def _exchanges(
        self, connection: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        number = 0
        while not writer.is_closing():
            head = await reader.readexactly(1)
            if head == _TLS_HANDSHAKE:
                writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                return
            head += await reader.readuntil(b"\r\n\r\n")
            number += 1
            exchange = Exchange(connection, number, head, b"", self, reader, writer)
            length = {name.lower(): value for name, value in exchange.headers}.get("content-length", "0")
            exchange.body = await reader.readexactly(int(length))
            self.heard.append(exchange)
            self.arrived.set()
            await FAULTS[urlsplit(exchange.target).path.rpartition("/")[2]](exchange)

    def hang_up(self) -> None:
        """Take no further connection."""
        assert self.listener
        self.listener.close()

    async def end(self) -> None:
        self.hang_up()
        self.go.set()
        for writer in list(self.open):
            writer.transport.abort()
        await asyncio.gather(*self.open.values())


@asynccontextmanager
async def serve(tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[Faulty]:
    faulty = Faulty("https" if tls else "http", host)
    faulty.listener = await asyncio.start_server(faulty.converse, "127.0.0.1", 0, ssl=tls)
    faulty.port = faulty.listener.sockets[0].getsockname()[1]
    try:
        yield faulty
    finally:
        await faulty.end()
        await faulty.listener.wait_closed()


# --- nothing wrong ---


@fault
async def ok(exchange: Exchange) -> None:
    await exchange.reply()


FAULTS[""] = ok


@fault
async def echo(exchange: Exchange) -> None:
    await exchange.reply(exchange.head + exchange.body)


@fault
async def created(exchange: Exchange) -> None:
    await exchange.reply(status="201 Created")


@fault
async def no_content(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 204 No Content\r\n\r\n")


@fault
async def head(exchange: Exchange) -> None:
    """Headers of a reply that would be gzip, and no body: as HEAD wants it."""
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9999999\r\n\r\n")


@fault
async def early_hints(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style>\r\n\r\n")
    await exchange.reply()


@fault
async def chunked(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n", JSON[:7], b"\r\n7\r\n")
    await exchange.send(JSON[7:], b"\r\n0\r\nX-Trailer: ignored\r\n\r\n")


@fault
async def set_cookie(exchange: Exchange) -> None:
    await exchange.reply(JSON, "200 OK", "Set-Cookie: session=alice; Path=/", "Set-Cookie: theme=dark")


@fault
async def redirect(exchange: Exchange) -> None:
    await exchange.reply(b"", "307 Temporary Redirect", f"Location: {exchange.server.url}/ok")


@fault
async def latin1_header(exchange: Exchange) -> None:
    await exchange.reply(JSON, "200 OK", "X-Place: Z\xfcrich", "X-Utf8: Z\xc3\xbcrich")


@fault
async def status(exchange: Exchange) -> None:
    """``?code=503&times=2&retry-after=5``: that status so many times, then 200."""
    query = exchange.query
    if len(exchange.server.heard) > int(query.get("times", "999")):
        await exchange.reply()
        return
    extra = [f"Retry-After: {query['retry-after']}"] if "retry-after" in query else []
    await exchange.reply(b"{}", f"{query['code']} Refused", *extra)


# --- slow ---


@fault
async def never_answers(exchange: Exchange) -> None:
    await exchange.gone()


@fault
async def slow_headers(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    await exchange.gone()


@fault
async def slow_body(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    await exchange.gone()


@fault
async def waits(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n", JSON[:3])
    await exchange.server.go.wait()
    await exchange.send(JSON[3:])


# --- large, and packed ---


@fault
async def endless_body(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not exchange.writer.is_closing():
        await exchange.send(b"10000\r\n", bytes(65536), b"\r\n")
    exchange.server.left.set()


def packed(data: bytes, coding: str = "gzip") -> Fault:
    async def answer(exchange: Exchange) -> None:
        await exchange.reply(data, "200 OK", f"Content-Encoding: {coding}")

    return answer


BOMB = gzip.compress(bytes(20_000_000))
FAULTS |= {
    "gzip": packed(gzip.compress(JSON)),
    "gzip_members": packed(gzip.compress(JSON[:5]) + gzip.compress(JSON[5:])),
    "gzip_empty": packed(b""),
    "gzip_bomb": packed(BOMB),
    "gzip_double": packed(gzip.compress(BOMB), "gzip, gzip"),
    "gzip_cut": packed(gzip.compress(JSON)[:-9]),
    "gzip_trailing_garbage": packed(gzip.compress(JSON) + b"garbage"),
    "gzip_nonsense": packed(b"no gzip at all"),
    "gzip_bad_checksum": packed(gzip.compress(JSON)[:-8] + bytes(8)),
    "deflate": packed(zlib.compress(JSON), "deflate"),
    "unknown_encoding": packed(JSON, "br"),
    "identity": packed(JSON, "identity"),
}


@fault
async def gzip_transfer(exchange: Exchange) -> None:
    data = gzip.compress(JSON)
    await exchange.send(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n%x\r\n" % len(data), data
    )
    await exchange.send(b"\r\n0\r\n\r\n")


# --- cut ---


@fault
async def close_before_head(exchange: Exchange) -> None:
    exchange.close()


@fault
async def rst_before_head(exchange: Exchange) -> None:
    exchange.reset()


@fault
async def cut_head(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    exchange.close()


@fault
async def short_content_length(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + JSON)
    exchange.close()


@fault
async def truncated_chunked(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ne\r\n" + JSON + b"\r\n")
    exchange.close()


@fault
async def rst_mid_body(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + JSON)
    exchange.reset()


@fault
async def close_delimited(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n", JSON)
    exchange.close()


@fault
async def http10_close(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.0 200 OK\r\n\r\n", JSON)
    exchange.close()


@fault
async def close_delimited_rst(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n", JSON)
    await exchange.server.go.wait()
    exchange.reset()


@fault
async def fails_once(exchange: Exchange) -> None:
    if len(exchange.server.heard) == 1:
        exchange.reset()
    else:
        await exchange.reply()


@fault
async def last_words(exchange: Exchange) -> None:
    exchange.server.hang_up()
    exchange.reset()


# --- connections at rest ---


@fault
async def closes_after_reply(exchange: Exchange) -> None:
    """Without a word: the next request meets a closed connection, or one that is being closed."""
    await exchange.reply()
    exchange.close()


@fault
async def closes_on_reuse(exchange: Exchange) -> None:
    """The worst moment: the next request was written before the close could be seen."""
    if exchange.number == 1:
        await exchange.reply()
    else:
        exchange.reset()


@fault
async def keepalive_then_408(exchange: Exchange) -> None:
    await exchange.reply()
    await exchange.reply(b"timeout", "408 Request Timeout")


@fault
async def late_408(exchange: Exchange) -> None:
    """The end of a connection at rest, told to nobody."""
    await exchange.reply()
    await exchange.server.go.wait()
    await exchange.reply(b"timeout", "408 Request Timeout")
    await exchange.gone()


@fault
async def long_content_length_extra(exchange: Exchange) -> None:
    """A whole second reply behind the first, in one piece with the end of its body."""
    await exchange.send(
        b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n" + JSON[:3],
        JSON[3:] + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong",
    )


@fault
async def extra_bytes(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n" + JSON + b"and more")


@fault
async def crossing_408(exchange: Exchange) -> None:
    """The next request is on its way as the connection ends: it must not take the 408 for its answer."""
    if exchange.number == 1:
        await exchange.reply()
    else:
        await exchange.reply(b"timeout", "408 Request Timeout", "Connection: close")
        exchange.close()


@fault
async def body_on_204(exchange: Exchange) -> None:
    await exchange.send(
        b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
    )


# --- not HTTP, not TLS ---


@fault
async def broken_tls_record(exchange: Exchange) -> None:
    beneath = exchange.writer.transport._ssl_protocol._transport  # type: ignore[attr-defined]
    beneath.write(b"\x17\x03\x03\x00\x20" + bytes(32))
    await exchange.gone()


def raw(*parts: bytes) -> Fault:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(*parts)
        await exchange.gone()

    return answer


FAULTS |= {
    "not_http": raw(b"220 mail.example ESMTP\r\n"),
    "tls_alert": raw(b"\x15\x03\x01\x00\x02\x02\x46"),
    "bad_chunk_size": raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"zz\r\nabc\r\n"
    ),
    "two_lengths": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    "length_and_chunks": raw(
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "negative_length": raw(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
    "switching_protocols": raw(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    ),
    "header_bomb": raw(
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)) + b"\r\n"
    ),
    "one_huge_header": raw(b"HTTP/1.1 200 OK\r\nX-Huge: " + b"y" * 1_000_000 + b"\r\n\r\n"),
    "informational_flood": raw(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20_000),
}
