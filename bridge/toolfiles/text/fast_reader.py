"""The value of a YAML text in which nothing is unusual, as nearly all are; places are not looked for.

Nothing is found fault with here: what is not surely right is left to ``document``, which tells why.
"""

import math
import re
from collections.abc import Callable
from sys import intern
from typing import Any, Final

from ruamel.yaml.events import (
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

_DEEPEST: Final = 20
_BEGINNING: Final = frozenset({MappingStartEvent, ScalarEvent, SequenceStartEvent})
_NO_KEYS: Final = frozenset({"", "<<"})
_SHORT: Final = 64
"""Characters of a text of which others are likely to be equal: those are held once."""
_WORDS: Final[dict[str, Json]] = {"": None, "null": None, "true": True, "false": False}
_NUMERIC: Final = frozenset("+-.0123456789")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?\Z")
_NOT_A_NUMBER: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")


class Unusual(Exception):
    """Something that has to be looked at closely."""


def plain(text: str) -> Json:
    """What an unquoted text means: JSON's words and numbers, else itself; raises ``NotJson``."""
    if text in _WORDS:
        return _WORDS[text]
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
    """The one mapping of a text, from a parser's events; raises ``Unusual``, and what the parser does."""
    next_event(), next_event()  # the stream begins, and the document
    value = _value(next_event(), next_event, 0)
    ends = type(next_event()), type(next_event())
    if not isinstance(value, dict) or ends != (DocumentEndEvent, StreamEndEvent):
        raise Unusual
    return value


def _value(event: Any, next_event: Callable[[], Any], depth: int) -> Json:
    kind = type(event)
    if kind not in _BEGINNING or event.anchor is not None or event.ctag is not None or depth > _DEEPEST:
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
        is_odd = event.anchor is not None or event.ctag is not None or (not event.style and key in _NO_KEYS)
        if is_odd or key in members or (in_flow and value is None):
            raise Unusual
        members[key] = value
    if type(event) is not MappingEndEvent:
        raise Unusual
    return members


def _text(event: Any) -> str:
    text: str = event.value
    if event.style == '"' and not (text.isprintable() and (text.isascii() or deceptive(text) is None)):
        raise Unusual
    return intern(text) if len(text) <= _SHORT else text
