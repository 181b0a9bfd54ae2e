from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.diagnostics import Findings
from bridge.errors import InvalidCall
from bridge.tool.request.query import (
    ClaimedNames,
    Parameter,
    Style,
    check_argument,
    compile_entry,
    write_undeclared,
)
from bridge.tool.schema.arguments import Arguments

ARGUMENTS = Arguments.compile(
    {
        "properties": {
            "text": {"type": "string"},
            "list": {"type": "array", "items": {"type": "string"}},
            "object": {"type": "object"},
            "any": {"description": "whatever"},
        },
    }
)[0]
NO_STYLE = (
    "argument object may be an object, which needs a style in a query; give it another type, "
    'or write {value: "{object}", style: deepObject} in request.query'
)
LIST = ["blue", "black", "brown"]
OBJECT = {"R": 100, "G": 200, "B": 150}


def claims(*taken: str) -> ClaimedNames:
    return ClaimedNames(frozenset(taken))


def compiled(value: Any, values: dict[str, Any]) -> str:
    findings = Findings()
    entry = compile_entry("color", value, ARGUMENTS, findings, "query", "color")
    assert not list(findings)
    return "&".join(entry.write(values, claims()))


@pytest.mark.parametrize(
    ("style", "explode", "value", "written"),
    [
        ("form", True, "", "color="),
        ("form", True, "blue", "color=blue"),
        ("form", True, LIST, "color=blue&color=black&color=brown"),
        ("form", True, OBJECT, "R=100&G=200&B=150"),
        ("form", False, LIST, "color=blue,black,brown"),
        ("form", False, OBJECT, "color=R,100,G,200,B,150"),
        ("spaceDelimited", False, LIST, "color=blue%20black%20brown"),
        ("spaceDelimited", False, OBJECT, "color=R%20100%20G%20200%20B%20150"),
        ("pipeDelimited", False, LIST, "color=blue%7Cblack%7Cbrown"),
        ("pipeDelimited", False, OBJECT, "color=R%7C100%7CG%7C200%7CB%7C150"),
        ("deepObject", True, OBJECT, "color%5BR%5D=100&color%5BG%5D=200&color%5BB%5D=150"),
        ("deepObject", False, {"a&b": "c=d", "n": None}, "color%5Ba%26b%5D=c%3Dd"),
        ("form", False, ["a,b", True, None, 1.0], "color=a%2Cb,true,1"),
        ("form", True, None, ""),
        ("form", True, [], ""),
        ("form", False, [], ""),
        ("form", False, {"a": None}, ""),
        ("form", True, [None], ""),
    ],
)
def test_styles_are_written_as_in_openapi(style: Style, *, explode: bool, value: Any, written: str) -> None:
    pairs = Parameter("color", style, explode).write("c", value, claims())
    assert "&".join(pairs) == written


@pytest.mark.parametrize(
    ("written", "values", "query"),
    [
        ("{text}", {"text": "a b"}, "color=a%20b"),
        ("{text}", {}, ""),
        ("{text}", {"text": None}, ""),
        ("x-{text}", {"text": "a"}, "color=x-a"),
        ("x-{text}", {}, ""),
        ("{list}", {"list": LIST}, "color=blue&color=black&color=brown"),
        ("-created", {}, "color=-created"),
        ("a {{text}}", {}, "color=a%20%7Btext%7D"),
        (5, {}, "color=5"),
        (True, {}, "color=true"),
        (["a", "{text}", 1], {"text": "b"}, "color=a&color=b&color=1"),
        (["a", "{text}"], {}, "color=a"),
        ({"value": "{list}", "explode": False}, {"list": LIST}, "color=blue,black,brown"),
        ({"value": "{list}", "style": "pipeDelimited"}, {"list": ["a", "b"]}, "color=a%7Cb"),
        ({"value": "{list}", "style": "form"}, {"list": ["a", "b"]}, "color=a&color=b"),
        ({"value": "{object}", "style": "form"}, {"object": OBJECT}, "R=100&G=200&B=150"),
        ({"value": "{object}", "style": "form", "explode": False}, {"object": {"a": 1}}, "color=a,1"),
        ({"value": "{object}", "style": "deepObject"}, {"object": {"gte": 1}}, "color%5Bgte%5D=1"),
        ({"value": {"a": "{text}", "b": "x"}, "style": "deepObject"}, {}, "color%5Bb%5D=x"),
        ({"value": {"b": "x"}, "style": "deepObject"}, {}, "color%5Bb%5D=x"),
        ({"value": ["a", "b"], "style": "spaceDelimited"}, {}, "color=a%20b"),
    ],
)
def test_an_entry_becomes_pairs(written: Any, values: dict[str, Any], query: str) -> None:
    assert compiled(written, values) == query


@given(st.text(st.sampled_from("&=?#;+%,[] é\\/")) | st.text(), st.lists(st.text()))
def test_no_value_becomes_another_parameter(text: str, texts: list[str]) -> None:
    parameter = Parameter("q[x]&")
    try:
        pairs = parameter.write("q", text, claims()) + parameter.write("q", texts, claims())
    except InvalidCall:
        return
    parsed = parse_qsl("&".join(pairs), keep_blank_values=True, strict_parsing=True)
    assert parsed == [("q[x]&", each) for each in (text, *texts)]


def test_names_from_a_call_never_repeat_a_parameter() -> None:
    shared = claims("admin")
    exploded = Parameter("filter", "form")
    assert exploded.write("filter", {"a": 1}, shared) == ["a=1"]
    for value in ({"admin": 1}, {"a": 2}):
        with pytest.raises(InvalidCall, match="argument filter would set a parameter that is already sent"):
            exploded.write("filter", value, shared)
    deep = Parameter("f", "deepObject")
    with pytest.raises(InvalidCall, match="already sent"):
        deep.write("f", {"a": 1}, claims("f[a]"))


@pytest.mark.parametrize("value", [[[1]], [{}], {"a": [1]}])
def test_values_that_a_query_cannot_contain_are_refused(value: Any) -> None:
    with pytest.raises(InvalidCall, match="argument x holds an array, object or null") as caught:
        Parameter("color").write("x", value, claims())
    assert caught.value.code == "nested-argument"


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("{txt}", ["query.color: {txt} names no argument; did you mean {text}? [unknown-argument]"]),
        (["{txt}"], ["query.color.0: {txt} names no argument; did you mean {text}? [unknown-argument]"]),
        (
            "x{list}",
            [
                "query.color: argument list may be an array or object, which cannot be written as text; give it another type in inputSchema, such as string [not-text]"
            ],
        ),
        (None, ["query.color: null is never sent; write a value, or take the key out [wrong-value]"]),
        (
            {"value": None},
            ["query.color.value: null is never sent; write a value, or take the key out [wrong-value]"],
        ),
        (
            {"a": "{text}"},
            [
                "query.color: expected the keys value, style or explode; move this under the key value [missing-key]"
            ],
        ),
        (
            {"style": "deepObject"},
            [
                'query.color: the key value is missing; add it with what to send, such as "{argument}" [missing-key]'
            ],
        ),
        ({"val": "{text}"}, ['query.color.val: unknown key "val"; did you mean value? [unknown-key]']),
        (
            {"value": "{text}", "in": "query"},
            ['query.color.in: unknown key "in"; expected value, style or explode [unknown-key]'],
        ),
        (
            {"value": "{text}", "style": "simple", "explode": "yes"},
            [
                'query.color.style: found "simple", expected one of form, spaceDelimited, pipeDelimited, deepObject [wrong-value]',
                'query.color.explode: found "yes", expected true or false [wrong-value]',
            ],
        ),
        (
            {"value": "{list}", "style": "pipeDelimited", "explode": True},
            [
                "query.color.explode: pipeDelimited writes one pair, which OpenAPI cannot explode; take out explode, or use form [wrong-value]"
            ],
        ),
        (
            "{object}",
            [f"query.color: {NO_STYLE} [no-style]"],
        ),
        (
            {"value": {"a": "{text}"}},
            [
                "query.color.value: an object needs a style in a query; add style: deepObject or form [no-style]"
            ],
        ),
        (
            {"value": "{any}", "style": "deepObject"},
            [
                "query.color.value: deepObject needs an object, but argument any may be of another type; give it type: object [wrong-value]"
            ],
        ),
        (
            {"value": ["a"], "style": "deepObject"},
            [
                "query.color.value: deepObject needs an object; write an object here, or take out the style [wrong-value]"
            ],
        ),
        *[
            (
                {"value": value, "style": "form"},
                [f"query.color.value.{key}: {what}, but a query cannot nest them; flatten it [nested-value]"],
            )
            for value, key, what in [
                (["{list}"], 0, "argument list may be an array or object"),
                ([["{text}"]], 0, "found an array or object"),
                ([1, ["x"]], 1, "found an array or object"),
                ({"a": {"b": "{text}"}}, "a", "found an array or object"),
                ({"a": {"b": 1}}, "a", "found an array or object"),
            ]
        ],
    ],
)
def test_an_invalid_query_is_reported_at_load(written: Any, found: list[str]) -> None:
    findings = Findings()
    compile_entry("color", written, ARGUMENTS, findings, "query", "color")
    assert [f"{'.'.join(map(str, f.route))}: {f.message} [{f.code}]" for f in findings] == found


@pytest.mark.parametrize(
    ("name", "codes"), [("text", []), ("list", []), ("object", ["no-style"]), ("any", ["no-style"])]
)
def test_an_object_argument_needs_a_style(name: str, codes: list[str]) -> None:
    findings = Findings()
    check_argument(name, None, ARGUMENTS, findings)
    assert [finding.code for finding in findings] == codes


def test_undeclared_arguments_become_pairs() -> None:
    assert [*write_undeclared({"a[]": [1, 2], "b": None}, claims("x"))] == ["a%5B%5D=1", "a%5B%5D=2"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x": 1}, 'argument "x" would set a parameter that is already sent'),
        ({"y": {"k": 1}}, 'argument "y" holds an array, object or null'),
        ({"y\n": 1}, r'argument "y\\n" holds a line break'),
    ],
)
def test_undeclared_arguments_in_a_query_are_scalars_with_new_names(
    members: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidCall, match=message):
        list(write_undeclared(members, claims("x")))
