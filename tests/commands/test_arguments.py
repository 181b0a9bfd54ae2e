from pathlib import Path

import click
import pytest

from bridge.commands.arguments import parse
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
def test_an_argument_is_parsed_by_its_schema(arguments: Arguments, word: str, name: str, value: Json) -> None:
    assert parse([word], arguments) == {name: value}


def test_a_file_is_read_in_place_of_the_text(arguments: Arguments, tmp_path: Path) -> None:
    file = tmp_path / "lines.json"
    file.write_text('[{"name": "Zoë"}]', "utf-8")
    parsed = parse([f"text=@{file}", f"lines=@{file}"], arguments)
    assert parsed == {"text": '[{"name": "Zoë"}]', "lines": [{"name": "Zoë"}]}


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["o-1001"], "'o-1001' is not an argument; write NAME=TEXT, NAME:=JSON or NAME=@FILE"),
        (["=1"], "'=1' is not an argument; write NAME=TEXT, NAME:=JSON or NAME=@FILE"),
        ([":=1"], "':=1' is not an argument; write NAME=TEXT, NAME:=JSON or NAME=@FILE"),
        (["text=a", "text:=1"], "text is given twice; write a list as text:='[…]'"),
        (
            ["count:=1,"],
            "count is not JSON: it has a syntax error at line 1, column 2; write count=TEXT for a string",
        ),
        (["count=twelve"], "count is not a string; write for example count=5"),
        (["flag=yes"], "flag is not a string; write for example flag=true"),
        (["lines=a,b"], """lines is not a string; write for example lines:='["a", "b"]'"""),
        (["nothing=x"], "nothing is not a string; write for example nothing=null"),
        (["text=@no/such/file"], "text: cannot read no/such/file: No such file or directory"),
    ],
)
def test_an_argument_that_cannot_be_parsed_gets_a_hint(
    arguments: Arguments, typed: list[str], message: str
) -> None:
    with pytest.raises(click.UsageError) as wrong:
        parse(typed, arguments)
    assert wrong.value.message == message


def test_a_file_that_is_not_utf8_is_refused(arguments: Arguments, tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(click.UsageError, match="it is not UTF-8"):
        parse([f"text=@{file}"], arguments)
