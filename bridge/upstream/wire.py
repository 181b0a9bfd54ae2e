"""One connection to an upstream, as aiohttp keeps it, with what a bridge must know beyond.

Of aiohttp we take the C parser (``ResponseHandler``), the pool (``TCPConnector``) and the resolver hook.
Its ``ClientSession`` is left out: it repeats idempotent requests on its own, keeps cookies, follows
redirects, and cannot say whether a request was sent.
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


class Wire(ResponseHandler):
    """aiohttp's protocol; ``idle`` between calls, ``used`` once a call has had it."""

    pipe: asyncio.Transport
    idle = False
    used = False

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


def _wire(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return Wire(loop)


class Line:
    """A connection for the length of one exchange."""

    def __init__(self, connection: Connection) -> None:
        assert isinstance(connection.protocol, Wire)
        self._connection = connection
        self.wire = connection.protocol
        self.reused = self.wire.used

    @property
    def is_stale(self) -> bool:
        """Whether bytes, or the end, have come since the last call that the event loop has not seen yet."""
        if not self.reused:
            return False
        poll = select.poll()
        poll.register(self.wire.pipe.get_extra_info("socket"), select.POLLIN)
        return bool(poll.poll(0))

    def send(self, data: bytes, *, head: bool) -> None:
        """Write a request; ``head`` says that its reply has no body whatever its headers say."""
        self.wire.idle, self.wire.used = False, True
        self.wire.set_response_params(skip_payload=head, read_until_eof=True, auto_decompress=False)
        self.wire.pipe.write(data)

    def release(self) -> None:
        """Give the connection back; aiohttp closes it if more came than the reply."""
        self.wire.idle = True
        self._connection.release()

    def end(self) -> None:
        """Close the connection at once, whatever waits to be written."""
        self.wire.pipe.abort()
        self._connection.close()


class Lines(TCPConnector):
    """The connections of one pool. It sets no bound of its own: ``limits`` does."""

    def __init__(self, resolver: Resolver, *, keep: bool) -> None:
        super().__init__(resolver=resolver, use_dns_cache=False, limit=0, force_close=not keep)
        self._factory = partial(_wire, self._loop)

    async def line(self, peer: ClientRequest) -> Line:
        """A connection to ``peer``: one at rest that is sound, else a new one."""
        while True:
            line = Line(await self.connect(peer, [], _NO_TIMEOUT))
            if not line.is_stale:
                return line
            line.end()
