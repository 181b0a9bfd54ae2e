"""The content of a reply: collected up to a limit, and decompressed from gzip."""

import zlib
from collections.abc import Iterator
from typing import Final

from bridge.errors import UnusableReply

_GZIP: Final = 16 + zlib.MAX_WBITS  # 16: with the header and the checksum of gzip
_MAX_SMALL_MEMBERS: Final = 1024
_MIN_MEMBER_BYTES: Final = 1024
"""Minimum average size of gzip members after the first ``_MAX_SMALL_MEMBERS``. To decompress an empty member of 20 bytes
takes as long as a page of text."""
_JOINED_PARTS: Final = 1024
"""So many parts are joined into one: an object for each byte would take 50 times the memory."""
_EAGER_BYTES: Final = 128 * 1024
_DECOMPRESSED_BYTES_AT_ONCE: Final = 256 * 1024
_COMPRESSED_BYTES_AT_ONCE: Final = 64 * 1024
_LARGE_BYTES: Final = 1024 * 1024
"""To join so many bytes takes a millisecond."""


class _Parts:
    """A buffer of bytes: few objects, however small the parts."""

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
    """Collects content. ``limit`` is the maximum size in bytes, both compressed and decompressed.

    Gzip is decoded by RFC 1952: a sequence of complete members, and nothing after them. Content that cannot be decoded
    raises ``UnusableReply`` with ``status``. ``codings`` are the values of Content-Encoding and Transfer-Encoding; the
    parser has removed the chunks.

    64 KiB of gzip may hold 64 MiB of content. So only the first ``_EAGER_BYTES`` are decompressed in ``feed``, on the
    event loop. ``finish`` decompresses the others, and may run in a thread.
    """

    def __init__(self, limit: int, codings: str, status: int) -> None:
        self._limit = limit
        self._status = status
        self._received = 0
        self._decoded = _Parts()
        self._compressed = _Parts()
        self._members = 0
        self._member: zlib._Decompress | None = None
        names = codings.lower().replace(" ", "").split(",")
        self._codings = [name for name in names if name not in ("", "identity", "chunked")]

    def feed(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > self._limit:
            raise self._too_large()
        if not self._codings:
            self._decoded.append(data)
        elif self._codings in (["gzip"], ["x-gzip"]):
            if self._received <= _EAGER_BYTES:
                data = self._decompress(data, _EAGER_BYTES)
            if data:  # the bound is reached, so later data is not decompressed before this
                self._compressed.append(data)
        else:  # not before the first byte: a reply without content may have any Content-Encoding
            raise self._bad_encoding("it has another encoding than gzip, or more than one")

    @property
    def is_large(self) -> bool:
        """Whether ``finish`` may take more than a millisecond."""
        return self._compressed.size > 0 or self._decoded.size > _LARGE_BYTES

    def finish(self) -> bytes:
        """The whole content. zlib and ``join`` release the GIL for most of the time."""
        # In slices: at each call zlib copies the input that it leaves, which would take quadratic time.
        for data in self._compressed.slices(_COMPRESSED_BYTES_AT_ONCE):
            self._decompress(data, self._limit)
        if self._member is not None:
            raise self._bad_encoding("its gzip data ends too early")
        self._compressed = _Parts()
        return self._decoded.joined()

    def _decompress(self, data: bytes, until: int) -> bytes:
        """Decompress until there are more than ``until`` bytes; returns the remaining data."""
        while data and self._decoded.size <= until:
            if self._member is None:
                self._members += 1
                if self._members > _MAX_SMALL_MEMBERS + self._received // _MIN_MEMBER_BYTES:
                    raise self._bad_encoding("its gzip data has too many small members")
                self._member = zlib.decompressobj(_GZIP)
            room = self._limit - self._decoded.size
            try:
                # one byte more than allowed is enough to know that it is too large
                part = self._member.decompress(data, min(room + 1, _DECOMPRESSED_BYTES_AT_ONCE))
            except zlib.error as error:
                raise self._bad_encoding("its gzip data is damaged") from error
            if len(part) > room:
                raise self._too_large()
            self._decoded.append(part)
            # the first is set if the output was bounded, the second if the member has ended
            data = self._member.unconsumed_tail or self._member.unused_data
            if self._member.eof:
                self._member = None
        return data

    def _too_large(self) -> UnusableReply:
        message = f"The reply of the API server is larger than maxBytes allows: {self._limit} bytes."
        advice = "Ask for less, if this tool's arguments can; otherwise tell the user."
        return UnusableReply("reply-too-large", message, self._status, advice=advice)

    def _bad_encoding(self, why: str) -> UnusableReply:
        message = f"The reply of the API server cannot be read: {why}. Tell the operator of this tool."
        return UnusableReply("bad-encoding", message, self._status)
