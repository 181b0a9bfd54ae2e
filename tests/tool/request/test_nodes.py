from typing import Any

import pytest

from bridge.diagnostics import Findings
from bridge.tool.request.nodes import ABSENT, Constant, check_flat, check_words, compile_structure, names
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
    node = compile_structure(value, ARGUMENTS, findings)
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
def test_placeholders_keep_their_type_and_what_is_absent_vanishes(
    written: Any, values: dict[str, Any], built: Any
) -> None:
    node = compiled(written)
    assert node.build(values) == built
    assert type(node.build(values)) is type(built)


@pytest.mark.parametrize("written", [1, None, "x", [], {}, {"a": [{"b": "c"}, None]}])
def test_what_holds_no_argument_is_constant(written: Any) -> None:
    assert compiled(written) == Constant(written)


def test_a_structure_tells_where_its_arguments_stand() -> None:
    node = compiled({"k": ["x", "{a}", "{a} {b}"], "l": "{b}"})
    assert list(node.leaves()) == [
        (("k", 1), {"a"}, True),
        (("k", 2), {"a", "b"}, False),
        (("l",), {"b"}, True),
    ]
    assert names(node) == {"a", "b"}


def test_what_is_wrong_is_found_at_its_route() -> None:
    findings = Findings()
    compile_structure({"k": [1, "{aa}"], "l": {"m": "x{list}"}}, ARGUMENTS, findings, "body")
    assert [(f.code, f.route, f.offset) for f in findings] == [
        ("unknown-argument", ("body", "k", 1), 0),
        ("not-text", ("body", "l", "m"), 1),
    ]


@pytest.mark.parametrize(
    ("written", "is_flat"),
    [
        ("{a}", True),
        ("{list}", True),
        (["{a}", 1], True),
        ([], True),
        (None, True),
        ("{object}", False),
        ({}, False),
        ({"k": "{a}"}, False),
        (["{list}"], False),
        ([["{a}"]], False),
        ([{}], False),
    ],
)
def test_a_form_carries_plain_values_and_lists_of_them(written: Any, is_flat: Any) -> None:
    findings = Findings()
    check_flat(compiled(written), ARGUMENTS, findings)
    assert [finding.code for finding in findings] == ([] if is_flat else ["nested-value"])


def test_the_words_of_a_mapping_are_held_against_the_known_ones() -> None:
    findings = Findings()
    check_words({"file_name": 1}, ("value", "filename"), findings, "body")
    assert [f"{f.route}: {f.message} [{f.code}]" for f in findings] == [
        "('body', 'file_name'): unknown key \"file_name\"; did you mean filename? [unknown-key]",
        "('body',): the key value is missing; add it with what to send, such as \"{argument}\" [missing-key]",
    ]
