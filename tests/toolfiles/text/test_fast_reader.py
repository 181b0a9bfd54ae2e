"""Which texts the fast reader accepts, and which it leaves to the full parser."""

import pytest
import yaml

from bridge.spec import Json
from bridge.toolfiles.text import fast_reader


def read(text: str) -> dict[str, Json]:
    return fast_reader.read(yaml.CSafeLoader(text).get_event)


def test_a_simple_text_is_read() -> None:
    text = "404: {a: [1, 'x', \"y\"], b: null_}\n\"\": ''\nempty:\nlong: |\n  one\n  two\nlist:\n- -1.5\n- true\n"
    assert read(text) == {
        "404": {"a": [1, "x", "y"], "b": "null_"},
        "": "",
        "empty": None,
        "long": "one\ntwo\n",
        "list": [-1.5, True],
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n",
        "a\n",
        "a: b\n---\nc: d\n",
        "a: &b c\n",
        "a: [*b]\n",
        "&a b: c\n",
        "a: !b c\n",
        "!a b: c\n",
        "a: !b [c]\n",
        "a: &b {c: d}\n",
        "? [a]\n: b\n",
        "<<: a\n",
        "? \n: a\n",
        "a: b\na: c\n",
        "a: {b}\n",
        "a: {b: null}\n",
        'a: "\\u202e"\n',
        '"\\0": a\n',
        "a: [[[[[[[[[[[[[[[[[[[[[[b]]]]]]]]]]]]]]]]]]]]]]\n",
    ],
)
def test_an_unusual_text_is_left_to_the_full_parser(text: str) -> None:
    with pytest.raises(fast_reader.Unusual):
        read(text)


def test_equal_short_texts_share_one_object() -> None:
    value = read("one: {type: string}\ntwo: {type: string}\n")
    assert value["one"]["type"] is value["two"]["type"]
