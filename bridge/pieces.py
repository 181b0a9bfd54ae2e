"""Decoding of large JSON in pieces, because a decoder in C holds the GIL until it is done.

A piece is a sequence of members of one array or object, up to a comma. Other threads can run between two pieces.
This module only finds the ends of pieces; ``decode`` decodes them.

A wrong end cannot give a wrong value: each byte belongs to a piece or is between two pieces, both are checked, and
each piece must be valid JSON by itself.
"""

import re
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeAlias

Json: TypeAlias = Any

_PIECE_BYTES: Final = 64 * 1024
"""A piece is at most twice as large, unless one string or number is larger."""
# Possessive quantifiers never go back, so hostile content takes linear time. The bounds keep a token smaller than a
# piece. What turns out not to be flat is matched again as parts, so its bounds also keep this work small.
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_FLAT: Final = rb'[\[{](?:[^\[\]{}"]{1,64}+|%s){0,32}+[\]}]' % _STRING
"""A small array or object without arrays and objects inside."""
_PARTS: Final = rb'(?:[^\[\]{}",]++|%s|%s){0,8}+' % (_STRING, _FLAT)
"""The parts of a member, except for larger arrays and objects."""
_TOKEN: Final = re.compile(
    rb"(?P<members>(?:%s,){1,16}+)?+%s(?P<bracket>[\[\]{}])?+" % (_PARTS, _PARTS), re.DOTALL
)
_OPENING: Final = re.compile(rb"%s|(?P<bracket>[\[{])" % _STRING, re.DOTALL)
_BLANKS: Final = b" \t\r\n"
_BLANK: Final = re.compile(rb"[%s]*+" % _BLANKS)
_CLOSING: Final = {b"[": b"]", b"{": b"}"}


class InvalidJson(ValueError):
    """The content is not JSON; the error is at the byte ``position``."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class TooDeep(ValueError):
    """Arrays and objects are nested deeper than allowed."""


class DuplicateKey(ValueError):
    """An object has a key twice; the first argument is the key."""


class _Container:
    """An array or object whose end is not found yet."""

    __slots__ = ("bracket", "is_complete", "member", "piece", "start", "value")

    def __init__(self, bracket: bytes, start: int) -> None:
        self.bracket = bracket
        self.start = start
        self.piece = self.member = start + 1
        """Where the part that is not decoded yet starts, and where its last member starts."""
        self.value: Json = None
        """The members decoded so far."""
        self.is_complete = False
        """Whether the closing bracket comes next."""

    def add(self, members: Json) -> None:
        """Add members (a list or a dict) to ``value``."""
        if self.value is None:
            self.value = members
        elif isinstance(members, list):
            self.value += members
        elif duplicates := self.value.keys() & members.keys():  # within one piece ``decode`` finds them
            raise DuplicateKey(min(duplicates))
        else:
            self.value |= members


class PieceDecoder:
    """Decodes ``content``: one array or object in UTF-8.

    ``decode`` gets an array or object built from members of ``content``, and their position there in bytes.
    """

    def __init__(
        self,
        content: bytes,
        decode: Callable[[bytes, int], Json],
        max_depth: int,
        *,
        piece_bytes: int = _PIECE_BYTES,
    ) -> None:
        self._content = content
        self._decode = decode
        self._max_depth = max_depth
        self._piece_bytes = piece_bytes
        self._open: list[_Container] = []

    def decode(self) -> Json:
        """Raises ``InvalidJson``, ``TooDeep``, ``DuplicateKey``, and what ``decode`` raises."""
        start = self._after_blanks(0)
        self._open.append(_Container(self._content[start : start + 1], start))
        position = start + 1
        root: _Container | None = None
        while root is None:
            token = _TOKEN.match(self._content, position)
            assert token  # each part of it is optional
            if token.end() == position:  # an unclosed string, or the end
                self._report_end(position)
            position = token.end()
            if token["members"]:
                self._end_members(token.end("members"))
            self._check_depth(token)  # before the bracket is opened, as the token holds it
            bracket = token["bracket"]
            if bracket in _CLOSING:
                self._open.append(_Container(bracket, position - 1))
            elif bracket:
                root = self._close(bracket, position - 1)
        end = self._after_blanks(position)
        if end < len(self._content):
            raise InvalidJson(end)
        return root.value

    def _report_end(self, position: int) -> NoReturn:
        """Raise for the first error of content that ends, or has an unclosed string, at ``position``.

        The last comma is not decoded: before a closing bracket it would be an error of its own (Python 3.13).
        """
        container = self._open[-1]
        if container.member > container.piece:
            self._decode_up_to(container.member - 1, container)
            container.piece = container.member
        self._decode_up_to(position, container)
        raise InvalidJson(position)

    def _check_depth(self, token: re.Match[bytes]) -> None:
        """Raise ``TooDeep``. A token may contain arrays and objects, but these contain no others."""
        if len(self._open) < self._max_depth:
            return
        if any(found["bracket"] for found in _OPENING.finditer(token[0])):
            raise TooDeep

    def _end_members(self, end: int) -> None:
        """Members end before ``end``, with a comma; decode them if there are enough for a piece."""
        container = self._open[-1]
        container.member = end
        if end - container.piece > self._piece_bytes:
            self._decode_up_to(end - 1, container)
            container.piece = end

    def _close(self, bracket: bytes, end: int) -> _Container | None:
        """End the innermost container; return it if it is the root."""
        container = self._open.pop()
        if bracket != _CLOSING[container.bracket]:
            raise InvalidJson(end)
        if container.value is None and self._open and end - self._open[-1].piece <= self._piece_bytes:
            return None  # it is small, and will be decoded as part of the outer container
        if container.value is None:
            container.value = self._decode(self._content[container.start : end + 1], container.piece)
        elif not container.is_complete:
            self._decode_up_to(end, container)
        if not self._open:
            return container
        self._add(container, end + 1)
        return None

    def _decode_up_to(self, end: int, container: _Container) -> None:
        members = self._content[container.piece : end]
        if not members.strip(_BLANKS):
            raise InvalidJson(end)
        container.add(
            self._decode(container.bracket + members + _CLOSING[container.bracket], container.piece)
        )

    def _add(self, inner: _Container, end: int) -> None:
        """Add a decoded container to the outer one, after the members before it."""
        outer = self._open[-1]
        if outer.member > outer.piece:
            self._decode_up_to(outer.member - 1, outer)
        name = self._content[outer.member : inner.start]
        if outer.bracket == b"{":
            # The key is decoded with a value in place of the one that is decoded already.
            names = self._decode(b"{" + name + b"[]}", outer.member)
            outer.add(dict.fromkeys(names, inner.value))
        elif name.strip(_BLANKS):
            raise InvalidJson(outer.member)
        else:
            outer.add([inner.value])
        outer.piece = outer.member = self._after_blanks(end)
        next_byte = self._content[outer.piece : outer.piece + 1]
        outer.is_complete = next_byte == _CLOSING[outer.bracket]
        if next_byte == b",":
            outer.piece = outer.member = outer.piece + 1
        elif not outer.is_complete:
            raise InvalidJson(outer.piece)

    def _after_blanks(self, position: int) -> int:
        blanks = _BLANK.match(self._content, position)
        assert blanks
        return blanks.end()
