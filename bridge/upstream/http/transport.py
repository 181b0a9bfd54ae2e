"""Sends requests to one origin, on pooled connections, and reads their replies."""

import asyncio
import ssl
from typing import NamedTuple

import httpx

from bridge.exchange import Reply
from bridge.upstream.http import failures
from bridge.upstream.http.addresses import Lookup
from bridge.upstream.http.connecting import Connector, proxy_authorization
from bridge.upstream.http.connection import Connection, ConnectionPool
from bridge.upstream.http.reply_reader import READING, WAITING, Progress


class Message(NamedTuple):
    """A request as it is sent: ``target`` and ``headers`` leave unchanged; ``headers`` are complete lines.

    ``needs_new_connection``: the request cannot be repeated. The upstream may be closing an idle connection, so none
    is used. ``connect_timeout`` is in seconds. ``limit`` is the maximum size of the reply's content, in bytes.
    """

    method: bytes
    target: bytes
    headers: bytes
    content: bytes
    needs_new_connection: bool
    connect_timeout: float
    limit: int


class Transport:
    """Sends to ``origin``, directly or through ``proxy``; for both and ``context`` see ``Connector``.

    Must be created inside a running event loop. ``settle`` is for ``ConnectionPool``.
    """

    def __init__(
        self, origin: str, proxy: str | None, context: ssl.SSLContext | None, lookup: Lookup, settle: float
    ) -> None:
        self.active_calls = 0
        self._is_proxied = proxy is not None
        self._absolute_form, self._proxy_headers = b"", b""
        # A proxy reads requests to http, so it gets the whole URL (RFC 9112 3.2.2). Others are in a tunnel.
        if proxy and not context:
            self._absolute_form = origin.encode()
            self._proxy_headers = proxy_authorization(proxy).encode()
        self._pool = ConnectionPool(Connector(origin, proxy, context, lookup), settle)

    async def send(self, message: Message, progress: Progress) -> Reply:
        """The complete reply; raises httpx's errors with the codes of ``failures``, and ``UnusableReply``."""
        if not message.needs_new_connection and (connection := self._pool.take_idle()):
            reply = await self._exchange_on_idle(connection, message, progress)
            if reply:
                return reply
        return await self._exchange(await self._connect(message, progress), message, progress)

    async def _connect(self, message: Message, progress: Progress) -> Connection:
        progress.phase = "connecting"
        try:
            async with asyncio.timeout(message.connect_timeout):
                return await self._pool.connect()
        except TimeoutError as error:  # also ETIMEDOUT of the kernel, which is an OSError
            raise httpx.ConnectTimeout("connect-timeout") from error
        except OSError as error:
            raise failures.while_connecting(error, is_proxied=self._is_proxied) from error

    async def _exchange_on_idle(
        self, connection: Connection, message: Message, progress: Progress
    ) -> Reply | None:
        """None if no reply came, or a 408: the request then goes to a new connection.

        The upstream may have closed the idle connection while the request was on its way. A 408 reports that the
        connection was idle for too long (RFC 9110 15.5.9). So the new connection is no retry.
        """
        try:
            reply = await self._exchange(connection, message, progress)
        except httpx.TransportError:
            if progress.phase == READING:
                raise
            return None
        return None if reply.status == 408 else reply

    async def _exchange(self, connection: Connection, message: Message, progress: Progress) -> Reply:
        method, target, headers, content, needs_new_connection, _, limit = message
        head = b"%s %s%s HTTP/1.1\r\n%s%s\r\n" % (
            method,
            self._absolute_form,
            target,
            self._proxy_headers,
            headers,
        )
        is_complete, was_sent = False, progress.sent
        progress.phase, progress.sent = WAITING, True
        try:
            # one write: in two, even a small request would be two packets, as Nagle's algorithm is off
            received = await connection.send(head + content, limit, progress, has_content=method != b"HEAD")
            reply = await received.reply()
            if reply.status == 407 and self._absolute_form:  # most likely from the proxy (RFC 9110 15.5.8)
                raise httpx.ProxyError("proxy-failed credentials")
            is_complete = True
        except httpx.TransportError as fault:
            if str(fault).startswith(failures.WITHOUT_PROCESSING):
                progress.sent = was_sent
            raise
        finally:
            # Calls that need a new connection take no idle one. If theirs were kept, the pool would fill.
            if needs_new_connection or not is_complete:
                connection.close()
        if not needs_new_connection:
            self._pool.release(connection)
        return reply

    def close(self) -> None:
        """Close every connection; calls that still run fail."""
        self._pool.close()
