"""Decoding and encoding of JSON: fast and strict, with exact integers, without NaN and lone surrogates.

orjson is used if its result is exact. In these cases the standard library is used instead, which is about ten times
slower:

| Case | What orjson does |
|---|---|
| integers of more than 64 bits | turns them into floats |
| duplicate keys | keeps the last one |
| lone surrogates | refuses them |
| deep nesting | has a lower limit for encoding |

A byte order mark, UTF-16 and UTF-32 are converted to UTF-8 before.
"""

import codecs
import json
import math
import re
from collections import Counter
from typing import Any, Final, NoReturn, TypeAlias

import orjson

from bridge.pieces import DuplicateKey, InvalidJson, PieceDecoder, TooDeep

Json: TypeAlias = Any

MAX_DEPTH: Final = 200
"""The maximum nesting of arrays and objects in decoded JSON."""

FREE_CONTAINERS: Final = 128 * 1024
"""So many arrays and objects are always decoded."""
BYTES_PER_CONTAINER: Final = 16
"""A text with more than ``FREE_CONTAINERS`` needs at least this size for each array and object, on average.

An object takes about 200 bytes of memory, and 2 bytes of text. With this bound, a decoded value takes at most 20 times
the memory of its text, most of it for short strings. Without the bound it would be 50 times.
"""

_ORJSON_MAX_DEPTH: Final = 254
"""orjson refuses to encode a value that is nested deeper."""
_COUNTED_BYTES: Final = 4096
"""In longer content, brackets are not counted: that would take longer than the check that it saves."""
_FAST_BYTES: Final = 128 * 1024
"""Larger content with nulls is searched for NaN in Python, as decoding it in C would hold the GIL too long."""
_PIECES_MIN_BYTES: Final = 256 * 1024
_PIECES_MIN_VALUES: Final = 50_000
"""Content with more values (see ``estimate_values``) is decoded in pieces: orjson takes up to 0.5 µs for each."""
_DIGITS_TO_ZERO: Final = bytes.maketrans(b"123456789", b"000000000")
# At the start of a number only: 0.1234567890123456789 is no integer.
_LONG_INTEGER: Final = re.compile(rb"(?:\A|[\[,:\s])-?[0-9]{19}")
_ESCAPED_COLONS: Final = (b"\\u003a", b"\\u003A")
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),  # after UTF-32, whose mark starts with this one
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BOM_BYTES: Final = tuple(mark for mark, _ in _BOMS)
# Possessive quantifiers never go back, so hostile text takes linear time. The bounds, as in {1,256}, end a match from
# time to time: other threads can run then.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_STRINGS: Final = re.compile(rb'(?:[^"]++|%s){1,256}+' % _STRING.pattern, re.DOTALL)
"""Complete strings, and the text around them."""
_STARTS_CONTAINER: Final = re.compile(rb"[ \t\r\n]*+[\[{]")
_TOO_DEEP: Final = f"it is nested more than {MAX_DEPTH} deep"
_CONTAINERS: Final = (dict, list, tuple)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ESCAPE: Final = re.compile(
    r"(?:[^\\]++"
    r"|\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a valid pair is kept
    r"|(?!u[dD][89a-fA-F][0-9a-fA-F]{2}).)){1,4096}+"  # one match for many, as all matches are kept in memory
    r"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})",
    re.DOTALL,
)


class NotJson(ValueError):
    """A text is not JSON, or JSON cannot express a value; ``str()`` says where and why.

    ``str()`` may quote a key or a number. ``kind`` quotes nothing, so that it can be logged.
    """

    def __init__(self, text: str, kind: str | None = None) -> None:
        super().__init__(text)
        self.kind = kind or text


class TooManyContainers(NotJson):
    """More arrays and objects than are decoded; ``str()`` says the limit."""


def decode(data: bytes | str, *, keep_surrogates: bool = False) -> Json:
    """The value of a JSON text; raises ``NotJson``.

    Bytes are UTF-8 unless they start with a byte order mark. Invalid bytes and escapes of lone surrogates become
    U+FFFD; ``keep_surrogates`` decodes these escapes to lone surrogates.

    RFC 8259 leaves some cases open. Refused are: NaN, infinity, numbers outside the range of a double, duplicate
    keys, integers with more digits than ``sys.get_int_max_str_digits()``, and nesting deeper than ``MAX_DEPTH``.
    ``TooManyContainers`` is raised before any other error.
    """
    content = _without_bom(clean(data).encode() if isinstance(data, str) else data)
    # Before decoding, which would take the memory that this check denies.
    _require_few_containers(content)
    decode_all = _decode_in_pieces if _has_many_values(content) else _decode_at_once
    return decode_all(content, keep_surrogates=keep_surrogates)


def _decode_at_once(content: bytes, *, keep_surrogates: bool) -> Json:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:  # perhaps valid JSON that orjson does not read, see the table above
        text = content.decode("utf-8", "replace")
        return _decode_strictly(text if keep_surrogates else _without_lone_surrogates(text))
    if _is_exact(content, value):
        return value
    del value  # frees its memory before the second decoding
    return _decode_strictly(content.decode("utf-8", "replace"))


def estimate_values(content: bytes) -> int:
    """The number of commas and opening brackets, which is close to the number of values in JSON."""
    return sum(map(content.count, (b",", b"[", b"{")))


def _has_many_values(content: bytes) -> bool:
    """Whether decoding it at once would block other threads too long."""
    if len(content) <= _PIECES_MIN_BYTES:
        return False
    return estimate_values(content) > _PIECES_MIN_VALUES and _STARTS_CONTAINER.match(content) is not None


def _decode_in_pieces(content: bytes, *, keep_surrogates: bool) -> Json:
    def decode_piece(piece: bytes, position: int) -> Json:
        try:
            return _decode_at_once(piece, keep_surrogates=keep_surrogates)
        except NotJson as problem:
            cause = problem.__cause__
            if not isinstance(cause, json.JSONDecodeError):
                raise
            # - 1: a piece starts with a bracket, and ``position`` is that of what follows it.
            raise NotJson(_syntax_error_at(content, position, cause.pos - 1)) from cause

    try:
        return PieceDecoder(content, decode_piece, MAX_DEPTH).decode()
    except InvalidJson as problem:
        raise NotJson(_syntax_error_at(content, problem.position)) from problem
    except TooDeep as problem:
        raise NotJson(_TOO_DEEP) from problem
    except DuplicateKey as problem:
        raise _duplicate_key(problem.args[0]) from problem


def encode(value: Json) -> bytes:
    """Compact JSON in UTF-8; raises ``NotJson`` for NaN, infinity, and values that are nested too deep."""
    try:
        content = orjson.dumps(value)
    except orjson.JSONEncodeError:
        return _encode_exactly(value)
    # orjson encodes NaN as null. To decode a small text again is faster than to visit all values.
    if b"null" in content and (len(content) > _FAST_BYTES or orjson.loads(content) != value):
        _require_finite(value)
    return content


def encode_fast(value: Json) -> bytes | None:
    """Like ``encode``, or None if that is slow: for long integers, lone surrogates, and large values with nulls."""
    try:
        content = orjson.dumps(value)
    except orjson.JSONEncodeError:
        return None
    return content if b"null" not in content else encode(value) if len(content) <= _FAST_BYTES else None


def clean(text: str) -> str:
    """``text`` with U+FFFD for each lone surrogate, so that it can be encoded as UTF-8."""
    try:
        text.encode()  # much faster than the search for surrogates, which texts rarely hold
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text


def quote(text: str, limit: int = 40) -> str:
    """The first ``limit`` characters of untrusted text as a JSON string in ASCII, safe in messages."""
    return json.dumps(text[:limit]) + ("…" if len(text) > limit else "")


def _require_few_containers(content: bytes) -> None:
    """Raise ``TooManyContainers``. Brackets and braces in strings do not count."""
    limit = max(FREE_CONTAINERS, len(content) // BYTES_PER_CONTAINER)
    # First the cheap tests, which nearly all content passes: they also count brackets in strings.
    if len(content) <= limit or content.count(b"[") + content.count(b"{") <= limit:
        return
    found = position = 0
    while strings := _STRINGS.match(content, position):  # ends at an unclosed string, which is an error later
        position = strings.end()
        outside = _STRING.sub(b"", strings[0])
        found += outside.count(b"[") + outside.count(b"{")
        if found > limit:
            raise TooManyContainers(f"it contains more than {limit} arrays and objects")


def _is_exact(content: bytes, value: Json) -> bool:
    """Whether ``value`` certainly equals ``content``: without long integers, duplicate keys, and deep nesting.

    If a key is duplicate, a member is lost. Encoding the value again then gives fewer colons.
    """
    wrappers = _ORJSON_MAX_DEPTH - MAX_DEPTH if _may_be_deep(content) else 0
    for _ in range(wrappers):
        value = [value]  # lowers orjson's limit of depth to MAX_DEPTH
    try:
        encoded = orjson.dumps(value)
    except orjson.JSONEncodeError:
        return False
    if encoded[wrappers : len(encoded) - wrappers] == content:  # most compact JSON
        return True
    if has_long_digits(content) and _LONG_INTEGER.search(content):
        return False
    # The colon of "\u003a" would make up for the one of a lost member.
    if b"\\" in content and any(colon in content for colon in _ESCAPED_COLONS):
        return False
    return encoded.count(b":") == content.count(b":")


def may_be_deeper(value: Json, depth: int) -> bool:
    """Whether arrays and objects may be nested deeper than ``depth``; False is certain."""
    for _ in range(_ORJSON_MAX_DEPTH - depth):
        value = [value]
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return True
    return False


def has_long_digits(content: bytes) -> bool:
    """Whether there are 19 digits in a row: an integer of more than 64 bits has at least that many."""
    return b"0" * 19 in content.translate(_DIGITS_TO_ZERO)


def _may_be_deep(content: bytes) -> bool:
    """Whether nesting deeper than ``MAX_DEPTH`` is possible; a cheap check, of which False is certain."""
    return len(content) > _COUNTED_BYTES or (
        len(content) > 2 * MAX_DEPTH and content.count(b"[") + content.count(b"{") > MAX_DEPTH
    )


def marked_encoding(content: bytes) -> str | None:
    """The encoding of the byte order mark; None without one."""
    if not content.startswith(_BOM_BYTES):
        return None
    return next(encoding for mark, encoding in _BOMS if content.startswith(mark))


def _without_bom(content: bytes) -> bytes:
    """``content`` as UTF-8 without its byte order mark; a second mark is kept."""
    encoding = marked_encoding(content)
    return content.decode(encoding, "replace").removeprefix("\ufeff").encode() if encoding else content


def _without_lone_surrogates(text: str) -> str:
    """The text with escapes of lone surrogates replaced by that of U+FFFD, which has the same length."""
    return _ESCAPE.sub(lambda match: r"\ufffd" if match["lone"] else match[0], text)


def _decode_strictly(text: str) -> Json:
    try:
        value = _STRICT.decode(text)
    except json.JSONDecodeError as problem:
        raise NotJson(_syntax_error(problem)) from problem
    except RecursionError as problem:  # the scanner of ``json`` calls itself for each level
        raise NotJson(_TOO_DEEP) from problem
    if not is_shallow(value, MAX_DEPTH):
        raise NotJson(_TOO_DEEP)
    return value


def _syntax_error(problem: json.JSONDecodeError) -> str:
    if not problem.doc.strip():
        return "it is empty"
    what = "it ends too early" if problem.pos >= len(problem.doc.rstrip()) else "it has a syntax error"
    return f"{what} at line {problem.lineno}, column {problem.colno}"


def _syntax_error_at(content: bytes, position: int, characters: int = 0) -> str:
    """The message for an error ``characters`` after the byte at ``position``."""
    before = content[:position].decode("utf-8", "replace")
    return _syntax_error(
        json.JSONDecodeError("", content.decode("utf-8", "replace"), len(before) + characters)
    )


def _duplicate_key(key: str) -> NotJson:
    return NotJson(f"an object has the key {quote(key)} more than once", "an object has a key more than once")


def is_shallow(value: Json, depth: int) -> bool:
    """Whether arrays and objects are nested at most ``depth`` deep; visits all of them."""
    level = [value]
    for _ in range(depth):
        level = _children(level)
    return not any(isinstance(node, _CONTAINERS) for node in level)


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _duplicate_key(key)
    return value


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        what = "is outside the range of a double"
        raise NotJson(f"the number {text[:20]} {what}", f"a number {what}")
    return value


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as problem:  # sys.get_int_max_str_digits
        raise NotJson(f"an integer has {len(text)} digits, which is too many") from problem


def _constant(text: str) -> NoReturn:
    raise NotJson(f"{text} is not a JSON number")


_STRICT: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_int=_integer, parse_constant=_constant
)


_EXACT: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _encode_exactly(value: Json) -> bytes:
    _require_finite(value)
    try:
        text = "".join(_EXACT.iterencode(value))  # in Python, so that other threads can run
    except RecursionError as problem:
        raise NotJson("it is nested too deep to be encoded") from problem
    except ValueError as problem:
        raise NotJson("an integer has too many digits to be encoded") from problem
    return clean(text).encode()


def _require_finite(value: Json) -> None:
    """Raise ``NotJson`` for NaN and infinity. In Python, so that other threads can run."""
    level = [value]
    while level:
        if not all(math.isfinite(node) for node in level if isinstance(node, float)):
            raise NotJson("a number is NaN or infinite, which JSON cannot express")
        level = _children(level)


def _children(level: list[Json]) -> list[Json]:
    """The values in all arrays and objects of a level."""
    return [
        child
        for node in level
        if isinstance(node, _CONTAINERS)
        for child in (node.values() if isinstance(node, dict) else node)
    ]


_UNQUOTED: Final = re.compile("[A-Za-z0-9_.:/@|-]{1,128}")


def log_safe(value: object) -> str:
    """An untrusted value, such as an id, for a log line: quoted if it contains spaces, line breaks or the like."""
    text = str(value)
    return text if type(value) is int or _UNQUOTED.fullmatch(text) else quote(text)
