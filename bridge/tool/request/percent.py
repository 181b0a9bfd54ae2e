"""Percent-encoding of arguments in a URL (RFC 3986), and protection against path traversal.

One rule holds for every path segment: it is not a dot segment, and it contains no separator and no
control character. The rule must hold even if the upstream decodes the segment twice, or leniently
(see ``has_dot_segment`` and ``_decode``).
"""

import re
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes

from bridge.errors import InvalidCall

_UNRESERVED: Final = re.compile(r"[A-Za-z0-9_~.-]*\Z")
_UNRESERVED_SEGMENT: Final = re.compile(r"(?!\.\.?\Z)[A-Za-z0-9_~.-]+\Z")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SEPARATOR: Final = re.compile(r"[/\\]")
_BLANKS_AND_CONTROLS: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_COMPATIBILITY_FORMS: Final = str.maketrans(
    {
        **dict.fromkeys("\u2024\ufe52\uff0e", "."),
        **dict.fromkeys("\u2025\ufe30", ".."),
        **dict.fromkeys("\u037e\ufe14\ufe54\uff1b", ";"),
        **dict.fromkeys("\ufe68\uff3c", "\\"),
        "\uff0f": "/",
    }
)
"""All characters that NFKC changes into a dot, a separator or a semicolon (Unicode, UAX 15)."""
_OVERLONG: Final = re.compile(
    r"%(?:C[01]|E0%[89][0-9A-F]|F0%8[0-9A-F]%[89AB][0-9A-F])%[89AB][0-9A-F]", re.IGNORECASE
)
"""UTF-8 with more bytes than its character needs (RFC 3629 10)."""


def encode(argument: str, text: str) -> str:
    """``text`` for a query or form: all bytes except RFC 3986 unreserved ones are encoded.

    Raises ``InvalidCall`` with the argument's name for control characters and lone surrogates.
    """
    if _UNRESERVED.match(text):
        return text
    if _CONTROL.search(text):
        raise _unsafe_argument(argument, "holds a line break, tab or other control character; take it out")
    return encode_form(argument, text)


def is_unreserved(text: str) -> bool:
    """Whether every character is unreserved (RFC 3986 2.3)."""
    return _UNRESERVED.match(text) is not None


def encode_form(argument: str, text: str) -> str:
    """Like ``encode``, for a form in the body, where control characters are harmless."""
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as problem:
        raise not_unicode(argument) from problem


def encode_segment(argument: str, text: str) -> str:
    """``text`` as one path segment; raises ``InvalidCall`` if a server could read more than one from it."""
    # Most values. The pattern excludes . and .., which are dot segments.
    if _UNRESERVED_SEGMENT.match(text):
        return text
    if not text:
        raise _unsafe_argument(argument, "is empty where the path needs a value; give it one")
    if has_dot_segment(text):
        raise _unsafe_argument(
            argument, "holds a . or .. segment, which would change the path; pass the value without it"
        )
    if _changes_when_decoded(text):
        raise _unsafe_argument(argument, "looks percent-encoded; pass the plain value")
    return encode(argument, text)


def encode_path(argument: str, text: str) -> str:
    """``text`` with its slashes kept and each segment encoded by ``encode_segment``."""
    segments = text.split("/")
    # An empty text is refused by ``encode_segment``, in better words.
    if "" in segments and text:
        raise _unsafe_argument(
            argument, "has an empty segment; write it without / at its ends and without //"
        )
    return "/".join([encode_segment(argument, segment) for segment in segments])


def has_dot_segment(text: str) -> bool:
    """Whether a segment of the decoded text is ``.`` or ``..`` (RFC 3986 5.2.4), for some server.

    Some servers cut parameters (``..;x``), drop blanks and control characters, or apply NFKC first.
    """
    if not text.isascii():
        text = text.translate(_COMPATIBILITY_FORMS)
    if "." not in text:
        return False
    segments = [segment.partition(";")[0] for segment in _SEPARATOR.split(text)]
    return any(_BLANKS_AND_CONTROLS.sub("", segment) in (".", "..") for segment in segments)


def has_path_traversal(path: str) -> bool:
    """Whether a segment of an encoded path can decode to a dot segment, a separator or a control character."""
    # Most paths: no segment can be a dot segment, or change when it is decoded.
    if "/." not in path and "%" not in path:
        return False
    segments = [_decode(segment) for segment in path.split("/")]
    return any(
        has_dot_segment(segment) or _CONTROL.search(segment) or _changes_when_decoded(segment)
        for segment in segments
    )


def not_unicode(argument: str) -> InvalidCall:
    """The error for a lone surrogate, which UTF-8 cannot encode."""
    message = f"argument {argument} is not valid Unicode: it holds half of a surrogate pair; take it out"
    return InvalidCall("not-unicode", message)


def _changes_when_decoded(text: str) -> bool:
    if "%" not in text:
        return False
    count = len(_SEPARATOR.findall(text))
    once = _decode(text)
    return any(
        has_dot_segment(decoded) or len(_SEPARATOR.findall(decoded)) != count or _CONTROL.search(decoded)
        for decoded in (once, _decode(once))
    )


def _decode(text: str) -> str:
    """``text`` without its percent-encoding. Overlong UTF-8 is decoded too, as some servers accept it."""
    # ``unquote`` writes U+FFFD for overlong UTF-8. That is decoded first, as it may be the % of another
    # escape: %C0%A52e is %2e, which is a dot.
    decoded = unquote(text)
    return unquote(_OVERLONG.sub(_decode_overlong, text)) if "\ufffd" in decoded else decoded


def _decode_overlong(overlong: re.Match[str]) -> str:
    """The character that an overlong UTF-8 sequence encodes."""
    lead, *rest = unquote_to_bytes(overlong[0])
    code = lead & 0x0F
    for byte in rest:
        code = code << 6 | byte & 0x3F
    return chr(code)


def _unsafe_argument(argument: str, why: str) -> InvalidCall:
    return InvalidCall("unsafe-argument", f"argument {argument} {why}")
