"""One connection to an upstream, as aiohttp keeps it, with what a bridge must know beyond.

Of aiohttp we take what connects (``TCPConnector``: names, TLS, proxies) and the C parser (``ResponseHandler``).
Its ``ClientSession`` is left out: it repeats idempotent requests on its own, keeps cookies, follows
redirects, and cannot say whether a request was sent. Connections at rest are kept here, as the connector
would, for a tenth of the work.
"""

import asyncio
import select
from functools import partial
from typing import Final, cast

from aiohttp import ClientRequest, ClientTimeout, StreamReader, TCPConnector
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage

from bridge.upstream.addresses import Resolver

_INFORMATIONAL: Final = 16
"""Interim replies (RFC 9110 15.2) that may come before the final one."""
_NO_TIMEOUT: Final = ClientTimeout()
_REST: Final = 55.0
"""Seconds for which a connection is kept that nobody uses: less than the minute that many upstreams keep theirs."""


class Wire(ResponseHandler):
    """aiohttp's protocol; ``idle`` between exchanges."""

    pipe: asyncio.Transport
    idle = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # unlike ``transport`` it stays when the connection is lost; a cast, as uvloop's is no asyncio.Transport
        self.pipe = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """End a connection on which bytes come that nobody asked for.

        aiohttp would keep them as the answer to the next request (aiohttp#13656).
        """
        if self.idle and data:
            self.pipe.abort()
        else:
            super().data_received(data)

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's
        """Nothing to do where nothing paused: aiohttp would go through its parser after each read."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Tell the body's reader too: on a bad chunk aiohttp leaves it waiting for ever.

        Where it was raised is nobody's business, and would hold this connection and all that it has read.
        """
        for each in filter(None, (exc, exc_cause)):
            each.__traceback__ = None
        super().set_exception(exc, *([exc_cause] if exc_cause else []))
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(exc)

    async def answer(self) -> tuple[RawResponseMessage, StreamReader]:
        """The final reply's head, and its body to read; raises what ``failures.while_reading`` knows."""
        for _ in range(_INFORMATIONAL):
            message, body = await self.read()
            if message.code >= 200:
                return message, body
            if message.code == 101:
                break
        raise HttpProcessingError(message="no final reply")


class Line:
    """A connection, from its first exchange to its last."""

    def __init__(self, connection: Connection) -> None:
        assert isinstance(connection.protocol, Wire)
        self._connection = connection
        self.wire = connection.protocol
        self.reused = False
        self.rests_since = 0.0
        self._unseen = select.poll()
        self._unseen.register(self.wire.pipe.get_extra_info("socket"), select.POLLIN)

    @property
    def is_sound(self) -> bool:
        """Whether neither bytes nor the end have come since the last exchange, also none that the event loop has not seen yet."""
        return self.wire.is_connected() and not self._unseen.poll(0)

    def send(self, data: bytes, *, head: bool) -> None:
        """Write a request; ``head`` says that its reply has no body whatever its headers say."""
        self.wire.idle = False
        self.wire.set_response_params(skip_payload=head, read_until_eof=True, auto_decompress=False)
        self.wire.pipe.write(data)

    def end(self) -> None:
        """Close the connection at once, whatever waits to be written."""
        self.wire.pipe.abort()
        self._connection.close()


class Lines:
    """The connections of one pool to ``peer``: those at rest, and new ones. It sets no bound: ``limits`` does."""

    def __init__(self, peer: ClientRequest, resolver: Resolver) -> None:
        self._peer = peer
        self._connector = _Connector(resolver)
        self._resting: list[Line] = []
        self._expiry: asyncio.TimerHandle | None = None

    def rested(self) -> Line | None:
        """The connection that came to rest last, if there is a sound one."""
        while self._resting:
            line = self._resting.pop()
            if line.is_sound:
                line.reused = True
                return line
            line.end()
        return None

    async def new(self) -> Line:
        """Raises aiohttp's errors of connecting."""
        return Line(await self._connector.connect(self._peer, [], _NO_TIMEOUT))

    def rest(self, line: Line) -> None:
        """Keep a connection whose reply was read; it ends at once if the upstream said so, or sent more than that."""
        if line.wire.should_close:
            line.end()
            return
        line.wire.idle = True
        loop = asyncio.get_running_loop()
        line.rests_since = loop.time()
        self._resting.append(line)
        if self._expiry is None:
            self._expiry = loop.call_later(_REST, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """End what rests for too long; those at the front rest longest."""
        until = loop.time() - _REST
        expired = [line for line in self._resting if line.rests_since <= until]
        self._resting = self._resting[len(expired) :]
        for line in expired:
            line.end()
        self._expiry = None
        if self._resting:
            self._expiry = loop.call_at(self._resting[0].rests_since + _REST, self._expire, loop)

    async def close(self) -> None:
        """End every connection, also under an exchange."""
        if self._expiry:
            self._expiry.cancel()
        for line in self._resting:
            line.end()
        self._resting.clear()
        await self._connector.close()


class _Connector(TCPConnector):
    """Makes connections, and keeps none."""

    def __init__(self, resolver: Resolver) -> None:
        super().__init__(resolver=resolver, use_dns_cache=False, limit=0, force_close=True)
        self._factory = partial(_wire, self._loop)


def _wire(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return Wire(loop)
