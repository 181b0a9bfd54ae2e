"""A reply as it comes: read by llhttp (httptools), gathered within bounds."""

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

_INFORMATIONAL: Final = 16
"""Interim replies (RFC 9110 15.2) that may come before the final one."""
_MAX_FRAMING_BYTES: Final = 64 * 1024
"""How much of a reply may be no content: heads, sizes and extensions of chunks, trailers.

A quarter of the content is allowed in addition. So chunks past the first 10 000 hold 24 bytes on average. A chunk takes
half a microsecond, and the event loop may read 2 MiB at once.
"""
_PARSED_AT_ONCE: Final = 16 * 1024
"""Bytes after which the bounds are checked: one read may return 256 KiB of the smallest chunks."""
_MOST_FIELDS: Final = 256
_THREADS: Final = 2
"""Worker threads in which large replies are put together."""

_workers: Final = RunVar[CapacityLimiter]("restbridge_large_replies")

WAITING: Final = "waiting for an answer"
READING: Final = "reading the answer"


class Progress:
    """How far a call has come, for the text of a timeout; ``sent`` once a byte may have left."""

    __slots__ = ("phase", "sent")

    def __init__(self, phase: str = "waiting for its turn") -> None:
        self.phase = phase
        self.sent = False


@dataclass(frozen=True, slots=True)
class Arrived:
    """A reply whose last byte has come; ``complete`` as in ``Reply``."""

    status: int
    headers: dict[str, str]
    content: Content
    complete: bool

    async def reply(self) -> Reply:
        """The reply with its whole content; raises ``UnusableReply``."""
        if self.content.is_large:
            content = await to_thread.run_sync(
                self.content.finish, abandon_on_cancel=True, limiter=_limiter()
            )
        else:
            content = self.content.finish()
        return Reply(self.status, self.headers, content, self.complete)


class Incoming:
    """A reply as it comes, of which ``limit`` bytes may be content; the ``on_`` are what llhttp tells.

    ``arrived`` is set when it is whole, or fails as httpx does, with a code of ``failures``, or as ``Content``.
    """

    def __init__(self, limit: int, progress: Progress, *, has_content: bool) -> None:
        self.arrived: asyncio.Future[Arrived] = asyncio.get_running_loop().create_future()
        self.is_last = True
        """Whether the connection ends with it."""
        self._limit = limit
        self._progress = progress
        self._has_content = has_content
        self._interim = 0
        self._framing = 0
        self._fields: list[tuple[bytes, bytes]] = []
        self._status = 0
        self._headers: dict[str, str] = {}
        self._content: Content | None = None
        self._is_whole = False
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(  # what browsers and aiohttp take, too
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    def feed(self, data: bytes) -> None:
        """Bytes from the connection. Those after a whole reply end the connection, and change nothing else."""
        for start in range(0, len(data), _PARSED_AT_ONCE):
            if self.arrived.done():
                self.is_last = True
                return
            self._parse(data[start : start + _PARSED_AT_ONCE])

    def _parse(self, data: bytes) -> None:
        self._framing += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserCallbackError as problem:
            self._fail(problem.__context__ or problem)
            return
        except (HttpParserError, HttpParserUpgrade):
            self.is_last = True
            if not self._is_whole:
                self._fail(httpx.RemoteProtocolError("protocol-error"))
                return
        if self._is_whole:
            self._finish(complete=True)
        elif self._framing > _MAX_FRAMING_BYTES:
            self._fail(httpx.RemoteProtocolError("protocol-error"))

    def lost(self, error: BaseException | None) -> None:
        """The connection has ended, and with it a reply whose length was not told."""
        if self.arrived.done():
            return
        if error is None and self._content and self._ends_with_connection:
            self._finish(complete=False)
        else:
            cause = "reply-cut"
            if isinstance(error, ssl.SSLError):  # an alert after the head says nothing of our certificate
                cause = failures.of_tls(error) if self._content is None else "tls-failed"
            self._fail(httpx.ReadError(cause))

    def close(self) -> None:
        """Part from the parser, which holds what it tells."""
        del self._parser

    def on_message_begin(self) -> None:
        """If one came already: what is behind it ends the connection, which else would give it to the next."""
        if self._is_whole:
            self.is_last = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._content is None:  # else it is a trailer
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        if self._is_whole:
            return
        self._status = self._parser.get_status_code()
        self._interim += self._status < 200
        if self._status == 101 or self._interim > _INFORMATIONAL or len(self._fields) > _MOST_FIELDS:
            raise httpx.RemoteProtocolError("protocol-error")
        if self._status < 200:
            return
        self._progress.phase = READING
        self._headers = _texts(self._fields)
        self._content = Content(self._limit, self._codings, self._status)
        self._is_whole = not self._has_content

    def on_body(self, data: bytes) -> None:
        if not self._is_whole and self._content:
            self._framing -= len(data) + len(data) // 4  # _parse has counted it
            self._content.feed(data)

    def on_message_complete(self) -> None:
        if self._content is None:
            self._fields.clear()
        elif not self._is_whole:
            self._is_whole = True
            # some upstreams send a body where there should be none, and it may come late
            self.is_last = self._status in (204, 304) or not self._parser.should_keep_alive()

    @property
    def _codings(self) -> str:
        """The words of Content-Encoding and Transfer-Encoding."""
        return f"{self._headers.get('content-encoding', '')},{self._headers.get('transfer-encoding', '')}"

    @property
    def _ends_with_connection(self) -> bool:
        return "content-length" not in self._headers and "chunked" not in self._codings

    def _finish(self, *, complete: bool) -> None:
        assert self._content
        self.arrived.set_result(Arrived(self._status, self._headers, self._content, complete))

    def _fail(self, error: BaseException) -> None:
        """Where it was raised is nobody's business, and would hold all that has been read."""
        self.is_last = True
        error.__traceback__ = None
        self.arrived.set_exception(error)


def _limiter() -> CapacityLimiter:
    try:
        return _workers.get()
    except LookupError:
        limiter = CapacityLimiter(_THREADS)
        _workers.set(limiter)
        return limiter


def _texts(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers as texts: UTF-8 where they are, else Latin-1, which any bytes are (RFC 9110 5.5)."""
    headers: dict[str, str] = {}
    for name, data in fields:
        key = _key(name)
        try:
            value = data.decode()
        except UnicodeDecodeError:
            value = data.decode("latin-1")
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers


@lru_cache(maxsize=1024)
def _key(name: bytes) -> str:
    return name.decode("latin-1").lower()
