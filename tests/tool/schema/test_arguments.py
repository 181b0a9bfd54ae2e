import math
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.diagnostics import InvalidSpec, Route
from bridge.errors import InvalidCall, UnusableReply
from bridge.spec import Json
from bridge.tool.schema.arguments import Arguments, OutputSchema

SHOP: dict[str, Json] = {
    "required": ["category"],
    "properties": {
        "category": {"enum": ["books", "toys"]},
        "limit": {"type": "integer", "maximum": 100, "default": 10},
        "where": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"city": {"default": "Bern"}, "since": {"type": "string", "format": "date"}},
        },
    },
}


def compiled(schema: dict[str, Json]) -> Arguments:
    return Arguments.compile(schema)[0]


def refused(schema: dict[str, Json], arguments: dict[str, Json]) -> str:
    with pytest.raises(InvalidCall) as caught:
        compiled(schema).check(arguments)
    assert caught.value.code in ("invalid-arguments", "arguments-too-large")
    return str(caught.value)


def errors(schema: dict[str, Json]) -> list[tuple[str, Route, str]]:
    with pytest.raises(InvalidSpec) as caught:
        compiled(schema)
    return [(finding.code, finding.route, finding.message) for finding in caught.value.findings]


@pytest.mark.parametrize(
    ("schema", "sent"),
    [
        ({}, {"type": "object", "additionalProperties": False}),
        ({"type": "object"}, {"type": "object", "additionalProperties": False}),
        ({"additionalProperties": True}, {"type": "object", "additionalProperties": True}),
        ({"unevaluatedProperties": True}, {"type": "object", "unevaluatedProperties": True}),
        ({"allOf": [{}]}, {"type": "object", "allOf": [{}], "unevaluatedProperties": False}),
        ({"if": {}}, {"type": "object", "if": {}, "unevaluatedProperties": False}),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {}}},
            {"type": "object", "$ref": "#/$defs/a", "$defs": {"a": {}}, "unevaluatedProperties": False},
        ),
    ],
)
def test_clients_get_a_schema_of_an_object_without_other_names(
    schema: dict[str, Json], sent: dict[str, Json]
) -> None:
    assert compiled(schema).schema == sent


def test_each_argument_has_its_schema_default_and_types() -> None:
    arguments = compiled(
        {
            "properties": {"a": {"type": "string", "default": "x"}, "b": True, "c": False},
            "required": ["b"],
            "anyOf": [{"properties": {"a": {"type": "null"}}}, {"properties": {"d": {"type": "number"}}}],
        }
    )
    assert arguments.properties == {
        "a": {"anyOf": [{"type": "string", "default": "x"}, {"type": "null"}]},
        "b": {},
        "c": {"not": {}},
        "d": {"type": "number"},
    }
    assert arguments.required == {"b"}
    assert arguments.defaults == {"a": "x"}
    assert arguments.types("a") == {"string", "null"}
    assert arguments.types("d") == {"number", "integer"}
    assert len(arguments.types("unknown")) == 7
    assert compiled({}).defaults == {}


@pytest.mark.parametrize(
    ("schema", "is_open"),
    [
        ({}, False),
        ({"additionalProperties": True}, True),
        ({"additionalProperties": {"type": "string"}}, True),
        ({"patternProperties": {"^x": {}}}, True),
        ({"unevaluatedProperties": {"type": "string"}}, True),
        ({"allOf": [{"additionalProperties": True}, True]}, True),
        ({"allOf": [{"properties": {"a": {}}}]}, False),
    ],
)
def test_other_names_are_allowed_only_if_the_operator_says_so(schema: dict[str, Json], is_open: bool) -> None:  # noqa: FBT001 - a table's column
    assert compiled(schema).is_open is is_open


def test_defaults_are_filled_in_before_validation_and_in_nested_objects() -> None:
    arguments = compiled(SHOP)
    assert arguments.check({"category": "toys"}) == {"category": "toys", "limit": 10}
    given_: dict[str, Json] = {"category": "toys", "limit": 5, "where": {"since": "2026-01-31"}}
    assert arguments.check(given_)["where"] == {"since": "2026-01-31", "city": "Bern"}
    assert given_["where"] == {"since": "2026-01-31"}
    assert compiled({"properties": {"a": {"default": {}, "properties": {"b": {"default": 1}}}}}).check(
        {}
    ) == {"a": {"b": 1}}


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"default": 1}}},
        {"allOf": [{"properties": {"a": {"default": 1}}}]},
        {"properties": {"a": {"anyOf": [{"default": 1}]}}},
    ],
)
def test_a_default_outside_properties_is_not_filled_in(schema: dict[str, Json]) -> None:
    assert compiled(schema).check({}) == {}


def test_an_integer_written_as_a_float_is_sent_as_an_integer() -> None:
    arguments = compiled(
        {"properties": {"n": {"type": ["integer", "null"]}, "x": {"type": "number"}, "s": {"const": 1.0}}}
    )
    sent = arguments.check({"n": 5.0, "x": 5.0, "s": 1.0})
    assert [type(sent[name]) for name in "nxs"] == [int, float, float]
    assert arguments.check({"n": None}) == {"n": None}
    assert arguments.check({"n": 2**70}) == {"n": 2**70}


def test_an_error_lists_all_violations_with_argument_rule_and_value() -> None:
    text = refused(
        SHOP,
        {"category": "toy", "limit": 500, "limt": 1, "where": {"since": "yesterday", "town": "x"}},
    )
    assert text.splitlines() == [
        "The arguments do not fit this tool; nothing was sent. Correct them:",
        '- category: "toy" is not one of "books", "toys"; did you mean toys?',
        "- limit: 500 is more than the maximum of 100",
        "- limt: is not known (known: category, limit, where); did you mean limit?",
        '- where.since: "yesterday" is not a valid date, such as 2026-01-31',
        "- where.town: is not known (known: city, since)",
    ]
    assert "- category: is required, but missing" in refused(SHOP, {})


def test_other_names_are_refused_in_a_draft_without_unevaluated_properties() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "allOf": [{"properties": {"name": {}}}],
    }
    assert compiled(schema).check({"name": 1}) == {"name": 1}
    assert "- nam: is not known (known: name); did you mean name?" in refused(schema, {"nam": 1})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"a": "\ud800"}, "a contains a lone surrogate, which is not valid Unicode"),
        ({"a": [{"\udfff": 1}]}, "a contains a lone surrogate"),
        ({"\ud800": 1}, r'"\ud800" contains a lone surrogate'),
        ({"a": [math.nan]}, "a contains NaN or infinity"),
        ({"a": -math.inf}, "a contains NaN or infinity"),
        ({"a": 10**5000}, "a contains an integer with about 4000 or more digits"),
        ({"a": "x" * 2**20}, "The arguments are larger than 1048576 bytes"),
        ({f"k{number:06}": number for number in range(100_000)}, "The arguments are larger than"),
    ],
)
def test_values_that_are_not_json_or_too_large_are_refused_before_validation(
    arguments: dict[str, Json], text: str
) -> None:
    assert text in refused({"additionalProperties": True}, arguments)


def test_a_text_that_contains_the_replacement_character_is_valid() -> None:
    assert compiled({"properties": {"a": {}}}).check({"a": "\ufffd"}) == {"a": "\ufffd"}


@pytest.mark.parametrize(("depth", "is_valid"), [(63, True), (64, False), (300, False), (100_000, False)])
def test_nesting_is_limited(depth: int, is_valid: bool) -> None:  # noqa: FBT001 - a table's column
    value: Json = 1
    for _ in range(depth):
        value = [value]
    arguments = {"a": value, "b": [[]] * 100}
    if is_valid:
        assert compiled({"additionalProperties": True}).check(arguments) == arguments
    else:
        assert "a is nested more than 64 deep" in refused({"additionalProperties": True}, arguments)


@pytest.mark.parametrize(
    ("schema", "code", "route", "part"),
    [
        ({"type": "objekt"}, "invalid-schema", ("type",), "did you mean object?"),
        ({"properties": 5}, "invalid-schema", ("properties",), "5 is not an object"),
        (
            {"properties": {"a": 5}},
            "invalid-schema",
            ("properties", "a"),
            "properties.a: 5 is not a schema; write one",
        ),
        ({"required": "a"}, "invalid-schema", ("required",), '"a" is not an array'),
        (
            {"properties": {"a": {"items": {"maxLength": -1}}}},
            "invalid-schema",
            ("properties", "a", "items", "maxLength"),
            "-1 is less than the minimum of 0",
        ),
        (
            {"properties": {"a": {"type": ["string", "strin"]}}},
            "invalid-schema",
            ("properties", "a", "type", 1),
            'type[1]: "strin" is not one of',
        ),
        (
            {"properties": {"a": {"type": [[]]}}},
            "invalid-schema",
            ("properties", "a", "type", 0),
            "[] is not",
        ),
        ({"properties": {"a": {"type": []}}}, "invalid-schema", ("properties", "a", "type"), "[] is not one"),
        (
            {"required": True},
            "invalid-schema",
            ("required",),
            "true is not an array; list the required names",
        ),
        ({"$ref": None}, "invalid-schema", ("$ref",), "# starts a comment in YAML"),
        (
            {"properties": {"a": {"items": [{}]}}},
            "invalid-schema",
            ("properties", "a", "items"),
            "write one, such as {type: string}, or prefixItems for several",
        ),
        ({"dependentRequired": {"a": 5}}, "invalid-schema", ("dependentRequired", "a"), "is not an array"),
        ({"properties": {"a": {"title": "\ud800"}}}, "invalid-schema", (), "text that is not Unicode"),
        (
            {"properties": {"a": {"pattern": "("}}},
            "bad-pattern",
            ("properties", "a", "pattern"),
            "expression",
        ),
        (
            {"properties": {"a": {"pattern": "^(?!x)"}}},
            "bad-pattern",
            ("properties", "a", "pattern"),
            "look-around",
        ),
        (
            {"patternProperties": {"(a)\\1": {}}},
            "bad-pattern",
            ("patternProperties", "(a)\\1"),
            "look-around",
        ),
        (
            {"properties": {"a": {"type": "integer", "default": "1"}}},
            "bad-default",
            ("properties", "a", "default"),
            'own schema: "1" is not an integer',
        ),
        (
            {"properties": {"a": {"default": {}, "required": ["b"]}}},
            "bad-default",
            ("properties", "a", "default", "b"),
            "b: is required",
        ),
        ({"$ref": "b", "$defs": {"b": {}}}, "external-ref", ("$ref",), "never fetched; write #/$defs/b"),
        ({"$ref": "#/nowhere"}, "unresolved-ref", ("$ref",), "does not point to a schema"),
        ({"type": "array", "items": {}}, "not-an-object", ("type",), "write type: object"),
    ],
)
def test_an_invalid_schema_is_an_error_at_the_route_of_the_mistake(
    schema: dict[str, Json], code: str, route: Route, part: str
) -> None:
    ((found_code, found_route, message),) = errors(schema)
    assert (found_code, found_route) == (code, route)
    assert part in message


def test_each_draft_is_checked_by_its_own_rules() -> None:
    dialect = "http://json-schema.org/draft-07/schema#"
    schema = {"$schema": dialect, "properties": {"a": {"items": [{"type": "null"}]}}}
    assert compiled(schema).check({"a": [None]}) == {"a": [None]}
    assert errors({"properties": {"a": {"items": [{"type": "null"}]}}})[0][1] == ("properties", "a", "items")
    assert errors({"$schema": dialect, "items": 5})[0][2] == "items: 5 is not what JSON Schema allows there"


def test_a_mistake_deep_in_a_schema_is_reported_once() -> None:
    schema: dict[str, Json] = {"type": "objekt"}
    for _ in range(15):
        schema = {"properties": {"a": schema}}
    assert len(errors(schema)) == 1


def test_compile_returns_warnings() -> None:
    _, warnings = Arguments.compile({"properties": {"a": {"type": "array"}}})
    assert [warning.code for warning in warnings] == ["array-without-items"]


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "URL"},
        {"$schema": "URL"},
        {"$id": "URL", "$ref": "other"},
        {"properties": {"a": {"$dynamicRef": "URL"}}},
        {"properties": {"a": {"const": {"$ref": "URL"}, "default": {"$id": "URL", "$ref": "URL"}}}},
        {"unknown": {"$ref": "URL"}, "properties": {"a": {"default": 1, "type": "string"}}},
    ],
)
def test_no_schema_opens_a_connection(schema: dict[str, Json]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        with pytest.raises(InvalidSpec):
            compiled(_replaced(schema, url))
        server.settimeout(0.01)
        with pytest.raises(TimeoutError):
            server.accept()


def _replaced(value: Any, url: str) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(inner, url) for key, inner in value.items()}
    return url if value == "URL" else value


def test_a_catastrophic_pattern_is_matched_in_linear_time() -> None:
    schema = {"properties": {"a": {"pattern": "(a+)+$"}}}
    assert "does not match the pattern" in refused(schema, {"a": "a" * 100_000 + "b"})


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf", "allOf"])
def test_violations_in_a_doubling_recursion_are_found_quickly(keyword: str) -> None:
    schema = {"properties": {"a": {"type": "object", keyword: [{"$ref": "#"}, {"$ref": "#"}]}}}
    value: Json = 1
    for _ in range(60):
        value = {"a": value}
    assert "a.a.a" in refused(schema, value) or "matches none of the allowed forms" in refused(schema, value)


def test_a_result_that_is_not_an_object_is_wrapped_and_its_references_keep_their_targets() -> None:
    output, warnings = OutputSchema.compile(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "array",
            "items": {"$ref": "#/$defs/item"},
            "$defs": {
                "item": {"properties": {"price": {"type": "string"}, "parts": {"$ref": "#"}, "$ref": True}}
            },
        }
    )
    assert warnings == ()
    assert output.wrapped
    result = output.schema["properties"]["result"]
    assert output.schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert output.schema["type"] == "object"
    assert output.schema["required"] == ["result"]
    assert result["items"] == {"$ref": "#/properties/result/$defs/item"}
    assert result["$defs"]["item"]["properties"]["parts"] == {"$ref": "#/properties/result"}
    sent, _ = OutputSchema.compile(output.schema)
    good = [{"price": "1", "parts": [{"price": "2"}]}]
    assert output.structured(good) == sent.structured({"result": good}) == {"result": good}
    for schema, bad in (
        (output, [{"parts": [{"price": 2}]}]),
        (sent, {"result": [{"parts": [{"price": 2}]}]}),
    ):
        with pytest.raises(UnusableReply, match=r"at .*/0/parts/0/price 2 is not a string"):
            schema.structured(bad)


def test_a_result_that_is_an_object_is_sent_unchanged() -> None:
    output, _ = OutputSchema.compile({"type": "object", "properties": {"id": {"type": "string"}}})
    assert not output.wrapped
    assert output.schema == {"type": "object", "properties": {"id": {"type": "string"}}}
    assert output.structured({"id": "x", "more": 1}) == {"id": "x", "more": 1}


def test_a_reply_that_violates_the_schema_is_an_error_with_the_place() -> None:
    output, _ = OutputSchema.compile({"anyOf": [{"type": "object"}, {"type": "null"}]})
    assert output.structured(None) == {"result": None}
    with pytest.raises(UnusableReply, match="at its root 5 is not null or an object") as caught:
        output.structured(5)
    assert caught.value.code == "result-drift"


def test_a_long_place_of_a_violation_is_cut() -> None:
    output, _ = OutputSchema.compile({"type": "object", "additionalProperties": {"type": "integer"}})
    with pytest.raises(UnusableReply, match=r"outputSchema: at /x{199}… ") as caught:
        output.structured({"x" * 5000: "a"})
    assert len(str(caught.value)) < 500


def test_an_output_schema_is_checked_like_an_input_schema() -> None:
    with pytest.raises(InvalidSpec):
        OutputSchema.compile({"type": "objekt"})
    _, warnings = OutputSchema.compile({"type": "object", "nullable": True, "anyOf": [{}]})
    assert [warning.code for warning in warnings] == ["unknown-keyword"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=5,
)
SHOP_ARGUMENTS = compiled(SHOP)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["category", "limit", "where", "\ud800"]), JSON_VALUES, max_size=3))
def test_any_arguments_are_either_valid_or_refused_with_a_sentence(arguments: dict[str, Json]) -> None:
    try:
        assert SHOP_ARGUMENTS.check(arguments)["category"] in ("books", "toys")
    except InvalidCall as refusal:
        assert "nothing was sent" in str(refusal)  # noqa: PT017 - one of two endings
