"""Compiled projections against jmespath's own interpreter, on generated expressions and documents."""

import jmespath
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jmespath.exceptions import JMESPathError
from jmespath.parser import Parser

from bridge import codec
from bridge.spec import Json
from bridge.tool.projection.interpreter import Budget, OverBudget, Selection
from bridge.tool.projection.projection import MAX_STEPS, Projection

NAMES = st.sampled_from("abc")
NUMBERS = st.integers(-3, 3)
SCALARS = st.none() | st.booleans() | NUMBERS | st.sampled_from([0.5, "", "a", "b", "x" * 90])
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=25,
)
LITERALS = DOCUMENTS.map(lambda value: f"`{codec.encode(value).decode()}`")
SMALL_FUNCTIONS = st.sampled_from(["abs", "length", "sum", "type", "to_array", "not_null", "avg", "floor"])
LARGE_FUNCTIONS = st.sampled_from(["keys", "values", "sort", "reverse", "max", "min", "merge", "ceil"])
BY = st.sampled_from(["sort_by", "max_by", "min_by"])
COMPARATORS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])


def _composed(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    one = st.one_of(
        inner.map(lambda e: f"({e})[*]"),
        inner.map(lambda e: f"({e}).*"),
        inner.map(lambda e: f"({e})[]"),
        inner.map(lambda e: f"!({e})"),
        inner.map(lambda e: f"[{e}]"),
        inner.map(lambda e: f"@.[{e}]"),
        st.tuples(inner, NUMBERS).map(lambda e: f"({e[0]})[{e[1]}]"),
        st.tuples(inner, NUMBERS, NUMBERS).map(lambda e: f"({e[0]})[{e[1]}:{e[2]}:2]"),
        st.tuples(SMALL_FUNCTIONS | LARGE_FUNCTIONS, inner).map(lambda e: f"{e[0]}({e[1]})"),
    )
    two = st.tuples(inner, inner)
    return one | st.one_of(
        two.map(lambda e: f"({e[0]}) | ({e[1]})"),
        two.map(lambda e: f"({e[0]}) || ({e[1]})"),
        two.map(lambda e: f"({e[0]}) && ({e[1]})"),
        two.map(lambda e: f"({e[0]}).{{a: {e[1]}, b: @}}"),
        two.map(lambda e: f"({e[0]})[*].[{e[1]}, @]"),
        two.map(lambda e: f"({e[0]})[].{{c: {e[1]}}}"),
        two.map(lambda e: f"({e[0]})[?{e[1]}]"),
        two.map(lambda e: f"map(&({e[0]}), {e[1]})"),
        two.map(lambda e: f"contains({e[0]}, {e[1]})"),
        two.map(lambda e: f"join({e[0]}, {e[1]})"),
        st.tuples(BY, inner, inner).map(lambda e: f"{e[0]}({e[1]}, &{e[2]})"),
        st.tuples(inner, COMPARATORS, inner).map(lambda e: f"({e[0]}) {e[1]} ({e[2]})"),
    )


EXPRESSIONS = st.recursive(NAMES | st.just("@") | LITERALS, _composed, max_leaves=8)


def selected(expression: str, document: Json) -> tuple[Selection, Json]:
    selection = Selection.compile(Parser().parse(expression).parsed)
    try:
        return selection, selection.select(document, Budget(MAX_STEPS))
    except (JMESPathError, TypeError) as problem:
        return selection, type(problem)


@pytest.mark.parametrize("expression", ["[{a}] == [{b}]", "contains([[{a}]], [{b}])"])
def test_one_comparison_is_within_the_budget(expression: str) -> None:
    document: Json = {"a": [1] * 70_000, "b": [1.0] * 70_000}
    once, often = (expression.format(a=",".join("a" * times), b=",".join("b" * times)) for times in (1, 12))
    assert selected(once, document)[1] is True
    with pytest.raises(OverBudget):
        selected(often, document)


@settings(max_examples=180)
@given(EXPRESSIONS, DOCUMENTS)
@example("a[]", {"a": [[1], 2, [3]]})
@example("[].{z: a.b.c, a: a, c: x.y}", [{"a": {"b": {"c": 1}}, "x": [2]}, 3, None, {"a": 0}])
@example("{a: b.c, a: d}", {"b": {"c": 1}, "d": 2})
def test_a_projection_selects_the_same_as_jmespath(expression: str, document: Json) -> None:
    try:
        expected = jmespath.search(expression, document)
    except (JMESPathError, TypeError) as problem:
        expected = type(problem)
    assert repr(selected(expression, document)[1]) == repr(expected)


@settings(max_examples=180)
@given(EXPRESSIONS, DOCUMENTS)
def test_no_result_is_larger_than_its_computed_maximum(expression: str, document: Json) -> None:
    selection, value = selected(expression, document)
    measure = Budget(MAX_STEPS).json_size
    assert measure(document) <= 3 * len(codec.encode(document))
    if not isinstance(value, type):
        assert not measure(value) > selection.factor * measure(document) + selection.extra


def test_a_result_that_doubles_at_every_step_is_measured_before_it_is_encoded() -> None:
    doubling = Projection.compile(" | ".join(["[@, @]"] * 15))
    assert len(codec.encode(doubling.apply(1, size=1))) > 2**15
