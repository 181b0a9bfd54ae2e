"""What an argument may become inside a URL (RFC 3986): percent-encoded, and never another path.

One rule for a path segment, whatever it is put together from: it is no dot segment, and an upstream
that decodes it once more than it should still sees no dot segment, no further segment, no control.
Servers that are lenient are meant, too: see ``is_dotted`` and ``_decoded``.
"""

import re
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes

from bridge.errors import InvalidCall

_PLAIN: Final = re.compile(r"[A-Za-z0-9_~.-]*\Z")
_PLAIN_SEGMENT: Final = re.compile(r"(?!\.\.?\Z)[A-Za-z0-9_~.-]+\Z")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SEPARATOR: Final = re.compile(r"[/\\]")
_BLANK: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_FOLDED: Final = str.maketrans(
    {
        **dict.fromkeys("\u2024\ufe52\uff0e", "."),
        **dict.fromkeys("\u2025\ufe30", ".."),
        **dict.fromkeys("\u037e\ufe14\ufe54\uff1b", ";"),
        **dict.fromkeys("\ufe68\uff3c", "\\"),
        "\uff0f": "/",
    }
)
"""What NFKC makes of all characters that become a dot, a separator or a semicolon (Unicode, UAX 15)."""
_OVERLONG: Final = re.compile(
    r"%(?:C[01]|E0%[89][0-9A-F]|F0%8[0-9A-F]%[89AB][0-9A-F])%[89AB][0-9A-F]", re.IGNORECASE
)
"""UTF-8 with more bytes than its character needs (RFC 3629 10)."""


def encode(argument: str, text: str) -> str:
    """``text`` with every byte encoded but RFC 3986's unreserved; for queries and forms.

    Raises ``InvalidCall`` that names the argument: for a control character, or what is not Unicode.
    """
    if _PLAIN.match(text):
        return text
    if _CONTROL.search(text):
        raise _unsafe(argument, "holds a line break, tab or other control character; take it out")
    return encode_form(argument, text)


def is_plain(text: str) -> bool:
    """Whether every character is RFC 3986's unreserved."""
    return _PLAIN.match(text) is not None


def encode_form(argument: str, text: str) -> str:
    """As ``encode``, for a form in the body, where controls do no harm."""
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as problem:
        raise not_unicode(argument) from problem


def encode_segment(argument: str, text: str) -> str:
    """``text`` as one path segment, which decodes to it; raises ``InvalidCall`` if it could become more."""
    if _PLAIN_SEGMENT.match(text):
        return text
    if not text:
        raise _unsafe(argument, "is empty where the path needs a value; give it one")
    if is_dotted(text):
        raise _unsafe(argument, "holds a . or .. segment, which would lead elsewhere; give the plain value")
    if _changes_when_decoded(text):
        raise _unsafe(argument, "looks percent-encoded; pass the plain value")
    return encode(argument, text)


def encode_path(argument: str, text: str) -> str:
    """``text`` with its slashes kept, each segment as ``encode_segment`` has it."""
    segments = text.split("/")
    if "" in segments and text:
        raise _unsafe(argument, "has an empty segment; write it without / at its ends and without //")
    return "/".join([encode_segment(argument, segment) for segment in segments])


def is_dotted(text: str) -> bool:
    """Whether one of the segments is a dot segment.

    It is one, too, for servers that cut parameters (``..;x``), drop blanks and controls, or fold wide characters.
    """
    if not text.isascii():
        text = text.translate(_FOLDED)
    if "." not in text:
        return False
    segments = [segment.partition(";")[0] for segment in _SEPARATOR.split(text)]
    return any(_BLANK.sub("", segment) in (".", "..") for segment in segments)


def leads_elsewhere(path: str) -> bool:
    """Whether a segment of an encoded path is, or may be decoded to, a dot segment or more segments, or holds a control."""
    if "/." not in path and "%" not in path:
        return False
    segments = [_decoded(segment) for segment in path.split("/")]
    return any(
        is_dotted(segment) or _CONTROL.search(segment) or _changes_when_decoded(segment)
        for segment in segments
    )


def not_unicode(argument: str) -> InvalidCall:
    """The refusal of a lone surrogate, which no encoding can carry."""
    message = f"argument {argument} is not valid Unicode: it holds half of a surrogate pair; take it out"
    return InvalidCall("not-unicode", message)


def _changes_when_decoded(text: str) -> bool:
    if "%" not in text:
        return False
    count = len(_SEPARATOR.findall(text))
    once = _decoded(text)
    return any(
        is_dotted(decoded) or len(_SEPARATOR.findall(decoded)) != count or _CONTROL.search(decoded)
        for decoded in (once, _decoded(once))
    )


def _decoded(text: str) -> str:
    """``text`` without its percent-encoding, also as servers decode it that take overlong UTF-8."""
    decoded = unquote(text)
    return unquote(_OVERLONG.sub(_shortened, text)) if "\ufffd" in decoded else decoded


def _shortened(overlong: re.Match[str]) -> str:
    """The character that an overlong sequence stands for."""
    lead, *rest = unquote_to_bytes(overlong[0])
    code = lead & 0x0F
    for byte in rest:
        code = code << 6 | byte & 0x3F
    return chr(code)


def _unsafe(argument: str, why: str) -> InvalidCall:
    return InvalidCall("unsafe-argument", f"argument {argument} {why}")
