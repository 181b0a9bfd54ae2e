import json
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.diagnostics import Findings
from bridge.errors import InvalidCall
from bridge.tool.request.body import Body, compile_body, compile_unplaced
from tests.tool.request.test_nodes import ARGUMENTS

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


def compiled(written: Any, content_type: str) -> Body:
    findings = Findings()
    body = compile_body(written, content_type, ARGUMENTS, findings)
    assert not list(findings)
    return body


def unplaced(names: tuple[str, ...], content_type: str) -> Body:
    findings = Findings()
    body = compile_unplaced(names, content_type, ARGUMENTS, findings)
    assert not list(findings)
    assert body
    return body


@pytest.mark.parametrize(
    ("written", "content_type", "values", "content"),
    [
        ({"k": "{a}", "n": {"b": "{b}"}}, JSON, {"a": "é"}, '{"k":"é","n":{}}'),
        ({"k": "{b}"}, "application/merge-patch+json", {"b": None}, '{"k":null}'),
        ("{object}", JSON, {"object": {"k": 2**70}}, '{"k":1180591620717411303424}'),
        ("{object}", JSON, {}, None),
        (None, JSON, {}, "null"),
        ([1, "{a}"], JSON, {}, "[1]"),
        ({"k": "{a}", "b": "{b}", "c": 1}, FORM, {"a": "x y\n&z=1", "b": None}, "k=x%20y%0A%26z%3D1&c=1"),
        ({"k": "{list}", "m": ["{a}", "2"]}, FORM, {"list": ["p", "q"], "a": "1"}, "k=p&k=q&m=1&m=2"),
        ({"k": "v", "n": None}, FORM, {}, "k=v"),
        ({"k": "{a}"}, FORM, {}, ""),
        ("{object}", FORM, {"object": {"k": "v", "l": [1, 2], "n": None}}, "k=v&l=1&l=2"),
        ("{object}", FORM, {}, None),
        ("<a>{a}</a>", "application/xml", {"a": "é"}, "<a>é</a>"),
        ("<a>{a}</a>", "application/xml", {}, None),
        ("{b}", "text/plain", {"b": 5}, "5"),
        ("{b}", "text/plain", {"b": None}, None),
        (7, "text/plain", {}, "7"),
        ({"value": "{a}"}, "text/plain", {"a": "x"}, "x"),
        ({"value": "{a}", "encoding": "base64"}, "image/png", {"a": "aGk="}, "hi"),
        ({"value": "aGk=", "encoding": "base64"}, "image/png", {}, "hi"),
    ],
)
def test_the_content_type_decides_how_a_body_is_built(
    written: Any, content_type: str, values: dict[str, Any], content: str | None
) -> None:
    built = compiled(written, content_type).build(values, {})
    assert built == (None if content is None else (content.encode(), content_type))


@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        (JSON, b'{"a":"x","list":["p"],"more":[1]}'),
        (FORM, b"a=x&list=p&more=1"),
    ],
)
def test_unplaced_and_undeclared_arguments_make_a_body(content_type: str, content: bytes) -> None:
    body = unplaced(("a", "b", "list"), content_type)
    assert body.build({"a": "x", "list": ["p"]}, {"more": [1]}) == (content, content_type)


def test_multipart_is_a_supported_type() -> None:
    written = compiled({"a": "{a}"}, "multipart/form-data").build({"a": "x"}, {})
    assert written
    assert written == unplaced(("a",), "multipart/form-data").build({"a": "x"}, {})
    assert written[1].startswith("multipart/form-data; boundary=")


def test_absent_unplaced_arguments_make_an_empty_object() -> None:
    assert unplaced(("a",), JSON).build({}, {}) == (b"{}", JSON)
    assert compile_unplaced(("a",), "text/plain", ARGUMENTS, Findings()) is None


@given(st.dictionaries(st.text(), st.text() | st.integers()))
def test_no_form_value_becomes_another_field(members: dict[str, Any]) -> None:
    body = compiled("{object}", FORM)
    try:
        built = body.build({"object": members}, {})
    except InvalidCall as refused:
        assert refused.code == "not-unicode"  # noqa: PT017 - a text may be refused, for this reason alone
        return
    assert built
    pairs = parse_qsl(built[0].decode(), keep_blank_values=True, strict_parsing=bool(members))
    assert pairs == [(key, str(value)) for key, value in members.items()]


@settings(max_examples=40)
@given(st.recursive(st.none() | st.integers() | st.text(st.characters(codec="utf-8")), st.lists))
def test_json_values_are_sent_unchanged(value: Any) -> None:
    built = compiled({"k": "{object}"}, JSON).build({"object": value}, {})
    assert built
    assert json.loads(built[0]) == {"k": value}


@pytest.mark.parametrize(
    ("written", "content_type", "values", "code"),
    [
        ({"k": "{a}"}, FORM, {"a": "\ud800"}, "not-unicode"),
        ("{a}", "text/plain", {"a": "\ud800"}, "not-unicode"),
        ("{object}", FORM, {"object": {"k": {}}}, "nested-argument"),
        ({"k": "{b}"}, JSON, {"b": float("inf")}, "unwritable-value"),
        ({"value": "{a}", "encoding": "base64"}, "image/png", {"a": "?"}, "not-base64"),
    ],
)
def test_values_that_a_body_cannot_contain_are_refused(
    written: Any, content_type: str, values: dict[str, Any], code: str
) -> None:
    with pytest.raises(InvalidCall) as caught:
        compiled(written, content_type).build(values, {})
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("written", "content_type", "found"),
    [
        ({"k": "{aa}"}, JSON, ["body.k: {aa} names no argument; did you mean {a}? [unknown-argument]"]),
        ("a={a}", FORM, ["body: expected a form as a mapping; write {name: value} [wrong-value]"]),
        (["a"], FORM, ["body: expected a form as a mapping; write {name: value} [wrong-value]"]),
        (
            "{list}",
            FORM,
            [
                "body: a form needs an object, but argument list may be of another type; give it type: object [wrong-value]"
            ],
        ),
        (
            {"k": "{object}"},
            FORM,
            [
                "body.k: argument object may be an object, but a form carries only scalars and lists of scalars; flatten it, or send application/json [nested-value]"
            ],
        ),
        (
            "{object}",
            "text/plain",
            [
                "body: argument object may be an array or object, but text/plain is sent as a single text; give it another type, or send application/json [nested-value]"
            ],
        ),
        (
            {"value": ["a"], "encoding": "base64"},
            "image/png",
            [
                "body.value: found an array or object, but image/png is sent as a single text; write a text, or send application/json [nested-value]"
            ],
        ),
        (
            {"value": "?", "encodin": "base64", "encoding": "hex"},
            "image/png",
            [
                'body.encodin: unknown key "encodin"; did you mean encoding? [unknown-key]',
                'body.encoding: found "hex", expected base64, the only encoding [wrong-value]',
            ],
        ),
    ],
)
def test_an_invalid_body_is_reported_at_load(written: Any, content_type: str, found: list[str]) -> None:
    findings = Findings()
    compile_body(written, content_type, ARGUMENTS, findings, "body")
    assert [f"{'.'.join(map(str, f.route))}: {f.message} [{f.code}]" for f in findings] == found


@pytest.mark.parametrize(
    ("written", "content_type", "leaves"),
    [
        ({"k": ["{a}"]}, JSON, [(("k", 0), {"a"}, True)]),
        ({"k": ["{a}"]}, FORM, [(("k", 0), {"a"}, False)]),
        ("{object}", FORM, [((), {"object"}, False)]),
        ("{a} {b}", "text/plain", [((), {"a", "b"}, False)]),
    ],
)
def test_a_body_lists_the_places_of_its_arguments(written: Any, content_type: str, leaves: list[Any]) -> None:
    assert list(compiled(written, content_type).leaves()) == leaves
