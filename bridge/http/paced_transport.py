"""Writes to a TLS transport only what its client reads soon.

asyncio and uvloop encrypt all that is written at once, and then do not say how much of it waits: a large response to a slow
client would count as read. So the rest waits here until the transport takes more.
"""

import asyncio
from collections import deque
from typing import Any, Final

_PIECE_BYTES: Final = 64 * 1024
"""Written at once. ``inner`` and the transport below it buffer at most as much each, uncounted, and a piece more."""


class _Lost(asyncio.Transport):
    """Stands for a transport whose connection is lost, and does nothing."""

    def is_closing(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: Any) -> None:
        """Nobody reads it."""

    def _ignore(self) -> None:
        """There is nothing left to do."""

    close = abort = pause_reading = resume_reading = _ignore


_LOST: Final = _Lost()


class PacedTransport:
    """The transport ``inner``, which tells its protocol when to pause. The protocol then calls ``pause`` and ``resume``."""

    def __init__(self, inner: asyncio.Transport) -> None:
        self._inner: asyncio.Transport = inner
        inner.set_write_buffer_limits(high=_PIECE_BYTES)
        # Of bytes that are not decrypted yet. typeshed does not know this method.
        inner.set_read_buffer_limits(high=_PIECE_BYTES)  # type: ignore[attr-defined]
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_paused = False
        self._is_closing = False
        self._is_closed = False

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE_BYTES):
            self._waiting.append(data[start : start + _PIECE_BYTES])
        self._waiting_bytes += len(data)
        self._write_waiting()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> bool:
        """Whether nothing waits any longer."""
        self._is_paused = False
        self._write_waiting()
        return not self._is_paused

    def lose(self) -> None:
        """Release the transport: the connection is lost."""
        # A TLS transport holds some 300 KiB. Its connection is in reference cycles, which are collected only later.
        self._inner = _LOST
        self._waiting.clear()
        self._waiting_bytes = 0

    def close(self) -> None:
        """Close after all has been written."""
        self._is_closing = True
        self._write_waiting()

    def is_closing(self) -> bool:
        return self._is_closing or self._inner.is_closing()

    def get_write_buffer_size(self) -> int:
        return self._waiting_bytes + self._inner.get_write_buffer_size()

    def _write_waiting(self) -> None:
        while self._waiting and not self._is_paused:
            piece = self._waiting.popleft()
            self._waiting_bytes -= len(piece)
            self._inner.write(piece)  # it may call pause
        if self._is_closing and not (self._waiting or self._is_closed):
            self._is_closed = True  # after a second close, asyncio's would no longer abort
            self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
