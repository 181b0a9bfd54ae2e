from typing import Any

import pytest

from bridge.diagnostics import Findings
from bridge.tool.request.nodes import (
    ABSENT,
    ConstantNode,
    argument_names,
    check_flat,
    check_keys,
    compile_node,
)
from bridge.tool.schema.arguments import Arguments

ARGUMENTS = Arguments.compile(
    {
        "properties": {
            "a": {"type": "string"},
            "b": {"type": ["integer", "null"]},
            "list": {"type": "array", "items": {"type": "string"}},
            "object": {"type": "object"},
        },
    }
)[0]


def compiled(value: Any) -> Any:
    findings = Findings()
    node = compile_node(value, ARGUMENTS, findings)
    assert not list(findings)
    return node


@pytest.mark.parametrize(
    ("written", "values", "built"),
    [
        ("{a}", {"a": "x"}, "x"),
        ("{b}", {"b": 2**70}, 2**70),
        ("{b}", {"b": None}, None),
        ("{object}", {"object": {"k": [1]}}, {"k": [1]}),
        ("{a}", {}, ABSENT),
        ("{b}", {}, ABSENT),
        ("x{b}", {"b": 1}, "x1"),
        ("x{b}", {"b": None}, ABSENT),
        ("{$uuid}", {"$uuid": "U"}, "U"),
        ({"k": "{a}", "l": ["{b}", "{a}", 1]}, {"b": 1}, {"l": [1, 1]}),
        ({"k": {"l": {"m": "{a}"}}, "n": ["{a}"]}, {}, {"k": {"l": {}}, "n": []}),
        ({"k": "{b}"}, {"b": None}, {"k": None}),
        ({"k": "a {{a}}", "n": None, "f": 1.0}, {}, {"k": "a {a}", "n": None, "f": 1.0}),
    ],
)
def test_placeholders_keep_their_type_and_absent_ones_are_left_out(
    written: Any, values: dict[str, Any], built: Any
) -> None:
    node = compiled(written)
    assert node.build(values) == built
    assert type(node.build(values)) is type(built)


@pytest.mark.parametrize("written", [1, None, "x", [], {}, {"a": [{"b": "c"}, None]}])
def test_a_value_without_arguments_is_constant(written: Any) -> None:
    assert compiled(written) == ConstantNode(written)


def test_a_node_lists_the_places_of_its_arguments() -> None:
    node = compiled({"k": ["x", "{a}", "{a} {b}"], "l": "{b}"})
    assert list(node.leaves()) == [
        (("k", 1), {"a"}, True),
        (("k", 2), {"a", "b"}, False),
        (("l",), {"b"}, True),
    ]
    assert argument_names(node) == {"a", "b"}


def test_a_finding_has_the_route_of_its_value() -> None:
    findings = Findings()
    compile_node({"k": [1, "{aa}"], "l": {"m": "x{list}"}}, ARGUMENTS, findings, "body")
    assert [(f.code, f.route, f.offset) for f in findings] == [
        ("unknown-argument", ("body", "k", 1), 0),
        ("not-text", ("body", "l", "m"), 1),
    ]


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("{a}", None),
        ("{list}", None),
        (["{a}", 1], None),
        ([], None),
        (None, None),
        ("{object}", "argument object may be an object"),
        ({}, "found an object"),
        ({"k": "{a}"}, "found an object"),
        (["{list}"], "found an array or object in a list"),
        ([["{a}"]], "found an array or object in a list"),
        ([{}], "found an array or object in a list"),
    ],
)
def test_a_form_contains_scalars_and_lists_of_scalars(written: Any, found: str | None) -> None:
    findings = Findings()
    check_flat(compiled(written), ARGUMENTS, findings)
    rest = "but a form carries only scalars and lists of scalars; flatten it, or send application/json"
    assert [finding.message for finding in findings] == ([f"{found}, {rest}"] if found else [])


def test_the_keys_of_a_mapping_are_checked() -> None:
    findings = Findings()
    check_keys({"file_name": 1}, ("value", "filename"), findings, "body")
    assert [f"{f.route}: {f.message} [{f.code}]" for f in findings] == [
        "('body', 'file_name'): unknown key \"file_name\"; did you mean filename? [unknown-key]",
        "('body',): the key value is missing; add it with what to send, such as \"{argument}\" [missing-key]",
    ]
