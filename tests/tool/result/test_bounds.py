import json
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import UnusableReply
from bridge.spec import Invisible, Json
from bridge.tool.result.bounds import (
    fit_json,
    fit_text,
    json_if_within,
    json_text,
    require_size,
    strip_invisible,
    visible,
    write_json,
)


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
    assert strip_invisible(strip_invisible(text)) == strip_invisible(text)


ITEMS = [{"id": number, "name": "n" * 20} for number in range(100)]


@pytest.mark.parametrize(
    "value", [None, "text", 2**70, [], {}, ITEMS[:3], {"items": ITEMS[:3], "total": 100}]
)
def test_a_value_that_fits_is_complete_and_compact(value: Json) -> None:
    fitted = fit_json(value, 1000, ["limit"])
    assert fitted.text == write_json(value, 1000, []) == json.dumps(value, separators=(",", ":"))
    assert fitted.meta == {}


@pytest.mark.parametrize("value", [ITEMS, {"total": 100, "items": ITEMS, "next": {"page": 2}}])
def test_a_long_list_is_cut_after_a_whole_item_and_the_text_says_so(value: Json) -> None:
    fitted = fit_json(value, 1000, ["category", "limit"])
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


@settings(max_examples=200)
@given(st.lists(st.integers(0, 10**6) | st.text(max_size=9), max_size=300), st.integers(100, 1200))
def test_a_long_list_keeps_as_many_items_as_fit(items: list[Json], bound: int) -> None:
    items.append("x" * 2000)
    room = bound - len(f"Only a part fits: showing {len(items)} of {len(items)} items; narrow with a.\n[]")
    fitting = [kept for kept in range(1, len(items)) if len(json_text(items[:kept]).encode()) - 1 <= room]
    try:
        fitted = fit_json(items, bound, ["a"])
    except UnusableReply:
        assert not fitting
    else:
        assert fitted.meta["restbridge/shown"] == fitting[-1]


@pytest.mark.parametrize("value", [[0] * 100_000, {"items": ["é"] * 100_000}])
def test_items_are_not_written_one_by_one(value: Json) -> None:
    steps = []
    sys.setprofile(lambda _, event, __: steps.append(event))
    try:
        fit_json(value, 50_000, [])
    finally:
        sys.setprofile(None)
    assert len(steps) < 2000


def test_without_optional_arguments_the_text_says_that_none_narrows_it() -> None:
    assert "items; no argument of this tool narrows it.\n" in fit_json(ITEMS, 1000, []).text


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
def test_a_large_value_without_a_list_is_an_error_that_names_its_largest_parts(
    value: Json, parts: str
) -> None:
    for size in (fit_json, write_json):
        with pytest.raises(UnusableReply) as caught:
            size(value, 1000, ["limit"])
        assert caught.value.code == "result-too-large"
        assert f"{parts}, the limit of this tool is 1.0 kB. Narrow with limit." in str(caught.value)


def test_a_list_that_is_needed_whole_is_not_cut() -> None:
    with pytest.raises(UnusableReply, match="must select less"):
        write_json(ITEMS, 1000, [])


def test_a_value_is_written_only_if_it_fits() -> None:
    assert json_if_within(["é"], 6) == ('["é"]', 6)
    assert json_if_within(["é"], 5) == (None, 6)
    assert json_if_within(["\x7f"], 9) == (None, 10)


@pytest.mark.parametrize("text", ["\x7f", "a\x9b", "\u200d", "☺\ufe0f\x7f", "\U000e0041"])
def test_many_hidden_characters_are_escaped_in_one_pass(text: str) -> None:
    steps = []
    visible(text)  # makes the tables
    sys.setprofile(lambda _, event, __: steps.append(event))
    try:
        visible(text * 10_000, "pass")
        alone = len(steps)
        visible("\x7f\u200b" * 100_000)
        strip_invisible("\u200d" * 100_000)
    finally:
        sys.setprofile(None)
    assert alone < len(steps) < 1000


@pytest.mark.parametrize("change", [visible, strip_invisible])
@pytest.mark.parametrize("row", ["é\r", "\u200d", "☀\ufe0f", "\u00ad", "\x1bé"])
def test_a_long_text_is_changed_in_pieces(change: Callable[[str], str], row: str) -> None:
    sizes: list[int] = []

    def look(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name in ("_visible", "_strip_invisible", "apart"):
            sizes.append(len(frame.f_locals["text"]))

    sys.setprofile(look)
    try:
        change(row * (50_000 // len(row)))
    finally:
        sys.setprofile(None)
    assert sum(sizes) >= 50_000
    assert max(sizes) <= 16384 + 64


def test_a_long_text_is_read_only_up_to_the_limit() -> None:
    text = "a\n" * 1_000_000
    tracemalloc.start()
    try:
        assert fit_text(text, 1000, []).meta == {"restbridge/shown": 455, "restbridge/total": 1_000_000}
        assert tracemalloc.get_traced_memory()[1] < 50_000
    finally:
        tracemalloc.stop()


def test_a_long_text_is_cut_after_a_whole_line() -> None:
    text = "".join(f"line {number} é\n" for number in range(1000))
    fitted = fit_text(text, 1000, ["since"])
    note, _, rest = fitted.text.partition("\n")
    assert len(fitted.text.encode()) <= 1000
    assert text.startswith(rest)
    assert rest.endswith("é\n")
    assert note == f"Only a part fits: showing {rest.count(chr(10))} of 1000 lines; narrow with since."
    assert fit_text("short", 1000, []).text == "short"


@settings(max_examples=200)
@given(st.text(st.sampled_from("a\r\n\x1bé\u200b\u2028"), min_size=1, max_size=400), st.integers(0, 400))
def test_a_long_text_keeps_as_many_lines_as_fit(text: str, bound: int) -> None:
    whole = visible(text)
    try:
        fitted = fit_text(text, bound, [])
    except UnusableReply:
        assert len(whole.encode()) > bound
        return
    if len(whole.encode()) <= bound:
        assert fitted.text == whole
        return
    lines = whole.splitlines(keepends=True)
    kept = fitted.meta["restbridge/shown"]
    note, _, rest = fitted.text.partition("\n")
    assert rest == "".join(lines[:kept])
    assert fitted.meta["restbridge/total"] == len(lines)
    assert len(fitted.text.encode()) <= bound
    longest = len(note.replace(f"showing {kept} ", f"showing {len(lines)} ")) + 1
    assert longest + len("".join(lines[: kept + 1]).encode()) > bound


def test_a_line_is_never_cut() -> None:
    with pytest.raises(UnusableReply, match=r"^The result is 5\.0 kB, the limit of this tool is 1\.0 kB\."):
        fit_text("x" * 5000, 1000, [])


def test_an_indivisible_value_over_the_limit_is_refused() -> None:
    require_size(1000, 1000, "application/pdf")
    with pytest.raises(UnusableReply, match=r"^The result is 1\.0 kB of application/pdf, the limit"):
        require_size(1001, 1000, "application/pdf")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=40), st.integers(150, 1500))
def test_a_cut_value_is_within_the_limit_and_a_prefix_of_the_whole(items: list[str], bound: int) -> None:
    try:
        fitted = fit_json({"items": items}, bound, ["limit"])
    except UnusableReply:
        return
    assert len(fitted.text.encode()) <= bound
    written = fitted.text.partition("\n")[2] if fitted.meta else fitted.text
    kept = json.loads(written)["items"]
    assert items[: len(kept)] == kept
