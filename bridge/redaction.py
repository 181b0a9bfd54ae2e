r"""Redaction of secrets in replies of an API.

A secret is found in these forms:

| Form | Found by |
|---|---|
| unchanged; a space also as ``+``, as in forms | search for a needle |
| base64, base64url, at any offset within a group of three bytes | search for a needle |
| hexadecimal, all digits in the same case | search for a needle |
| any of its characters as an escape: percent-encoding, JSON, HTML | search in the decoded text |
| escapes within escapes, up to ``_MAX_LAYERS``, and those of a JSON text itself | search in the text decoded again |

A *needle* is a byte string that is searched as it is. All work is on UTF-8 bytes. A reply without secrets, as nearly
all are, costs one search for each needle. A text is decoded piece by piece, and only where it has escapes of bytes
that a secret contains.

Nested encodings are decoded one at a time, in every order. For example, ``\u005c%5Cu00750073`` stands for an s:
percent-decoding gives ``\u005c\u00750073``, from which JSON makes ``\u0073``, and then ``s``. If all encodings were
decoded at once, the two backslashes would come together and be read as one: ``\\u00750073``.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Final, NamedTuple, Self

from bridge.escapes import ENCODINGS, ESCAPE_BYTES, Encoding, Span, Text, decode, meaning

MIN_SECRET_CHARACTERS: Final = 8
"""Shorter secrets are not redacted, because they also occur in ordinary text."""
_REPLACEMENT: Final = b"[redacted]"
_MAX_LAYERS: Final = 3
"""How many encodings may be nested in each other."""
_PIECE_BYTES: Final = 16 * 1024
"""The least that is searched and decoded at once. A piece ends behind a byte of no secret and no escape."""
_ESCAPES_PER_CHECKPOINT: Final = 500
_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_ESCAPED_IN_JSON: Final = frozenset(b'"\\\b\f\n\r\t')
"""Characters of secrets that a JSON text contains only as a backslash and one more character."""
_EVERY_BYTE: Final = frozenset(range(256))
_BACKSLASHES: Final = b"\\\\"
_AFTER_BACKSLASHES: Final = (b"u", b"/", b"%", b"&")
r"""Two backslashes are decoded to one, which may begin an escape only before one of these: ``\\u0073``, ``\\%75``."""
_MARKED: Final = re.compile(rb"\x01++")
_JSON_TOKEN: Final = re.compile(
    rb'[^"0-9-]*+(?:(?P<token>"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)|-?[0-9][0-9.eE+-]*+)|-|\Z)', re.DOTALL
)
"""A string or a number, with the text before it.

The text before it is matched, too. Otherwise one search could pass megabytes of it, and hold the GIL too long.
"""
_QUOTE: Final = ord('"')
_COLON: Final = re.compile(rb"\s*+:")


class _Needle(NamedTuple):
    """A form to search for. If ``is_number``, there must be no digit directly before or after it."""

    text: bytes
    is_number: bool = False


class _RedactedKeys:
    """New names for the redacted keys of one JSON text. Equal names are numbered: ``[redacted] 2``, ``[redacted] 3`` …"""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._new_names: dict[str, str] = {}
        self._numbers: dict[str, int] = {}

    @cached_property
    def _used(self) -> set[str]:
        """All keys of the text. They are collected once, and only if a key is renamed."""
        return {
            json.loads(self._content[start:end])
            for start, end in _tokens(self._content)
            if self._content[start] == _QUOTE and _COLON.match(self._content, end)
        }

    def rename(self, key: str, redacted: str) -> str:
        """A unique name for ``key``, of which ``redacted`` is the redacted form."""
        if key not in self._new_names:
            name, number = redacted, self._numbers.get(redacted, 1)
            while name in self._used:
                number += 1
                name = f"{redacted} {number}"
            self._numbers[redacted] = number
            self._used.add(name)
            self._new_names[key] = name
        return self._new_names[key]


class Redactor:
    """Finds and replaces all forms of ``secrets``. It is false if no secret is long enough."""

    def __init__(self, secrets: Iterable[str]) -> None:
        long_enough = [secret for secret in dict.fromkeys(secrets) if len(secret) >= MIN_SECRET_CHARACTERS]
        self._needles = tuple(dict.fromkeys(needle for secret in long_enough for needle in _needles(secret)))
        secret_bytes = frozenset[int]().union(*(needle.text for needle in self._needles))
        self._boundary = re.compile(b"[^%s]" % re.escape(bytes(sorted(secret_bytes | ESCAPE_BYTES))))
        # Next to a number, every escape counts: in %2012345678, the byte before the number is a space, not the 0.
        has_number = any(needle.is_number for needle in self._needles)
        self._decoded_bytes = _EVERY_BYTE if has_number else secret_bytes | ESCAPE_BYTES
        self._has_escaped_in_json = not secret_bytes.isdisjoint(_ESCAPED_IN_JSON)
        self.checkpoint: Callable[[], None] = _do_nothing

    def __bool__(self) -> bool:
        return bool(self._needles)

    def watched(self, checkpoint: Callable[[], None]) -> Self:
        """A copy that calls ``checkpoint`` every few milliseconds of its work. An exception from it ends the work."""
        copy = object.__new__(type(self))  # copy.copy takes ten times as long
        copy.__dict__ = self.__dict__ | {"checkpoint": checkpoint}
        return copy

    def finds(self, content: bytes) -> bool:
        """Whether ``content`` contains any form of a secret."""
        return any(self._contains(piece) for _, piece in self._pieces(content))

    def text(self, text: str) -> str:
        """A text with ``[redacted]`` for each secret."""
        # Lone surrogates become question marks only next to a secret: otherwise ``text`` itself is returned.
        content = text.encode(errors="replace")
        redacted = self.text_bytes(content)
        return text if redacted is content else redacted.decode()

    def text_bytes(self, content: bytes) -> bytes:
        """Like ``text``, for UTF-8. Returns the same object if nothing is found."""
        return _replace(content, ((span, _REPLACEMENT) for span in self._spans(content)))

    def binary(self, content: bytes) -> bytes:
        """Bytes with ``*`` for each byte of a secret, so that lengths and offsets stay valid."""
        return _replace(content, ((span, b"*" * (span[1] - span[0])) for span in self._spans(content)))

    def base64(self, text: str) -> str:
        """If the whole text is base64, the text with its decoded bytes redacted; otherwise the text unchanged."""
        try:
            content = b64decode(text, validate=True)
        except ValueError:  # binascii.Error, or a character outside ASCII
            return text
        redacted = self.binary(content)
        return text if redacted is content else b64encode(redacted).decode()

    def json(self, content: bytes, *, keeps_base64: bool = False) -> bytes:
        """Valid JSON in UTF-8 with its strings and keys redacted. Returns the same object if nothing is found.

        A number that equals a secret becomes the string ``[redacted]``; a longer number is not changed. Keys that
        would become equal are numbered. With ``keeps_base64``, a string that is base64 as a whole stays base64: its
        decoded bytes are redacted.
        """
        return _replace(content, self._json_replacements(content, keeps_base64=keeps_base64))

    def _json_replacements(self, content: bytes, *, keeps_base64: bool) -> Iterator[tuple[Span, bytes]]:
        keys = _RedactedKeys(content)
        # The escapes of the JSON text itself are one more layer.
        found = self._spans(content, _MAX_LAYERS + 1)
        for (start, end), spans in _tokens_with_spans(content, found):
            self.checkpoint()
            token = content[start:end]
            # Only a whole number is redacted, with or without its sign: a part of it is another number.
            if content[start] != _QUOTE:
                first_digit = end - len(token.lstrip(b"-"))
                if spans[0][0] <= first_digit and spans[-1][1] == end:
                    yield (start, end), b'"%s"' % _REPLACEMENT
                continue
            is_key = _COLON.match(content, end) is not None
            is_inside_string = b"\\" not in token and start < spans[0][0] and spans[-1][1] < end
            # A key must stay unique, and base64 must stay valid.
            if is_inside_string and not is_key and not keeps_base64:
                yield from ((span, _REPLACEMENT) for span in spans)  # no need to decode the string
                continue
            text: str = json.loads(token)
            redacted = self._json_text(text, keeps_base64=keeps_base64)
            if redacted == text:
                continue
            if is_key:
                redacted = keys.rename(text, redacted)
            yield (start, end), json.dumps(redacted).encode()

    def _json_text(self, text: str, *, keeps_base64: bool) -> str:
        if keeps_base64:
            text = self.base64(text)
        return self.text(text)

    def _spans(self, content: bytes, layers: int = _MAX_LAYERS) -> Iterator[Span]:
        """The spans of all forms, in order and without overlaps."""
        self.checkpoint()
        for start, piece in self._pieces(content):
            if not self._contains(piece, layers):
                continue
            # Spans of several needles and decodings may overlap: marks join them.
            marks = bytearray(len(piece))
            for text in self._texts(piece, layers):
                for span in self._occurrences(text):
                    first, end = text.origin(span)
                    marks[first:end] = b"\1" * (end - first)
            yield from ((start + found.start(), start + found.end()) for found in _MARKED.finditer(marks))

    def _pieces(self, content: bytes) -> Iterator[tuple[int, bytes]]:
        """The start and the bytes of each piece. No piece ends inside a secret or an encoding."""
        start = 0
        while start < len(content):
            boundary = self._boundary.search(content, start + _PIECE_BYTES)
            end = boundary.end() if boundary else len(content)
            yield start, content[start:end]
            start = end

    def _contains(self, piece: bytes, layers: int = _MAX_LAYERS) -> bool:
        return any(any(self._occurrences(text)) for text in self._texts(piece, layers))

    def _occurrences(self, text: Text) -> Iterator[Span]:
        content = text.text
        for needle, is_number in self._needles:
            if needle not in content:
                continue
            for low, high in text.windows(len(needle)):
                start = content.find(needle, low, high)
                while start >= 0:
                    end = start + len(needle)
                    neighbours = content[max(start - 1, 0) : start] + content[end : end + 1]
                    if not (is_number and any(byte in b"0123456789" for byte in neighbours)):
                        yield start, end
                    start = content.find(needle, end, high)

    def _texts(self, piece: bytes, layers: int) -> Iterator[Text]:
        """The piece unchanged, and decoded with the encodings in every order."""
        text = Text(piece)
        yield text
        yield from self._decoded_texts(text, layers, {})

    def _decoded_texts(self, encoded: Text, layers: int, seen: dict[bytes, int]) -> Iterator[Text]:
        """``encoded`` decoded up to ``layers`` times.

        ``seen`` maps each text that was reached to the largest number of layers that were left there. Two orders often
        give the same text, and it need not be decoded twice.
        """
        for encoding in ENCODINGS:
            meanings = self._meanings(encoded.text, encoding) if encoding.first in encoded.text else {}
            if not meanings:
                continue
            text = decode(encoded, encoding, meanings)
            if seen.get(text.text, 0) >= layers:
                continue
            seen[text.text] = layers
            self.checkpoint()
            yield text
            if layers > 1:
                yield from self._decoded_texts(text, layers - 1, seen)

    def _meanings(self, text: bytes, encoding: Encoding) -> dict[bytes, bytes]:
        """The escapes in a text that could be part of a secret, with their meaning."""
        found: set[bytes] = set()
        for number, match in enumerate(encoding.escape.finditer(text)):
            if not number % _ESCAPES_PER_CHECKPOINT:
                self.checkpoint()
            found.add(match[0])
        if not self._has_escaped_in_json and not any(
            _BACKSLASHES + after in text for after in _AFTER_BACKSLASHES
        ):
            found.discard(_BACKSLASHES)  # as in Windows paths, where it is not part of an escape
        meanings = {escape: meaning(escape) for escape in found}
        # An escape without a character, such as &#1;, is removed: a secret may continue behind it.
        return {
            escape: text
            for escape, text in meanings.items()
            if text != escape and (not text or not self._decoded_bytes.isdisjoint(text))
        }


def _do_nothing() -> None:
    pass


NO_SECRETS: Final = Redactor(())


def _needles(secret: str) -> Iterator[_Needle]:
    """The needles of a secret: unchanged, with ``+`` for spaces, in hexadecimal, in base64 and in base64url."""
    data = secret.encode(errors="surrogateescape")  # environment variables may not be UTF-8
    yield _Needle(data, bool(_NUMBER.fullmatch(secret)))
    if " " in secret:
        yield _Needle(data.replace(b" ", b"+"))
    yield from (_Needle(data.hex().encode()), _Needle(data.hex().upper().encode()))
    for offset in range(3):
        # In base64, four digits stand for three bytes. The first and last digits may share bits with the bytes around
        # the secret, so the needle has only the digits that depend on the secret alone.
        encoded = b64encode(bytes(offset) + data)
        needle = encoded[(0, 2, 3)[offset] : (offset + len(data)) * 8 // 6]
        yield from (_Needle(needle), _Needle(needle.replace(b"+", b"-").replace(b"/", b"_")))


def _tokens(content: bytes) -> Iterator[Span]:
    """The spans of the strings and numbers of a JSON text."""
    return (found.span("token") for found in _JSON_TOKEN.finditer(content) if found["token"])


def _tokens_with_spans(content: bytes, spans: Iterator[Span]) -> Iterator[tuple[Span, list[Span]]]:
    """The strings and numbers of a JSON text that overlap with ``spans``, with these spans."""
    span = next(spans, None)
    for start, end in _tokens(content) if span else ():
        inside: list[Span] = []
        while span and span[0] < end:
            if span[1] > start:
                inside.append(span)
            if span[1] > end:
                break  # it continues in the next token
            span = next(spans, None)
        if inside:
            yield (start, end), inside


def _replace(content: bytes, replacements: Iterable[tuple[Span, bytes]]) -> bytes:
    """The content with each span replaced; the same object if there are none. Spans come in order."""
    result = bytearray()
    end = 0
    for span, text in replacements:
        result += content[end : span[0]]
        result += text
        end = span[1]
    return bytes(result + content[end:]) if end else content
