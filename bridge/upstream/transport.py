"""One pool: httpx's transport interface over aiohttp's connections to one origin."""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final
from urllib.parse import unquote_to_bytes

import httpx
from aiohttp import ClientError, ClientOSError, ClientRequest, StreamReader
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD
from yarl import URL

from bridge import __version__
from bridge.upstream import failures
from bridge.upstream.addresses import Resolver, is_refused_literal
from bridge.upstream.wire import Line, Lines

USER_AGENT: Final = f"restbridge/{__version__}"
_FAULTS: Final = (ClientError, HttpProcessingError)


class Progress:
    """How far a call has come, for the text of a timeout; ``sent`` once a byte may have left."""

    __slots__ = ("phase", "sent")

    def __init__(self) -> None:
        self.phase = "waiting for its turn"
        self.sent = False


class Transport(httpx.AsyncBaseTransport):
    """Sends to ``origin``, directly or through ``proxy`` (http, with user and password if need be).

    A request says in its extensions: ``target`` (bytes, sent as they are) and ``timeout``, as httpx has
    them; ``progress``; and ``fresh`` (not on a connection that was at rest: the upstream may be closing
    it, and the request could not be repeated). The reply says in its own whether its framing shows that
    it is ``complete`` once it was read to its end. Must be made where the event loop runs.
    """

    def __init__(
        self, origin: str, proxy: str | None, context: ssl.SSLContext | None, resolver: Resolver
    ) -> None:
        url = URL(origin, encoded=True)
        self.calls = 0
        self._refused = is_refused_literal(url.raw_host or "")
        self._proxied = proxy is not None
        self._absolute = origin.encode() if proxy and not context else b""
        through = URL(proxy, encoded=True) if proxy else None
        credentials = {"Proxy-Authorization": _basic(through)} if through and through.raw_user else {}
        self._extra = [
            (name.encode(), value.encode()) for name, value in credentials.items() if self._absolute
        ]
        # aiohttp would add Host to the headers, which are part of its key for connections at rest
        headers = {"Host": url.host_port_subcomponent or "", "User-Agent": USER_AGENT, **credentials}
        peer = ClientRequest(
            "GET",
            url,
            loop=asyncio.get_running_loop(),
            ssl=context or True,
            proxy=through.with_user(None) if through else None,
            proxy_headers=headers if through else None,
        )
        self._lines = Lines(peer, resolver)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The reply's head, its body still to be read; raises httpx's errors with the codes of ``failures``."""
        data = self._head(request) + request.read()
        fresh: bool = request.extensions["fresh"]
        if not fresh and (line := self._lines.rested()):
            with suppress(httpx.TransportError):
                # The upstream may end a connection at rest while the request is on its way. Another one is
                # no retry: nothing of the reply had come.
                return await self._exchange(line, request, data, keep=True)
        return await self._exchange(await self._connect(request), request, data, keep=not fresh)

    async def _connect(self, request: httpx.Request) -> Line:
        if self._refused:
            raise httpx.ConnectError("address-refused")
        request.extensions["progress"].phase = "connecting"
        try:
            async with asyncio.timeout(request.extensions["timeout"]["connect"]):
                return await self._lines.new()
        except TimeoutError as error:
            raise httpx.ConnectTimeout("connect-timeout") from error
        except (*_FAULTS, OSError) as error:
            raise failures.while_connecting(error, proxied=self._proxied) from error

    async def _exchange(
        self, line: Line, request: httpx.Request, data: bytes, *, keep: bool
    ) -> httpx.Response:
        progress: Progress = request.extensions["progress"]
        is_answered = False
        try:
            progress.phase, progress.sent = "waiting for an answer", True
            line.send(data, head=request.method == "HEAD")
            message, content = await line.wire.answer()
            if message.code == 408 and line.reused:  # RFC 9110 15.5.9: said to the connection, not to us
                raise httpx.ReadError("reply-cut")
            is_answered = True
        except _FAULTS as error:
            raise failures.while_reading(error) from error
        finally:
            if not is_answered:
                line.end()
        progress.phase = "reading the answer"
        framed = message.chunked or "content-length" in message.headers or content is EMPTY_PAYLOAD
        body = _Body(line, content, self._lines if keep else None, framed=framed)
        return httpx.Response(
            message.code,
            headers=message.raw_headers,
            stream=body.arrived() or body,
            extensions={"complete": framed},
        )

    def _head(self, request: httpx.Request) -> bytes:
        target = self._absolute + request.extensions["target"]
        lines = [b"%s %s HTTP/1.1" % (request.method.encode(), target)]
        lines += [b"%s: %s" % header for header in (*request.headers.raw, *self._extra)]
        head = b"\r\n".join([*lines, b"", b""])
        if not len(lines) + 1 == head.count(b"\n") == head.count(b"\r") or b"\0" in head:
            raise httpx.LocalProtocolError("unsafe-request")
        return head

    async def aclose(self) -> None:
        await self._lines.close()


class _Body(httpx.AsyncByteStream):
    """A reply's body as it comes; where it is not ``framed``, it ends with the connection.

    Read to its end, the connection comes to rest in ``lines``, if they are given.
    """

    def __init__(self, line: Line, content: StreamReader, lines: Lines | None, *, framed: bool) -> None:
        self._line = line
        self._content = content
        self._lines = lines
        self._framed = framed

    def arrived(self) -> httpx.ByteStream | None:
        """The body, if all of it came together with the head: the connection is left at once."""
        if not self._framed or not self._is_whole:
            return None
        data = self._content.read_nowait(-1)
        self._leave()
        return httpx.ByteStream(data)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            data = await self._content.readany()
        except _FAULTS as error:
            raise failures.while_reading(error) from error
        if data:
            return data
        if not self._framed and isinstance(self._line.wire.exception(), ClientOSError):
            raise httpx.ReadError("reply-cut")  # reset: to aiohttp the end of a body without length
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._leave()

    @property
    def _is_whole(self) -> bool:
        return self._content.is_eof() and self._content.exception() is None

    def _leave(self) -> None:
        """Let the connection rest if the body was read to its end, else end it.

        Also where there should be no body: some upstreams send one after 204 or HEAD all the same.
        """
        is_read = self._is_whole and self._content.at_eof() and self._content is not EMPTY_PAYLOAD
        if is_read and self._lines:
            self._lines.rest(self._line)
        else:
            self._line.end()


def _basic(proxy: URL) -> str:
    pair = b"%s:%s" % (unquote_to_bytes(proxy.raw_user or ""), unquote_to_bytes(proxy.raw_password or ""))
    return f"Basic {b64encode(pair).decode()}"
