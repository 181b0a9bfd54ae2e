r"""Escapes in encoded text: how they are found and decoded, and which bytes a part of the decoded text came from.

Three *encodings* are known. An *escape* is a place where one of them writes a character:

| Encoding | Escapes of ``A`` |
|---|---|
| percent-encoding (RFC 3986) | ``%41`` |
| strings of JSON (RFC 8259) | ``\u0041``; some characters have a short escape, such as ``\n`` |
| HTML | ``&#65;``, ``&#x41;``; some characters have a name, such as ``&amp;`` |
"""

import json
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import unescape
from string import ascii_letters, digits
from typing import Final, NamedTuple, TypeAlias

Span: TypeAlias = tuple[int, int]
"""A start, and an end that is not included."""


class Encoding(NamedTuple):
    """``escape`` matches one escape, of which ``first`` is the first byte."""

    first: bytes
    escape: re.Pattern[bytes]


_PERCENT: Final = Encoding(b"%", re.compile(rb"%[0-9A-Fa-f]{2}"))
_JSON: Final = Encoding(
    b"\\",
    re.compile(
        # A surrogate pair is one escape, as its halves are no characters.
        rb"\\(?:u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|[/\"\\bfnrt])"
    ),
)
_HTML: Final = Encoding(
    b"&",
    re.compile(
        rb"&(?:\#[0-9]++;?|\#[xX][0-9A-Fa-f]++;?|[A-Za-z][A-Za-z0-9]{1,31};|[A-Za-z][A-Za-z0-9]{1,5})"
    ),
)
"""As in ``html.unescape``. The names that need no semicolon have up to six characters."""
ENCODINGS: Final = (_PERCENT, _JSON, _HTML)
ESCAPE_BYTES: Final = frozenset(b"%\\&#;" + ascii_letters.encode() + digits.encode())
"""Every byte that an escape may contain, also if it is itself encoded: ``%5Cu0073`` is an s."""
_NUMERIC_ENTITY: Final = re.compile(rb"&\#([xX]?)0*+([0-9A-Fa-f]{0,8})")  # more digits are beyond Unicode


def meaning(escape: bytes) -> bytes:
    """What an escape stands for, in UTF-8. An unknown entity stands for itself."""
    if escape.startswith(_PERCENT.first):
        return bytes([int(escape[1:], 16)])
    if escape.startswith(_JSON.first):
        character: str = json.loads(b'"%s"' % escape)
        return character.encode(errors="surrogatepass")
    if number := _NUMERIC_ENTITY.match(escape):  # without leading zeros: int() refuses too many digits
        escape = b"&#%s%s;" % (number[1], number[2] or b"0")
    return unescape(escape.decode()).encode()


@dataclass(frozen=True)
class Text:
    """A text that was not decoded."""

    text: bytes

    def windows(self, length: int) -> Iterator[Span]:  # noqa: ARG002 - the subclass needs it
        """Where to search for a string of this length."""
        yield 0, len(self.text)

    def origin(self, span: Span) -> Span:
        """The span of the text before any decoding that gave this span."""
        return span


@dataclass(frozen=True)
class DecodedText(Text):
    """The ``text`` that ``encoded`` gives if each escape in ``meanings`` is replaced by its meaning."""

    encoded: Text
    escape: re.Pattern[bytes]
    meanings: Mapping[bytes, bytes]

    @cached_property
    def _positions(self) -> "tuple[array[int], array[int], array[int]]":
        """For each replaced escape: start and end of its meaning in ``text``, and its end in ``encoded``.

        For example, ``ab%41c`` is decoded to ``abAc``, with 2, 3 and 5. There may be a million escapes, so the numbers
        are kept in arrays.
        """
        starts, ends, encoded_ends = array("Q"), array("Q"), array("Q")
        removed = 0  # bytes before this escape that decoding has saved
        for match in self.escape.finditer(self.encoded.text):
            text = self.meanings.get(match[0])
            if text is not None:
                starts.append(match.start() - removed)
                ends.append(starts[-1] + len(text))
                encoded_ends.append(match.end())
                removed = encoded_ends[-1] - ends[-1]
        return starts, ends, encoded_ends

    def windows(self, length: int) -> Iterator[Span]:
        """Only around decoded characters. The rest is also in ``encoded``, which is searched on its own."""
        starts, ends, _ = self._positions
        low = high = 0
        for start, end in zip(starts, ends, strict=True):
            if start - length > high:
                yield low, high
                low = start - length
            high = end + length
        yield low, high

    def origin(self, span: Span) -> Span:
        return self.encoded.origin((self._encoded_span(span[0])[0], self._encoded_span(span[1] - 1)[1]))

    def _encoded_span(self, position: int) -> Span:
        """The span of ``encoded`` that gave the byte at ``position``: a whole escape, or one byte."""
        starts, ends, encoded_ends = self._positions
        index = bisect_right(starts, position) - 1  # of the last escape that starts here or before
        if index < 0:
            return position, position + 1
        if position < ends[index]:
            # The bytes between the previous escape and this one are as many in both texts.
            previous_end, previous_encoded_end = (
                (ends[index - 1], encoded_ends[index - 1]) if index else (0, 0)
            )
            return previous_encoded_end + starts[index] - previous_end, encoded_ends[index]
        start = encoded_ends[index] + position - ends[index]
        return start, start + 1


def decode(encoded: Text, encoding: Encoding, meanings: Mapping[bytes, bytes]) -> DecodedText:
    """``encoded`` with the escapes in ``meanings`` replaced.

    Not with ``re.sub``: it joins all parts in one step, which could hold the GIL too long.
    """
    decoded = bytearray()
    end = 0
    for match in encoding.escape.finditer(encoded.text):
        text = meanings.get(match[0])
        if text is not None:
            decoded += encoded.text[end : match.start()]
            decoded += text
            end = match.end()
    return DecodedText(bytes(decoded + encoded.text[end:]), encoded, encoding.escape, meanings)
