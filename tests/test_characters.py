"""Invisible characters: where they are errors, and where they are needed."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.characters import deceptive, pieces
from bridge.tool.result.bounds import strip_invisible, visible

NEEDED = [
    "👩‍🔬 👨‍👩‍👧‍👦 🏳️‍🌈 ❤️‍🔥 👍🏽 🧑🏽‍🚀 👁️‍🗨️",  # joiners in emoji
    "✔︎ ☀️ ⚠️ ©️ 1️⃣ #️⃣",  # emoji as text, as pictures, and keycaps
    "می‌خواهم",  # Persian, with a non-joiner
    "क्‍ष র‍্য ශ්‍රී",  # Devanagari, Bengali, Sinhala, with joiners
    "ခ်မ်း ការ ᠠ᠋ ᠮᠣᠩᠭᠣᠯ᠎ᠠ",  # Myanmar, Khmer, Mongolian
    "葛󠄀城市 辻󠄀",  # ideographs with selectors
    "Zoë, Ångström, “quotes”, العربية, עברית, 日本語\ttab\nline",
]


@pytest.mark.parametrize("text", NEEDED)
def test_joiners_and_selectors_are_kept_where_they_are_needed(text: str) -> None:
    assert deceptive(text) is None
    assert visible(text) == visible(text, "pass") == strip_invisible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pay\u200bload", r"pay\u200bload"),
        ("a\u200db \u200c", r"a\u200db \u200c"),
        ("👩\u200d", r"👩\u200d"),
        ("👩\u200d\u200d🔬", r"👩\u200d\u200d🔬"),
        ("a\ufe0f\u200d🔬", r"a\ufe0f\u200d🔬"),
        ("☀\ufe0f\ufe0f", "☀\ufe0f\\ufe0f"),
        ("1\ufe0f and 1\ufe0e", r"1\ufe0f and 1\ufe0e"),
        ("a\U000e0100 葛\ufe0f", r"a\udb40\udd00 葛\ufe0f"),
        ("a\u180b", r"a\u180b"),
        ("می\u200c\u200c", "می\u200c\\u200c"),
        ("\ufeffone\u2028two\u2029three", r"\ufeffone\u2028two\u2029three"),
        ("so\u00adft a\u034fb \u061c\u200e\u200f", r"so\u00adft a\u034fb \u061c\u200e\u200f"),
        ("\u2060\u2064\u206a\u206f", r"\u2060\u2064\u206a\u206f"),
        ("\u115f\u1160\u3164\uffa0\u17b4", r"\u115f\u1160\u3164\uffa0\u17b4"),
        ("\ufff9x\ufffay\ufffb", r"\ufff9x\ufffay\ufffb"),
    ],
)
def test_invisible_characters_are_shown_removed_or_passed(text: str, shown: str) -> None:
    assert deceptive(text)
    assert visible(text) == shown
    assert visible(text, "pass") == text
    assert deceptive(strip_invisible(text)) is None


def test_controls_direction_changes_and_tags_are_shown_in_every_mode() -> None:
    for character in "\x1b\x07\x7f\u202a\u202e\u2066\u2069\U000e0041":
        assert visible(f"a{character}", "pass") == visible(f"a{character}") != f"a{character}"
        assert strip_invisible(f"a{character}") == f"a{character}"
        assert deceptive(f"a{character}")


def test_all_format_characters_are_shown_except_visible_ones() -> None:
    """Visible ones (category Cf) are Arabic and Kaithi number signs, Egyptian hieroglyph joiners and the like."""
    passed = {
        chr(code)
        for code in range(0x110000)
        if unicodedata.category(chr(code)) == "Cf" and deceptive(chr(code)) is None
    }
    names = {unicodedata.name(character).split()[0] for character in passed}
    assert names == {"ARABIC", "SYRIAC", "KAITHI", "EGYPTIAN"}


@settings(max_examples=50, deadline=None)
@given(
    st.text(
        st.sampled_from("a1#👩🔬☀می葛ᠠ\r\n\x1b\u200b\u200c\u200d\ufe0e\ufe0f\u20e3\u180b\U000e0100"),
        max_size=30,
    )
)
def test_pieces_give_the_same_result_as_the_whole_text(text: str) -> None:
    shown, left = visible(text), strip_invisible(text)
    for length in range(16384 - len(text), 16384):
        assert visible("x" * length + text) == "x" * length + shown
        assert strip_invisible("x" * length + text) == "x" * length + left


@pytest.mark.parametrize(
    "row", ["\r", "\r\n", "a", "é", "\u200d", "\ufe0f\u20e3", "☀\ufe0f", "👩\u200d", "می\u200c"]
)
@pytest.mark.parametrize("begin", ["", "x"])
def test_no_piece_of_a_text_is_long(row: str, begin: str) -> None:
    text = begin + row * 50_000
    parts = list(pieces(text))
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 16384 + 64
    assert len(parts) <= len(text) / 16384 + 1
