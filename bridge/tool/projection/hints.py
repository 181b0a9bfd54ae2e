"""Messages for syntax errors in JMESPath expressions: what was probably meant."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

Token = Mapping[str, Any]
"""A token of the library's lexer: ``type``, ``value``, and ``start``, an offset into the expression."""

OPENING: Final = frozenset({"lparen", "lbracket", "lbrace", "filter"})
CLOSING: Final = frozenset({"rparen", "rbracket", "rbrace"})
_PARTNERS: Final = {"(": ")", "[": "]", "[?": "]", "{": "}"}
_ENDS: Final = frozenset({"quoted_identifier", "unquoted_identifier", "literal", "number", "current", "star"})
"""Types of tokens that may end an expression, in addition to ``CLOSING``."""

_HYPHENATED: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:-[A-Za-z0-9_]+)+")
_NUMBER: Final = re.compile(r"-?[0-9]+")
_WORD: Final = re.compile(r"-?[0-9]+|\w+|\S")
_INCOMPLETE: Final = "the expression is incomplete; complete it"
_WORD_HINTS: Final[Mapping[str, str]] = {
    "=": "found =, expected ==; write == to compare",
    "$": "found $, the root of JSONPath; start with the first key",
    "&": "& is valid only in parameters of functions like sort_by(); remove it, or write && for and",
    "and": "and is a key here; write &&",
    "or": "or is a key here; write ||",
    **dict.fromkeys("+-/%", "JMESPath has no arithmetic; remove {0}"),
    **dict.fromkeys("\u2018\u2019\u201a\u201c\u201d\u201e", "{0} is not a quote in JMESPath; put texts in '"),
}


def explain(expression: str, offset: int, tokens: Sequence[Token]) -> tuple[str, int]:
    """The message for a syntax error at ``offset``, and a better offset; ``tokens`` are all that the lexer could read."""
    for token, after in pairwise(tokens):
        if (token["type"], after["type"]) == ("quoted_identifier", "lparen"):
            return f"found a function name in quotes; write {token['value']}()", token["start"]
    # Blanks are never wrong: the error is about what follows them.
    remaining = expression[offset:].lstrip()
    offset = len(expression) - len(remaining)
    before = [token for token in tokens if token["start"] < offset]
    # The lexer stops at the hyphen of foo-bar, inside the word.
    hyphenated = (word for word in _HYPHENATED.finditer(expression) if word.start() <= offset < word.end())
    if word := next(hyphenated, None):
        return f'{word[0]} contains a hyphen and needs quotes; write "{word[0]}"', word.start()
    if not remaining:
        return _at_end(expression, before)
    if remaining[0] in ",)]}":
        return _at_separator(remaining[0], offset, before)
    if all(token["start"] != offset for token in tokens) and remaining[0] in "\"'`":
        return f"{remaining[0]} is never closed; close it", offset
    return _misplaced(_WORD.findall(remaining)[0], before), offset


def _misplaced(word: str, before: Sequence[Token]) -> str:
    if _NUMBER.fullmatch(word):
        return _number(word, before)
    if word == "." and not _may_end(before):
        return "found a dot, expected a key before it; remove the dot"
    return _WORD_HINTS.get(word, "{0} is not valid here; see https://jmespath.org").format(word)


def _number(number: str, before: Sequence[Token]) -> str:
    last = [token["type"] for token in before[-2:]]
    if last[-1:] == ["dot"]:
        return f"found a dot before an index; write [{number}]"
    if last == ["lbracket", "number"]:
        return "found two numbers, expected a slice with a colon; write it as in [0:5]"
    return f"found a number without backticks; write `{number}`"


def _at_end(expression: str, before: Sequence[Token]) -> tuple[str, int]:
    if not before:
        return "the expression is empty; write one, or remove the key", 0
    opened = _opened(before)
    if opened and _may_end(before):
        return f"{opened['value']} is never closed; write {_PARTNERS[opened['value']]}", opened["start"]
    return _INCOMPLETE, len(expression)


def _at_separator(sign: str, offset: int, before: Sequence[Token]) -> tuple[str, int]:
    """The message for an unexpected comma or closing bracket."""
    opened = _opened(before)
    kinds = [token["type"] for token in before[-2:]]
    if opened is None:
        return f"{sign} is outside any brackets; remove it", offset
    if opened["value"] == "{" and kinds in (
        ["lbrace", "unquoted_identifier"],
        ["comma", "unquoted_identifier"],
    ):
        name = before[-1]["value"]
        return f"found a value without a name in an object; write {name}: {name}", offset
    if kinds[-1:] == ["comma"]:
        return "found an extra comma; remove it", before[-1]["start"]
    if sign not in (_PARTNERS[opened["value"]], ","):
        return f"{opened['value']} cannot be closed by {sign}; write {_PARTNERS[opened['value']]}", offset
    return f"something is missing before {sign}; complete it", offset


def _opened(before: Sequence[Token]) -> Token | None:
    """The innermost bracket that is still open."""
    opened: list[Token] = []
    for token in before:
        if token["type"] in OPENING:
            opened.append(token)
        elif token["type"] in CLOSING and opened:
            opened.pop()
    return opened[-1] if opened else None


def _may_end(before: Sequence[Token]) -> bool:
    return bool(before) and before[-1]["type"] in _ENDS | CLOSING | {"flatten"}
