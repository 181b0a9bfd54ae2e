"""Text for a model: visible characters, and within ``response.maxBytes``."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, takewhile
from typing import Final

from bridge import codec
from bridge.characters import HARMFUL, HIDDEN, INVISIBLE, apart, escapes
from bridge.errors import UnusableReply
from bridge.spec import Invisible, Json

_LONE_RETURN: Final = re.compile(r"\r(?!\n)")
"""It has a terminal write over the line."""
_PIECE: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Fitted:
    """``text`` holds all, or says in its first line how much of it; ``meta`` says so to programs."""

    text: str
    meta: dict[str, Json] = field(default_factory=dict)


def visible(text: str, invisible: Invisible = "show") -> str:
    r"""The text with ``\u001b`` and so on for what no one sees; JSON stays the same JSON.

    Joiners and variation selectors stay where they belong, and with ``pass`` all that ``response.invisible`` is about.
    """
    if text.isascii() and text.isprintable():
        return text
    if "\r" in text:
        text = _LONE_RETURN.sub(r"\\r", text)
    if invisible == "pass":
        return _escaped(text, HARMFUL, escapes()[1])
    if not HIDDEN.search(text):
        return text
    parts = apart(text)
    parts[::2] = [_escaped(part, HIDDEN, escapes()[0]) for part in parts[::2]]
    return "".join(parts)


def _escaped(text: str, hidden: re.Pattern[str], table: Mapping[int, str]) -> str:
    """The text through a table, which takes no longer if all of it is hidden; others run between the pieces."""
    if not hidden.search(text):
        return text
    pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
    return "".join(piece.translate(table) if hidden.search(piece) else piece for piece in pieces)


def stripped(text: str) -> str:
    """The text without the characters that ``response.invisible`` is about, but where they belong."""
    if not INVISIBLE.search(text):
        return text
    parts = apart(text)
    parts[::2] = [INVISIBLE.sub("", part) for part in parts[::2]]
    return "".join(parts)


def each_text(value: Json, change: Callable[[str], str]) -> Json:
    """The value with every text and key of it changed."""
    match value:
        case str():
            return change(value)
        case list():
            return [each_text(item, change) for item in value]
        case dict():
            return {change(key): each_text(item, change) for key, item in value.items()}
    return value


def json_text(value: Json, invisible: Invisible = "show") -> str:
    """Compact JSON of visible characters."""
    return visible(codec.encode(value).decode(), invisible)


def within(value: Json, max_bytes: int, invisible: Invisible = "show") -> tuple[str | None, int]:
    """A value as JSON of visible characters, or None if that is larger, and how many bytes it takes.

    What is too large already is not made visible first, which could make it six times larger.
    """
    written = codec.encode(value)
    if len(written) > max_bytes:
        return None, len(written)
    text = visible(written.decode(), invisible)
    size = _size(text)
    return (text if size <= max_bytes else None), size


def write(value: Json, max_bytes: int, narrowing: Sequence[str], invisible: Invisible = "show") -> str:
    """A value as JSON, whole; raises ``UnusableReply`` that names the largest parts."""
    text, size = within(value, max_bytes, invisible)
    if text is None:
        raise _too_large(size, max_bytes, _largest(value), narrowing)
    return text


def fit(value: Json, max_bytes: int, narrowing: Sequence[str], invisible: Invisible = "show") -> Fitted:
    """A value as JSON; of a list, or of an object's one list, as many whole items as there is room for."""
    text, size = within(value, max_bytes, invisible)
    if text is not None:
        return Fitted(text)
    name, items = _only_list(value)
    rest: dict[str, Json] | None = value | {name: []} if isinstance(value, dict) else None
    room = (
        max_bytes
        - _size(_note(len(items), len(items), "items", narrowing))
        - _size(json_text(rest or [], invisible))
    )
    kept = _count_fitting((_size(json_text(item, invisible)) + 1 for item in items), room)
    if not kept:
        raise _too_large(size, max_bytes, _largest(value), narrowing)
    part = items[:kept] if rest is None else rest | {name: items[:kept]}
    return _cut(kept, len(items), "items", json_text(part, invisible), narrowing)


def fit_text(text: str, max_bytes: int, narrowing: Sequence[str], invisible: Invisible = "show") -> Fitted:
    """A text; of a longer one as many whole lines as there is room for."""
    text = visible(text, invisible)
    if _size(text) <= max_bytes:
        return Fitted(text)
    lines = text.splitlines(keepends=True)
    room = max_bytes - _size(_note(len(lines), len(lines), "lines", narrowing))
    kept = _count_fitting(map(_size, lines), room)
    if not kept:
        raise _too_large(_size(text), max_bytes, "", narrowing)
    return _cut(kept, len(lines), "lines", "".join(lines[:kept]), narrowing)


def require(size: int, max_bytes: int, what: str) -> None:
    """Raise ``UnusableReply`` for what cannot be given in part."""
    if size > max_bytes:
        raise _too_large(size, max_bytes, f" of {what}", ())


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _only_list(value: Json) -> tuple[str, list[Json]]:
    """The name and the items of an object's one list, or a list itself; no items where there is neither."""
    if isinstance(value, list):
        return "", value
    parts = value.items() if isinstance(value, dict) else ()
    lists = [(name, part) for name, part in parts if isinstance(part, list)]
    return lists[0] if len(lists) == 1 else ("", [])


def _count_fitting(sizes: Iterable[int], room: int) -> int:
    return sum(1 for _ in takewhile(lambda used: used <= room, accumulate(sizes)))


def _cut(kept: int, total: int, unit: str, text: str, narrowing: Sequence[str]) -> Fitted:
    return Fitted(
        _note(kept, total, unit, narrowing) + text, {"restbridge/shown": kept, "restbridge/total": total}
    )


def _note(kept: int, total: int, unit: str, narrowing: Sequence[str]) -> str:
    how = f"narrow with {', '.join(narrowing[:10])}" if narrowing else "no argument of this tool narrows it"
    return f"Only a part fits: showing {kept} of {total} {unit}; {how}.\n"


def _too_large(size: int, max_bytes: int, parts: str, narrowing: Sequence[str]) -> UnusableReply:
    how = "Tell the user that this tool has to project less."
    if narrowing:
        how = f"Narrow with {', '.join(narrowing[:10])}."
    message = f"The result is {_human(size)}{parts}, and this tool gives {_human(max_bytes)} at most."
    return UnusableReply("result-too-large", message, advice=how)


def _largest(value: Json) -> str:
    """`` (items 2.1 MB, meta 30.0 kB)``"""
    if isinstance(value, list):
        return f" (its first item {_human(len(codec.encode(value[0])))})"
    if not isinstance(value, dict):
        return ""
    sizes = sorted(((len(codec.encode(part)), name) for name, part in value.items()), reverse=True)
    named = (f"{visible(name[:40])} {_human(size)}" for size, name in sizes[:3])
    return f" ({', '.join(named)})"


def _human(size: int) -> str:
    if size < 1000:
        return f"{size} bytes"
    return f"{size / 1000:.1f} kB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"
