"""The parts of MCP answers that the SDK, the fast path and the early answers share. Does not import the SDK."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bridge import NAME, __version__
from bridge.codec import encode
from bridge.tool.compiler import Tool

SERVER_INFO: Final = {"name": NAME, "version": __version__}
CAPABILITIES: Final = {"tools": {"listChanged": True}}
INSTRUCTIONS: Final = (
    "Each tool calls one endpoint of a REST API. A result with isError says what went wrong and what to do. "
    "Tools can change while you are connected; when you are notified, list them again."
)
MODERN_VERSION: Final = "2026-07-28"
SAME_SHAPE_VERSIONS: Final = frozenset({"2025-06-18", "2025-11-25"})
"""Handshake versions whose results have the shape that we make. For older ones the SDK leaves parts out."""
META_PREFIX: Final = "io.modelcontextprotocol/"
"""Of the keys in ``_meta`` that the protocol reserves (MCP 2026-07-28)."""
PAGE_SIZE: Final = 1000
"""Tools on a page of tools/list."""
LIST_TTL_MS: Final = 5000
"""How long clients may cache a list: short, so that a client without notifications sees a reload soon."""
_MODERN_KEYS: Final = frozenset({"resultType", "ttlMs", "cacheScope"})
"""Keys of results that versions before ``MODERN_VERSION`` do not have."""


def page(tools: Sequence[Tool], start: int) -> dict[str, Any]:
    """The result of tools/list. The cursor is the last name, so a reload between two pages loses no tool."""
    listed = tools[start : start + PAGE_SIZE]
    listing: dict[str, Any] = {
        "resultType": "complete",
        "ttlMs": LIST_TTL_MS,
        "cacheScope": "private",  # the list depends on the caller's scopes
        "tools": [tool.definition for tool in listed],
    }
    if start + PAGE_SIZE < len(tools):
        listing["nextCursor"] = listed[-1].name
    return listing


def encode_result(version: str, result: Mapping[str, Any]) -> bytes:
    """Encode a result of ours for a protocol version. Modern results have the server info in ``_meta``."""
    if version != MODERN_VERSION:
        return encode({key: value for key, value in result.items() if key not in _MODERN_KEYS})
    meta = result.get("_meta", {}) | {f"{META_PREFIX}serverInfo": SERVER_INFO}
    return encode({**result, "_meta": meta})


def answer_parts(id: int | str, result: bytes) -> tuple[bytes, bytes, bytes]:
    """An answer in three parts. To join a long list would take as long as to send it."""
    return b'{"jsonrpc":"2.0","id":%s,"result":' % encode(id), result, b"}"


def encode_answer(id: int | str, result: bytes) -> bytes:
    return b"".join(answer_parts(id, result))
