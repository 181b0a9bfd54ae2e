from pathlib import Path

import click
import pytest

from bridge.commands.arguments import read
from bridge.spec import Json
from bridge.tool.schema.arguments import Arguments

SCHEMA: dict[str, Json] = {
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "flag": {"type": "boolean"},
        "either": {"type": ["string", "integer"]},
        "nothing": {"type": "null"},
        "lines": {"type": "array", "items": {"type": "object"}},
        "created[gte]": {"type": "string"},
    }
}


@pytest.fixture
def arguments() -> Arguments:
    return Arguments.compile(SCHEMA)[0]


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [
        ("text=o-1001", "text", "o-1001"),
        ("text=12", "text", "12"),
        ("text=a=b", "text", "a=b"),
        ("text=", "text", ""),
        ("text:=12", "text", 12),
        ("count=12", "count", 12),
        ("flag=true", "flag", True),
        ("either=12", "either", "12"),
        ('lines=[{"a": 1}]', "lines", [{"a": 1}]),
        ("lines:=[]", "lines", []),
        ("created[gte]=2026-01-01", "created[gte]", "2026-01-01"),
        ("unknown=1", "unknown", "1"),
    ],
)
def test_a_word_is_read_as_the_schema_says(arguments: Arguments, word: str, name: str, value: Json) -> None:
    assert read([word], arguments) == {name: value}


def test_a_file_is_read_in_place_of_the_text(arguments: Arguments, tmp_path: Path) -> None:
    file = tmp_path / "lines.json"
    file.write_text('[{"name": "Zoë"}]', "utf-8")
    read_in = read([f"text=@{file}", f"lines=@{file}"], arguments)
    assert read_in == {"text": '[{"name": "Zoë"}]', "lines": [{"name": "Zoë"}]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["o-1001"], "'o-1001' is no argument; write NAME=TEXT, NAME:=JSON or NAME=@FILE"),
        (["=1"], "'=1' is no argument; write NAME=TEXT, NAME:=JSON or NAME=@FILE"),
        ([":=1"], "':=1' is no argument; write NAME=TEXT, NAME:=JSON or NAME=@FILE"),
        (["text=a", "text:=1"], "text is given twice; write a list as text:='[…]'"),
        (
            ["count:=1,"],
            "count is not JSON: it departs from JSON at line 1, column 2; write count=TEXT for a text",
        ),
        (["count=twelve"], "count is no text here; write it as in count=5"),
        (["flag=yes"], "flag is no text here; write it as in flag=true"),
        (["lines=a,b"], """lines is no text here; write it as in lines:='["a", "b"]'"""),
        (["nothing=x"], "nothing is no text here; write it as in nothing=null"),
        (["text=@no/such/file"], "text: cannot read no/such/file: No such file or directory"),
    ],
)
def test_a_word_that_cannot_be_read_says_how_to_write_it(
    arguments: Arguments, words: list[str], message: str
) -> None:
    with pytest.raises(click.UsageError) as wrong:
        read(words, arguments)
    assert wrong.value.message == message


def test_a_file_that_is_no_text_is_refused(arguments: Arguments, tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(click.UsageError, match="it is not UTF-8"):
        read([f"text=@{file}"], arguments)
