"""What a regular expression costs for each byte of a text, at most, by its structure.

The library's engine steps through a text once. It remembers sets of places of the pattern where a match may
stand, and sets that it met before cost nearly nothing. In the worst case it meets a new set at every byte and
goes through all places of it. So what counts is how many places can be active at one time:

- A pattern that is not anchored with ^ may begin anywhere, so all its places may be active.
- An anchored part of fixed length is at one place: `^[a-z]{1,63}$` costs as little as `^[a-z]$`.
- After a part of variable length, such as ``a*``, the next part may begin anywhere.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_FEW_PLACES: Final = 8
"""All sets of so few places fit in the engine's memory."""
_LEAST_NS: Final = 10
_PLACE_NS: Final = 30
_NEW_SETS_NS: Final = 300
_MANY_PLACES: Final = 1000
_LARGEST_COUNT: Final = 100_000

_FLAGS: Final = re.compile(r"\(\?[is]+\)")
_GROUP: Final = re.compile(r"\((?:\?(?::|P?<[A-Za-z_][A-Za-z0-9_]*>|[is]+:))?(?!\?)")
_CLASS: Final = re.compile(r"\[\^?(?:\\.|[^\\\[\]&~-]|-(?!-)|&(?!&)|~(?!~))+\]", re.DOTALL)
_ESCAPE: Final = re.compile(
    r"\\(?:[pP](?:\{[^{}]*\}|[A-Za-z])|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|u\{[0-9A-Fa-f]+\}|c[A-Za-z]|[^pPxuckQE0-9])",
    re.DOTALL,
)
_COUNT: Final = re.compile(r"\{(?P<least>[0-9]+)(?P<several>,(?P<most>[0-9]*))?\}")
_WIDTHLESS: Final = frozenset({r"\b", r"\B", r"\A", r"\z"})


class _Unknown(Exception):
    """The syntax is not one that is followed here."""


@dataclass(frozen=True, slots=True)
class _Part:
    """``places``: those in it; ``active``: how many can be at once, if it begins at one place of the text only.

    ``length``: the characters that it takes, None if that varies. ``anchored``: it begins with ^.
    """

    places: int = 0
    active: int = 0
    length: int | None = 0
    anchored: bool = False


_CHARACTER: Final = _Part(1, 1, 1)
_START: Final = _Part(1, 1, 0, anchored=True)


@lru_cache(maxsize=4096)
def nanoseconds_per_byte(pattern: str) -> int | None:
    """None where the structure is not understood: then the compiled size tells."""
    try:
        whole = _Parser(pattern).whole()
    except (_Unknown, RecursionError):
        return None
    if whole.places <= _FEW_PLACES:
        return _LEAST_NS
    active = whole.active if whole.anchored else whole.places
    return _LEAST_NS + _PLACE_NS * active + (_NEW_SETS_NS if whole.places > _MANY_PLACES else 0)


class _Parser:
    """Reads what JSON Schema's patterns have in common with the library's; everything else is ``_Unknown``."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def whole(self) -> _Part:
        self._take(_FLAGS)
        part = self._alternatives()
        if self._at < len(self._pattern):
            raise _Unknown
        return part

    def _take(self, what: re.Pattern[str]) -> re.Match[str] | None:
        match = what.match(self._pattern, self._at)
        if match:
            self._at = match.end()
        return match

    def _next(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _alternatives(self) -> _Part:
        branches = [self._sequence()]
        while self._next() == "|":
            self._at += 1
            branches.append(self._sequence())
        lengths = {branch.length for branch in branches}
        return _Part(
            sum(branch.places for branch in branches) + len(branches) - 1,
            sum(branch.active for branch in branches),
            lengths.pop() if len(lengths) == 1 else None,
            all(branch.anchored for branch in branches),
        )

    def _sequence(self) -> _Part:
        whole = _Part()
        is_first = True
        while self._next() not in ("", "|", ")"):
            part = self._repeated(self._single())
            varies = whole.length is None
            whole = _Part(
                whole.places + part.places,
                whole.active + part.places if varies else max(whole.active, part.active),
                None if whole.length is None or part.length is None else whole.length + part.length,
                part.anchored if is_first else whole.anchored,
            )
            is_first = False
        return whole

    def _single(self) -> _Part:
        sign = self._next()
        if sign == "^":
            self._at += 1
            return _START
        if sign == "$":
            self._at += 1
            return _Part(1, 1, 0)
        if sign == "(":
            if not self._take(_GROUP):
                raise _Unknown
            inside = self._alternatives()
            if self._next() != ")":
                raise _Unknown
            self._at += 1
            return inside
        if sign in "[\\":
            match = self._take(_CLASS if sign == "[" else _ESCAPE)
            if match is None:
                raise _Unknown
            return _Part(1, 1, 0) if match[0] in _WIDTHLESS else _CHARACTER
        if sign in "]{}*+?":
            raise _Unknown
        self._at += 1
        return _CHARACTER

    def _repeated(self, part: _Part) -> _Part:
        sign = self._next()
        least, most = 1, 1
        match sign:
            case "*" | "+" | "?":
                self._at += 1
                least, most = (1 if sign == "+" else 0), (1 if sign == "?" else _LARGEST_COUNT + 1)
            case "{":
                count = self._take(_COUNT)
                if count is None:
                    raise _Unknown
                least = int(count["least"])
                most = int(count["most"] or _LARGEST_COUNT + 1) if count["several"] else least
            case _:
                return part
        if self._next() == "?":
            self._at += 1
        if self._next() in ("*", "+", "?", "{"):
            raise _Unknown
        copies = most if most <= _LARGEST_COUNT else max(least, 1)
        places = part.places * copies
        return _Part(
            places,
            part.active if part.length else places,
            part.length * least if part.length is not None and least == most else None,
            part.anchored and least > 0,
        )


def compiled_size(pattern: str, is_compiled: Callable[[str, int], bool], largest: int) -> int | None:
    """The bytes of a compiled pattern, rounded up by a third at most; None past ``largest``.

    ``is_compiled`` says whether the library compiles a pattern within so many bytes.
    """
    size = 1024
    while not is_compiled(pattern, size):
        size *= 2
        if size > largest:
            return None
    less = size * 3 // 4
    return less if is_compiled(pattern, less) else size
