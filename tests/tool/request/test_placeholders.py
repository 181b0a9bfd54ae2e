from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.diagnostics import Findings
from bridge.errors import InvalidCall
from bridge.tool.request.placeholders import Text, may_be, to_text, to_utf8
from bridge.tool.schema.arguments import Arguments

ARGUMENTS = Arguments.compile(
    {
        "properties": {
            "id": {"type": "string"},
            "user-id": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "any": {"description": "whatever"},
        },
    }
)[0]


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{id}", "o-1"),
        ("a {id} b {id}", "a o-1 b o-1"),
        ("{user-id}/{2nd}", "7/two"),
        ("{{id}}", "{id}"),
        ("{{{id}}}", "{{id}}"),
        ("{{$uuid}} {$uuid}", "{$uuid} U"),
        ("{id}}", "o-1}"),
        ("{{id}", "{o-1"),
        ('query { order(id: "{id}") { total } }', 'query { order(id: "o-1") { total } }'),
        ('up{job="{id}"}[5m] =~ ".{3}"', 'up{job="o-1"}[5m] =~ ".{3}"'),
        ("{} { id } {id!} {1,2}", "{} { id } {id!} {1,2}"),
        ("{now}", None),
        ("{null} x", None),
    ],
)
def test_only_names_in_single_braces_are_replaced(text: str, rendered: str | None) -> None:
    values = {"id": "o-1", "user-id": 7, "2nd": "two", "null": None, "$uuid": "U"}
    assert Text.parse(text).render(values) == rendered


@given(st.text(st.sampled_from("{}ab$-")))
def test_any_text_can_be_written_by_doubling_the_braces_of_its_placeholders(text: str) -> None:
    doubled = "".join(
        part if isinstance(part, str) else f"{{{{{part.name}}}}}" for part in Text.parse(text).parts
    )
    if "{{" not in text:
        assert Text.parse(doubled).render({}) == text


def test_a_text_knows_its_arguments() -> None:
    text = Text.parse("{id} {$now} {user-id}")
    assert text.names == {"id", "user-id"}
    assert [part.offset for part in text.placeholders] == [0, 5, 12]
    assert not text.is_constant
    assert text.whole_argument is None
    assert Text.parse("{{id}}").is_constant


@pytest.mark.parametrize(("text", "whole"), [("{id}", "id"), ("{id} ", None), ("{$uuid}", None), ("", None)])
def test_a_text_of_a_single_argument_is_that_argument(text: str, whole: str | None) -> None:
    assert Text.parse(text).whole_argument == whole


NO_TEXT = "may be an array or object, which cannot be written as text; give it another type in inputSchema, such as string"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ok {id} {user-id} {$uuid} {$now}", []),
        ("x {idd}", ["2: {idd} names no argument; did you mean {id}? [unknown-argument]"]),
        (
            "{colour}",
            [
                "0: {colour} names no argument; declare it in inputSchema, or write {{colour}} for the text itself [unknown-argument]"
            ],
        ),
        ("{$uid}", ["0: {$uid} names no builtin; did you mean {$uuid}? [unknown-argument]"]),
        (
            "{$who}",
            [
                "0: {$who} names no builtin; there are {$uuid}, {$now} and {$caller}, or write {{$who}} for the text itself [unknown-argument]"
            ],
        ),
        (
            "a {tags} {any}",
            [f"2: argument tags {NO_TEXT} [not-text]", f"9: argument any {NO_TEXT} [not-text]"],
        ),
    ],
)
def test_an_invalid_placeholder_is_reported_at_its_brace(text: str, found: list[str]) -> None:
    findings = Findings()
    with findings.at():
        Text.parse(text).check(ARGUMENTS)
    assert [f"{f.offset}: {f.message} [{f.code}]" for f in findings] == found


def test_only_the_first_unknown_placeholders_get_a_hint() -> None:
    findings = Findings()
    with findings.at():
        Text.parse("{idd} " * 30).check(ARGUMENTS)
    assert [" did you mean {id}?" in finding.message for finding in findings] == [True] * 20 + [False] * 10


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("é", "é"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (2**70, "1180591620717411303424"),
        (3.0, "3"),
        (-0.0, "0"),
        (1.5, "1.5"),
        (1e300, "1e300"),
        (1e-7, "1e-7"),
    ],
)
def test_scalars_are_written_as_json_without_empty_fractions(value: Any, text: str) -> None:
    assert to_text("x", value).replace("+", "") == text


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ([], "nested-argument"),
        ({}, "nested-argument"),
        (None, "nested-argument"),
        (float("nan"), "unwritable-value"),
        (float("inf"), "unwritable-value"),
        pytest.param(10**5000, "unwritable-value", id="long"),
    ],
)
def test_values_without_a_text_form_are_refused(value: Any, code: str) -> None:
    with pytest.raises(InvalidCall, match="argument x") as caught:
        to_text("x", value)
    assert caught.value.code == code


def test_a_lone_surrogate_cannot_be_encoded() -> None:
    with pytest.raises(InvalidCall, match="argument x is not valid Unicode") as caught:
        to_utf8("x", "a\ud800")
    assert caught.value.code == "not-unicode"
    assert to_utf8("x", "é") == "é".encode()


def test_only_arguments_have_schema_types() -> None:
    assert may_be(ARGUMENTS, "tags", "array")
    assert not may_be(ARGUMENTS, "id", "array", "object")
    assert not may_be(ARGUMENTS, "$uuid", "object")
