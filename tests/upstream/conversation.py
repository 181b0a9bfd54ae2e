"""A raw HTTP server: the path of a request selects a fault, and every exchange is recorded."""

import asyncio
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

JSON = b'{"answer": 42}'
"""The normal reply."""
MAX_EXCHANGES = 10_000
_TLS_HANDSHAKE = b"\x16"
_RESET = struct.pack("ii", 1, 0)


@dataclass
class Exchange:
    """One request on one connection, and ways to answer it, rightly or wrongly.

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

    @property
    def json(self) -> bytes:
        """``JSON``, with the ``id`` of the query if there is one."""
        id = self.query.get("id")
        return JSON if id is None else b'{"answer": 42, "id": "%s"}' % id.encode()

    async def send(self, *parts: bytes) -> None:
        """Writes the parts one by one; the client reads each before the next is written. A closed connection is no error."""
        with suppress(ConnectionError):
            for number, part in enumerate(parts):
                for _ in range(4 if number else 0):  # lets the client run: it uses the same event loop
                    await asyncio.sleep(0)
                self.writer.write(part)
                await self.writer.drain()

    async def reply(
        self,
        body: bytes | None = None,
        status: str = "200 OK",
        *headers: str,
        content_type: str = "application/json",
    ) -> None:
        content = self.json if body is None else body
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(content)}"]
        await self.send("\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + content)

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


@dataclass
class Faulty:
    """The server: ``exchanges`` are the first ``MAX_EXCHANGES``; ``go`` releases faults that wait for it.

    ``counts`` are the requests by method and target. ``faults`` are chosen by the last segment of the path.
    """

    faults: Mapping[str, Fault]
    scheme: str = "http"
    host: str = "127.0.0.1"
    port: int = 0
    exchanges: list[Exchange] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
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
            self.counts[exchange.method, exchange.target] += 1
            if len(self.exchanges) < MAX_EXCHANGES:
                self.exchanges.append(exchange)
            self.arrived.set()
            await self.faults[urlsplit(exchange.target).path.rpartition("/")[2]](exchange)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition on the exchanges."""
        async with asyncio.timeout(30):
            while not condition():
                self.arrived.clear()
                await self.arrived.wait()

    def hang_up(self) -> None:
        """Accept no further connection."""
        assert self.listener
        self.listener.close()

    async def end(self) -> None:
        self.hang_up()
        self.go.set()
        for writer in list(self.open):
            writer.transport.abort()
        await asyncio.gather(*self.open.values())


@asynccontextmanager
async def serve_faults(
    faults: Mapping[str, Fault], tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Faulty]:
    faulty = Faulty(faults, "https" if tls else "http", host)
    faulty.listener = await asyncio.start_server(faulty.converse, "127.0.0.1", 0, ssl=tls)
    faulty.port = faulty.listener.sockets[0].getsockname()[1]
    try:
        yield faulty
    finally:
        await faulty.end()
        await faulty.listener.wait_closed()
