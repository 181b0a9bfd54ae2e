"""A reply's content: gathered within bounds, and unpacked from gzip."""

import zlib
from collections.abc import Iterator
from typing import Final

from bridge.errors import UnusableReply

_GZIP: Final = 16 + zlib.MAX_WBITS
_FREE_MEMBERS: Final = 1024
_MEMBER_BYTES: Final = 1024
"""Gzip members past the first ``_FREE_MEMBERS`` have this size on average. An empty member of 20 bytes costs as much
time as a page of text."""
_JOINED_PARTS: Final = 1024
"""So many parts are joined into one: an object for each byte would take 50 times the memory."""
_UNPACKED_ON_ARRIVAL: Final = 128 * 1024
_UNPACKED_AT_ONCE: Final = 256 * 1024
_PACKED_AT_ONCE: Final = 64 * 1024
_LARGE: Final = 1024 * 1024
"""To join that many bytes takes a millisecond."""


class _Parts:
    """Bytes as they come."""

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes] = []
        self._blocks: list[bytes] = []

    def append(self, part: bytes) -> None:
        self.size += len(part)
        self._parts.append(part)
        if len(self._parts) == _JOINED_PARTS:
            self._blocks.append(b"".join(self._parts))
            self._parts.clear()

    def slices(self, size: int) -> Iterator[bytes]:
        """All bytes in slices of at most ``size``."""
        for part in self._blocks + self._parts:
            for start in range(0, len(part), size):
                yield part[start : start + size]

    def joined(self) -> bytes:
        return b"".join(self._blocks + self._parts)


class Content:
    """Gathers content of at most ``limit`` bytes, as it comes and as it is unpacked.

    Gzip is read as RFC 1952 says: members follow one another, each must end, and nothing else may
    follow. What cannot be read raises ``UnusableReply``, which carries ``status``. ``codings`` are the
    words of Content-Encoding and Transfer-Encoding; the chunks are undone already.

    64 KiB of gzip may be 64 MiB of content. So only the first ``_UNPACKED_ON_ARRIVAL`` bytes are unpacked as they come.
    The rest waits for ``finish``.
    """

    def __init__(self, limit: int, codings: str, status: int) -> None:
        self._limit = limit
        self._status = status
        self._received = 0
        self._plain = _Parts()
        self._packed = _Parts()
        self._members = 0
        self._member: zlib._Decompress | None = None
        words = codings.lower().replace(" ", "").split(",")
        self._packings = [word for word in words if word not in ("", "identity", "chunked")]

    def feed(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > self._limit:
            raise self._too_large()
        if not self._packings:
            self._plain.append(data)
        elif self._packings in (["gzip"], ["x-gzip"]):
            if self._received <= _UNPACKED_ON_ARRIVAL:
                data = self._unpack(data, _UNPACKED_ON_ARRIVAL)
            if data:
                self._packed.append(data)
        else:
            raise self._bad_encoding("it is encoded in another way than gzip, or more than once")

    @property
    def is_large(self) -> bool:
        """Whether ``finish`` may take more than a millisecond."""
        return self._packed.size > 0 or self._plain.size > _LARGE

    def finish(self) -> bytes:
        """The whole content. For the longest parts of the work the interpreter's lock is free."""
        for data in self._packed.slices(_PACKED_AT_ONCE):
            self._unpack(data, self._limit)
        if self._member is not None:
            raise self._bad_encoding("its gzip data ends too early")
        self._packed = _Parts()
        return self._plain.joined()

    def _unpack(self, data: bytes, until: int) -> bytes:
        """Unpack until there are more than ``until`` bytes; returns the data that is left."""
        while data and self._plain.size <= until:
            if self._member is None:
                self._members += 1
                if self._members > _FREE_MEMBERS + self._received // _MEMBER_BYTES:
                    raise self._bad_encoding("its gzip data has too many small members")
                self._member = zlib.decompressobj(_GZIP)
            room = self._limit - self._plain.size
            try:
                part = self._member.decompress(data, min(room + 1, _UNPACKED_AT_ONCE))
            except zlib.error as error:
                raise self._bad_encoding("its gzip data is damaged") from error
            if len(part) > room:
                raise self._too_large()
            self._plain.append(part)
            data = self._member.unconsumed_tail or self._member.unused_data
            if self._member.eof:
                self._member = None
        return data

    def _too_large(self) -> UnusableReply:
        message = f"The reply of the API server is larger than maxBytes allows: {self._limit} bytes."
        advice = "Ask for less, if this tool's arguments can; else tell the user."
        return UnusableReply("reply-too-large", message, self._status, advice=advice)

    def _bad_encoding(self, why: str) -> UnusableReply:
        message = f"The reply of the API server cannot be read: {why}. Tell the operator of this tool."
        return UnusableReply("bad-encoding", message, self._status)
