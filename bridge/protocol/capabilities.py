"""What the server says of itself and of its tools, in MCP's words, for whoever answers: the SDK or we."""

from collections.abc import Sequence
from typing import Any, Final

from bridge import __version__
from bridge.tool.compiler import Tool

NAME: Final = "restbridge"
SERVER_INFO: Final = {"name": NAME, "version": __version__}
CAPABILITIES: Final = {"tools": {"listChanged": True}}
INSTRUCTIONS: Final = (
    "Each tool calls one endpoint of a REST API. A result with isError says what went wrong and what to do. "
    "Tools can change while you are connected; when you are told so, list them again."
)
ALIKE: Final = frozenset({"2025-06-18", "2025-11-25"})
"""Handshake versions in which results look as we make them; of older ones the SDK leaves parts out."""
PAGE: Final = 1000
"""Tools on one page of tools/list."""
TTL: Final = 5000
"""Milliseconds for which a list may be kept: short, so that a client that does not listen sees a reload soon."""


def page(tools: Sequence[Tool], start: int) -> dict[str, Any]:
    """The result of tools/list; the cursor is the last name, so that a reload between pages loses nothing."""
    listed = tools[start : start + PAGE]
    listing: dict[str, Any] = {"resultType": "complete", "tools": [tool.definition for tool in listed]}
    if start + PAGE < len(tools):
        listing["nextCursor"] = listed[-1].name
    return listing
