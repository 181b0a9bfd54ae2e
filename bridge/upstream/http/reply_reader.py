"""Reads one reply from a connection: llhttp (httptools) parses it; heads, framing and content are bounded.

Theory of operation
-------------------

A ``Connection`` calls ``ReplyReader.feed`` and ``connection_lost``. llhttp calls the methods ``on_…`` while it is fed.

========  ============  ================  ============================================================================
State     ``_content``  ``_is_complete``  What ends it
========  ============  ================  ============================================================================
head      None          False             The head of a final status is complete; with HEAD, the reply is complete, too.
                                          A 1xx reply is dropped.
content   set           False             The message is complete. Without Content-Length and chunks, it is complete
                                          when the connection is closed.
complete  set           True              Final. Further bytes change nothing but ``is_last``.
========  ============  ================  ============================================================================

``received`` is set once, and only after llhttp has returned: what it finds behind the reply in the same bytes still sets
``is_last``. An error before the reply is complete goes to ``received``, also one that a method ``on_…`` raises.
"""

import asyncio
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import httpx
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from bridge.exchange import Reply
from bridge.upstream.http import failures
from bridge.upstream.http.decoding import Content

_MAX_INTERIM_REPLIES: Final = 16
"""1xx replies (RFC 9110 15.2) before the final one."""
_MAX_FRAMING_BYTES: Final = 64 * 1024
"""Bytes of a reply that are not content: heads, chunk sizes, chunk extensions, trailers.

A quarter of the content is allowed in addition, so chunks after the first 10 000 must hold 24 bytes on average. This
bounds the time: a chunk takes half a microsecond, and the event loop may read 2 MiB at once.
"""
_PARSED_BYTES_AT_ONCE: Final = 16 * 1024
"""The bounds are checked after so many bytes: one read may return 256 KiB of the smallest chunks."""
_MAX_HEADERS: Final = 256
_WORKER_THREADS: Final = 2
"""Threads that decompress and join large replies."""

# a RunVar, as a limiter belongs to one event loop
_workers: Final = RunVar[CapacityLimiter]("restbridge_large_replies")

WAITING: Final = "waiting for an answer"
READING: Final = "reading the answer"


class Progress:
    """The phase of a call, for the message of a timeout; ``sent`` is True once a byte may have been sent."""

    __slots__ = ("phase", "sent")

    def __init__(self, phase: str = "waiting for its turn") -> None:
        self.phase = phase
        self.sent = False


@dataclass(frozen=True, slots=True)
class ReceivedReply:
    """A reply whose last byte was received; its content may still be compressed. ``complete`` is that of ``Reply``."""

    status: int
    headers: dict[str, str]
    content: Content
    complete: bool

    async def reply(self) -> Reply:
        """The reply with its decoded content; raises ``UnusableReply``."""
        if self.content.is_large:
            # A thread cannot be stopped: the call ends at its deadline, the limiter still counts the thread
            content = await to_thread.run_sync(
                self.content.finish, abandon_on_cancel=True, limiter=_limiter()
            )
        else:
            content = self.content.finish()
        return Reply(self.status, self.headers, content, self.complete)


class ReplyReader:
    """Parses a reply with at most ``limit`` bytes of content; llhttp calls the methods ``on_…``.

    ``received`` gets the complete reply, or an error: httpx's with a code of ``failures``, or that of ``Content``.
    """

    def __init__(self, limit: int, progress: Progress, *, has_content: bool) -> None:
        self.received: asyncio.Future[ReceivedReply] = asyncio.get_running_loop().create_future()
        self.is_last = True
        """Whether the connection must be closed after this reply."""
        self._limit = limit
        self._progress = progress
        self._has_content = has_content
        self._interim_replies = 0
        self._framing_bytes = 0
        self._fields: list[tuple[bytes, bytes]] = []
        self._status = 0
        self._headers: dict[str, str] = {}
        self._content: Content | None = None
        self._is_complete = False
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(  # browsers and aiohttp accept these as well
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    def feed(self, data: bytes) -> None:
        """Bytes from the connection. Bytes after a complete reply only set ``is_last``."""
        for start in range(0, len(data), _PARSED_BYTES_AT_ONCE):
            if self.received.done():
                self.is_last = True
                return
            self._parse(data[start : start + _PARSED_BYTES_AT_ONCE])

    def _parse(self, data: bytes) -> None:
        self._framing_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserCallbackError as problem:
            self._fail(problem.__context__ or problem)  # what the callback raised: httptools leaves it there
            return
        except (HttpParserError, HttpParserUpgrade):  # the second is raised for a 101 behind a complete reply
            self.is_last = True
            if not self._is_complete:
                self._fail(httpx.RemoteProtocolError("protocol-error"))
                return
        if self._is_complete:
            self._finish(complete=True)
        elif self._framing_bytes > _MAX_FRAMING_BYTES:
            self._fail(httpx.RemoteProtocolError("protocol-error"))

    def connection_lost(self, error: BaseException | None) -> None:
        """The connection is closed. That completes a reply without Content-Length and chunks (RFC 9112 6.3)."""
        if self.received.done():
            return
        # A reset is an error, also if all content may have arrived: RST drops bytes on their way.
        if error is None and self._content and self._ends_with_connection:
            self._finish(complete=False)
        else:
            cause = "reply-cut"
            if isinstance(error, ssl.SSLError):  # an alert after the head is not about our certificate
                cause = failures.tls_code(error) if self._content is None else "tls-failed"
            self._fail(httpx.ReadError(cause))

    def close(self) -> None:
        """Break the reference cycle with the parser."""
        del self._parser

    def on_message_begin(self) -> None:
        """A second message must not become the reply to the next request: the connection is closed."""
        if self._is_complete:
            self.is_last = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._content is None:  # otherwise it is a trailer
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        if self._is_complete:
            return
        self._status = self._parser.get_status_code()
        self._interim_replies += self._status < 200
        # 101: no request asks for another protocol
        if (
            self._status == 101
            or self._interim_replies > _MAX_INTERIM_REPLIES
            or len(self._fields) > _MAX_HEADERS
        ):
            raise httpx.RemoteProtocolError("protocol-error")
        if self._status < 200:
            return
        self._progress.phase = READING
        self._headers = _decoded(self._fields)
        self._content = Content(self._limit, self._codings, self._status)
        # With HEAD ``is_last`` stays True: some upstreams send the content anyway, and it may arrive late.
        self._is_complete = not self._has_content

    def on_body(self, data: bytes) -> None:
        if not self._is_complete and self._content:
            self._framing_bytes -= len(data) + len(data) // 4  # _parse counted it as framing
            self._content.feed(data)

    def on_message_complete(self) -> None:
        if self._content is None:  # the end of an interim reply
            self._fields.clear()
        elif not self._is_complete:
            self._is_complete = True
            # some upstreams send a forbidden body with these statuses, and it may arrive late
            self.is_last = self._status in (204, 304) or not self._parser.should_keep_alive()

    @property
    def _codings(self) -> str:
        """Content-Encoding and Transfer-Encoding, joined with a comma."""
        return f"{self._headers.get('content-encoding', '')},{self._headers.get('transfer-encoding', '')}"

    @property
    def _ends_with_connection(self) -> bool:
        return "content-length" not in self._headers and "chunked" not in self._codings

    def _finish(self, *, complete: bool) -> None:
        assert self._content
        self.received.set_result(ReceivedReply(self._status, self._headers, self._content, complete))

    def _fail(self, error: BaseException) -> None:
        """Without its traceback: that would keep all received data in memory."""
        self.is_last = True
        error.__traceback__ = None
        self.received.set_exception(error)


def _limiter() -> CapacityLimiter:
    try:
        return _workers.get()
    except LookupError:
        limiter = CapacityLimiter(_WORKER_THREADS)
        _workers.set(limiter)
        return limiter


def _decoded(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers as text: UTF-8 if valid, otherwise Latin-1, which decodes any bytes (RFC 9110 5.5)."""
    headers: dict[str, str] = {}
    for name, data in fields:
        key = _lower(name)
        try:
            value = data.decode()
        except UnicodeDecodeError:
            value = data.decode("latin-1")
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers


# most replies have the same few names; the bound is for upstreams that invent names
@lru_cache(maxsize=1024)
def _lower(name: bytes) -> str:
    return name.decode("latin-1").lower()
