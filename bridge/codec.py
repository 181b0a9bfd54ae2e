"""JSON in and out: fast, strict, integers exact, no NaN, no lone surrogates.

orjson does the work where its answer is exact. Seen to differ, and given to the standard library's
decoder or encoder, which is some ten times slower: integers past 64 bits (orjson makes floats of
them), duplicate keys (it keeps the last), lone surrogates, a byte order mark, UTF-16 and UTF-32.
"""

import codecs
import json
import math
import re
from collections import Counter
from itertools import islice
from typing import Any, Final, NoReturn, TypeAlias

import orjson

Json: TypeAlias = Any

MAX_DEPTH: Final = 200
"""How many arrays and objects may stand one in another in what is decoded."""

FREE_CONTAINERS: Final = 128 * 1024
BYTES_OF_CONTAINER: Final = 16
"""Arrays and objects past the first ``FREE_CONTAINERS`` stand for this many bytes each, on average.

An object takes some 200 bytes of memory, and 2 bytes to write. What is decoded thus takes up to 20 times the memory of
its text, most of it for short strings; without the bound it would be 50 times.
"""

_WRITTEN_DEPTH: Final = 254
"""orjson refuses to write what is nested deeper."""
_LONG: Final = 4096
_LARGE: Final = 128 * 1024
_DIGITS_TO_ZERO: Final = bytes.maketrans(b"123456789", b"000000000")
_LONG_INTEGER: Final = re.compile(rb"(?:\A|[\[,:\s])-?[0-9]{19}")
_ESCAPED_COLONS: Final = (b"\\u003a", b"\\u003A")
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),  # after UTF-32, whose mark begins with this one
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_OPENING: Final = re.compile(rb'(?:[^"\[{]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+[\[{]', re.DOTALL)
_CONTAINERS: Final = (dict, list, tuple)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ESCAPE: Final = re.compile(
    r"(?:[^\\]++"
    r"|\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair: stays
    r"|(?!u[dD][89a-fA-F][0-9a-fA-F]{2}).)){1,4096}+"  # many at once: each match is kept until all are found
    r"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})",
    re.DOTALL,
)


class NotJson(ValueError):
    """Not JSON, or more than JSON can say; the text says where and what, and shows no content."""


class TooManyContainers(NotJson):
    """More arrays and objects than are decoded; the text says how many may be."""


def decode(data: bytes | str) -> Json:
    """The one value that ``data`` says, exactly; raises ``NotJson``.

    Bytes are UTF-8 unless a byte order mark says otherwise; what is not Unicode becomes U+FFFD.
    Refused, as RFC 8259 leaves it open: NaN and infinities, numbers past a float's range, integers
    past the interpreter's limit of digits, duplicate keys, nesting past ``MAX_DEPTH``. ``TooManyContainers`` comes
    before all of these.
    """
    content = clean(data).encode() if isinstance(data, str) else data
    _require_few_containers(content)
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return _decode_strictly(_text(content))
    if _is_exact(content, value):
        return value
    del value  # else it would stay in memory next to what follows
    return _decode_strictly(_text(content))


def encode(value: Json) -> bytes:
    """Compact UTF-8; raises ``NotJson`` for NaN, infinities and what is nested too deep to be written."""
    try:
        content = orjson.dumps(value)
    except orjson.JSONEncodeError:
        return _encode_exactly(value)
    if b"null" in content and orjson.loads(content) != value:  # orjson writes null for NaN
        _require_finite(value)
    return content


def encode_soon(value: Json) -> bytes | None:
    """What ``encode`` gives, or None where that takes long: for long integers, lone surrogates, and nulls in what is large."""
    try:
        content = orjson.dumps(value)
    except orjson.JSONEncodeError:
        return None
    return content if b"null" not in content else encode(value) if len(content) <= _LARGE else None


def clean(text: str) -> str:
    """``text`` with U+FFFD for each lone surrogate, so that it can be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text


def quote(text: str, limit: int = 40) -> str:
    """At most ``limit`` characters of foreign text as a JSON string in ASCII, fit for a message."""
    return json.dumps(text[:limit]) + ("…" if len(text) > limit else "")


def _require_few_containers(content: bytes) -> None:
    """Raise ``TooManyContainers``; brackets and braces in strings are not containers."""
    most = max(FREE_CONTAINERS, len(content) // BYTES_OF_CONTAINER)
    if len(content) <= most or content.count(b"[") + content.count(b"{") <= most:
        return
    encoding = marked_encoding(content)
    text = content.decode(encoding, "replace").encode() if encoding else content
    if next(islice(_OPENING.finditer(text), most, None), None):
        raise TooManyContainers(f"it holds more than {most} arrays and objects")


def _is_exact(content: bytes, value: Json) -> bool:
    """Whether ``value`` is surely what ``content`` says: no long integer, duplicate key or deep nesting.

    What a duplicate key loses is missing when the value is written again, and so are its colons.
    """
    around = _WRITTEN_DEPTH - MAX_DEPTH if _may_be_deep(content) else 0
    for _ in range(around):
        value = [value]  # turns orjson's limit of depth into ours
    try:
        written = orjson.dumps(value)
    except orjson.JSONEncodeError:
        return False
    if written[around : len(written) - around] == content:
        return True
    if has_long_digits(content) and _LONG_INTEGER.search(content):
        return False
    if b"\\" in content and any(colon in content for colon in _ESCAPED_COLONS):
        return False
    return written.count(b":") == content.count(b":")


def may_be_deeper(value: Json, depth: int) -> bool:
    """Whether more than ``depth`` arrays and objects may stand one in another; False is certain."""
    for _ in range(_WRITTEN_DEPTH - depth):
        value = [value]
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return True
    return False


def has_long_digits(content: bytes) -> bool:
    """Whether 19 digits stand in a row: an integer past 64 bits has that many at least."""
    return b"0" * 19 in content.translate(_DIGITS_TO_ZERO)


def _may_be_deep(content: bytes) -> bool:
    """As far as a look can tell that takes less time than to try."""
    return len(content) > _LONG or (
        len(content) > 2 * MAX_DEPTH and content.count(b"[") + content.count(b"{") > MAX_DEPTH
    )


def marked_encoding(content: bytes) -> str | None:
    """The encoding that a byte order mark says, if there is one."""
    return next((encoding for mark, encoding in _BOMS if content.startswith(mark)), None)


def _text(content: bytes) -> str:
    text = content.decode(marked_encoding(content) or "utf-8", "replace").removeprefix("\ufeff")
    return _ESCAPE.sub(lambda match: r"\ufffd" if match["lone"] else match[0], text)


def _decode_strictly(text: str) -> Json:
    try:
        value = _STRICT.decode(text)
    except json.JSONDecodeError as problem:
        raise NotJson(_departure(problem)) from problem
    except RecursionError as problem:
        raise NotJson(f"it is nested more than {MAX_DEPTH} deep") from problem
    if not _is_shallow(value):
        raise NotJson(f"it is nested more than {MAX_DEPTH} deep")
    return value


def _departure(problem: json.JSONDecodeError) -> str:
    if not problem.doc.strip():
        return "it is empty"
    what = "it breaks off" if problem.pos >= len(problem.doc.rstrip()) else "it departs from JSON"
    return f"{what} at line {problem.lineno}, column {problem.colno}"


def _is_shallow(value: Json) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = _inside(level)
    return not any(isinstance(node, _CONTAINERS) for node in level)


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise NotJson(f"an object has the key {quote(key)} more than once")
    return value


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise NotJson(f"the number {text[:20]} is past the range of a double")
    return value


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as problem:  # sys.get_int_max_str_digits
        raise NotJson(f"an integer has {len(text)} digits, which is more than can be held") from problem


def _constant(text: str) -> NoReturn:
    raise NotJson(f"{text} is no JSON number")


_STRICT: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_int=_integer, parse_constant=_constant
)


_EXACT: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _encode_exactly(value: Json) -> bytes:
    _require_finite(value)
    try:
        text = "".join(_EXACT.iterencode(value))  # in Python, so that other threads run meanwhile
    except RecursionError as problem:
        raise NotJson("it is nested too deep to be written") from problem
    except ValueError as problem:
        raise NotJson("an integer has more digits than can be written") from problem
    return clean(text).encode()


def _require_finite(value: Json) -> None:
    level = [value]
    while level:
        for node in level:
            if isinstance(node, float) and not math.isfinite(node):
                raise NotJson("a number is NaN or infinite, which JSON cannot say")
        level = _inside(level)


def _inside(level: list[Json]) -> list[Json]:
    """What stands in the arrays and objects of a level, one step further in."""
    return [
        inner
        for node in level
        if isinstance(node, _CONTAINERS)
        for inner in (node.values() if isinstance(node, dict) else node)
    ]
