import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import UnusableReply
from bridge.spec import Invisible, Json
from bridge.tool.result.bounds import fit, fit_text, json_text, require, stripped, visible, within, write


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\nof 2 lines, Zoë, العربية, 👩‍🔬", "plain\ttext\nof 2 lines, Zoë, العربية, 👩‍🔬"),
        ("dos\r\nline", "dos\r\nline"),
        ("over\rwritten", r"over\rwritten"),
        ("\x1b[31mred\x1b[0m", r"\u001b[31mred\u001b[0m"),
        ("a\x00b\x07c\x7fd\x85e", r"a\u0000b\u0007c\u007fd\u0085e"),
        ("safe\u202eexe.txt", r"safe\u202eexe.txt"),
        ("\u2066x\u2069", r"\u2066x\u2069"),
        ("hi\U000e0041\U000e007f", r"hi\udb40\udc41\udb40\udc7f"),
    ],
)
def test_characters_that_hide_or_reorder_text_are_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


INVISIBLE: tuple[Invisible, ...] = ("show", "strip", "pass")
TEXTS = st.text(
    st.sampled_from('a1#👩🔬☀می葛ᠠ"\\\r\n\x1b\u200b\u200c\u200d\ufe0e\ufe0f\u20e3\u180b\U000e0100\u202e')
)


@settings(max_examples=200)
@given(st.text(max_size=50) | TEXTS)
def test_visible_json_is_the_same_json(text: str) -> None:
    for invisible in INVISIBLE:
        assert json.loads(json_text({text: [text]}, invisible)) == {text: [text]}
        assert visible(visible(text, invisible), invisible) == visible(text, invisible)
    assert stripped(stripped(text)) == stripped(text)


ITEMS = [{"id": number, "name": "n" * 20} for number in range(100)]


@pytest.mark.parametrize(
    "value", [None, "text", 2**70, [], {}, ITEMS[:3], {"items": ITEMS[:3], "total": 100}]
)
def test_what_fits_is_given_whole_and_compact(value: Json) -> None:
    fitted = fit(value, 1000, ["limit"])
    assert fitted.text == write(value, 1000, []) == json.dumps(value, separators=(",", ":"))
    assert fitted.meta == {}


@pytest.mark.parametrize("value", [ITEMS, {"total": 100, "items": ITEMS, "next": {"page": 2}}])
def test_of_a_list_whole_items_are_kept_and_the_text_says_so(value: Json) -> None:
    fitted = fit(value, 1000, ["category", "limit"])
    note, _, text = fitted.text.partition("\n")
    part = json.loads(text)
    items = part if isinstance(part, list) else part["items"]
    assert len(fitted.text) <= 1000
    assert 15 < len(items) < 100
    assert items == ITEMS[: len(items)]
    assert note == f"Only a part fits: showing {len(items)} of 100 items; narrow with category, limit."
    assert fitted.meta == {"restbridge/shown": len(items), "restbridge/total": 100}
    if isinstance(part, dict):
        assert list(part) == ["total", "items", "next"]


def test_without_optional_arguments_the_text_says_that_nothing_narrows_it() -> None:
    assert "items; no argument of this tool narrows it.\n" in fit(ITEMS, 1000, []).text


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("x" * 2000, ""),
        (["x" * 2000], " (its first item 2.0 kB)"),
        ({"a": ITEMS, "b": ITEMS, "c": "x" * 500, "d": 1}, " (b 4.0 kB, a 4.0 kB, c 502 bytes)"),
        ({"text": "x" * 3_000_000, "items": [1]}, " (text 3.0 MB, items 3 bytes)"),
        ({"\u202e": "x" * 2000}, r" (\u202e 2.0 kB)"),
        ("\x7f" * 200, ""),
    ],
)
def test_what_has_no_list_to_cut_is_an_error_that_names_the_largest_parts(value: Json, parts: str) -> None:
    for size in (fit, write):
        with pytest.raises(UnusableReply) as caught:
            size(value, 1000, ["limit"])
        assert caught.value.code == "result-too-large"
        assert f"{parts}, and this tool gives 1.0 kB at most. Narrow with limit." in str(caught.value)


def test_a_list_is_not_cut_where_all_is_needed() -> None:
    with pytest.raises(UnusableReply, match="has to project less"):
        write(ITEMS, 1000, [])


def test_a_value_is_given_only_within_its_bound() -> None:
    assert within(["é"], 6) == ('["é"]', 6)
    assert within(["é"], 5) == (None, 6)
    assert within(["\x7f"], 9) == (None, 10)


@pytest.mark.parametrize("text", ["\x7f", "a\x9b", "\u200d", "☺\ufe0f\x7f", "\U000e0041"])
def test_hidden_characters_are_shown_without_a_step_for_each(text: str) -> None:
    steps = []
    visible(text)  # makes the tables
    sys.setprofile(lambda _, event, __: steps.append(event))
    try:
        visible(text * 10_000, "pass")
        alone = len(steps)
        visible("\x7f\u200b" * 100_000)
        stripped("\u200d" * 100_000)
    finally:
        sys.setprofile(None)
    assert alone < len(steps) < 1000


def test_of_a_text_whole_lines_are_kept() -> None:
    text = "".join(f"line {number} é\n" for number in range(1000))
    fitted = fit_text(text, 1000, ["since"])
    note, _, rest = fitted.text.partition("\n")
    assert len(fitted.text.encode()) <= 1000
    assert text.startswith(rest)
    assert rest.endswith("é\n")
    assert note == f"Only a part fits: showing {rest.count(chr(10))} of 1000 lines; narrow with since."
    assert fit_text("short", 1000, []).text == "short"


def test_a_line_is_never_cut() -> None:
    with pytest.raises(UnusableReply, match=r"^The result is 5\.0 kB, and this tool gives 1\.0 kB at most\."):
        fit_text("x" * 5000, 1000, [])


def test_what_cannot_be_given_in_part_is_refused_by_size() -> None:
    require(1000, 1000, "application/pdf")
    with pytest.raises(UnusableReply, match=r"^The result is 1\.0 kB of application/pdf, and"):
        require(1001, 1000, "application/pdf")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=40), st.integers(150, 1500))
def test_a_part_is_never_larger_than_the_bound_and_never_more_than_there_was(
    items: list[str], bound: int
) -> None:
    try:
        fitted = fit({"items": items}, bound, ["limit"])
    except UnusableReply:
        return
    assert len(fitted.text.encode()) <= bound
    written = fitted.text.partition("\n")[2] if fitted.meta else fitted.text
    kept = json.loads(written)["items"]
    assert items[: len(kept)] == kept
