"""A client connection: uvicorn's HTTP/1.1 protocol with timeouts, size limits and buffered writes.

uvicorn writes the head and the body of a response separately, which wakes the client twice. It has no timeout for slow
clients, and parses all bytes when they arrive. Here, the state of the connection decides which bytes are parsed:

| state | what is parsed |
|---|---|
| idle, or reading a head | everything, in slices of 4 KiB |
| reading a body | the slice in which the head ends; the rest after the app requests the body |
| waiting for a response | nothing: the next request waits until the response is complete |
| refused, or answered before the body was complete | nothing: bytes are dropped for ``Timeouts.linger``, then the connection closes |

The parser does not report where in its input a request line begins. So each part that it gets ends where a request may
end. Otherwise a valid request line inside a body could be mistaken for the line of the next request.

The body of a client without a valid key is never parsed. Its bytes wait in a buffer of bounded size.

uvicorn does not document its protocol, and has no documented way to limit what is parsed. So this is the only module that
uses it, and ``pyproject.toml`` excludes the next minor version.
"""

import asyncio
import math
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

import httptools
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from bridge.access.certificates import ClientCertificate
from bridge.access.quotas import Quotas
from bridge.access.throttle import AddressThrottle
from bridge.caller import ANONYMOUS, Caller
from bridge.http.notification_stream import BREAK_OFF
from bridge.http.paced_transport import PacedTransport
from bridge.http.rejection_log import RejectionLog, client_of
from bridge.http.request_head import MAX_TARGET_BYTES, TARGET_TOO_LONG, Rejection, reject_head
from bridge.protocol.caller_context import caller_in

CLIENT_CERTIFICATE: Final = "restbridge.client-certificate"
"""Key of the ASGI scope: the ``ClientCertificate`` of the connection, if its client has one."""
_MAX_COPY_BYTES: Final = 64 * 1024
"""Up to this size, joining the parts of a response costs less than a second write."""
_SLICE_BYTES: Final = 4096
"""Bytes that are parsed at once. Most requests fit into one slice."""
_MAX_HEAD_BYTES: Final = 64 * 1024
_MAX_HEADER_FIELDS: Final = 256
_MAX_BLANK_BYTES: Final = 64
"""Bytes of empty lines before a request (RFC 9112 2.2)."""
_MAX_UNPARSED_BYTES: Final = 64 * 1024
"""Unparsed bytes above which reading pauses. One read may add 256 KiB more."""
_MAX_BARE_FRAMING_BYTES: Final = 64 * 1024
"""Limit for the parts of a body that have no content: trailers and chunk extensions."""
_FREE_FRAMING_BYTES: Final = 16 * 1024
"""Bytes of chunk sizes and empty lines that are always accepted. Each further byte needs 8 bytes of content."""
_CONTENT_BYTES_PER_FRAMING_BYTE: Final = 8
_STOPPING_LINGER_SECONDS: Final = 0.5
"""Replaces ``Timeouts.linger`` while the server stops."""
_STOPPING_CLOSE_SECONDS: Final = 1.0
"""Over TLS, for an idle client to answer the end of its connection when the server stops."""
_FIRST_PROBE_SECONDS: Final = 0.05
"""From the client's EOF to the first probe. Each next interval is ``_PROBE_BACKOFF`` times longer."""
_MAX_PROBE_SECONDS: Final = 15.0
_PROBE_BACKOFF: Final = 4

_HEAD_TOO_LARGE: Final = Rejection(431, "The head of the request is larger than 64 KiB.")
_TOO_MANY_FIELDS: Final = Rejection(431, f"The request has more than {_MAX_HEADER_FIELDS} header fields.")
_TOO_MANY_EMPTY_LINES: Final = Rejection(400, "Too many empty lines before a request.")
_TRAILERS_TOO_LARGE: Final = Rejection(431, "The trailers or chunk extensions are larger than 64 KiB.")
_CHUNKS_TOO_SMALL: Final = Rejection(400, "The chunks of the body are too small. Send larger ones.")
_TOO_SLOW: Final = Rejection(408, "The request did not arrive in time.")

_EMPTY_LINE: Final = b"\r\n\r\n"

_PROCESSING: Final = b"HTTP/1.1 102 Processing\r\n\r\n"
_SSE_COMMENT: Final = b":\n\n"
"""A comment line of an event stream. Clients ignore it."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """All in seconds."""

    first_request: float = 75.0
    """From the start of the connection to the first byte of a request."""
    head: float = 10.0
    """From the first byte of a request to the end of its head."""
    body: float = 30.0
    """From the first byte of a request to the end of its body."""
    response: float = 30.0
    """For the client to read a response, once its bytes have to wait."""
    linger: float = 5.0
    """After an early response, for the client to read it. Until then, its further bytes are dropped (RFC 9112 9.6)."""


class _Rejected(Exception):
    """Stops the parser. httptools raises its own error instead, so the reason is in ``Connection._rejection``."""


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with the limits of this module.

    ``quotas`` counts bytes of incomplete requests and of unread responses. ``throttle`` delays the response to a
    refused request. ``kwargs`` are uvicorn's.
    """

    def __init__(
        self,
        quotas: Quotas,
        rejections: RejectionLog,
        timeouts: Timeouts,
        throttle: AddressThrottle,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._throttle = throttle
        self._quotas = quotas
        self._rejections = rejections
        self._timeouts = timeouts
        self._request_deadline = self.loop.time() + timeouts.first_request
        self._response_deadline = math.inf
        self._unread_bytes = 0
        self._unread_caller: Caller = ANONYMOUS
        self._counted_bytes = 0
        self._unparsed: deque[bytes] = deque()
        """One item per read: a single buffer would have to be copied for each slice."""
        self._unparsed_size = 0
        """Bytes in ``_unparsed`` after ``_first_offset``."""
        self._first_offset = 0
        """How much of the first item is parsed."""
        self._is_reading_paused = False
        self._drop_budget = quotas.config.body
        """Bytes that may still be dropped after an early response. Then the connection is aborted."""
        self._timer: asyncio.TimerHandle | None = None
        self._is_half_closed = False
        """The client has closed its sending side."""
        self._is_refused = False
        self._is_stopping = False
        # All below belong to the request that is being parsed.
        self._part = b""
        """What the parser got last."""
        self._tail = b""
        """The last three parsed bytes: an empty line may begin in them. Empty after an empty line."""
        self._blank_bytes = 0
        self._partial_head = bytearray()
        """The parts of an incomplete head before ``_part``."""
        self._in_head = False
        self._in_body = False
        self._is_body_requested = False
        """By the app. A body is not parsed before."""
        self._has_upgrade = False
        self._is_replaying_head = False
        self._keeps_alive = False
        """Whether the connection stays open if the body is complete before the response starts."""
        self._content_bytes = 0
        self._part_content_bytes = 0
        self._content_length: int | None = None
        """None for a chunked body."""
        self._framing_bytes = 0
        """Chunk sizes and empty lines in parts with content."""
        self._bare_framing_bytes = 0
        """Bytes of parts without content."""
        self._rejection: Rejection | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        certificate = transport.get_extra_info("peercert")
        self._certificate = ClientCertificate.of(certificate) if certificate else None
        self._paced = None if transport.can_write_eof() else PacedTransport(transport)  # for TLS
        if self._paced:
            transport = cast("asyncio.Transport", self._paced)
        buffered = _BufferedTransport(transport, self._start_lingering)
        super().connection_made(cast("asyncio.Transport", buffered))
        self.flow = _NotifyingFlowControl(self.transport, self._on_resume)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_unread()
        self._discard_unparsed()
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)
        if self._paced:
            self._paced.lose()

    def drain(self) -> None:
        """Make the next response the last one. An idle connection stays open: a request may be on its way."""
        self._is_stopping = True
        self._keeps_alive = False
        cycle = self._unanswered_cycle()
        if cycle and not cycle.response_started:  # otherwise the client was not told so
            cycle.keep_alive = False

    def shutdown(self) -> None:
        self.drain()
        super().shutdown()
        # If a request has only begun, the first close lingers. The stop does not wait for that.
        if self.transport.is_closing():
            self.transport.close()
            if (
                self._paced and not self.transport.get_write_buffer_size()
            ):  # a client that does not read does not see close_notify, nor answer it
                self._timer = self.loop.call_later(_STOPPING_CLOSE_SECONDS, self.transport.abort)

    def enforce_timeouts(self) -> None:
        """End the connection if a deadline is over. ``server`` calls this every second."""
        now = self.loop.time()
        if now >= self._response_deadline:
            self._report(408, "The client did not read the response in time.", self._unread_caller.name)
            self.transport.abort()
        # While the server lets the bytes wait, the client is not slow.
        elif now >= self._request_deadline and not self.transport.is_closing() and not self._must_wait():
            self.refuse(*_TOO_SLOW)

    def data_received(self, data: bytes) -> None:
        if self._is_refused or self.transport.is_closing():
            self._drop_budget -= len(data)
            if self._drop_budget < 0:
                self.transport.abort()
            return
        self._stop_keep_alive_timer()
        is_first = not self._unparsed_size  # otherwise older bytes must wait, and these with them
        self._unparsed.append(data)
        self._unparsed_size += len(data)
        if is_first:
            self._parse()
        else:
            self._count_incoming()
        if self._unparsed_size or self._is_reading_paused:
            self._pause_or_resume()

    def _stop_keep_alive_timer(self) -> None:
        if self.timeout_keep_alive_task:
            self.timeout_keep_alive_task.cancel()

    def _pause_or_resume(self) -> None:
        """Pause reading while too many bytes are unparsed. uvicorn also pauses, for parsed bytes that the app did not take."""
        if self.transport.is_closing():
            return
        if self._unparsed_size > _MAX_UNPARSED_BYTES:
            self._is_reading_paused = True
            self.transport.pause_reading()
        elif self._is_reading_paused and not self.flow.read_paused:
            self._is_reading_paused = False
            self.transport.resume_reading()

    def _must_wait(self) -> bool:
        """Whether the next bytes must not be parsed yet."""
        if self._in_body:
            # uvicorn pauses reading when the app leaves more than 64 KiB of parsed content.
            return not self._is_body_requested or self.flow.read_paused
        return self._unanswered_cycle() is not None

    def _unanswered_cycle(self) -> RequestResponseCycle | None:
        """The last request with a complete head, if its response is not complete."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return None if cycle is None or cycle.response_complete else cycle

    def _parse(self) -> None:
        """Parse as much as the state allows; keep the rest."""
        while self._unparsed_size and not self._must_wait():
            self._feed(self._next_slice())
            if self._is_refused:
                return
        self._count_incoming()
        if not self._in_head and self._request_deadline == math.inf and self._unanswered_cycle() is None:
            self._request_deadline = self.loop.time() + self._timeouts.head  # these bytes began no request

    def _next_slice(self) -> bytes:
        data = self._unparsed[0]
        part = data[self._first_offset : self._first_offset + _SLICE_BYTES]
        self._unparsed_size -= len(part)
        self._first_offset += len(part)
        if self._first_offset == len(data):
            self._unparsed.popleft()
            self._first_offset = 0
        return part

    def _feed(self, data: bytes) -> None:
        """Parse a slice in parts that end where a request may end. Keep what follows a complete request."""
        start = 0
        while start < len(data) and not self._is_refused:
            end = self._end_of_part(data, start)
            self._feed_part(data[start:end])
            start = end
            if start < len(data) and not self._in_body and self._unanswered_cycle():
                self._put_back(data[start:])
                return

    def _put_back(self, data: bytes) -> None:
        """Return ``data``, the end of the last slice, to the unparsed bytes."""
        self._unparsed_size += len(data)
        # An offset of 0 means that the slice was the end of its item, which is removed by now.
        if self._first_offset:
            self._first_offset -= len(data)
        else:
            self._unparsed.appendleft(data)

    def _end_of_part(self, data: bytes, start: int) -> int:
        """Where the request may end: after ``Content-Length`` bytes, or after an empty line.

        Heads and chunked bodies end with an empty line, but not every empty line ends one.
        """
        if self._in_body and self._content_length is not None:
            return min(start + self._content_length - self._content_bytes, len(data))
        if self._tail:  # b"\r\n\r" and then b"\n", for example
            across = (self._tail + data[start : start + 3]).find(_EMPTY_LINE)
            if across >= 0:
                return start + across + len(_EMPTY_LINE) - len(self._tail)
        end = data.find(_EMPTY_LINE, start)
        return len(data) if end < 0 else end + len(_EMPTY_LINE)

    def _feed_part(self, data: bytes) -> None:
        self._part, self._part_content_bytes = data, 0
        end = (self._tail + data[-4:])[-4:]
        self._tail = b"" if end == _EMPTY_LINE else end[-3:]
        was_in_body = self._in_body
        if not (self._in_head or self._in_body):
            self._blank_bytes += len(data)  # reset when a request begins
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._ignore_upgrade()
        # Also what a callback raises, such as ``_Rejected``: httptools wraps it.
        except httptools.HttpParserError as problem:
            self.refuse(*(self._rejection or (400, f"The HTTP request is malformed: {problem}")))
            return
        if self._in_head:
            self._partial_head += data
            self._check_head()
        elif self._partial_head:
            self._partial_head.clear()
        if self._blank_bytes > _MAX_BLANK_BYTES:
            self.refuse(*_TOO_MANY_EMPTY_LINES)
        if was_in_body and self._in_body:
            self._check_framing(data)

    def _check_head(self) -> None:
        """Refuse an incomplete head that is already too large."""
        if len(self.url) > MAX_TARGET_BYTES:
            self.refuse(*TARGET_TOO_LONG)
        elif len(self._partial_head) > _MAX_HEAD_BYTES:
            self.refuse(*_HEAD_TOO_LARGE)
        elif len(self.headers) > _MAX_HEADER_FIELDS:
            self.refuse(*_TOO_MANY_FIELDS)

    def _check_framing(self, part: bytes) -> None:
        """Limit the bytes of a body that cost time and carry nothing.

        That is everything but the content, and each empty line in the content, because it ends a part.
        """
        self.headers.clear()  # trailers, which are ignored and would take memory
        framing = len(part) - self._part_content_bytes
        if self._part_content_bytes:
            self._framing_bytes += framing + (0 if self._tail else len(_EMPTY_LINE))
        else:
            self._bare_framing_bytes += framing
        if self._bare_framing_bytes > _MAX_BARE_FRAMING_BYTES:
            self.refuse(*_TRAILERS_TOO_LARGE)
        elif (
            self._framing_bytes > _FREE_FRAMING_BYTES + self._content_bytes // _CONTENT_BYTES_PER_FRAMING_BYTE
        ):
            self.refuse(*_CHUNKS_TOO_SMALL)

    def _ignore_upgrade(self) -> None:
        """Ignore an unsupported upgrade (RFC 9110 7.8): the body belongs to this request.

        llhttp stops after the head and takes the rest for another protocol. So a new parser gets a head with the same
        framing, and continues from there.
        """
        framing = [
            b"%s: %s\r\n" % field
            for field in self.scope["headers"]
            if field[0] in (b"content-length", b"transfer-encoding")
        ]
        self.parser = httptools.HttpRequestParser(self)
        self._has_upgrade, self._is_replaying_head = False, True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % b"".join(framing))
        self._is_replaying_head = False

    def _count_incoming(self) -> None:
        """Count the bytes of the incomplete request. If that exceeds a limit, it or another connection's is refused."""
        size = self._unparsed_size + len(self._partial_head) + self._content_bytes
        if size == self._counted_bytes:
            return
        self._counted_bytes = size
        scope = cast("Scope | None", self.scope)
        self._quotas.incoming_bytes.hold(self, caller_in(scope) if scope else ANONYMOUS, size)

    def _discard_unparsed(self) -> None:
        self._unparsed.clear()
        self._unparsed_size = self._first_offset = 0
        self._partial_head.clear()
        self._quotas.incoming_bytes.forget(self)
        self._counted_bytes = self._content_bytes = 0

    def _on_resume(self) -> None:
        """The app has requested more of a body, or has completed a response."""
        self._is_body_requested = True
        # Later: uvicorn is in the middle of ``receive`` or ``on_response_complete``.
        if self._unparsed_size:
            self.loop.call_soon(self._resume_parsing)

    def _resume_parsing(self) -> None:
        if self._must_wait():
            return
        self._stop_keep_alive_timer()
        if self._in_head:  # it could not be parsed before, so its time starts now
            self._request_deadline = self.loop.time() + self._timeouts.head
        self._parse()
        self._pause_or_resume()
        if self._is_half_closed and not self._awaits_answer():
            self.transport.close()

    def on_message_begin(self) -> None:
        if not self._is_replaying_head:
            super().on_message_begin()
            if self._certificate:
                cast("Scope", self.scope)[CLIENT_CERTIFICATE] = self._certificate
            self._blank_bytes = 0
            self._in_head = True
            self._request_deadline = self.loop.time() + self._timeouts.head

    def on_headers_complete(self) -> None:
        if self._is_replaying_head:
            return
        self._in_head = False
        head = bytes(self._partial_head) + self._part if self._partial_head else self._part
        # All checks come before uvicorn's method, which starts the app.
        if len(head) > _MAX_HEAD_BYTES:
            self._reject(_HEAD_TOO_LARGE)
        if len(self.headers) > _MAX_HEADER_FIELDS:
            self._reject(_TOO_MANY_FIELDS)
        version = self.parser.get_http_version()
        if rejection := reject_head(head, self.parser.get_method(), self.url, version, self.headers):
            self._reject(rejection)
        if version == "1.0":
            self.expect_100_continue = False  # RFC 9110 10.1.1
            self.app = _UnchunkedApp(
                self.app, self
            )  # for the last request: uvicorn closes the connection after it
        self._has_upgrade = self.parser.should_upgrade()
        super().on_headers_complete()
        if self.parser.get_method() == b"GET":  # the app has not started yet: it runs in a task
            cast("Scope", self.scope)[BREAK_OFF] = self.transport.close
        self.headers = []  # RFC 9110 6.5.1: a trailer never becomes a header
        self._in_body, self._is_body_requested = True, False
        self._content_bytes = self._framing_bytes = self._bare_framing_bytes = 0
        lengths = [int(value) for name, value in self.scope["headers"] if name == b"content-length"]
        self._content_length = lengths[0] if lengths else None
        # A response that starts before the body is complete has "Connection: close".
        self._keeps_alive = self.cycle.keep_alive and not self._is_stopping
        self.cycle.keep_alive = False
        self._request_deadline += self._timeouts.body - self._timeouts.head

    def _reject(self, rejection: Rejection) -> NoReturn:
        """Refuse the request from within a callback of the parser."""
        self._rejection = rejection
        raise _Rejected

    def on_body(self, body: bytes) -> None:
        self._content_bytes += len(body)
        self._part_content_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        # llhttp reports the end after the head of an upgrade. ``_ignore_upgrade`` then goes on with the body.
        if self._has_upgrade:
            return
        self._in_body = False
        self._tail = b""
        self._content_bytes = 0
        self._request_deadline = math.inf
        if self._keeps_alive and not self.cycle.response_started:
            self.cycle.keep_alive = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # uvicorn also resumes reading here, but the app has not requested the next body.
        self._is_body_requested = False

    def _report(self, status: int, text: str, caller: str | None = None) -> None:
        scope = cast("Scope | None", self.scope)
        self._rejections.report(scope or {"client": self.client}, status, text, caller)

    def refuse(self, status: int, text: str) -> None:
        """Refuse the incomplete request and all that follow. Complete requests before it are still answered."""
        self._report(status, text)
        self._is_refused = True
        self._request_deadline = math.inf
        last = self._last_complete_cycle()
        self._discard_unparsed()
        if last:
            last.keep_alive = False
            return
        incomplete = self._unanswered_cycle()
        # The app, which waits for the body, gets http.disconnect. uvicorn drops what the app still sends.
        if incomplete:
            incomplete.disconnected = True
            incomplete.message_event.set()
        response = None if incomplete and incomplete.response_started else Rejection(status, text)
        if wait := self._throttle.wait(client_of({"client": self.client})):
            self.transport.pause_reading()
            self._timer = self.loop.call_later(wait, self._send_rejection, response)
        else:
            self._send_rejection(response)

    def _send_rejection(self, response: Rejection | None) -> None:
        if response:
            status, text = response
            head = f"HTTP/1.1 {status} Refused\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\n"
            self.transport.write(f"{head}Connection: close\r\n\r\n{text}".encode())
        self.transport.close()

    def _last_complete_cycle(self) -> RequestResponseCycle | None:
        """The last request, if it is complete and its response is not."""
        return None if self._in_body else self._unanswered_cycle()

    def _start_lingering(self) -> bool:
        """Whether to drop what the client still sends instead of closing at once (RFC 9112 9.6).

        Closing a socket with unread bytes resets the connection, and the client may lose the response.
        """
        is_incomplete = self._in_head or self._in_body or self._unparsed_size
        if self._is_half_closed or not (self._is_refused or is_incomplete):
            return False
        self._discard_unparsed()
        seconds = _STOPPING_LINGER_SECONDS if self._is_stopping else self._timeouts.linger
        self._timer = self.loop.call_later(seconds, self.transport.close)
        return True

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio's
        """Whether to stay open: a client may close its sending side after its request (RFC 9112 9.6)."""
        self._is_half_closed = True
        must_close = not self.transport.can_write_eof()  # over TLS, asyncio closes it in any case
        if must_close or self.transport.is_closing() or not self._awaits_answer() or self._is_get_stream():
            self.transport.close()  # asyncio would close without writing what is buffered
            return False
        self._timer = self.loop.call_later(_FIRST_PROBE_SECONDS, self._probe_client, _FIRST_PROBE_SECONDS)
        return True

    def _awaits_answer(self) -> bool:
        """Whether a half-closed client still gets a response. That one is then its last."""
        if self._unparsed_size:
            return True
        last = self._last_complete_cycle()
        if last:
            last.keep_alive = False
        return last is not None

    def _is_get_stream(self) -> bool:
        """Whether the response is an event stream without an end. A client ends it by closing its side."""
        cycle = self._unanswered_cycle()
        return (
            cycle is not None
            and cycle.response_started
            and cycle.scope["method"] == "GET"
            and self._is_event_stream()
        )

    def _is_event_stream(self) -> bool:
        return cast("_BufferedTransport", self.transport).is_event_stream

    def _probe_client(self, seconds: float) -> None:
        """Find out whether a half-closed client has left: then the bytes sent here are answered with a reset.

        Both cases start with the same EOF. The transport no longer reads, so it does not notice the reset.
        """
        if self.transport.is_closing():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        cycle = self._unanswered_cycle()
        if cycle and not self._unparsed_size and not self.transport.get_write_buffer_size():
            if not cycle.response_started and cycle.scope["http_version"] == "1.1":
                self.transport.write(_PROCESSING)  # RFC 9110 15.2
            elif cycle.response_started and self._is_event_stream():
                is_chunked = cycle.scope["http_version"] == "1.1"
                self.transport.write(b"3\r\n%s\r\n" % _SSE_COMMENT if is_chunked else _SSE_COMMENT)
        seconds = min(seconds * _PROBE_BACKOFF, _MAX_PROBE_SECONDS)
        self._timer = self.loop.call_later(seconds, self._probe_client, seconds)

    def pause_writing(self) -> None:
        if self._paced:
            self._paced.pause()
            if self._unread_bytes:  # it took some, and more has to wait: the deadline stays
                return
        super().pause_writing()
        self._response_deadline = self.loop.time() + self._timeouts.response
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._unread_caller = caller_in(cast("Scope", self.scope))
        self._quotas.add("results", self._unread_caller, self._unread_bytes)

    def resume_writing(self) -> None:
        if self._paced and not self._paced.resume():
            return
        self._clear_unread()
        super().resume_writing()

    def _clear_unread(self) -> None:
        if self._unread_bytes:
            self._quotas.add("results", self._unread_caller, -self._unread_bytes)
        self._unread_bytes, self._response_deadline = 0, math.inf


class _UnchunkedApp:
    """Runs an app for an HTTP/1.0 client, which cannot read chunks (RFC 9112 6.1): closing the connection ends the response."""

    def __init__(self, app: Any, connection: Connection) -> None:
        self._app = app
        self._connection = connection
        self._has_length = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cycle = self._connection.cycle

        async def send_unchunked(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._has_length = any(name == b"content-length" for name, _ in message.get("headers", []))
                # uvicorn chunks a response without a length, unless this is False when the head is sent.
                if not self._has_length:
                    cycle.chunked_encoding = False
            # uvicorn subtracts the size of each part, and refuses a response that is longer or shorter.
            elif not self._has_length:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, send_unchunked)


class _NotifyingFlowControl(FlowControl):
    """Calls ``on_resume`` when uvicorn resumes reading: the app requests more of the body, or a response is complete."""

    def __init__(self, transport: asyncio.Transport, on_resume: Callable[[], None]) -> None:
        super().__init__(transport)
        self._on_resume = on_resume

    def resume_reading(self) -> None:
        super().resume_reading()
        self._on_resume()


class _BufferedTransport:
    """Collects writes and passes them on once per turn of the event loop. Everything else is the ``inner`` transport's.

    If ``start_lingering()`` is true, ``close`` closes only the writing side, or over TLS nothing yet. A second ``close`` closes both.
    """

    def __init__(self, inner: asyncio.Transport, start_lingering: Callable[[], bool]) -> None:
        self._inner = inner
        self._start_lingering = start_lingering
        self._call_soon = asyncio.get_running_loop().call_soon
        self._parts: list[bytes] = []
        self._is_lingering = False
        self.is_event_stream = False
        """Whether the last head written is that of an event stream without a Content-Length."""

    def write(self, data: bytes) -> None:
        # The app often sends head and body in one turn of the loop: they leave in one write.
        if not self._parts:
            self._call_soon(self._flush)
        if data.startswith(b"HTTP/1.1 "):
            self.is_event_stream = (
                b"\r\ncontent-type: text/event-stream" in data and b"\r\ncontent-length: " not in data
            )
        self._parts.append(data)

    def is_closing(self) -> bool:
        return self._is_lingering or self._inner.is_closing()

    def close(self) -> None:
        self._flush()
        if self.is_closing() or not self._start_lingering():
            self._inner.close()
        else:
            self._is_lingering = True
            # TLS has no half-closed connections here. The client has the length of the response, and closes.
            if self._inner.can_write_eof():
                self._inner.write_eof()
            self._inner.resume_reading()  # paused, it would keep unread bytes, and the close would reset it

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if self.is_closing():  # uvloop raises on a write to a client that has left
            return
        if sum(map(len, parts)) <= _MAX_COPY_BYTES:
            parts = [b"".join(parts)]
        # Not writelines: with an empty part, asyncio's never completes in Python 3.12 and 3.13.
        for part in parts:
            self._inner.write(part)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
