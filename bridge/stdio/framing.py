"""Splits the bytes from a client into lines. Each line is one message."""

from collections.abc import Iterator

from bridge.protocol.jsonrpc import MAX_BYTES


class LineReader:
    """Holds at most one line of ``MAX_BYTES`` and one chunk."""

    def __init__(self) -> None:
        self._line = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes | None]:
        """The lines completed by ``chunk``, without line feeds. None stands for a line of more than ``MAX_BYTES``."""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._line += end
            yield self._take()
        self._line += rest
        del self._line[MAX_BYTES + 1 :]  # one byte too many stays, so that ``_take`` sees that it is too long

    def end(self) -> Iterator[bytes | None]:
        """The last line, if it has no line feed."""
        if self._line:
            yield self._take()

    def _take(self) -> bytes | None:
        line = bytes(self._line) if len(self._line) <= MAX_BYTES else None
        self._line.clear()
        return line
