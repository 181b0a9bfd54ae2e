"""The maximum cost of a regular expression for each byte of text, estimated from its structure.

The validator (jsonschema-rs) matches with Rust's ``regex`` crate. Its engine is a lazy DFA (deterministic finite
automaton): it reads a text once. A state of the DFA is the set of pattern positions where a match may currently be.
Known states are cached and cost nearly nothing. In the worst case every byte leads to a new state, and the engine
visits all its positions. So the cost depends on how many positions can be *active* at the same time:

| Pattern | Positions | Active | Why |
|---|---|---|---|
| ``[ab]{20}`` | 20 | 20 | not anchored with ^, so it can start at every byte |
| ``^[ab]{20}`` | 21 | 1 | anchored and of fixed length: there is one place for each byte |
| ``^a*[ab]{20}`` | 22 | 21 | after a part of variable length, the next part can start anywhere |
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_MAX_CACHED_POSITIONS: Final = 8
"""The engine's cache holds all states of a pattern with at most this many positions."""
_CACHED_NS: Final = 10
_POSITION_NS: Final = 30
"""For each active position of a new state."""
_LARGE_PATTERN_POSITIONS: Final = 1000
_LARGE_PATTERN_NS: Final = 300
"""In addition, for each new state of a pattern with more positions than that."""

_FLAGS: Final = re.compile(r"\(\?[is]+\)")  # at the start: "(?i)abc"
_GROUP: Final = re.compile(r"\((?:\?(?::|P?<[A-Za-z_][A-Za-z0-9_]*>|[is]+:))?(?!\?)")
"""The start of a group; look-around, ``(?=…)``, is not supported."""
_CLASS: Final = re.compile(r"\[\^?(?:\\.|[^\\\[\]&~-]|-(?!-)|&(?!&)|~(?!~))+\]", re.DOTALL)
"""A class such as ``[^a-z]``. Set operations, as in ``[a-z&&[^b]]``, are syntax of the engine only."""
_ESCAPE: Final = re.compile(
    # Not the back-references \1 and \k, which the engine does not support, and not \Q…\E.
    r"\\(?:[pP](?:\{[^{}]*\}|[A-Za-z])|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|u\{[0-9A-Fa-f]+\}|c[A-Za-z]|[^pPxuckQE0-9])",
    re.DOTALL,
)
_QUANTIFIER: Final = re.compile(
    # A lazy quantifier, a*?, costs the same. A second one, a{2}{3}, is not supported.
    r"(?:(?P<sign>[*+?])|\{(?P<min>[0-9]{1,9})(?P<range>,(?P<max>[0-9]{1,9})?)?\})\??(?![*+?{])"
)
_SIGNS: Final = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_ASSERTIONS: Final = frozenset({r"\b", r"\B", r"\A", r"\z"})


class _UnsupportedSyntax(Exception):
    """The pattern uses syntax that this parser does not know."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a pattern. ``length`` is in characters, None if it varies.

    ``active`` is how many of its positions can be active at once if the part starts at a single byte.
    """

    positions: int = 0
    active: int = 0
    length: int | None = 0
    is_anchored: bool = False


_CHARACTER: Final = _Part(positions=1, active=1, length=1)
_ASSERTION: Final = _Part(positions=1, active=1, length=0)
_START: Final = _Part(positions=1, active=1, length=0, is_anchored=True)


@lru_cache(maxsize=4096)
def nanoseconds_per_byte(pattern: str) -> int | None:
    """None if the syntax is not supported; then estimate the cost from ``compiled_size``."""
    try:
        whole = _Parser(pattern).parse()
    except (_UnsupportedSyntax, RecursionError):  # the parser calls itself for each open group
        return None
    if whole.positions <= _MAX_CACHED_POSITIONS:
        return _CACHED_NS
    # Without ^, a match may start at every byte, so all positions may be active.
    active = whole.active if whole.is_anchored else whole.positions
    large_ns = _LARGE_PATTERN_NS if whole.positions > _LARGE_PATTERN_POSITIONS else 0
    return _CACHED_NS + _POSITION_NS * active + large_ns


class _Parser:
    """Parses the syntax that ECMA-262 and the engine share; raises ``_UnsupportedSyntax`` for other syntax."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._position = 0

    def parse(self) -> _Part:
        self._take(_FLAGS)
        part = self._alternatives()
        if self._position < len(self._pattern):
            raise _UnsupportedSyntax
        return part

    def _take(self, token: re.Pattern[str]) -> re.Match[str] | None:
        match = token.match(self._pattern, self._position)
        if match:
            self._position = match.end()
        return match

    def _peek(self) -> str:
        return self._pattern[self._position : self._position + 1]

    def _alternatives(self) -> _Part:
        branches = [self._sequence()]
        while self._peek() == "|":
            self._position += 1
            branches.append(self._sequence())
        lengths = {branch.length for branch in branches}
        return _Part(
            # One more position for each place where the engine chooses a branch.
            sum(branch.positions for branch in branches) + len(branches) - 1,
            sum(branch.active for branch in branches),
            lengths.pop() if len(lengths) == 1 else None,
            all(branch.is_anchored for branch in branches),
        )

    def _sequence(self) -> _Part:
        whole = _Part()
        is_first = True
        while self._peek() not in ("", "|", ")"):
            part = self._repeat(self._atom())
            can_start_anywhere = whole.length is None
            whole = _Part(
                whole.positions + part.positions,
                whole.active + part.positions if can_start_anywhere else max(whole.active, part.active),
                None if whole.length is None or part.length is None else whole.length + part.length,
                part.is_anchored if is_first else whole.is_anchored,
            )
            is_first = False
        return whole

    def _atom(self) -> _Part:
        character = self._peek()
        if character == "(":
            return self._group()
        if character in "[\\":
            match = self._take(_CLASS if character == "[" else _ESCAPE)
            if match is None:
                raise _UnsupportedSyntax
            return _ASSERTION if match[0] in _ASSERTIONS else _CHARACTER
        if character in "]{}*+?":
            raise _UnsupportedSyntax
        self._position += 1
        return {"^": _START, "$": _ASSERTION}.get(character, _CHARACTER)

    def _group(self) -> _Part:
        if not self._take(_GROUP):
            raise _UnsupportedSyntax
        inside = self._alternatives()
        if self._peek() != ")":
            raise _UnsupportedSyntax
        self._position += 1
        return inside

    def _repeat(self, part: _Part) -> _Part:
        """The part with its quantifier, if it has one."""
        quantifier = self._take(_QUANTIFIER)
        if quantifier is None:
            return part
        minimum, maximum = _counts(quantifier)
        # a{2,5} is compiled to five copies of a, and a{2,} to two: the last one repeats itself.
        positions = part.positions * (max(minimum, 1) if maximum is None else maximum)
        return _Part(
            positions,
            # Copies of a fixed length follow each other, so one is active at a time. Otherwise all may be.
            part.active if part.length else positions,
            part.length * minimum if part.length is not None and minimum == maximum else None,
            part.is_anchored and minimum > 0,
        )


def _counts(quantifier: re.Match[str]) -> tuple[int, int | None]:
    """The least and the largest number of repetitions, None without a limit."""
    if quantifier["sign"]:
        return _SIGNS[quantifier["sign"]]
    minimum = int(quantifier["min"])
    if quantifier["range"] is None:
        return minimum, minimum
    return minimum, int(quantifier["max"]) if quantifier["max"] else None


def compiled_size(pattern: str, can_compile: Callable[[str, int], bool], max_size: int) -> int | None:
    """The size of a compiled pattern in bytes, rounded up by a third at most; None above ``max_size``.

    The engine does not tell the size, so it is searched among 768, 1024, 1536, 2048 … ``can_compile`` gets a pattern and
    a limit in bytes for its compiled form.
    """
    size = 1024
    while not can_compile(pattern, size):
        size *= 2
        if size > max_size:
            return None
    smaller = size * 3 // 4
    return smaller if can_compile(pattern, smaller) else size
