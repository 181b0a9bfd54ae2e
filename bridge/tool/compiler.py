"""A spec becomes a tool: everything that can be known before a call is decided here."""

from dataclasses import dataclass

from bridge.secrets import Upstream
from bridge.spec import Json, ToolSpec


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool, ready to call.

    ``upstream.spec`` already holds the tool's own timeout, retries and maxBytes. ``definition`` is
    what tools/list sends, as JSON. ``repeatable`` allows a second attempt after the first was sent.
    """

    name: str
    spec: ToolSpec
    upstream: Upstream
    definition: dict[str, Json]
    read_only: bool
    repeatable: bool
