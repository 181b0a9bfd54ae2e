import re

import pytest

from bridge.escapes import ENCODINGS, Text, decode, meaning


@pytest.mark.parametrize(
    ("escape", "text"),
    [
        (b"%41", "A"),
        (b"\\u0041", "A"),
        (b"\\ud83d\\ude00", "😀"),
        (b"\\n", "\n"),
        (b"&#65;", "A"),
        (b"&#x41", "A"),
        (b"&amp;", "&"),
        (b"&#1;", ""),
        (b"&zzz;", "&zzz;"),
        (b"&#" + b"0" * 5000 + b"65;", "A"),
    ],
)
def test_an_escape_stands_for_a_character(escape: bytes, text: str) -> None:
    [encoding] = [each for each in ENCODINGS if escape.startswith(each.first)]
    assert encoding.escape.fullmatch(escape)
    assert meaning(escape) == text.encode()


def test_each_byte_of_a_decoded_text_has_its_origin() -> None:
    percent, json, _ = ENCODINGS
    original = rb"ab%41%5Cu0043d%45"
    meanings = {escape: meaning(escape) for escape in (b"%41", b"%5C")}
    once = decode(Text(original), percent, meanings)
    assert once.text == rb"abA\u0043d%45"
    twice = decode(once, json, {rb"\u0043": b"C"})
    assert twice.text == b"abACd%45"
    parts = [original[slice(*twice.origin((start, start + 1)))] for start in range(len(twice.text))]
    assert parts == re.findall(rb"%41|%5Cu0043|.", original)
    assert original[slice(*twice.origin((2, 5)))] == rb"%41%5Cu0043d"
