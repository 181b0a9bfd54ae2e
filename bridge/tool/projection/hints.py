"""What is usually meant where a JMESPath expression breaks its grammar."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

Token = Mapping[str, Any]
"""Of the library's lexer: ``type``, ``value``, and ``start`` as an offset into the expression."""

OPENING: Final = frozenset({"lparen", "lbracket", "lbrace", "filter"})
CLOSING: Final = frozenset({"rparen", "rbracket", "rbrace"})
_PARTNERS: Final = {"(": ")", "[": "]", "[?": "]", "{": "}"}
_ENDS: Final = frozenset({"quoted_identifier", "unquoted_identifier", "literal", "number", "current", "star"})
"""Tokens after which an expression may end, besides what closes something."""

_HYPHENATED: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:-[A-Za-z0-9_]+)+")
_NUMBER: Final = re.compile(r"-?[0-9]+")
_WORD: Final = re.compile(r"-?[0-9]+|\w+|\S")
_EARLY: Final = "the expression ends too early; complete it"
_WORDS: Final[Mapping[str, str]] = {
    "=": "a single = compares nothing; write ==",
    "$": "$ is JSONPath's root; begin with the first key",
    "&": "& makes an expression for sort_by(), map() and the like alone; take it out, or write && for and",
    "and": "and is a key here; write &&",
    "or": "or is a key here; write ||",
    **dict.fromkeys("+-/%", "JMESPath does no arithmetic; take {0} out"),
    **dict.fromkeys("\u2018\u2019\u201a\u201c\u201d\u201e", "{0} is no quote here; write ' around a text"),
}


def explain(expression: str, offset: int, tokens: Sequence[Token]) -> tuple[str, int]:
    """What was found and what to write, and the offset of that; ``tokens`` are those that could be read."""
    for token, after in pairwise(tokens):
        if (token["type"], after["type"]) == ("quoted_identifier", "lparen"):
            return f"a function has no quotes; write {token['value']}()", token["start"]
    rest = expression[offset:].lstrip()
    offset = len(expression) - len(rest)
    before = [token for token in tokens if token["start"] < offset]
    hyphenated = (word for word in _HYPHENATED.finditer(expression) if word.start() <= offset < word.end())
    if word := next(hyphenated, None):
        return f'{word[0]} holds a hyphen, so it is quoted; write "{word[0]}"', word.start()
    if not rest:
        return _ended(expression, before)
    if rest[0] in ",)]}":
        return _closed(rest[0], offset, before)
    if all(token["start"] != offset for token in tokens) and rest[0] in "\"'`":
        return f"{rest[0]} is never closed; close it", offset
    return _misplaced(_WORD.findall(rest)[0], before), offset


def _misplaced(word: str, before: Sequence[Token]) -> str:
    if _NUMBER.fullmatch(word):
        return _number(word, before)
    if word == "." and not _may_end(before):
        return "a path begins with a key; take the dot out"
    return _WORDS.get(word, "{0} cannot stand here; see https://jmespath.org").format(word)


def _number(number: str, before: Sequence[Token]) -> str:
    last = [token["type"] for token in before[-2:]]
    if last[-1:] == ["dot"]:
        return f"an entry of a list is written without a dot; write [{number}]"
    if last == ["lbracket", "number"]:
        return "a slice is written with a colon, as in [0:5]; write it so"
    return f"a number stands between backticks; write `{number}`"


def _ended(expression: str, before: Sequence[Token]) -> tuple[str, int]:
    if not before:
        return "the expression is empty; write one, or take the key out", 0
    opened = _opened(before)
    if opened and _may_end(before):
        return f"{opened['value']} is never closed; write {_PARTNERS[opened['value']]}", opened["start"]
    return _EARLY, len(expression)


def _closed(sign: str, offset: int, before: Sequence[Token]) -> tuple[str, int]:
    """What is wrong at a comma or a closing bracket."""
    opened = _opened(before)
    kinds = [token["type"] for token in before[-2:]]
    if opened is None:
        return f"{sign} stands in no brackets; take it out", offset
    if opened["value"] == "{" and kinds in (
        ["lbrace", "unquoted_identifier"],
        ["comma", "unquoted_identifier"],
    ):
        name = before[-1]["value"]
        return f"an object names its values; write {name}: {name}", offset
    if kinds[-1:] == ["comma"]:
        return "a comma too many; take it out", before[-1]["start"]
    if sign not in (_PARTNERS[opened["value"]], ","):
        return f"{opened['value']} is not closed by {sign}; write {_PARTNERS[opened['value']]}", offset
    return f"something is missing before {sign}; complete it", offset


def _opened(before: Sequence[Token]) -> Token | None:
    """The innermost bracket that is not closed."""
    opened: list[Token] = []
    for token in before:
        if token["type"] in OPENING:
            opened.append(token)
        elif token["type"] in CLOSING and opened:
            opened.pop()
    return opened[-1] if opened else None


def _may_end(before: Sequence[Token]) -> bool:
    return bool(before) and before[-1]["type"] in _ENDS | CLOSING | {"flatten"}
