"""Reads simple YAML texts fast, without positions and without error messages.

Almost all files are simple. For anything else ``read`` raises ``Unusual``, and ``document`` parses the text again
to find positions and problems.
"""

import math
import re
from collections.abc import Callable
from sys import intern
from typing import Any, Final

from yaml import (
    DocumentEndEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from bridge.characters import deceptive
from bridge.codec import NotJson
from bridge.spec import Json

MAX_DIGITS: Final = 400

_MAX_DEPTH: Final = 20
_VALUE_EVENTS: Final = frozenset({MappingStartEvent, ScalarEvent, SequenceStartEvent})
_INVALID_KEYS: Final = frozenset({"", "<<"})
_MAX_INTERNED_LENGTH: Final = 64
"""Shorter texts are likely to occur again, so equal ones share one object."""
# Only the words of JSON: yes, no, on, off and ~ are texts, which YAML 1.1 reads as true, false and null.
_KEYWORDS: Final[dict[str, Json]] = {"": None, "null": None, "true": True, "false": False}
_NUMERIC: Final = frozenset("+-.0123456789")
# The grammar of JSON (RFC 8259 6): 012, 0x1F, 1_000 and 1:30 are texts, which YAML 1.1 reads as numbers.
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?\Z")
_NOT_A_NUMBER: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")


class Unusual(Exception):
    """The text may be invalid, or needs the full parser."""


def plain(text: str) -> Json:
    """The value of an unquoted scalar: null, a boolean or a number as in JSON, otherwise the text.

    Raises ``NotJson`` for a number that JSON cannot represent.
    """
    if text in _KEYWORDS:
        return _KEYWORDS[text]
    if text[0] not in _NUMERIC:
        return text
    if number := _NUMBER.match(text):
        value = math.inf
        if len(text) <= MAX_DIGITS:
            value = float(text) if number[1] or number[2] else int(text)
        if value in {math.inf, -math.inf}:
            raise NotJson("found a number too large to be read; put it in quotes")
        return value
    if _NOT_A_NUMBER.match(text):
        raise NotJson("JSON has no infinity and no NaN; put it in quotes")
    return text


def read(next_event: Callable[[], Any]) -> dict[str, Json]:
    """The mapping of a text, from the events of PyYAML's C parser; raises ``Unusual`` and the parser's own errors."""
    next_event(), next_event()  # start of the stream and of the document
    value = _value(next_event(), next_event, 0)
    ends = type(next_event()), type(next_event())
    if not isinstance(value, dict) or ends != (DocumentEndEvent, StreamEndEvent):
        raise Unusual
    return value


def _value(event: Any, next_event: Callable[[], Any], depth: int) -> Json:
    kind = type(event)
    if kind not in _VALUE_EVENTS or event.anchor is not None or event.tag is not None or depth > _MAX_DEPTH:
        raise Unusual
    if kind is MappingStartEvent:
        return _mapping(next_event, depth, in_flow=event.flow_style)
    if kind is SequenceStartEvent:
        items = []
        while type(event := next_event()) is not SequenceEndEvent:
            items.append(_value(event, next_event, depth + 1))
        return items
    return _text(event) if event.style else plain(_text(event))


def _mapping(next_event: Callable[[], Any], depth: int, *, in_flow: bool) -> dict[str, Json]:
    members: dict[str, Json] = {}
    while type(event := next_event()) is ScalarEvent:
        key = _text(event)
        value = _value(next_event(), next_event, depth + 1)
        is_unusual = (
            event.anchor is not None or event.tag is not None or (not event.style and key in _INVALID_KEYS)
        )
        # {a} may be a placeholder without quotes: only positions show whether there is a colon.
        if is_unusual or key in members or (in_flow and value is None):
            raise Unusual
        members[key] = value
    if type(event) is not MappingEndEvent:
        raise Unusual
    return members


def _text(event: Any) -> str:
    text: str = event.value
    # ``document`` has searched the whole text. Only escapes can hide characters from that.
    if event.style == '"' and not (text.isprintable() and (text.isascii() or deceptive(text) is None)):
        raise Unusual
    return intern(text) if len(text) <= _MAX_INTERNED_LENGTH else text
