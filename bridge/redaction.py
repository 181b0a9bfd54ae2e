r"""Secrets in what an API answers: found in every form that is covered, and replaced.

Forms: as it is; any character percent-encoded (RFC 3986, forms' ``+``), as ``\uXXXX`` or another escape of JSON, or as
an HTML entity, up to ``_LAYERS`` of these one in another; base64 and base64url, wherever the secret begins within a
group of three bytes; hexadecimal in one case.

All work is on bytes of UTF-8. A reply that holds no form, as nearly all do, costs one search for each needle. Only where
a character of an encoding is met is a view made in which encodings are undone, with the way back to the bytes.
"""

import json
import re
from array import array
from base64 import b64decode, b64encode
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from functools import cached_property, lru_cache, reduce
from html import unescape
from itertools import pairwise
from operator import itemgetter
from string import ascii_letters, digits
from typing import Final, NamedTuple, Self, TypeAlias

_SHORTEST: Final = 8
"""Secrets below this many characters are not redacted: they would blot out ordinary text."""
_MARK: Final = b"[redacted]"
_LAYERS: Final = 3
_QUICK_BYTES: Final = 16 * 1024
_QUICK_CODES: Final = 4000
_CHUNK: Final = 64 * 1024
_LONGEST_CODE: Final = 35
_CODES_A_LOOK: Final = 1000
_FEW_CODES: Final = 20
"""Different encodings up to which it is faster to look for each of them."""
_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_CODE: Final = re.compile(
    rb"%[0-9A-Fa-f]{2}"
    rb"|\\(?:u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|[/\"\\])"
    rb"|&(?:\#[0-9]{1,30}|\#[xX][0-9A-Fa-f]{1,29}|[A-Za-z][A-Za-z0-9]{1,31});"
)
_CODE_BEGINS: Final = (b"%", b"\\", b"&")
_CODE_CHARACTERS: Final = frozenset(b"%\\&#;" + ascii_letters.encode() + digits.encode())
"""What encodings are made of, so that an encoding of one of these may matter: ``%5Cu0073`` is an s."""
_EVERY_BYTE: Final = frozenset(range(256))
_BEYOND_ESCAPES: Final = frozenset(range(0xF0, 0xF5))
"""First bytes of characters that JSON escapes as a surrogate pair (RFC 8259, 7)."""
_HALF: Final = 5
"""Characters of one half of a pair, without its backslash."""
_ONE, _TWO, _FIVE = (itemgetter(slice(length)) for length in (1, 2, 5))
_JSON_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|-?[0-9][0-9.eE+-]*+', re.DOTALL)
_COLON: Final = re.compile(rb"\s*+:")

_Span: TypeAlias = tuple[int, int]


class _Needle(NamedTuple):
    """``is_number``: found only where no other digit stands before or behind it."""

    text: bytes
    is_number: bool = False


class _View(NamedTuple):
    """Bytes with encodings undone, and where each of these stands: in the view, and where it ends in the original.

    A reply may hold a million of them, so these are arrays of plain numbers.
    """

    text: bytes
    starts: "array[int]"
    ends: "array[int]"
    origin_ends: "array[int]"

    def origin(self, span: _Span) -> _Span:
        """The bytes that a part of the view was made of."""
        first, last = self._before(span[0]), self._before(span[1] - 1)
        return self._at(span[0], first)[0], self._at(span[1] - 1, last)[1]

    def _before(self, position: int) -> int:
        return bisect_right(self.starts, position) - 1

    def _at(self, position: int, code: int) -> _Span:
        if code < 0:
            return position, position + 1
        if position < self.ends[code]:
            plain = self.starts[code] - (self.ends[code - 1] if code else 0)
            return (self.origin_ends[code - 1] if code else 0) + plain, self.origin_ends[code]
        there = self.origin_ends[code] + position - self.ends[code]
        return there, there + 1


class _Keys:
    """What the keys of one JSON text become: where two would become equal, ``KEY 2``, ``KEY 3`` and so on."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._new: dict[str, str] = {}
        self._numbers: dict[str, int] = {}

    @cached_property
    def _taken(self) -> set[str]:
        """All keys of the text; looked for once, and only if a key is renamed."""
        return {
            json.loads(token[0], strict=False)
            for token in _JSON_TOKEN.finditer(self._content)
            if token[0].startswith(b'"') and _COLON.match(self._content, token.end())
        }

    def renamed(self, key: str, redacted: str) -> str:
        if key not in self._new:
            new, number = redacted, self._numbers.get(redacted, 1)
            while new in self._taken:
                number += 1
                new = f"{redacted} {number}"
            self._numbers[redacted] = number
            self._taken.add(new)
            self._new[key] = new
        return self._new[key]


class Redactor:
    """Finds the forms of some secrets; false if there is none that is long enough."""

    def __init__(self, secrets: Iterable[str]) -> None:
        long_enough = [secret for secret in dict.fromkeys(secrets) if len(secret) >= _SHORTEST]
        self._needles = tuple(dict.fromkeys(needle for secret in long_enough for needle in _needles(secret)))
        self._alphabet = frozenset[int]().union(*(needle.text for needle in self._needles))
        self.look: Callable[[], None] = _go_on

    def __bool__(self) -> bool:
        return bool(self._needles)

    def watched(self, look: Callable[[], None]) -> Self:
        """One that calls ``look`` every few milliseconds of its work; what this raises ends the work."""
        one = copy(self)
        one.look = look
        return one

    def finds(self, content: bytes) -> bool:
        """Whether any form of a secret is in it."""
        for _ in range(_LAYERS):
            if any(self._occurrences(content)):
                return True
            codes = self._codes(content)
            if not codes:
                return False
            content = self._undone(content, codes)
        return any(self._occurrences(content))

    def is_quick(self, content: bytes) -> bool:
        """Whether ``finds`` takes no more than some milliseconds, however the content was chosen."""
        return (
            len(content) <= _QUICK_BYTES
            or sum(content.count(begin) for begin in _CODE_BEGINS if begin in content) <= _QUICK_CODES
        )

    def text(self, text: str) -> str:
        """A text with ``[redacted]`` in place of each secret."""
        content = text.encode(errors="replace")
        redacted = self.text_bytes(content)
        return text if redacted is content else redacted.decode()

    def text_bytes(self, content: bytes) -> bytes:
        """The same of a text in UTF-8; the very bytes where nothing is found."""
        return _replaced(content, [(span, _MARK) for span in self._spans(content)])

    def binary(self, content: bytes) -> bytes:
        """Bytes with ``*`` in place of each byte of a secret, so that what they are keeps its form."""
        return _replaced(content, [(span, b"*" * (span[1] - span[0])) for span in self._spans(content)])

    def base64(self, text: str) -> str:
        """A text that is base64 as a whole, with the bytes that it stands for redacted; any other as it is."""
        try:
            content = b64decode(text, validate=True)
        except ValueError:
            return text
        redacted = self.binary(content)
        return text if redacted is content else b64encode(redacted).decode()

    def json(self, content: bytes, *, keeps_base64: bool = False) -> bytes:
        """A valid JSON text in UTF-8 with its texts and keys redacted; the very bytes where nothing is found.

        A number that is written as a secret is becomes the text ``[redacted]``; within a longer one nothing is looked
        for. Keys that would become equal are numbered. ``keeps_base64``: a text that is base64 as a whole stays base64,
        and what it stands for is redacted as bytes.
        """
        spans = self._spans(content)
        if not spans:
            return content
        ends = [end for _, end in spans]
        keys = _Keys(content)
        replacements: list[tuple[_Span, bytes]] = []
        for token in _JSON_TOKEN.finditer(content):
            index = bisect_right(ends, token.start())
            if index == len(spans) or spans[index][0] >= token.end():
                continue
            self.look()
            if content[token.start()] != ord('"'):
                digits = token.end() - len(token[0].lstrip(b"-"))
                if spans[index][0] <= digits and spans[index][1] == token.end():
                    replacements.append((token.span(), b'"%s"' % _MARK))
                continue
            written: str = json.loads(token[0], strict=False)
            redacted = self._json_text(written, keeps_base64=keeps_base64)
            if redacted == written:
                continue
            if _COLON.match(content, token.end()):
                redacted = keys.renamed(written, redacted)
            replacements.append((token.span(), json.dumps(redacted).encode()))
        return _replaced(content, replacements)

    def _json_text(self, text: str, *, keeps_base64: bool) -> str:
        if keeps_base64:
            text = self.base64(text)
        return self.text(text)

    def _spans(self, content: bytes) -> list[_Span]:
        """Where forms stand, in order and apart from each other."""
        found = list(self._occurrences(content))
        views: list[_View] = []
        text = content
        for _ in range(_LAYERS):
            view = self._view(text)
            if view is None:
                break
            views.append(view)
            text = view.text
            found += (
                reduce(lambda span, layer: layer.origin(span), reversed(views), span)
                for span in self._occurrences(text)
            )
        return _merged(found)

    def _occurrences(self, content: bytes) -> Iterator[_Span]:
        for needle, is_number in [needle for needle in self._needles if needle.text in content]:
            start = content.find(needle)
            while start >= 0:
                end = start + len(needle)
                around = content[start - 1 : start] + content[end : end + 1]
                if not (is_number and any(byte in b"0123456789" for byte in around)):
                    yield start, end
                start = content.find(needle, end)

    def _codes(self, content: bytes) -> dict[bytes, bytes]:
        """The encodings in it that could be part of a secret, and what they stand for."""
        found: set[bytes] = set()
        for start in range(
            0, len(content), _CHUNK
        ):  # each step of a chunk ends soon, and lets other threads run
            self.look()
            found.update(self._code_candidates(content[start : start + _CHUNK + _LONGEST_CODE]))
        if not found:
            return {}
        if not ({ord('"'), ord("\\")} & self._alphabet or b"\\\\u" in content or b"\\\\/" in content):
            found.discard(b"\\\\")  # as in the paths of Windows, where no escape comes of it
        alphabet = self._alphabet | _CODE_CHARACTERS
        if any(is_number and needle in content for needle, is_number in self._needles):
            alphabet = _EVERY_BYTE  # in %2012345678 a blank stands before the number, no digit
        codes = {code: _decoded(code) for code in found if _CODE.fullmatch(code)}
        return {code: text for code, text in codes.items() if alphabet.issuperset(text)}

    def _code_candidates(self, content: bytes) -> Iterator[bytes]:
        if b"%" in content:
            yield from (b"%" + code for code in set(map(_TWO, content.split(b"%")[1:])))
        if b"&" in content and b";" in content:
            yield from {b"&" + rest[: rest.find(b";", 0, 33) + 1] for rest in content.split(b"&")[1:]}
        if b"\\" in content:
            yield from (b"\\" + escape for escape in self._escapes(content.split(b"\\")[1:]))

    def _escapes(self, rests: list[bytes]) -> Iterator[bytes]:
        """What may be escapes of JSON: of what stands after each backslash, as much as could belong to it."""
        begins = set(map(_ONE, rests))
        yield from begins
        if b"" in begins:  # the first of two backslashes
            yield b"\\"
        if b"u" in begins:
            yield from set(map(_FIVE, rests))
            if not self._alphabet.isdisjoint(_BEYOND_ESCAPES):
                yield from {
                    b"%s\\%s" % (high, low[:5]) for high, low in pairwise(rests) if len(high) == _HALF
                }

    def _undone(self, content: bytes, codes: Mapping[bytes, bytes]) -> bytes:
        """The content with each of these encodings undone once."""

        def undone(match: re.Match[bytes]) -> bytes:
            self.look()
            return codes.get(match[0], match[0])

        last = [code for code, text in codes.items() if not _CODE_CHARACTERS.isdisjoint(text)]
        if len(codes) > _FEW_CODES or len(last) > 1 or b"\\\\" in content:
            return _CODE.sub(undone, content)
        # What gives a character that another encoding could hold comes last, so that none is undone twice.
        for code in sorted(codes, key=last.__contains__):
            content = content.replace(code, codes[code])
        return content

    def _view(self, content: bytes) -> _View | None:
        """What it is with each encoding undone that could be part of a secret; None where there is none."""
        codes = self._codes(content)
        if not codes:
            return None
        written = bytearray()
        view = _View(b"", array("Q"), array("Q"), array("Q"))
        end = 0
        for match in _CODE.finditer(content):
            text = codes.get(match[0])
            if text is None:
                continue
            written += content[end : match.start()]
            view.starts.append(len(written))
            written += text
            view.ends.append(len(written))
            end = match.end()
            view.origin_ends.append(end)
            if not len(view.ends) % _CODES_A_LOOK:
                self.look()
        written += content[end:]
        return view._replace(text=bytes(written))


def _go_on() -> None:
    pass


NO_SECRETS: Final = Redactor(())


def _needles(secret: str) -> Iterator[_Needle]:
    """What is searched for: a secret as it is and as forms write it, in hexadecimal and inside base64."""
    data = secret.encode(errors="surrogateescape")  # of a variable that is not UTF-8
    yield _Needle(data, bool(_NUMBER.fullmatch(secret)))
    if " " in secret:
        yield _Needle(data.replace(b" ", b"+"))
    yield from (_Needle(data.hex().encode()), _Needle(data.hex().upper().encode()))
    for before in range(3):  # where it begins within a group of three bytes
        whole = b64encode(bytes(before) + data)
        sure = whole[(0, 2, 3)[before] : (before + len(data)) * 8 // 6]
        yield from (_Needle(sure), _Needle(sure.replace(b"+", b"-").replace(b"/", b"_")))


@lru_cache(maxsize=4096)
def _decoded(code: bytes) -> bytes:
    if code.startswith(b"%"):
        return bytes([int(code[1:], 16)])
    if code.startswith(b"&"):
        return unescape(code.decode()).encode()
    text: str = json.loads(b'"%s"' % code)
    return text.encode(errors="replace")


def _merged(spans: list[_Span]) -> list[_Span]:
    merged: list[_Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _replaced(content: bytes, replacements: list[tuple[_Span, bytes]]) -> bytes:
    if not replacements:
        return content
    pieces: list[bytes] = []
    end = 0
    for span, text in replacements:
        pieces += (content[end : span[0]], text)
        end = span[1]
    return b"".join([*pieces, content[end:]])
