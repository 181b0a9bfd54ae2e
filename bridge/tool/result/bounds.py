"""Text for a model: invisible characters escaped, size limited to ``response.maxBytes``."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Final

from bridge import codec
from bridge.characters import HARMFUL, HIDDEN, INVISIBLE, escapes, pieces, split_at_needed
from bridge.errors import UnusableReply
from bridge.spec import Invisible, Json

_LONE_RETURN: Final = re.compile(r"\r(?!\n)")
"""A carriage return without a line feed, which makes a terminal overwrite the line."""


@dataclass(frozen=True, slots=True)
class FittedText:
    """The text. If it was cut, its first line says how much is shown; ``meta`` has the numbers."""

    text: str
    meta: dict[str, Json] = field(default_factory=dict)


def visible(text: str, invisible: Invisible = "show") -> str:
    r"""The text with invisible characters escaped, as ``\u001b``; JSON keeps its meaning.

    Joiners and variation selectors stay where scripts and emoji need them. ``pass`` keeps all characters
    that ``response.invisible`` is about.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(piece, invisible) for piece in pieces(text))


def _visible(text: str, invisible: Invisible) -> str:
    if "\r" in text:
        text = _LONE_RETURN.sub(r"\\r", text)
    if invisible == "pass":
        return _escaped(text, HARMFUL, escapes()[1])
    if not HIDDEN.search(text):
        return text
    parts = split_at_needed(text)
    # Parts with an even index are what is between the needed characters.
    parts[::2] = [_escaped(part, HIDDEN, escapes()[0]) for part in parts[::2]]
    return "".join(parts)


def _escaped(text: str, hidden: re.Pattern[str], table: Mapping[int, str]) -> str:
    """The text translated by ``table``: the time does not depend on the number of hidden characters."""
    return text.translate(table) if hidden.search(text) else text


def strip_invisible(text: str) -> str:
    """The text without invisible characters, except where scripts and emoji need them."""
    return text if text.isascii() else "".join(map(_strip_invisible, pieces(text)))


def _strip_invisible(text: str) -> str:
    if not INVISIBLE.search(text):
        return text
    parts = split_at_needed(text)
    parts[::2] = [INVISIBLE.sub("", part) for part in parts[::2]]
    return "".join(parts)


def map_texts(value: Json, change: Callable[[str], str]) -> Json:
    """The value with ``change`` applied to all its strings and keys."""
    match value:
        case str():
            return change(value)
        case list():
            return [map_texts(item, change) for item in value]
        case dict():
            return {change(key): map_texts(item, change) for key, item in value.items()}
    return value


def json_text(value: Json, invisible: Invisible = "show") -> str:
    """Compact JSON with invisible characters escaped."""
    return visible(codec.encode(value).decode(), invisible)


def json_if_within(value: Json, max_bytes: int, invisible: Invisible = "show") -> tuple[str | None, int]:
    """The value as JSON, or None if that is larger than ``max_bytes``; and its size in bytes.

    Escaping can make JSON six times larger, so JSON that is too large already is not escaped.
    """
    written = codec.encode(value)
    if len(written) > max_bytes:
        return None, len(written)
    text = visible(written.decode(), invisible)
    size = _size(text)
    return (text if size <= max_bytes else None), size


def write_json(value: Json, max_bytes: int, narrowing: Sequence[str], invisible: Invisible = "show") -> str:
    """The whole value as JSON; raises ``UnusableReply`` with its largest parts if it is too large."""
    text, size = json_if_within(value, max_bytes, invisible)
    if text is None:
        raise _too_large(size, max_bytes, _largest_parts(value), narrowing)
    return text


def fit_json(
    value: Json, max_bytes: int, narrowing: Sequence[str], invisible: Invisible = "show"
) -> FittedText:
    """The value as JSON. A list, or the only list of an object, is cut after the last item that fits.

    Raises ``UnusableReply`` if no item fits or there is no such list.
    """
    text, size = json_if_within(value, max_bytes, invisible)
    if text is not None:
        return FittedText(text)
    name, items = _only_list(value)
    # What else the object holds is never cut.
    rest: dict[str, Json] | None = value | {name: []} if isinstance(value, dict) else None
    # With the largest numbers: the note that is written in the end is not longer.
    room = (
        max_bytes
        - _size(_cut_note(len(items), len(items), "items", narrowing))
        - _size(json_text(rest or [], invisible))
    )
    kept = _count_fitting(items, room, invisible)
    if not kept:
        raise _too_large(size, max_bytes, _largest_parts(value), narrowing)
    part = items[:kept] if rest is None else rest | {name: items[:kept]}
    return _cut(kept, len(items), "items", json_text(part, invisible), narrowing)


def fit_text(
    text: str, max_bytes: int, narrowing: Sequence[str], invisible: Invisible = "show"
) -> FittedText:
    """The text, cut after the last line that fits; raises ``UnusableReply`` if no line fits."""
    shown = visible(text[: max_bytes + 1], invisible)  # a character has at least one byte
    if _size(shown) <= max_bytes:
        return FittedText(shown)
    total = text.count("\n") + (not text.endswith("\n"))
    room = max(0, max_bytes - _size(_cut_note(total, total, "lines", narrowing)))
    # This may cut a character. The result ends before it, at the last line break.
    start = shown[:room].encode()[:room]
    lines = start[: start.rfind(b"\n") + 1]
    if not lines:
        raise _too_large(max(_size(text), _size(shown)), max_bytes, "", narrowing)
    return _cut(lines.count(b"\n"), total, "lines", lines.decode(), narrowing)


def require_size(size: int, max_bytes: int, what: str) -> None:
    """Raise ``UnusableReply`` if something that cannot be cut is too large."""
    if size > max_bytes:
        raise _too_large(size, max_bytes, f" of {what}", ())


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _only_list(value: Json) -> tuple[str, list[Json]]:
    """Name and items of the only list in an object; for a list, no name and its items; otherwise no items."""
    if isinstance(value, list):
        return "", value
    parts = value.items() if isinstance(value, dict) else ()
    lists = [(name, part) for name, part in parts if isinstance(part, list)]
    return lists[0] if len(lists) == 1 else ("", [])


def _count_fitting(items: Sequence[Json], room: int, invisible: Invisible) -> int:
    """How many items fit, with a comma after each.

    Items are encoded in batches. The batch size doubles until a batch does not fit, then it halves.
    """
    kept, step, grows = 0, 1, True
    # Ends at 0: not even one more item fits.
    while step and kept < len(items):
        part = items[kept : kept + step]
        text, size = json_if_within(
            part, room + 1, invisible
        )  # two brackets, and no comma after the last item
        if text is None:
            grows = False
        else:
            # The batch without its two brackets, and a comma before the next one.
            kept, room = kept + len(part), room + 1 - size
        step = step * 2 if grows else step // 2
    return kept


def _cut(kept: int, total: int, unit: str, text: str, narrowing: Sequence[str]) -> FittedText:
    return FittedText(
        _cut_note(kept, total, unit, narrowing) + text, {"restbridge/shown": kept, "restbridge/total": total}
    )


def _cut_note(kept: int, total: int, unit: str, narrowing: Sequence[str]) -> str:
    how = f"narrow with {', '.join(narrowing[:10])}" if narrowing else "no argument of this tool narrows it"
    return f"Only a part fits: showing {kept} of {total} {unit}; {how}.\n"


def _too_large(size: int, max_bytes: int, parts: str, narrowing: Sequence[str]) -> UnusableReply:
    how = "Tell the user that this tool must select less of the reply."
    if narrowing:
        how = f"Narrow with {', '.join(narrowing[:10])}."
    message = (
        f"The result is {_format_size(size)}{parts}, the limit of this tool is {_format_size(max_bytes)}."
    )
    return UnusableReply("result-too-large", message, advice=how)


def _largest_parts(value: Json) -> str:
    """The sizes of the largest parts, such as `` (items 2.1 MB, meta 30.0 kB)``; empty for scalars."""
    if isinstance(value, list):
        return f" (its first item {_format_size(len(codec.encode(value[0])))})"
    if not isinstance(value, dict):
        return ""
    sizes = nlargest(3, ((len(codec.encode(part)), name) for name, part in value.items()))
    named = (f"{visible(name[:40])} {_format_size(size)}" for size, name in sizes)
    return f" ({', '.join(named)})"


def _format_size(size: int) -> str:
    if size < 1000:
        return f"{size} bytes"
    return f"{size / 1000:.1f} kB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"
