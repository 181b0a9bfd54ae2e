from collections.abc import Sequence

import pytest

from bridge.diagnostics import InvalidSpec, Route
from bridge.spec import Json
from bridge.tool.schema.structure import TYPES, Schema, without_subschemas

TREE: dict[str, Json] = {
    "properties": {
        "a": {"$ref": "#/$defs/A"},
        "b": {"items": {"$anchor": "item", "type": "string"}},
        "c/d~e f": True,
        "tuple": {"prefixItems": [{"type": "null"}, False]},
    },
    "$defs": {"A": {"anyOf": [{"type": "integer"}, {"$ref": "#"}]}},
    "const": {"properties": {"no": {"type": "string"}}},
    "enum": [{"$ref": "#/nowhere"}],
}


def test_every_subschema_has_a_route_and_other_values_have_none() -> None:
    assert set(Schema(TREE).subschemas) == {
        (),
        ("properties", "a"),
        ("properties", "b"),
        ("properties", "b", "items"),
        ("properties", "c/d~e f"),
        ("properties", "tuple"),
        ("properties", "tuple", "prefixItems", 0),
        ("properties", "tuple", "prefixItems", 1),
        ("$defs", "A"),
        ("$defs", "A", "anyOf", 0),
        ("$defs", "A", "anyOf", 1),
    }


@pytest.mark.parametrize(
    ("reference", "route"),
    [
        ("#", ()),
        ("#/$defs/A", ("$defs", "A")),
        ("#/$defs/A/anyOf/1", ("$defs", "A", "anyOf", 1)),
        ("#/properties/c~1d~0e%20f", ("properties", "c/d~e f")),
        ("#item", ("properties", "b", "items")),
        ("#/$defs/A/anyOf/2", None),
        ("#/$defs/A/anyOf/x", None),
        ("#/$defs/A/anyOf/-1", None),
        ("#/$defs/A/anyOf/\u0660", None),
        pytest.param(f"#/$defs/A/anyOf/{'9' * 5000}", None, id="too many digits for an int"),
        ("#/$defs/A/anyOf/0/type/x", None),
        ("#/$defs/B", None),
        ("#/const/properties/no", None),
        ("#/properties", None),
        ("#nowhere", None),
        ("other.json", None),
        (5, None),
    ],
)
def test_a_reference_points_to_a_subschema_or_to_nothing(reference: Json, route: Route | None) -> None:
    assert Schema(TREE).follow(reference) == route


@pytest.mark.parametrize(
    "broken",
    [
        {"properties": 5, "allOf": {}, "items": "x", "$defs": []},
        {"properties": {"a": 5}, "allOf": [3], "$ref": 7, "$anchor": 8},
    ],
)
def test_an_invalid_schema_can_be_walked(broken: dict[str, Json]) -> None:
    assert list(Schema(broken).subschemas) == [()]


def test_names_are_collected_through_references_combinators_and_cycles() -> None:
    schema = Schema(
        {
            "properties": {"a": {"type": "string"}},
            "allOf": [{"$ref": "#/$defs/more"}, {"$ref": "#/$defs/more"}, True],
            "if": {"properties": {"a": {"const": "x"}}},
            "then": {"properties": {"d": {}}},
            "dependentSchemas": {"a": {"properties": {"e": {}}}},
            "$defs": {"more": {"properties": {"b": {}}, "oneOf": [{"$ref": "#"}, {"properties": {"c": {}}}]}},
        }
    )
    assert set(schema.names()) == set("abcde")
    assert schema.names()["a"] == [("properties", "a"), ("if", "properties", "a")]


@pytest.mark.parametrize(
    ("schema", "required"),
    [
        ({"required": ["a"]}, {"a"}),
        (
            {"allOf": [{"required": ["a"]}, {"$ref": "#/$defs/x"}], "$defs": {"x": {"required": ["b"]}}},
            {"a", "b"},
        ),
        ({"anyOf": [{"required": ["a", "b"]}, {"required": ["b"]}]}, {"b"}),
        ({"oneOf": [{"required": ["a"]}, True]}, set()),
        ({"if": {"required": ["a"]}, "not": {"required": ["b"]}}, set()),
        ({"$ref": "#", "required": ["a"]}, {"a"}),
    ],
)
def test_a_name_is_required_if_every_valid_value_has_it(schema: dict[str, Json], required: set[str]) -> None:
    assert Schema(schema).required() == required


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({}, TYPES),
        ({"type": "string"}, {"string"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"type": "number"}, {"number", "integer"}),
        ({"enum": [1, "a", None, 1.5, True, [], {}]}, TYPES),
        ({"const": "x"}, {"string"}),
        ({"type": "number", "enum": [1, 2]}, {"integer"}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"string", "null"}),
        ({"allOf": [{"type": ["string", "null"]}, {"type": ["string", "array"]}]}, {"string"}),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "array"}}}, {"array"}),
        ({"$ref": "#"}, TYPES),
        ({"not": {"type": "string"}, "oneOf": [True]}, TYPES),
    ],
)
def test_types_are_derived_through_references_and_combinators(
    schema: dict[str, Json], types: frozenset[str]
) -> None:
    assert Schema(schema).types(()) == types


def test_subschemas_can_be_replaced_by_true() -> None:
    schema = {"properties": {"a": {"type": 5}, "b": 5}, "allOf": [{}, 3], "not": {"x": 1}, "type": ["x"]}
    assert without_subschemas(schema) == {
        "properties": {"a": True, "b": 5},
        "allOf": [True, 3],
        "not": True,
        "type": ["x"],
    }
    assert schema["properties"] == {"a": {"type": 5}, "b": 5}


def test_a_schema_that_is_too_deep_or_too_wide_is_refused() -> None:
    deep: dict[str, Json] = {}
    for _ in range(40):
        deep = {"properties": {"a": deep}}
    wide: dict[str, Json] = {"properties": {f"a{number}": {} for number in range(2001)}}
    for schema in (deep, wide):
        with pytest.raises(InvalidSpec) as caught:
            Schema(schema)
        assert [finding.code for finding in caught.value.findings] == ["schema-too-large"]


def test_types_and_required_names_are_derived_once_if_references_multiply() -> None:
    calls = 0

    class Counting(Schema):
        __slots__ = ()

        def in_place(self, route: Route) -> Sequence[tuple[str, Route]]:
            nonlocal calls
            calls += 1
            return super().in_place(route)

    definitions: dict[str, Json] = {
        f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 40} for n in range(10)
    }
    definitions["a10"] = {"type": "string", "required": ["x"], "anyOf": [{"$ref": "#/$defs/a10"}, True]}
    argument: dict[str, Json] = {"$ref": "#/$defs/a0"}
    schema = Counting({"properties": {f"p{n}": argument for n in range(400)}, "$defs": definitions})
    for n in range(400):
        assert schema.types(("properties", f"p{n}")) == {"string"}
        assert schema.required(("properties", f"p{n}")) == {"x"}
    assert calls < 10 * len(schema.subschemas)
