"""A reply's content: gathered within bounds, and unpacked from gzip."""

import zlib
from typing import Final

from bridge.errors import UnusableReply

_GZIP: Final = 16 + zlib.MAX_WBITS
_FREE_MEMBERS: Final = 1024
_MEMBER_BYTES: Final = 1024
"""Gzip members past the first ``_FREE_MEMBERS`` have this size on average. An empty member of 20 bytes costs as much
time as a page of text."""
_JOINED_PARTS: Final = 1024
"""So many parts are joined into one: an object for each byte would take 50 times the memory."""


class Content:
    """Gathers content of at most ``limit`` bytes, as it comes and as it is unpacked.

    Gzip is read as RFC 1952 says: members follow one another, each must end, and nothing else may
    follow. What cannot be read raises ``UnusableReply``, which carries ``status``. ``codings`` are the
    words of Content-Encoding and Transfer-Encoding; the chunks are undone already.
    """

    def __init__(self, limit: int, codings: str, status: int) -> None:
        self._room = limit
        self._limit = limit
        self._status = status
        self._received = 0
        self._parts: list[bytes] = []
        self._blocks: list[bytes] = []
        self._members = 0
        self._member: zlib._Decompress | None = None
        words = codings.lower().replace(" ", "").split(",")
        self._packings = [word for word in words if word not in ("", "identity", "chunked")]

    def feed(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > self._limit:
            raise self._too_large()
        if not self._packings:
            self._keep(data)
        elif self._packings in (["gzip"], ["x-gzip"]):
            self._unpack(data)
        else:
            raise self._bad_encoding("it is encoded in another way than gzip, or more than once")

    def finish(self) -> bytes:
        """The whole content."""
        if self._member is not None:
            raise self._bad_encoding("its gzip data ends too early")
        return b"".join(self._blocks + self._parts)

    def _keep(self, part: bytes) -> None:
        self._parts.append(part)
        if len(self._parts) == _JOINED_PARTS:
            self._blocks.append(b"".join(self._parts))
            self._parts.clear()

    def _unpack(self, data: bytes) -> None:
        while data:
            if self._member is None:
                self._members += 1
                if self._members > _FREE_MEMBERS + self._received // _MEMBER_BYTES:
                    raise self._bad_encoding("its gzip data has too many small members")
                self._member = zlib.decompressobj(_GZIP)
            try:
                part = self._member.decompress(data, self._room + 1)
            except zlib.error as error:
                raise self._bad_encoding("its gzip data is damaged") from error
            self._room -= len(part)
            if self._room < 0:
                raise self._too_large()
            self._keep(part)
            data = self._member.unused_data
            if self._member.eof:
                self._member = None

    def _too_large(self) -> UnusableReply:
        message = f"The reply of the API server is larger than maxBytes allows: {self._limit} bytes."
        advice = "Ask for less, if this tool's arguments can; else tell the user."
        return UnusableReply("reply-too-large", message, self._status, advice=advice)

    def _bad_encoding(self, why: str) -> UnusableReply:
        message = f"The reply of the API server cannot be read: {why}. Tell the operator of this tool."
        return UnusableReply("bad-encoding", message, self._status)
