"""Replies that leave in one piece: uvicorn writes a head and then its body, which wakes the client twice."""

import asyncio
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_COPIED: Final = 64 * 1024
"""Bytes up to which a copy costs less than another write."""


class Protocol(HttpToolsProtocol):
    """uvicorn's, over a transport that gathers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(cast("asyncio.Transport", _Gathered(transport)))


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
        if sum(map(len, parts)) <= _COPIED:
            parts = [b"".join(parts)]
        for (
            part
        ) in parts:  # not writelines: asyncio of Python 3.12 and 3.13 never ends one with an empty part
            self._inner.write(part)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
