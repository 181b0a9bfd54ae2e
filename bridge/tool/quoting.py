"""Values, paths and unknown names, as messages quote them."""

import re
from collections.abc import Collection
from itertools import islice
from typing import Final

from bridge import codec
from bridge.diagnostics import Route, did_you_mean
from bridge.spec import Json

_UNQUOTED_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")  # longer names are cut as they are quoted


def unknown(name: str, known: Collection[str]) -> str:
    """The text of a violation about a name that is not in ``known``; the name itself is not included."""
    names = f" (known: {', '.join(sorted(known)[:30])})" if known else ""
    return f"is not known{names}{did_you_mean(name[:100], known)}"


def place(path: Route) -> str:
    """A path for a model: ``lines[0].quantity``; empty for the root."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step if _UNQUOTED_NAME.fullmatch(step) else codec.quote(step, 100)}"
    return text.removeprefix(".")


def pointer(path: Route) -> str:
    """A path as a JSON pointer (RFC 6901)."""
    # ~ first: otherwise the ~ of ~1 would be escaped again.
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in path)


def excerpt(value: Json, limit: int = 100) -> str:
    """The first ``limit`` characters of a value as JSON. Of a large value only the start is encoded."""
    text = codec.encode(_truncated(value, limit)).decode()
    return text if len(text) <= limit else f"{text[:limit]}…"


def _truncated(value: Json, limit: int, depth: int = 3) -> Json:
    if isinstance(value, str):
        return value[:limit]
    if isinstance(value, list):
        return [_truncated(item, limit, depth - 1) for item in value[:20]] if depth else "…"
    if isinstance(value, dict):
        members = islice(value.items(), 20)
        return {name[:limit]: _truncated(item, limit, depth - 1) for name, item in members} if depth else "…"
    return value
