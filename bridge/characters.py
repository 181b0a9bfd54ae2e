"""Invisible characters, and characters that change how the text around them looks."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Final

_EMOJI: Final = (
    "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u24c2\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff"
    "\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
)
"""Blocks that contain emoji (UTS 51, emoji-data.txt)."""
_HAN: Final = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_MONGOLIAN: Final = "\u1820-\u18aa"
_JOINED: Final = (
    "\u0620-\u08ff"  # Arabic, Syriac, N'Ko, Mandaic
    "\u0900-\u0dff\u0f00-\u109f\u1780-\u17b3\u17b6-\u17ff"  # Devanagari to Sinhala, Tibetan, Myanmar, Khmer
    f"{_MONGOLIAN}"
)
"""Scripts in which joiners and non-joiners select the form of a letter (RFC 5892, A.1 and A.2; UAX 31, 2.3)."""

_MISLEADING: Final = (
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # controls, such as in ANSI escapes
    "\u202a-\u202e\u2066-\u2069"  # change the direction of the text that follows
)
_INVISIBLE: Final = (
    # Default_Ignorable_Code_Point of Unicode 16 (DerivedCoreProperties.txt), except those above.
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u2065\u206a-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    # Separators of lines and paragraphs, and marks of annotations.
    "\u2028\u2029\ufff9-\ufffb"
)
_PLANE_14: Final = "\U000e0000-\U000e0fff"
"""The tags, and code points reserved for invisible characters. One range is matched faster than several."""

INVISIBLE: Final = re.compile(f"[{_INVISIBLE}\U000e0000\U000e0002-\U000e001f\U000e0080-\U000e0fff]")
"""Invisible characters except those in ``HARMFUL``. At some places they are needed: see ``split_at_needed``."""
_HIDDEN: Final = f"{_MISLEADING}{_INVISIBLE}{_PLANE_14}"
HIDDEN: Final = re.compile(f"[{_HIDDEN}]")
"""All invisible and misleading characters, except a carriage return."""
HARMFUL: Final = re.compile(f"[{_MISLEADING}\U000e0001\U000e0020-\U000e007f]")
"""Controls, direction changes, and tags (text that only a model sees). They are needed nowhere."""
_SHAPING: Final = "\u180b-\u180f\u200c\u200d\ufe00-\ufe02\ufe0e\ufe0f\U000e0100-\U000e01ef"
"""Joiners and variation selectors."""
_NEEDED: Final = re.compile(
    f"([{_SHAPING}])"  # first, because it is fast
    f"(?:(?<=[{_JOINED}][\u200c\u200d])"
    f"|(?:(?<=[{_EMOJI}]\u200d)|(?<=[{_EMOJI}]\ufe0f\u200d))(?=[{_EMOJI}])"
    f"|(?<=[{_EMOJI}][\ufe0e\ufe0f])"
    "|(?<=[0-9#*]\ufe0f)(?=\u20e3)"  # a keycap
    f"|(?<=[{_HAN}][\ufe00-\ufe02\U000e0100-\U000e01ef])"  # Ideographic Variation Database
    f"|(?<=[{_MONGOLIAN}][\u180b-\u180f]))"
)
_PIECE: Final = re.compile(
    r".{1,16384}+"
    rf"(?:.{{0,64}}?(?![{_SHAPING}\u20e3])(?!(?<=\u200d)[{_EMOJI}])(?!(?<=\r)\n)|.{{64}})",
    re.DOTALL,
)
"""It ends where no character depends on its neighbour: not inside an emoji, and not inside CRLF."""
_DECEPTIVE: Final = re.compile(f"[{_HIDDEN}\ufffe\uffff\ud800-\udfff]")


def split_at_needed(text: str) -> list[str]:
    """The text, split at each joiner and variation selector that is needed. Items with an odd index are these.

    They are needed inside an emoji, and after a letter whose form they select.
    """
    return _NEEDED.split(text)


def pieces(text: str) -> Iterator[str]:
    """The text in pieces of about 16 Ki characters. Other threads can run between them: ``re`` holds the GIL.

    No piece ends between CR and LF, or where ``split_at_needed`` would give another result than for the whole text.
    Only sequences of more than 30 joined emoji may be cut.
    """
    return (piece[0] for piece in _PIECE.finditer(text))


@cache
def escapes() -> tuple[dict[int, str], dict[int, str]]:
    """Tables for ``str.translate`` with JSON escapes: for all of ``HIDDEN``, and for all of ``HARMFUL``."""
    ranges = re.findall("(.)-(.)|(.)", _HIDDEN, re.DOTALL)
    hidden = [
        chr(code) for first, last, only in ranges for code in range(ord(first or only), ord(last or only) + 1)
    ]
    table = {ord(character): json.dumps(character)[1:-1] for character in hidden}
    return table, {code: escape for code, escape in table.items() if HARMFUL.match(chr(code))}


def deceptive(text: str) -> re.Match[str] | None:
    """The first misleading character: a control, an invisible character that is not needed, or a lone surrogate."""
    found = _DECEPTIVE.finditer(text)
    return next((match for match in found if _NEEDED.match(text, match.start()) is None), None)
