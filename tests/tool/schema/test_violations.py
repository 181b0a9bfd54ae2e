from collections.abc import Iterator

import pytest

from bridge.diagnostics import Route
from bridge.spec import Json
from bridge.tool.quoting import excerpt, place, pointer
from bridge.tool.schema.arguments import _Library
from bridge.tool.schema.structure import Schema
from bridge.tool.schema.violations import find

PET = {"required": ["kind"], "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}}
CAR = {"required": ["kind"], "properties": {"kind": {"const": "car"}, "wheels": {"type": "integer"}}}


def violations(schema: dict[str, Json], value: Json) -> list[str]:
    tree = Schema(schema)
    return [f"{place(found.path)}: {found.text}" for found in find(tree, _Library(tree), value)]


@pytest.mark.parametrize(
    ("schema", "value", "text"),
    [
        ({"type": "string"}, 5, "5 is not a string"),
        ({"type": ["integer", "null"]}, "x", '"x" is not an integer or null'),
        ({"enum": ["a", 1]}, "b", '"b" is not one of "a", 1'),
        ({"enum": ["books"]}, "boks", '"boks" is not one of "books"; did you mean books?'),
        ({"enum": list(range(25))}, 30, f"30 is not one of {', '.join(map(str, range(20)))} or 5 others"),
        ({"const": {"a": 1}}, 5, '5 is not {"a":1}'),
        ({"maximum": 3}, 5, "5 is more than the maximum of 3"),
        ({"exclusiveMaximum": 5}, 5, "5 is not less than 5"),
        ({"minimum": 7}, 5, "5 is less than the minimum of 7"),
        ({"exclusiveMinimum": 5}, 5, "5 is not more than 5"),
        ({"multipleOf": 0.5}, 5.2, "5.2 is not a multiple of 0.5"),
        ({"maxLength": 2}, "abc", '"abc" is 3 characters long, more than 2'),
        ({"minLength": 2}, "a", '"a" is 1 characters long, less than 2'),
        ({"pattern": "^o-[0-9]+$"}, "1001", '"1001" does not match the pattern ^o-[0-9]+$'),
        ({"format": "uuid"}, "x", '"x" is not a valid uuid, such as 123e4567-e89b-12d3-a456-426614174000'),
        ({"format": "hostname"}, "-", '"-" is not a valid hostname'),
        ({"maxItems": 1}, [1, 2], "it has 2 items, more than 1"),
        ({"minItems": 1}, [], "it has 0 items, less than 1"),
        ({"uniqueItems": True}, [1, 1], "[1,1] contains equal items"),
        ({"maxProperties": 0}, {"a": 1}, "it has 1 properties, more than 0"),
        ({"minProperties": 1}, {}, "it has 0 properties, less than 1"),
        ({"not": {"type": "null"}}, None, "null matches a form that is not allowed"),
        ({"not": {"type": "null"}, "minimum": 7}, 5, "5 is less than the minimum of 7"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}, 5, "5 is not null"),
        ({"allOf": [True, {"minimum": 7}]}, 5, "5 is less than the minimum of 7"),
        (
            {"if": {"type": "integer"}, "then": {"minimum": 7}, "else": False},
            5,
            "5 is less than the minimum of 7",
        ),
        ({"if": {"type": "string"}, "else": {"minimum": 7}}, 5, "5 is less than the minimum of 7"),
        ({"if": {"minimum": 7}, "then": False, "allOf": [False]}, 5, "must not be given"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, 5, "5 is not null or a string"),
        ({"anyOf": [{"type": "string"}, {"minimum": 7}]}, 5, "5 is less than the minimum of 7"),
        ({"anyOf": [{"maximum": 1}, {"minimum": 7}]}, 5, "5 matches none of the allowed forms"),
        (
            {"oneOf": [{"maximum": 7}, {"maximum": 9}]},
            5,
            "5 matches 2 of the allowed forms, expected exactly 1",
        ),
        ({"anyOf": [{"required": ["a"]}, {"required": ["b", "c"]}]}, {}, "{} lacks a or b and c"),
        ({"contains": {"type": "null"}}, [1], "[1] contains no item of the required form"),
        ({"contains": True, "maxContains": 1}, [1, 2], "[1,2] does not match its schema"),
        ({"unevaluatedItems": False}, [1], "[1] does not match its schema"),
    ],
)
def test_a_violation_says_the_value_and_the_rule(schema: dict[str, Json], value: Json, text: str) -> None:
    assert violations(schema, value) == [f": {text}"]


@pytest.mark.parametrize(
    ("schema", "value", "texts"),
    [
        ({"required": ["a", "b"]}, {}, ["a: is required, but missing", "b: is required, but missing"]),
        ({"dependentRequired": {"a": ["b"], "x": ["y"]}}, {"a": 1}, ["b: is required, but missing"]),
        (
            {"dependentSchemas": {"a": {"required": ["b"]}, "x": False}},
            {"a": 1},
            ["b: is required, but missing"],
        ),
        ({"properties": {"a": {"type": "null"}, "b": True}}, {"a": 1}, ["a: 1 is not null"]),
        ({"patternProperties": {"^x": {"type": "null"}}}, {"x1": 1, "y": 1}, ["x1: 1 is not null"]),
        ({"propertyNames": {"maxLength": 1}}, {"ab": 1, "c": 1}, ["ab: is not an allowed name here"]),
        (
            {"properties": {"a": {}}, "patternProperties": {"^x": {}}, "additionalProperties": False},
            {"a": 1, "x": 1, "b": 1},
            ["b: is not known (known: a)"],
        ),
        ({"additionalProperties": False}, {"a": 1}, ["a: is not known"]),
        ({"additionalProperties": {"type": "null"}}, {"a": 1, "b": None}, ["a: 1 is not null"]),
        (
            {"allOf": [{"properties": {"name": {}}}], "unevaluatedProperties": False},
            {"nam": 1, "name": 1},
            ["nam: is not known (known: name); did you mean name?"],
        ),
        (
            {"allOf": [{"patternProperties": {"^x": {}}}, True], "unevaluatedProperties": False},
            {"a": 1},
            [': {"a":1} does not match its schema'],
        ),
        (
            {
                "anyOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {}}}],
                "unevaluatedProperties": False,
            },
            {"a": 2, "b": 2},
            [': {"a":2,"b":2} does not match its schema'],
        ),
        ({"items": {"type": "null"}}, [None, 1, 2], ["[1]: 1 is not null", "[2]: 2 is not null"]),
        (
            {"prefixItems": [{"type": "null"}], "items": {"type": "string"}},
            [1, "x", 2],
            ["[0]: 1 is not null", "[2]: 2 is not a string"],
        ),
        ({"anyOf": [PET, CAR]}, {"kind": "car", "wheels": "4"}, ['wheels: "4" is not an integer']),
        (
            {"anyOf": [PET, CAR]},
            {"kind": "bus"},
            [': {"kind":"bus"} matches none of the allowed forms'],
        ),
        ({"anyOf": [PET, CAR]}, {}, [": {} lacks kind"]),
        ({"allOf": [{"$ref": "#/$defs/a"}] * 3, "$defs": {"a": {"type": "null"}}}, 5, [": 5 is not null"]),
        (
            {"allOf": [{"$ref": "#/$defs/a"}] * 3, "$defs": {"a": {"minimum": 7}}},
            5,
            [": 5 is less than the minimum of 7"],
        ),
        (
            {"$dynamicRef": "#a", "$defs": {"a": {"$dynamicAnchor": "a", "type": "null"}}},
            5,
            [": 5 is not null"],
        ),
        ({"items": False}, [1] * 9, [f"[{index}]: must not be given" for index in range(5)]),
        ({"required": list("abcdefg")}, {}, [f"{name}: is required, but missing" for name in "abcde"]),
        ({"type": "string"}, "fits", []),
    ],
)
def test_a_violation_inside_a_value_has_its_path(
    schema: dict[str, Json], value: Json, texts: list[str]
) -> None:
    assert violations(schema, value) == texts


def test_items_up_to_draft_2019_09_are_searched_one_by_one() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "items": [{"type": "null"}, {"type": "string"}],
    }
    assert violations(schema, [None, 5]) == ["[1]: 5 is not a string"]


def test_a_place_is_written_for_models_and_as_a_pointer() -> None:
    path = ("lines", 0, "unit price", "a/b~c")
    assert place(path) == 'lines[0]."unit price"."a/b~c"'
    assert pointer(path) == "/lines/0/unit price/a~1b~0c"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x" * 1000, '"' + "x" * 99 + "…"),
        ([[[["deep"]]]], '[[["…"]]]'),
        ({"a": {"b": {"c": {"d": 1}}}}, '{"a":{"b":{"c":"…"}}}'),
        (list(range(100)), "[" + ",".join(map(str, range(20))) + "]"),
    ],
)
def test_only_the_start_of_a_large_value_is_quoted(value: Json, text: str) -> None:
    assert excerpt(value) == text


def test_a_search_that_takes_too_long_returns_what_it_found_so_far() -> None:
    schema: dict[str, Json] = {"properties": {name: {"type": "null"} for name in "abc"}}
    tree = Schema(schema)
    value = dict.fromkeys("abc", 5)
    for ticks, found in (
        ([0, 0, 0, 9], ["a: 5 is not null"]),
        ([0, 0, 9], [': {"a":5,"b":5,"c":5} does not match its schema']),
    ):
        search = find(tree, _Library(tree), value, clock=iter(ticks).__next__)
        assert [f"{place(each.path)}: {each.text}" for each in search] == found


class Names(dict[str, Json]):
    """An object that counts how many of its names are read."""

    read_names = 0

    def __iter__(self) -> Iterator[str]:
        for name in list(self.keys()):
            self.read_names += 1
            yield name


class NothingIsValid:
    """A library for which no value is valid."""

    def is_valid_at(self, route: Route, value: Json) -> bool:
        del route, value
        return False

    def satisfies(self, keyword: str, operand: Json, value: Json) -> bool:
        del operand, value
        return keyword == "type"


@pytest.mark.parametrize("keyword", ["additionalProperties", "unevaluatedProperties"])
def test_the_search_stops_reading_names_after_the_last_violation(keyword: str) -> None:
    value = Names({f"n{number}": 0 for number in range(900)})
    tree = Schema({"properties": {"name": {}}, keyword: False})
    assert len(find(tree, NothingIsValid(), value)) == 5
    assert value.read_names <= 10
