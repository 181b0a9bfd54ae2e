"""Costs of validation. No test measures time: a second, exact walk proves that accepted values are within the budget."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge import codec
from bridge.diagnostics import InvalidSpec, Route
from bridge.errors import InvalidCall, UnusableReply
from bridge.spec import Json
from bridge.tool.schema.arguments import MAX_BYTES, Arguments, OutputSchema, Unchecked
from bridge.tool.schema.costs import (
    LIMIT_NS,
    MAX_STATE_PARTS,
    MAX_VISITS,
    QUICK_NS,
    SLOW_NUMBER,
    Costs,
    TooCostly,
)
from bridge.tool.schema.patterns import nanoseconds_per_byte
from bridge.tool.schema.structure import MAX_SUBSCHEMAS, Schema
from tests.tool.schema import hostile

BIG = 2**70
SLOW = r"(\w{1,100}){1,20}\d"


def costs(schema: dict[str, Json]) -> Costs:
    return Costs(Schema(schema), lambda pattern: 100 * len(pattern))


def cost(schema: dict[str, Json], value: Json) -> int:
    """The cost that the walk computes, in nanoseconds, exact to a thousandth."""
    computed, low, high = costs(schema), 0, 10**13
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        try:
            computed.require(value, middle)
            high = middle
        except TooCostly:
            low = middle
    return high


@pytest.mark.parametrize(
    ("schema", "cheap", "costly"),
    [
        ({"pattern": "a"}, "b" * 10, "b" * 1000),
        ({"pattern": "a"}, "b" * 1000, "中" * 1000),
        ({"items": {"pattern": "a"}}, ["b"], ["b"] * 1000),
        ({"propertyNames": {"pattern": "a"}}, {"b": 1}, {"b" * 1000: 1}),
        ({"patternProperties": {"a": {}}}, {"b": 1}, {"b" * 1000: 1}),
        ({"additionalProperties": {"pattern": "a"}}, {"b": ""}, {"b": "b" * 1000}),
        ({"prefixItems": [True, {"pattern": "a"}]}, ["b" * 1000, "b"], ["b", "b" * 1000]),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"pattern": "a"}]},
            ["b"],
            ["b" * 1000],
        ),
        ({"contains": {"pattern": "a"}}, ["b"], ["b"] * 1000),
        ({"format": "email"}, "b", "b" * 1000),
        ({"uniqueItems": True}, [1] * 1000, [BIG] * 1000),
        ({"uniqueItems": True}, [1] * 1000, [1.5] * 1000),
        ({"uniqueItems": True}, [1] * 1000, [[1, 1]] * 1000),
        ({"uniqueItems": True}, [1], [{"a": {"b": BIG}}] * 100),
        ({"maximum": 7}, 7, 10**4000),
        ({"maximum": 7}, 1.5, 1e300),
        ({"maximum": 1.5}, 7, 1e-300),
        ({"multipleOf": 0.01}, 7, 1e-300),
        ({"multipleOf": 7}, 7, 10**4000),
        ({"enum": [1, "a"]}, 1, 1.5),
        ({"enum": [0.0, 1.5, -0.0]}, 0, 1e-9),
        ({"unevaluatedProperties": False, "anyOf": [{}, {}]}, {}, {"a": 1, "b": 2}),
    ],
)
def test_a_value_costs_the_work_that_it_causes(schema: dict[str, Json], cheap: Json, costly: Json) -> None:
    assert 2 * cost(schema, cheap) < cost(schema, costly)


@pytest.mark.parametrize(
    ("schema", "costlier"),
    [
        ({"items": {"const": 1}}, {"items": {"const": 1.5}}),
        ({"items": {"const": 1.5}}, {"items": {"const": 1e-300}}),
        ({"items": {"const": 1}}, {"items": {"const": BIG}}),
        ({"items": {"const": 1}}, {"items": {"enum": [1] * 50}}),
        ({"items": {"const": [1]}}, {"items": {"const": [{"a": 1}] * 9}}),
        ({"items": {"multipleOf": 7}}, {"items": {"multipleOf": 0.7}}),
        ({"items": {}}, {"items": {"required": ["a"] * 99}}),
        ({"items": {}}, {"items": {"dependentRequired": {"a": ["b"] * 99}}}),
        ({"items": {}}, {"items": {"anyOf": [{"const": 1}] * 5}}),
        (
            {"items": {"anyOf": [{"type": "null"}] * 9}},
            {"items": {"anyOf": [{"anyOf": [{"type": "null"}] * 9}] * 9}},
        ),
        ({"items": {}}, {"items": {"dependentSchemas": {"a": {"anyOf": [{}] * 9}}}}),
        ({"items": {"anyOf": [{}] * 9}}, {"items": {"unevaluatedItems": False, "anyOf": [{}] * 9}}),
        (
            {"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {}}},
            {"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"anyOf": [{}] * 9}}},
        ),
    ],
)
def test_a_schema_costs_the_work_that_it_causes_for_each_value(
    schema: dict[str, Json], costlier: dict[str, Json]
) -> None:
    value = [{"a": 1}] * 100
    assert 2 * cost(schema, value) < cost(costlier, value)
    assert costs(costlier).free_bytes < costs(schema).free_bytes


class Counting(Schema):
    """Counts the calls of ``in_place``."""

    __slots__ = ("calls",)

    def __init__(self, root: dict[str, Json]) -> None:
        super().__init__(root)
        self.calls = 0

    def in_place(self, route: Route) -> Sequence[tuple[str, Route]]:
        self.calls += 1
        return super().in_place(route)


def _multiplied(leaf: dict[str, Json]) -> dict[str, Json]:
    """A schema in which ``leaf`` applies to each argument 1600 times."""
    definitions = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 40} for n in range(2)}
    argument: dict[str, Json] = {"$ref": "#/$defs/a0"}
    return {"properties": {"a": argument, "b": argument}, "$defs": definitions | {"a2": leaf}}


def test_references_that_multiply_are_counted_without_a_step_for_each_path() -> None:
    schema = Counting(_multiplied({"properties": {f"q{n}": True for n in range(1500)}}))
    computed, before = Costs(schema, len), schema.calls
    computed.require({"a": {f"q{n}": 1 for n in range(10)}, "b": {}})
    assert schema.calls - before < 10 * len(schema.subschemas)
    with pytest.raises(TooCostly):
        Costs(Schema(_multiplied({"const": 1.5})), len).require({"a": 1e-300})


def test_many_unevaluated_keywords_are_counted_in_few_steps() -> None:
    many = {"allOf": [{"minLength": n} for n in range(MAX_SUBSCHEMAS // 4)]}
    unevaluated: dict[str, Json] = {"unevaluatedProperties": True, "$ref": "#/$defs/many"}
    schema = Counting({"properties": {f"p{n}": unevaluated for n in range(500)}, "$defs": {"many": many}})
    Costs(schema, len)
    assert schema.calls < 10 * len(schema.subschemas)


def _choices(length: int) -> dict[str, Json]:
    """A schema that needs up to 2**length states, one for each path of ``length`` steps through ``a`` and ``b``."""
    definitions: dict[str, Json] = {
        f"s{n}": {"properties": {key: {"$ref": f"#/$defs/s{n + 1}"} for key in "ab"}}
        for n in range(1, length)
    }
    first: Json = {"$ref": "#/$defs/s0"}
    definitions["s0"] = {"properties": {"a": {"allOf": [first, {"$ref": "#/$defs/s1"}]}, "b": first}}
    definitions[f"s{length}"] = {"type": "object"}
    return {"properties": {"r": first}, "$defs": definitions}


def _tree(depth: int) -> Json:
    return {name: _tree(depth - 1) for name in "ab"} if depth else {}


def test_a_value_that_needs_too_many_states_is_refused_each_time_and_few_states_are_cached() -> None:
    computed = costs(_choices(20))
    for start in ("ab", "ba", "aa", "bb"):
        small: Json = {"r": {start[0]: {start[1]: _tree(4)}}}
        large: Json = {"r": {start[0]: {start[1]: _tree(13)}}}
        assert not computed.is_quick(small)
        for _ in range(2):
            computed.require(small)
            assert computed.is_quick(small)
            with pytest.raises(TooCostly):
                computed.require(large, 10 * LIMIT_NS)
            assert computed.cached_parts <= 2 * MAX_STATE_PARTS


def test_the_states_of_property_names_count_towards_the_limit() -> None:
    many: dict[str, Json] = {"allOf": [{"minLength": n} for n in range(1000)]}
    arguments: dict[str, Json] = {f"p{n}": {"propertyNames": {"$ref": "#/$defs/many"}} for n in range(30)}
    computed = costs({"properties": arguments, "$defs": {"many": many}})
    computed.require({"p0": {"a": 1}})
    with pytest.raises(TooCostly):
        computed.require({name: {"a": 1} for name in arguments})
    assert computed.cached_parts <= 2 * MAX_STATE_PARTS


def test_a_quick_check_creates_no_state() -> None:
    compiled, _ = Arguments.compile({"properties": {name: {"items": {"multipleOf": 0.01}} for name in "ab"}})
    compiled.check({})
    numbers = [1.25] * 300
    for arguments in ({"a": numbers}, {"b": numbers}):
        with pytest.raises(Unchecked):
            compiled.check(arguments, quick=True)
        assert compiled.check(arguments) == arguments
        assert compiled.check(arguments, quick=True) == arguments


def test_a_value_without_a_subschema_costs_nothing() -> None:
    schema: dict[str, Json] = {"properties": {"a": {"type": "string"}}}
    assert cost(schema, {"b": [1] * 1000}) == cost(schema, {"b": 1})


def test_a_reference_that_closes_a_cycle_is_followed_once_for_each_value() -> None:
    twice: dict[str, Json] = {"allOf": [{"properties": {"x": {"$ref": "#"}}}] * 2}
    deep: Json = 1
    for _ in range(60):
        deep = {"x": deep}
    costs(twice).require(deep)
    assert costs(twice).bound.visits < 20


def test_a_cycle_of_references_for_one_value_ends() -> None:
    a: Json = {"anyOf": [{"$ref": "#/$defs/b"}, {"$ref": "#/$defs/b"}]}
    b: Json = {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "string"}]}
    assert cost({"$ref": "#/$defs/a", "$defs": {"a": a, "b": b}}, "x") < 10_000


def test_references_that_multiply_on_the_way_down_are_refused() -> None:
    chain: dict[str, Json] = {
        f"d{n}": {"allOf": [{"properties": {"x": {"$ref": f"#/$defs/d{n + 1}"}}}] * 2} for n in range(20)
    }
    schema: dict[str, Json] = {"properties": {"x": {"$ref": "#/$defs/d0"}}, "$defs": chain | {"d20": {}}}
    with pytest.raises(InvalidSpec) as caught:
        Arguments.compile(schema)
    assert [finding.code for finding in caught.value.findings] == ["schema-too-large"]
    straight: dict[str, Json] = {
        f"d{n}": {"properties": {"x": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(400)
    }
    assert costs({"$ref": "#/$defs/d0", "$defs": straight | {"d400": {}}}).bound.visits > MAX_VISITS


@pytest.mark.parametrize(
    ("schema", "arguments", "message"),
    [
        (
            {"type": "string", "pattern": SLOW},
            "a" * 20_000,
            "q is longer than the 414 characters that can be checked",
        ),
        (
            {"pattern": SLOW, "maxLength": 100},
            "a" * 900_000,
            "q is longer than the 100 characters that can be checked",
        ),
        (
            {"maxLength": 0, "allOf": [{"pattern": SLOW, "maxLength": 5}]},
            "a" * 3000,
            "q is longer than the 0 char",
        ),
        ({"uniqueItems": True}, [BIG + n for n in range(2000)], "q has more values than can be checked"),
        ({"items": {"multipleOf": 0.01}}, [1.23] * 100_000, "q has more values than can be checked"),
    ],
)
def test_an_error_names_the_argument_that_cannot_be_checked_in_time(
    schema: Json, arguments: Json, message: str
) -> None:
    compiled, _ = Arguments.compile({"properties": {"q": schema, "other": {"type": "string"}}})
    with pytest.raises(InvalidCall, match=message) as caught:
        compiled.check({"other": "x", "q": arguments})
    assert caught.value.code == "arguments-too-large"


def test_arguments_that_are_too_costly_only_together_are_refused() -> None:
    names = "abcd"
    compiled, _ = Arguments.compile({"properties": {name: {"items": {"multipleOf": 0.01}} for name in names}})
    part = [1.23] * 1200
    compiled.check({"a": part})
    with pytest.raises(InvalidCall, match="The arguments together have more values than can be checked"):
        compiled.check(dict.fromkeys(names, part))


def test_a_large_text_and_a_long_list_are_still_checked() -> None:
    schema: dict[str, Json] = {
        "properties": {
            "text": {"type": "string", "pattern": r"\S"},
            "data": {"type": "string", "pattern": "^[A-Za-z0-9+/]*={0,2}$"},
            "ids": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        }
    }
    compiled, warnings = Arguments.compile(schema)
    assert warnings == ()
    for arguments in ({"text": "a, b " * 200_000}, {"data": "abcd" * 200_000}, {"ids": list(range(100_000))}):
        assert compiled.check(arguments) == arguments


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_quick_check_succeeds_or_raises_unchecked(size: int) -> None:
    compiled, _ = Arguments.compile({"properties": {"q": {"type": "string", "maxLength": 10**6}}})
    with pytest.raises(Unchecked):  # the validator is not built yet
        compiled.check({"q": "a"}, quick=True)
    compiled.check({"q": "a"})
    if size > 1000:
        with pytest.raises(Unchecked):
            compiled.check({"q": "a" * size}, quick=True)
    else:
        assert compiled.check({"q": "a" * size}, quick=True)


def test_a_quick_check_does_not_explain_violations() -> None:
    compiled, _ = Arguments.compile({"properties": {"q": {"type": "string"}}})
    compiled.check({})
    with pytest.raises(Unchecked):
        compiled.check({"q": 5}, quick=True)


@pytest.mark.parametrize(
    ("numbers", "is_quick"),
    [([1.5] * 20, True), ([1e-300] * 300, False), ([1.5] * 3000, False), ([1] * 50, True)],
)
def test_a_quick_check_first_computes_the_cost_of_slow_numbers(
    numbers: Json,
    is_quick: bool,  # noqa: FBT001 - a table's column
) -> None:
    compiled, _ = Arguments.compile({"properties": {"q": {"items": {"enum": [1, 1.5, 1e-300]}}}})
    compiled.check({})
    if is_quick:
        compiled.check({"q": numbers}, quick=True)
    else:
        with pytest.raises(Unchecked):
            compiled.check({"q": numbers}, quick=True)


def test_the_cost_of_a_default_is_checked() -> None:
    schema: dict[str, Json] = {"properties": {"q": {"pattern": SLOW, "default": "a" * 2000}}}
    with pytest.raises(InvalidSpec, match="the default is too large to be checked in time; shorten it"):
        Arguments.compile(schema)


def test_a_reply_that_cannot_be_checked_in_time_is_refused() -> None:
    output, _ = OutputSchema.compile({"type": "array", "items": {"multipleOf": 0.01}})
    with pytest.raises(Unchecked):
        output.structured([1.5], quick=True)
    assert output.structured([1.5]) == {"result": [1.5]}
    assert output.structured([1.5], quick=True) == {"result": [1.5]}
    with pytest.raises(Unchecked):
        output.structured([1.234], quick=True)
    with pytest.raises(
        UnusableReply, match="too large to be checked against this tool's outputSchema"
    ) as caught:
        output.structured([1.23] * 100_000)
    assert caught.value.code == "result-too-large"


@pytest.mark.parametrize(
    ("content", "is_slow"),
    [
        (b'[1,"a",2e]', True),
        (b"[1.5]", True),
        (b"[1e16]", True),
        (b"[1234567890123456789]", True),
        (b"[123456789]", False),
    ],
)
def test_slow_numbers_are_found_in_json(content: bytes, is_slow: bool) -> None:  # noqa: FBT001 - a table's column
    assert bool(SLOW_NUMBER.search(content)) is is_slow


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from([300, 3000, 30_000, 150_000]))
def test_no_validation_exceeds_its_budget_for_any_schema_and_arguments(seed: int, size: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - it only throws dice
    schema = hostile.schema(dice)
    try:
        compiled, _ = Arguments.compile(schema)
    except InvalidSpec:
        return
    exact = Costs(Schema(compiled.schema), _pattern_cost)
    for quick, budget in ((False, LIMIT_NS), (True, QUICK_NS)):
        arguments = hostile.arguments(dice, size)
        refusal = ""
        try:
            compiled.check(arguments, quick=quick)
        except (Unchecked, InvalidCall) as problem:
            refusal = str(problem) or "unchecked"
        if not refusal or refusal.startswith("The arguments do not fit"):
            exact.require(arguments, budget)


def _pattern_cost(pattern: str) -> int:
    return nanoseconds_per_byte(pattern) or 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9))
def test_the_bound_computed_at_load_is_at_least_the_cost_of_the_walk(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - it only throws dice
    schema: dict[str, Any] = hostile.schema(dice)
    computed = Costs(Schema(schema), _pattern_cost)
    for size in (10, 100, 1000, MAX_BYTES // 100):
        value = hostile.arguments(dice, size)
        content = codec.encode(value)
        if len(content) <= computed.always_free_bytes:
            computed.require(value, QUICK_NS)
        if len(content) <= computed.free_bytes and not SLOW_NUMBER.search(content):
            computed.require(value, QUICK_NS)
