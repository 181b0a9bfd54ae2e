"""Characters that no one sees: where they are errors, and where they belong."""

import unicodedata

import pytest

from bridge.characters import deceptive
from bridge.tool.result.bounds import stripped, visible

BELONGING = [
    "👩‍🔬 👨‍👩‍👧‍👦 🏳️‍🌈 ❤️‍🔥 👍🏽 🧑🏽‍🚀 👁️‍🗨️",  # joiners in emoji
    "✔︎ ☀️ ⚠️ ©️ 1️⃣ #️⃣",  # emoji as text, as pictures, and keycaps
    "می‌خواهم",  # Persian, with a non-joiner
    "क्‍ष র‍্য ශ්‍රී",  # Devanagari, Bengali, Sinhala, with joiners
    "ခ်မ်း ការ ᠠ᠋ ᠮᠣᠩᠭᠣᠯ᠎ᠠ",  # Myanmar, Khmer, Mongolian
    "葛󠄀城市 辻󠄀",  # ideographs with selectors
    "Zoë, Ångström, “quotes”, العربية, עברית, 日本語\ttab\nline",
]


@pytest.mark.parametrize("text", BELONGING)
def test_joiners_and_selectors_stay_where_they_belong(text: str) -> None:
    assert deceptive(text) is None
    assert visible(text) == visible(text, "pass") == stripped(text) == text


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
def test_invisible_characters_are_shown_or_taken_out_or_passed(text: str, shown: str) -> None:
    assert deceptive(text)
    assert visible(text) == shown
    assert visible(text, "pass") == text
    assert deceptive(stripped(text)) is None


def test_controls_and_what_turns_the_direction_and_tags_are_shown_in_every_mode() -> None:
    for character in "\x1b\x07\x7f\u202a\u202e\u2066\u2069\U000e0041":
        assert visible(f"a{character}", "pass") == visible(f"a{character}") != f"a{character}"
        assert stripped(f"a{character}") == f"a{character}"
        assert deceptive(f"a{character}")


def test_every_character_of_category_cf_is_shown_but_marks_of_numbers() -> None:
    """Those that stay have a form of their own: Arabic and Kaithi number signs, Egyptian joiners of hieroglyphs and so on."""
    passed = {
        chr(code)
        for code in range(0x110000)
        if unicodedata.category(chr(code)) == "Cf" and deceptive(chr(code)) is None
    }
    names = {unicodedata.name(character).split()[0] for character in passed}
    assert names == {"ARABIC", "SYRIAC", "KAITHI", "EGYPTIAN"}
