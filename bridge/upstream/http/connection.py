"""One connection to an upstream: a request goes out, its reply comes in, then the next.

Of aiohttp we take what connects (``TCPConnector``: names, TLS, proxies), and leave the rest: its ``ClientSession``
repeats idempotent requests on its own, keeps cookies, follows redirects, and cannot say whether a request was
sent. Connections at rest are kept here, as the connector would, for a tenth of the work.
"""

import asyncio
import select
from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from typing import Final, cast

from aiohttp import ClientRequest, ClientTimeout, TCPConnector
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from bridge.upstream.http.addresses import Resolver
from bridge.upstream.http.reply_reader import Arrived, Incoming, Progress

_NO_TIMEOUT: Final = ClientTimeout()
_REST: Final = 55.0
"""Seconds for which a connection is kept that nobody uses: less than the minute that many upstreams keep theirs."""
SETTLE_SECONDS: Final = 0.005
"""How long a connection is idle before it is used again.

Some upstreams send a second reply a moment after the first. Once the next request is written, the second reply cannot
be told from the right one. So a connection rests first, and is closed if bytes arrive. Calls that follow sooner take
another connection: 1 000 calls a second need five more.
"""
_DISTRUST_SECONDS: Final = 60.0
"""How long no connection is used again after bytes came on one that was idle."""


class _Wire(ResponseHandler):
    """aiohttp's protocol until a ``Line`` takes over."""

    pipe: asyncio.Transport
    line: "Line | None" = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # unlike ``transport`` it stays when the connection is lost; a cast, as uvloop's is no asyncio.Transport
        self.pipe = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.line:
            self.line.arrived(data)
        else:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self.line:
            self.line.lost(exc)


class Line:
    """A connection, from its first exchange to its last."""

    def __init__(self, connection: Connection, on_unasked: Callable[[], None]) -> None:
        """``on_unasked`` is called for bytes that arrive while the connection is idle."""
        assert isinstance(connection.protocol, _Wire)
        self._on_unasked = on_unasked
        self.rests_since = 0.0
        self._connection = connection
        connection.protocol.line = self
        self._pipe = connection.protocol.pipe
        self._incoming: Incoming | None = None
        self._unseen = select.poll()
        self._unseen.register(self._pipe.get_extra_info("socket"), select.POLLIN)

    @property
    def address(self) -> str:
        """The IP address at the other end: the upstream's, or its proxy's."""
        return str(self._pipe.get_extra_info("peername")[0])

    @property
    def is_sound(self) -> bool:
        """Whether neither bytes nor the end have come since the last exchange, also none that the event loop has not seen yet."""
        return not self._pipe.is_closing() and not self._unseen.poll(0)

    def ask(
        self, data: bytes, limit: int, progress: Progress, *, has_content: bool
    ) -> asyncio.Future[Arrived]:
        """Write a request; its reply ``has_content`` unless it is one to HEAD, whatever its headers say."""
        self._incoming = Incoming(limit, progress, has_content=has_content)
        self._pipe.write(data)
        return self._incoming.arrived

    def arrived(self, data: bytes) -> None:
        """Bytes that nobody asked for, if there is no exchange: they end the connection (RFC 9112 9.2)."""
        if self._incoming:
            self._incoming.feed(data)
        else:
            self._on_unasked()
            self._pipe.abort()

    def lost(self, error: BaseException | None) -> None:
        if self._incoming:
            self._incoming.lost(error)

    def rest(self) -> bool:
        """The exchange is over; whether there may be another."""
        assert self._incoming
        may_be = not self._incoming.is_last and not self._pipe.is_closing()
        self._incoming.close()
        self._incoming = None
        return may_be

    def end(self) -> None:
        """Close the connection at once, whatever waits to be written."""
        if self._incoming:
            self._incoming.close()
            self._incoming = None
        self._pipe.abort()
        self._connection.close()


class Lines:
    """The connections of one pool to ``peer``: those at rest, and new ones. It sets no bound: ``limits`` does."""

    def __init__(self, peer: ClientRequest, resolver: Resolver, settle: float) -> None:
        """``settle``: seconds that a connection is idle before it is used again."""
        self._settle = settle
        self._distrusted_until = 0.0
        self._loop = asyncio.get_running_loop()
        self._peer = peer
        self._resolver = resolver
        self._connector = _Connector(resolver)
        self._resting: list[Line] = []
        self._expiry: asyncio.TimerHandle | None = None

    def rested(self) -> Line | None:
        """The connection that came to rest last among those that have settled, if there is a sound one."""
        now = self._loop.time()
        if now < self._distrusted_until:
            return None
        settled = bisect_right(self._resting, now - self._settle, key=_rests_since)
        while settled:
            settled -= 1
            line = self._resting.pop(settled)
            if line.is_sound:
                return line
            line.end()
        return None

    def _distrust(self) -> None:
        """An upstream that sent bytes unasked may do so again, and late enough to answer the next request."""
        self._distrusted_until = self._loop.time() + _DISTRUST_SECONDS

    async def new(self) -> Line:
        """Raises aiohttp's errors of connecting."""
        line = Line(await self._connector.connect(self._peer, [], _NO_TIMEOUT), self._distrust)
        self._resolver.prefer(line.address)
        return line

    def rest(self, line: Line) -> None:
        """Keep a connection whose reply was read; it ends at once if the upstream said so, or sent more than that."""
        if not line.rest():
            line.end()
            return
        line.rests_since = self._loop.time()
        self._resting.append(line)
        if self._expiry is None:
            self._expiry = self._loop.call_later(_REST, self._expire)

    def _expire(self) -> None:
        """End what rests for too long; those at the front rest longest."""
        until = self._loop.time() - _REST
        expired = [line for line in self._resting if line.rests_since <= until]
        self._resting = self._resting[len(expired) :]
        for line in expired:
            line.end()
        self._expiry = None
        if self._resting:
            self._expiry = self._loop.call_at(self._resting[0].rests_since + _REST, self._expire)

    async def close(self) -> None:
        """End every connection, also under an exchange."""
        if self._expiry:
            self._expiry.cancel()
        for line in self._resting:
            line.end()
        self._resting.clear()
        await self._connector.close()


def _rests_since(line: Line) -> float:
    return line.rests_since


class _Connector(TCPConnector):
    """Makes connections, and keeps none."""

    def __init__(self, resolver: Resolver) -> None:
        super().__init__(resolver=resolver, use_dns_cache=False, limit=0, force_close=True)
        self._factory = partial(_wire, self._loop)


def _wire(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return _Wire(loop)
