"""What validation may cost. No test takes the time: what is accepted is held to the budget by the walk that is exact."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge import codec
from bridge.diagnostics import InvalidSpec
from bridge.errors import InvalidCall, UnusableReply
from bridge.spec import Json
from bridge.tool.arguments import MAX_BYTES, Arguments, OutputSchema, Unchecked
from bridge.tool.costs import LIMIT_NS, MAX_VISITS, QUICK_NS, SLOW_NUMBER, Costs, TooCostly
from bridge.tool.patterns import nanoseconds_per_byte
from bridge.tool.schema import Schema
from tests.tool import hostile

BIG = 2**70
SLOW = r"(\w{1,100}){1,20}\d"


def costs(schema: dict[str, Json]) -> Costs:
    return Costs(Schema(schema), lambda pattern: 100 * len(pattern))


def cost(schema: dict[str, Json], value: Json) -> int:
    """What the walk says, to a thousandth."""
    counted, low, high = costs(schema), 0, 10**13
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        try:
            counted.require(value, middle)
            high = middle
        except TooCostly:
            low = middle
    return high


@pytest.mark.parametrize(
    ("schema", "little", "much"),
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
def test_a_value_costs_what_it_makes_a_keyword_do(schema: dict[str, Json], little: Json, much: Json) -> None:
    assert 2 * cost(schema, little) < cost(schema, much)


@pytest.mark.parametrize(
    ("schema", "dearer"),
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
        ({"items": {}}, {"items": {"dependentSchemas": {"a": {"anyOf": [{}] * 9}}}}),
        ({"items": {"anyOf": [{}] * 9}}, {"items": {"unevaluatedItems": False, "anyOf": [{}] * 9}}),
        (
            {"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {}}},
            {"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"anyOf": [{}] * 9}}},
        ),
    ],
)
def test_a_schema_costs_what_it_asks_of_each_value(schema: dict[str, Json], dearer: dict[str, Json]) -> None:
    value = [{"a": 1}] * 100
    assert 2 * cost(schema, value) < cost(dearer, value)
    assert costs(dearer).free < costs(schema).free


def test_what_no_subschema_looks_at_costs_nothing() -> None:
    schema: dict[str, Json] = {"properties": {"a": {"type": "string"}}}
    assert cost(schema, {"b": [1] * 1000}) == cost(schema, {"b": 1})


def test_a_reference_that_closes_a_cycle_is_followed_once_for_each_value() -> None:
    twice: dict[str, Json] = {"allOf": [{"properties": {"x": {"$ref": "#"}}}] * 2}
    deep: Json = 1
    for _ in range(60):
        deep = {"x": deep}
    costs(twice).require(deep)
    assert costs(twice).bound.visits < 20


def test_a_cycle_of_one_value_ends() -> None:
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
    ("schema", "arguments", "said"),
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
        ({"uniqueItems": True}, [BIG + n for n in range(2000)], "q holds more values than can be checked"),
        ({"items": {"multipleOf": 0.01}}, [1.23] * 100_000, "q holds more values than can be checked"),
    ],
)
def test_arguments_that_cannot_be_checked_in_time_are_refused_by_name(
    schema: Json, arguments: Json, said: str
) -> None:
    compiled, _ = Arguments.compile({"properties": {"q": schema, "other": {"type": "string"}}})
    with pytest.raises(InvalidCall, match=said) as caught:
        compiled.check({"other": "x", "q": arguments})
    assert caught.value.code == "arguments-too-large"


def test_arguments_that_only_together_cannot_be_checked_are_refused() -> None:
    names = "abcd"
    compiled, _ = Arguments.compile({"properties": {name: {"items": {"multipleOf": 0.01}} for name in names}})
    part = [1.23] * 1200
    compiled.check({"a": part})
    with pytest.raises(InvalidCall, match="The arguments together hold more than can be checked"):
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
def test_a_quick_check_is_done_or_says_that_it_takes_longer(size: int) -> None:
    compiled, _ = Arguments.compile({"properties": {"q": {"type": "string", "maxLength": 10**6}}})
    with pytest.raises(Unchecked):  # as the validator is not built yet
        compiled.check({"q": "a"}, quick=True)
    compiled.check({"q": "a"})
    if size > 1000:
        with pytest.raises(Unchecked):
            compiled.check({"q": "a" * size}, quick=True)
    else:
        assert compiled.check({"q": "a" * size}, quick=True)


def test_a_quick_check_leaves_what_is_wrong_to_one_with_more_time() -> None:
    compiled, _ = Arguments.compile({"properties": {"q": {"type": "string"}}})
    compiled.check({})
    with pytest.raises(Unchecked):
        compiled.check({"q": 5}, quick=True)


@pytest.mark.parametrize(
    ("numbers", "is_quick"),
    [([1.5] * 20, True), ([1e-300] * 300, False), ([1.5] * 3000, False), ([1] * 50, True)],
)
def test_numbers_that_are_slow_to_compare_are_looked_at_before_a_quick_check(
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


def test_defaults_are_part_of_what_is_checked() -> None:
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
    ("written", "is_slow"),
    [
        (b'[1,"a",2e]', True),
        (b"[1.5]", True),
        (b"[1e16]", True),
        (b"[1234567890123456789]", True),
        (b"[123456789]", False),
    ],
)
def test_slow_numbers_are_seen_in_json(written: bytes, is_slow: bool) -> None:  # noqa: FBT001 - a table's column
    assert bool(SLOW_NUMBER.search(written)) is is_slow


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from([300, 3000, 30_000, 150_000]))
def test_whatever_a_schema_and_arguments_are_no_more_is_validated_than_the_budget_allows(
    seed: int, size: int
) -> None:
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
def test_the_bound_that_is_known_at_load_is_no_less_than_what_the_walk_finds(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - it only throws dice
    schema: dict[str, Any] = hostile.schema(dice)
    counted = Costs(Schema(schema), _pattern_cost)
    for size in (10, 100, 1000, MAX_BYTES // 100):
        value = hostile.arguments(dice, size)
        content = codec.encode(value)
        if len(content) <= counted.always_free:
            counted.require(value, QUICK_NS)
        if len(content) <= counted.free and not SLOW_NUMBER.search(content):
            counted.require(value, QUICK_NS)
