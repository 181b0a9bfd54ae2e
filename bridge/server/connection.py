"""A client's connection: replies leave in one piece, and one that is too slow, or says too much before its body, ends.

uvicorn writes a head and then its body, which wakes the client twice; and it waits for ever.
"""

import asyncio
import math
from dataclasses import dataclass
from typing import Any, Final, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from bridge.caller import ANYBODY, Caller
from bridge.server.announce import caller_in
from bridge.server.limits import Limits
from bridge.server.refusals import Refusals

_COPIED: Final = 64 * 1024
"""Bytes up to which a copy costs less than another write."""
_LARGEST_HEAD: Final = 64 * 1024
_TOO_LARGE: Final = (431, "The head of the request is larger than 64 KiB.")
_TOO_MANY: Final = (503, "Too many bytes of requests are on their way; try again later.")
_ARRIVING: Final = 64 * 1024**2
"""Bytes of bodies that may be there in part, of all clients; more are taken of small ones alone."""
_SMALL: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: until a first request must come, in which its head and all of it must be there, and what was answered be read."""

    first: float = 75.0
    head: float = 10.0
    body: float = 30.0
    reader: float = 30.0


class _TooLarge(Exception):
    """A head, in one piece."""


class Connection(HttpToolsProtocol):
    """uvicorn's, over a transport that gathers; ``limits`` hear of results that are not read, ``refusals`` of what ends."""

    def __init__(self, limits: Limits, refusals: Refusals, patience: Patience, **words: Any) -> None:
        super().__init__(**words)
        self._limits = limits
        self._refusals = refusals
        self._patience = patience
        self._in_head = False
        self._head = 0
        self._is_too_large = False
        self._until = self.loop.time() + patience.first
        self._unread_until = math.inf
        self._unread = 0
        self._reader: Caller = ANYBODY
        self._arriving = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(cast("asyncio.Transport", _Gathered(transport)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._all_read()
        self._all_there()
        super().connection_lost(exc)

    def end_if_slow(self) -> None:
        """To be asked from time to time."""
        now = self.loop.time()
        if now >= self._unread_until:
            self._tell(408, "What was answered is not read.", self._reader.name)
            self.transport.abort()
        elif now >= self._until and not self.transport.is_closing():
            self._refuse(408, "The request takes too long.")

    # --- what is read ---

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if not self._in_head:
            self._head = 0
            if self._until == math.inf and self._is_idle():  # no request begins with what came
                self._until = self.loop.time() + self._patience.head
        elif self._head > _LARGEST_HEAD and not self.transport.is_closing():
            self._refuse(*_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._until = self.loop.time() + self._patience.head

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head > _LARGEST_HEAD:  # or much of a body came with it
            self._is_too_large = sum(len(name) + len(value) for name, value in self.headers) > _LARGEST_HEAD
        if self._is_too_large:
            raise _TooLarge
        super().on_headers_complete()
        self._until += self._patience.body - self._patience.head

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if not self._is_idle():
            self._arriving += len(body)
            self._limits.arriving += len(body)
            is_over = self._limits.arriving > _ARRIVING and self._arriving > _SMALL
            if is_over and not self.transport.is_closing():
                self._refuse(*_TOO_MANY)

    def on_message_complete(self) -> None:
        self._until = math.inf
        self._all_there()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._all_there()
        super().on_response_complete()

    def _all_there(self) -> None:
        self._limits.arriving -= self._arriving
        self._arriving = 0

    def _is_idle(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return (cycle is None or cycle.response_complete) and not self.pipeline

    def send_400_response(self, msg: str) -> None:
        """What could not be parsed, as uvicorn says; or what was refused meanwhile."""
        if self._is_too_large:
            self._refuse(*_TOO_LARGE)
        else:
            super().send_400_response(msg)

    def _tell(self, status: int, text: str, reader: str | None = None) -> None:
        scope = cast("Scope | None", self.scope)
        self._refusals.tell(scope or {"client": self.client}, status, text, reader)

    def _refuse(self, status: int, text: str) -> None:
        self._tell(status, text)
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if self._is_idle() or (cycle and not cycle.response_started and not self.pipeline):
            head = f"HTTP/1.1 {status} Refused\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\n"
            self.transport.write(f"{head}Connection: close\r\n\r\n{text}".encode())
        self.transport.close()

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


class _Gathered:
    """A transport that writes at the end of a step of the event loop; all else is the ``inner`` one's."""

    def __init__(self, inner: asyncio.Transport) -> None:
        self._inner = inner
        self._call_soon = asyncio.get_running_loop().call_soon
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._inner.close()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if self._inner.is_closing():  # the client is gone, and uvloop would raise
            return
        if sum(map(len, parts)) <= _COPIED:
            parts = [b"".join(parts)]
        # Not writelines: asyncio's of Python 3.12 and 3.13 never ends one with an empty part.
        for part in parts:
            self._inner.write(part)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
