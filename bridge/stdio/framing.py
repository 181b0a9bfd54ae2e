"""Bytes from a client become lines, each one message."""

from collections.abc import Iterator
from typing import Final

MAX_BYTES: Final = 4 * 1024**2
"""Of one message, on every transport."""


class Lines:
    """Splits what arrives into lines, holding no more than one line and one chunk."""

    def __init__(self) -> None:
        self._line = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes | None]:
        """The lines that ``chunk`` ends, without their ends; None for one of more than ``MAX_BYTES``."""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._line += end
            yield self._take()
        self._line += rest
        del self._line[MAX_BYTES + 1 :]

    def end(self) -> Iterator[bytes | None]:
        """The last line, if it has no end."""
        if self._line:
            yield self._take()

    def _take(self) -> bytes | None:
        line = bytes(self._line) if len(self._line) <= MAX_BYTES else None
        self._line.clear()
        return line
