"""Connections to one upstream: each carries a request and its reply, then the next.

Theory of operation
-------------------

========  ========================  ==================================================================================
State     In ``ConnectionPool``     What ends it
========  ========================  ==================================================================================
busy      in ``_open`` only         The reply is complete: ``release`` makes the connection idle, or closes it.
settling  in ``_idle``              ``settle`` seconds pass. Bytes that arrive before close the connection.
settled   in ``_idle``              ``take_idle`` makes it busy; ``_IDLE_SECONDS`` pass, or bytes arrive: it is closed.
closed    perhaps in ``_idle``      Final. ``take_idle`` and the expiry drop it from ``_idle``.
========  ========================  ==================================================================================

``_idle`` is sorted by ``idle_since``, so the settled connections come first. ``take_idle`` takes the last of these:
the connection that was used most recently is the least likely to be closed by the upstream.

An upstream may send bytes on an idle connection, such as a second reply or a 408. They must never answer the next
request. Four checks prevent that:

1. Bytes that the event loop has read close the connection (``Connection.data_received``).
2. Bytes that the kernel holds unread are found by ``can_reuse`` before a request is written.
3. A connection settles first, as the bytes may still be on their way.
4. After such bytes no idle connection of the pool is used for ``_DISTRUST_SECONDS``.

Before the first request, ``Connector.connect`` refuses a connection on which bytes have arrived.
"""

import asyncio
import select
from bisect import bisect_right
from collections.abc import Callable
from typing import Final
from weakref import WeakSet

from bridge.upstream.http.connecting import Connector
from bridge.upstream.http.reply_reader import Progress, ReceivedReply, ReplyReader

_IDLE_SECONDS: Final = 55.0
"""How long an idle connection is kept: less than the minute for which many upstreams keep theirs."""
SETTLE_SECONDS: Final = 0.005
"""How long a connection is idle before it is used again.

Some upstreams send a second reply a moment after the first. If the next request is written before, the second reply
looks like the answer to it. Calls that follow sooner take another connection: 1 000 calls a second need five more.
"""
_DISTRUST_SECONDS: Final = 60.0
"""How long no idle connection is used after bytes came on one of them."""


class Connection(asyncio.Protocol):
    """A connection, from its first exchange to its last."""

    def __init__(self, transport: asyncio.Transport, on_unexpected_data: Callable[[], None]) -> None:
        """``on_unexpected_data`` is called for bytes that arrive while the connection is idle."""
        self._on_unexpected_data = on_unexpected_data
        self.idle_since = 0.0
        self._transport = transport
        transport.set_protocol(self)
        self._reader: ReplyReader | None = None
        self._kernel_buffer = select.poll()
        self._kernel_buffer.register(transport.get_extra_info("socket"), select.POLLIN)

    @property
    def can_reuse(self) -> bool:
        """False if bytes or an end arrived since the last exchange, even if the event loop has not read them yet."""
        return not self._transport.is_closing() and not self._kernel_buffer.poll(0)

    def send(
        self, data: bytes, limit: int, progress: Progress, *, has_content: bool
    ) -> asyncio.Future[ReceivedReply]:
        """Write a request; ``has_content`` is False for HEAD, whose reply has no content despite its headers."""
        self._reader = ReplyReader(limit, progress, has_content=has_content)
        self._transport.write(data)
        return self._reader.received

    def data_received(self, data: bytes) -> None:
        """Bytes outside of an exchange close the connection (RFC 9112 9.2)."""
        if self._reader:
            self._reader.feed(data)
        else:
            self._on_unexpected_data()
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self._reader:
            self._reader.connection_lost(error)

    def end_exchange(self) -> bool:
        """Whether the connection can carry another exchange."""
        assert self._reader
        can_continue = not self._reader.is_last and not self._transport.is_closing()
        self._reader.close()
        self._reader = None
        return can_continue

    def close(self) -> None:
        """End the exchange, if one runs, and the connection."""
        if self._reader:
            self._reader.close()
            self._reader = None
        self.abort()

    def abort(self) -> None:
        """Close at once, without flushing the write buffer. An exchange that runs fails."""
        self._transport.abort()


class ConnectionPool:
    """The connections of one ``Connector``. The pool sets no upper bound: ``limits`` does."""

    def __init__(self, connector: Connector, settle: float) -> None:
        """``settle``: seconds that a connection is idle before it is used again."""
        self._settle = settle
        self._distrusted_until = 0.0
        self._loop = asyncio.get_running_loop()
        self._connector = connector
        self._open: WeakSet[Connection] = WeakSet()
        """Idle and busy ones, for ``close``; weak, so that a closed connection leaves by itself."""
        self._idle: list[Connection] = []
        self._expiry: asyncio.TimerHandle | None = None
        self._is_closed = False

    def take_idle(self) -> Connection | None:
        """The settled connection that was used most recently; None if there is none that can be used again."""
        now = self._loop.time()
        if now < self._distrusted_until:  # they stay in ``_idle`` until they expire
            return None
        settled = bisect_right(self._idle, now - self._settle, key=_idle_since)
        while settled:
            settled -= 1
            connection = self._idle.pop(settled)
            if connection.can_reuse:
                return connection
            connection.close()
        return None

    def _distrust(self) -> None:
        """Bytes came on an idle connection; the next ones could come late enough to answer a request."""
        self._distrusted_until = self._loop.time() + _DISTRUST_SECONDS

    async def connect(self) -> Connection:
        """A new connection; raises the errors of ``Connector.connect``."""
        connection = Connection(await self._connector.connect(), self._distrust)
        if self._is_closed:  # while this connection was being opened
            connection.close()
            raise ConnectionAbortedError("the pool was closed in the meantime")
        self._open.add(connection)
        return connection

    def release(self, connection: Connection) -> None:
        """Keep a connection whose reply is complete. It is closed if the upstream demands that, or sent more bytes."""
        if not connection.end_exchange():
            connection.close()
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)
        if self._expiry is None:
            self._expiry = self._loop.call_later(_IDLE_SECONDS, self._expire)

    def _expire(self) -> None:
        until = self._loop.time() - _IDLE_SECONDS
        expired = [connection for connection in self._idle if connection.idle_since <= until]
        self._idle = self._idle[len(expired) :]  # sorted: the expired ones come first
        for connection in expired:
            connection.close()
        self._expiry = None
        if self._idle:
            self._expiry = self._loop.call_at(self._idle[0].idle_since + _IDLE_SECONDS, self._expire)

    def close(self) -> None:
        """Close every connection, also busy ones."""
        self._is_closed = True
        if self._expiry:  # the timer would keep the pool in memory
            self._expiry.cancel()
        for connection in self._open:
            connection.abort()
        self._idle.clear()


def _idle_since(connection: Connection) -> float:
    return connection.idle_since
