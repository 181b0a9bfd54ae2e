"""A client's connection: replies leave in one piece, and a client that is too slow, or sends too much, is cut off.

uvicorn writes a head and then its body, which wakes the client twice; it waits for ever, and it parses whatever arrives.
Here bytes are parsed only while somebody waits for them:

| state | what is parsed |
|---|---|
| between requests, and in a head | everything, slice by slice |
| in a body | the slice in which the head ends; the rest once the app asks for it |
| a request waits for its answer | the rest of its slice, in which at most ``_MAX_PIPELINED`` more may begin |
| refused, or answered before all of the body came | nothing: it is dropped for a while, then the connection ends |

So nobody parses the body of a client without a valid key, and what it sends waits in one buffer of bounded size.
"""

import asyncio
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from bridge.access.quotas import Limits
from bridge.access.throttle import Guesses
from bridge.caller import ANYBODY, Caller
from bridge.http.rejection_log import Refusals, client_of
from bridge.http.request_head import Rejection, reject_head
from bridge.protocol.notifications import caller_in

_COPIED: Final = 64 * 1024
"""Bytes up to which a copy costs less than another write."""
_SLICE: Final = 4096
"""Bytes that are parsed at a time. Most requests fit in."""
_MAX_PIPELINED: Final = 16
_MAX_HEAD: Final = 64 * 1024
_MAX_FIELDS: Final = 256
_MAX_BLANK: Final = 64
"""Bytes of empty lines before a request (RFC 9112 2.2)."""
_MAX_UNPARSED: Final = 64 * 1024
"""Bytes that may wait to be parsed before reading stops. One read may bring 256 KiB more."""
_MAX_BARE_FRAMING: Final = 64 * 1024
"""Bytes of a body in slices without content: trailers, chunk extensions."""
_FREE_FRAMING: Final = 16 * 1024
"""Bytes of chunk sizes that are always accepted. Past them, each needs ``_CONTENT_PER_FRAMING`` bytes of content."""
_CONTENT_PER_FRAMING: Final = 8
_STOPPING_LINGER_SECONDS: Final = 0.5
_FIRST_PROBE_SECONDS: Final = 0.05
_MAX_PROBE_SECONDS: Final = 15.0
_PROBE_BACKOFF: Final = 4

_HEAD_TOO_LARGE: Final = Rejection(431, "The head of the request is larger than 64 KiB.")
_TOO_MANY_FIELDS: Final = Rejection(431, f"The request has more than {_MAX_FIELDS} header fields.")
_TOO_MANY_BLANKS: Final = Rejection(400, "Too many empty lines before a request.")
_TRAILERS_TOO_LARGE: Final = Rejection(431, "The trailers or chunk extensions are larger than 64 KiB.")
_CHUNKS_TOO_SMALL: Final = Rejection(400, "The chunks of the body are too small. Send larger ones.")
_TOO_MANY_PIPELINED: Final = Rejection(400, "Too many requests wait for an answer on this connection.")
_TOO_SLOW: Final = Rejection(408, "The request takes too long.")

_PROCESSING: Final = b"HTTP/1.1 102 Processing\r\n\r\n"
_COMMENT: Final = b"3\r\n:\n\n\r\n"
"""A chunk of an event stream that clients ignore."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: until a first request must come, in which its head and all of it must be there, and what was answered be read.

    ``linger``: how long what still arrives is dropped after an early answer, so that the client can read the answer.
    """

    first: float = 75.0
    head: float = 10.0
    body: float = 30.0
    reader: float = 30.0
    linger: float = 5.0


class _Rejected(Exception):
    """Stops the parser, which says of an exception only that there was one."""


class Connection(HttpToolsProtocol):
    """uvicorn's, over a transport that gathers.

    ``limits`` hear of results that are not read, ``refusals`` of what ends; ``guesses`` say how long a refusal waits.
    """

    def __init__(
        self, limits: Limits, refusals: Refusals, patience: Patience, guesses: Guesses, **words: Any
    ) -> None:
        super().__init__(**words)
        self._guesses = guesses
        self._limits = limits
        self._refusals = refusals
        self._patience = patience
        self._until = self.loop.time() + patience.first
        self._unread_until = math.inf
        self._unread = 0
        self._reader: Caller = ANYBODY
        self._arriving = 0
        self._unparsed = b""
        self._is_paused = False
        self._undropped = limits.words.body
        """Bytes that are still dropped after an early answer."""
        self._timer: asyncio.TimerHandle | None = None
        self._has_ended = False
        """The client has closed its side, and sends nothing more."""
        self._is_refused = False
        self._is_stopping = False
        # Of the request that is being parsed:
        self._slice = b""
        self._blank = 0
        self._head = bytearray()
        """Its slices before the present one, while the head is not complete."""
        self._in_head = False
        self._in_body = False
        self._is_wanted = False
        """The app has asked for the body."""
        self._is_upgrade = False
        self._is_resuming = False
        self._keeps_alive = False
        self._content = 0
        self._slice_content = 0
        self._framing = 0
        self._bare_framing = 0
        self._rejection: Rejection | None = None
        self._previous: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        gathered = _Gathered(transport, self._may_linger)
        super().connection_made(cast("asyncio.Transport", gathered))
        self.flow = _Flow(self.transport, self._go_on)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all_read()
        self._forget_unparsed()
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        self._is_stopping = True
        self._keeps_alive = False
        super().shutdown()
        if self.transport.is_closing():
            self.transport.close()

    def end_if_slow(self) -> None:
        """To be asked from time to time."""
        now = self.loop.time()
        if now >= self._unread_until:
            self._tell(408, "What was answered is not read.", self._reader.name)
            self.transport.abort()
        elif now >= self._until and not self.transport.is_closing() and not self._is_held():
            self.refuse(_TOO_SLOW)

    # --- what is read ---

    def data_received(self, data: bytes) -> None:
        if self._is_refused or self.transport.is_closing():
            self._undropped -= len(data)
            if self._undropped < 0:
                self.transport.abort()
            return
        self._unset_keepalive_if_required()
        if self._unparsed:
            self._unparsed += data
            self._hold()
        else:
            self._parse(data)
        if self._unparsed or self._is_paused:
            self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        """Stop reading while much waits to be parsed. uvicorn pauses as well, for what it has parsed."""
        if self.transport.is_closing():
            return
        if len(self._unparsed) > _MAX_UNPARSED:
            self._is_paused = True
            self.transport.pause_reading()
        elif self._is_paused and not self.flow.read_paused:
            self._is_paused = False
            self.transport.resume_reading()

    def _is_held(self) -> bool:
        """Whether what comes next must wait before it is parsed."""
        if self._in_body:
            return not self._is_wanted or self.flow.read_paused
        return self._unanswered() is not None

    def _unanswered(self) -> RequestResponseCycle | None:
        """The last request whose head is complete, if it is not answered."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return None if cycle is None or cycle.response_complete else cycle

    def _parse(self, data: bytes) -> None:
        """Parse what may be parsed now; keep the rest."""
        start = 0
        while start < len(data) and not self._is_held():
            self._feed(data[start : start + _SLICE])
            start += _SLICE
            if self._is_refused:
                return
        self._unparsed = data[start:]
        self._hold()
        if not self._in_head and self._until == math.inf and self._unanswered() is None:
            self._until = self.loop.time() + self._patience.head  # no request begins with what came

    def _feed(self, data: bytes) -> None:
        self._slice, self._slice_content = data, 0
        was_in_body = self._in_body
        if not (self._in_head or self._in_body):
            self._blank += len(data)  # until a request begins
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as problem:
            self.refuse(self._rejection or Rejection(400, f"This is no HTTP request: {problem}"))
            return
        if self._in_head:
            self._head += data
            if len(self._head) > _MAX_HEAD:
                self.refuse(_HEAD_TOO_LARGE)
            elif len(self.headers) > _MAX_FIELDS:
                self.refuse(_TOO_MANY_FIELDS)
        elif self._head:
            self._head.clear()
        if self._blank > _MAX_BLANK:
            self.refuse(_TOO_MANY_BLANKS)
        if was_in_body and self._in_body:
            self._check_framing(len(data))

    def _check_framing(self, size: int) -> None:
        """Bound what a slice of a body holds apart from content, which costs time and is never of use."""
        self.headers.clear()
        if self._slice_content:
            self._framing += size - self._slice_content
        else:
            self._bare_framing += size
        if self._bare_framing > _MAX_BARE_FRAMING:
            self.refuse(_TRAILERS_TOO_LARGE)
        elif self._framing > _FREE_FRAMING + self._content // _CONTENT_PER_FRAMING:
            self.refuse(_CHUNKS_TOO_SMALL)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """RFC 9110 7.8: an upgrade that is not spoken is ignored, so the body belongs to this request.

        llhttp stops after the head, and takes what follows for another protocol. Another parser goes on from a head
        with the same framing.
        """
        framing = [
            b"%s: %s\r\n" % field
            for field in self.scope["headers"]
            if field[0] in (b"content-length", b"transfer-encoding")
        ]
        self.parser = httptools.HttpRequestParser(self)
        self._is_upgrade, self._is_resuming = False, True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % b"".join(framing))
        self._is_resuming = False
        self._feed(rest)

    def _hold(self) -> None:
        """Count what is there in part; that may refuse this connection, or another."""
        held = len(self._unparsed) + len(self._head) + self._content
        if held == self._arriving:
            return
        self._arriving = held
        scope = cast("Scope | None", self.scope)
        self._limits.arriving.hold(self, caller_in(scope) if scope else ANYBODY, held)

    def _forget_unparsed(self) -> None:
        self._unparsed = b""
        self._head.clear()
        self._limits.arriving.forget(self)
        self._arriving = self._content = 0

    def _go_on(self) -> None:
        """The app asks for more of a body, or has answered."""
        self._is_wanted = True
        if self._unparsed:
            self.loop.call_soon(self._parse_more)

    def _parse_more(self) -> None:
        if self._is_held():
            return
        self._unset_keepalive_if_required()
        if self._in_head:  # its time begins now, as it could not be read before
            self._until = self.loop.time() + self._patience.head
        self._parse(self._unparsed)
        self._pause_or_resume()
        if self._has_ended and not self._awaits_answer():
            self.transport.close()

    def on_message_begin(self) -> None:
        if not self._is_resuming:
            super().on_message_begin()
            self._blank = 0
            self._in_head = True
            self._until = self.loop.time() + self._patience.head

    def on_headers_complete(self) -> None:
        if self._is_resuming:
            return
        self._in_head = False
        if (
            len(self._head) + len(self._slice) > _MAX_HEAD  # or much of a body came with it
            and sum(len(name) + len(value) for name, value in self.headers) > _MAX_HEAD
        ):
            self._reject(_HEAD_TOO_LARGE)
        if len(self.headers) > _MAX_FIELDS:
            self._reject(_TOO_MANY_FIELDS)
        head = bytes(self._head) + self._slice if self._head else self._slice
        version = self.parser.get_http_version()
        if rejection := reject_head(head, self.parser.get_method(), self.url, version, self.headers):
            self._reject(rejection)
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._reject(_TOO_MANY_PIPELINED)
        self._previous = self._unanswered()
        self._is_upgrade = self.parser.should_upgrade()
        super().on_headers_complete()
        self.headers = []  # RFC 9110 6.5.1: a trailer never becomes a header
        self._in_body, self._is_wanted = True, False
        self._content = self._framing = self._bare_framing = 0
        # An answer that leaves before all of the body is there says "Connection: close".
        self._keeps_alive = self.cycle.keep_alive and not self._is_stopping
        self.cycle.keep_alive = False
        self._until += self._patience.body - self._patience.head

    def _reject(self, rejection: Rejection) -> NoReturn:
        """To be called by the parser's callbacks."""
        self._rejection = rejection
        raise _Rejected

    def on_body(self, body: bytes) -> None:
        self._content += len(body)
        self._slice_content += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_upgrade:
            return
        self._in_body = False
        self._content = 0
        self._until = math.inf
        if self._keeps_alive and not self.cycle.response_started:
            self.cycle.keep_alive = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._is_wanted = False  # this was no question for the body of the next request

    # --- how it ends ---

    def _tell(self, status: int, text: str, reader: str | None = None) -> None:
        scope = cast("Scope | None", self.scope)
        self._refusals.tell(scope or {"client": self.client}, status, text, reader)

    def refuse(self, rejection: Rejection) -> None:
        """Refuse the request that is there in part, and all that follows; those before it are answered."""
        self._tell(*rejection)
        self._is_refused = True
        self._until = math.inf
        last = self._last_complete()
        self._forget_unparsed()
        if last:
            last.keep_alive = False
            return
        cut = self._unanswered()
        if cut:
            cut.disconnected = True
            cut.message_event.set()
        answer = None if cut and cut.response_started else rejection
        if wait := self._guesses.wait(client_of({"client": self.client})):
            self.transport.pause_reading()
            self._timer = self.loop.call_later(wait, self._end, answer)
        else:
            self._end(answer)

    def _end(self, answer: Rejection | None) -> None:
        if answer:
            status, text = answer
            head = f"HTTP/1.1 {status} Refused\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\n"
            self.transport.write(f"{head}Connection: close\r\n\r\n{text}".encode())
        self.transport.close()

    def _last_complete(self) -> RequestResponseCycle | None:
        """The last complete request, if it is not answered. One behind it that is there in part loses its turn."""
        if self._in_body:
            if self._previous is None or self._previous.response_complete:
                return None
            self.pipeline.popleft()
            self.cycle, self._in_body = self._previous, False
        return self._unanswered()

    def _may_linger(self) -> bool:
        """Whether to drop for a while what the client still sends (RFC 9112 9.6).

        To close a socket with bytes that were not read resets the connection, and the client loses the answer.
        """
        is_in_part = self._in_head or self._in_body or self._unparsed
        if self._has_ended or not (self._is_refused or is_in_part):
            return False
        self._forget_unparsed()
        seconds = _STOPPING_LINGER_SECONDS if self._is_stopping else self._patience.linger
        self._timer = self.loop.call_later(seconds, self.transport.close)
        return True

    # --- a client that has closed its side ---

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio's
        """Whether to stay open: a client may close its side once it has sent its request (RFC 9112 9.6)."""
        self._has_ended = True
        if self.transport.is_closing() or not self._awaits_answer() or self._is_get_stream():
            self.transport.close()  # asyncio would close it without what is still gathered
            return False
        self._timer = self.loop.call_later(_FIRST_PROBE_SECONDS, self._probe, _FIRST_PROBE_SECONDS)
        return True

    def _awaits_answer(self) -> bool:
        """Whether a client that sends nothing more gets an answer."""
        if self._unparsed:
            return True
        last = self._last_complete()
        if last:
            last.keep_alive = False
        return last is not None

    def _is_get_stream(self) -> bool:
        """Whether the answer is a stream that only its client ends: then closing its side does."""
        cycle = self._unanswered()
        return (
            cycle is not None
            and cycle.response_started
            and cycle.scope["method"] == "GET"
            and self._is_event_stream()
        )

    def _is_event_stream(self) -> bool:
        return cast("_Gathered", self.transport).is_event_stream

    def _probe(self, seconds: float) -> None:
        """Find out whether the client has left, which begins like a closed side: what is sent is then answered with a reset.

        The transport reads no longer and does not see that.
        """
        if self.transport.is_closing():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        cycle = self._unanswered()
        if cycle and not self.pipeline and not self.transport.get_write_buffer_size():
            if not cycle.response_started and cycle.scope["http_version"] == "1.1":
                self.transport.write(_PROCESSING)  # RFC 9110 15.2
            elif cycle.response_started and self._is_event_stream():
                self.transport.write(_COMMENT)
        seconds = min(seconds * _PROBE_BACKOFF, _MAX_PROBE_SECONDS)
        self._timer = self.loop.call_later(seconds, self._probe, seconds)

    # --- what is written ---

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_until = self.loop.time() + self._patience.reader
        self._unread = self.transport.get_write_buffer_size()
        self._reader = caller_in(cast("Scope", self.scope))
        self._limits.add("results", self._reader, self._unread)

    def resume_writing(self) -> None:
        self._all_read()
        super().resume_writing()

    def _all_read(self) -> None:
        if self._unread:
            self._limits.add("results", self._reader, -self._unread)
        self._unread, self._unread_until = 0, math.inf


class _Flow(FlowControl):
    """uvicorn's, which resumes reading when the app asks for more, and when it has answered: ``go_on`` is then called."""

    def __init__(self, transport: asyncio.Transport, go_on: Callable[[], None]) -> None:
        super().__init__(transport)
        self._go_on = go_on

    def resume_reading(self) -> None:
        super().resume_reading()
        self._go_on()


class _Gathered:
    """A transport that writes at the end of a step of the event loop; all else is the ``inner`` one's.

    Where ``may_linger`` says so, closing it closes the side that writes, and only a second time all of it.
    """

    def __init__(self, inner: asyncio.Transport, may_linger: Callable[[], bool]) -> None:
        self._inner = inner
        self._may_linger = may_linger
        self._call_soon = asyncio.get_running_loop().call_soon
        self._parts: list[bytes] = []
        self._is_lingering = False
        self.is_event_stream = False
        """Whether the last head that was written is one of an event stream in chunks."""

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._call_soon(self._flush)
        if data.startswith(b"HTTP/1.1 "):
            self.is_event_stream = (
                b"\r\ncontent-type: text/event-stream" in data and b"\r\ntransfer-encoding: chunked" in data
            )
        self._parts.append(data)

    def is_closing(self) -> bool:
        return self._is_lingering or self._inner.is_closing()

    def close(self) -> None:
        self._flush()
        if self.is_closing() or not self._may_linger():
            self._inner.close()
        else:
            self._is_lingering = True
            self._inner.write_eof()
            self._inner.resume_reading()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if self.is_closing():  # the client is gone, and uvloop would raise
            return
        if sum(map(len, parts)) <= _COPIED:
            parts = [b"".join(parts)]
        # Not writelines: asyncio's of Python 3.12 and 3.13 never ends one with an empty part.
        for part in parts:
            self._inner.write(part)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
