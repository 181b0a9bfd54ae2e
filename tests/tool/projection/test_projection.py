import sys
import tracemalloc

import jmespath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.codec import encode
from bridge.diagnostics import InvalidSpec
from bridge.errors import UnusableReply
from bridge.spec import Json
from bridge.tool.projection.projection import Projection, Unfinished, is_nothing

SHOP: dict[str, Json] = {
    "items": [
        {"id": "p-1", "price": 5, "tags": ["new", "red"], "stock": None, "first-name": "Ann"},
        {"id": "p-2", "price": 12.5, "tags": [], "active": True, "note": ""},
        {"id": "p-3", "price": 7, "tags": ["red"], "active": False, "sub": {"deep": [[1, 2], [3]]}},
    ],
    "total": {"amount": "9.50", "currency": "EUR"},
    "big": 2**80,
}


def apply(expression: str, document: Json = SHOP) -> Json:
    return Projection.compile(expression).apply(document)


def failure(expression: str, document: Json = SHOP) -> UnusableReply:
    with pytest.raises(UnusableReply) as caught:
        apply(expression, document)
    return caught.value


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("items[0].id", "p-1"),
        ("items[-1].id", "p-3"),
        ("items[99].id", None),
        ("items[*].id", ["p-1", "p-2", "p-3"]),
        ("items[*].stock", []),
        ("items[].tags[]", ["new", "red", "red"]),
        ("total.*", ["9.50", "EUR"]),
        ("items[?price > `6`].id", ["p-2", "p-3"]),
        ("items[?price >= `7` && active == `false`].{id: id}", [{"id": "p-3"}]),
        ("items[?!tags].id", ["p-2"]),
        ("items[?price].price", [5, 12.5, 7]),
        ("items[?note].id", []),
        ('items[*]."first-name"', ["Ann"]),
        ("join(' ', [total.amount, total.currency])", "9.50 EUR"),
        ("sort_by(items, &price)[*].id", ["p-1", "p-3", "p-2"]),
        ("max_by(items, &price).id", "p-2"),
        ("items[::2].id", ["p-1", "p-3"]),
        ("items[2].sub.deep[][]", [1, 2, 3]),
        ("length(items) == `3`", True),
        ("items[0].tags == ['new', 'red']", True),
        ('items[0].tags == `["new"]`', False),
        ("contains(items[*].tags, ['red'])", True),
        ('merge(total, `{"x": 1}`)', {"amount": "9.50", "currency": "EUR", "x": 1}),
        ("to_string(total)", '{"amount":"9.50","currency":"EUR"}'),
        ("to_string('a')", "a"),
        ("map(&id, items)", ["p-1", "p-2", "p-3"]),
        ("nothing.here", None),
        ("total[*]", None),
        ("items.*", None),
        ("total[?x]", None),
        ("total[]", None),
        ("total[1:]", None),
        ("`null` | [*]", None),
        ("total.currency < `5`", None),
        ("`true` < `false`", None),
        ("total.currency < 'X'", True),
        ("reverse(total.currency)", "RUE"),
        ("big", 2**80),
        ("`12345678901234567890123`", 12345678901234567890123),
        ('`"aé"`', "aé"),
    ],
)
def test_an_expression_selects(expression: str, result: Json) -> None:
    assert apply(expression) == result


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12),
        ("-1.5e3", -1500.0),
        ("12345678901234567890", 12345678901234567890),
        ("1e999", None),
        ("nan", None),
        ("1_000", None),
        (" 1", None),
        ("٣", None),
        ("9" * 5000, None),
        (7, 7),
        (True, None),
        (None, None),
        ([], None),
    ],
)
def test_to_number_accepts_only_json_numbers(text: Json, number: Json) -> None:
    assert apply("to_number(@)", text) == number


def test_lone_surrogates_in_an_expression_are_replaced() -> None:
    assert apply('{"\\ud800": `"\\ud800"`}', {}) == {"\ufffd": "\ufffd"}


@pytest.mark.parametrize(
    ("expression", "offset", "part"),
    [
        ("", None, "cannot be read"),
        ("a == `x`", 5, "write 'x' for a text"),
        ("a == `['x']`", 5, 'write texts in "double quotes"'),
        ("`NaN`", 0, "NaN is not a JSON number"),
        ('`{"a": 1, "a": 2}`', 0, "more than once"),
        ("a | lenght(@)", 4, "lenght() is not a JMESPath function; did you mean length?"),
        ("nonsense(@)", 0, "nonsense() is not a JMESPath function; see https://jmespath.org"),
        ("length(a, b)", 0, "length() has 2 parameters, expected 1"),
        ("[length(a), length(a, b)]", 12, "length() has 2"),
        ("items[?length(a)] | length(a, b)", 20, "length() has 2"),
        ("items[?length(a, b)].length(a)", 7, "length() has 2"),
        ("(length)(a, b)", 7, "length() has 2"),
        ("not_null()", 0, "not_null() has no parameters, expected at least 1"),
        ("sort_by(items)", 0, "sort_by() has 1 parameter, expected 2"),
        ("sort_by(items, price)", 15, "parameter 2 of sort_by() must be an expression; put & before it"),
        ("length(&a)", 7, "parameter 1 of length() must be a value; remove the &"),
        ("not_null([a, b], &c)", 17, "parameter 2 of not_null() must be a value"),
        ("&a", None, "& is valid only in parameters"),
        ("[&a]", 1, "& is valid only in parameters"),
        ("a[::0]", 4, "found 0 as the step of a slice"),
        ("a" * 5000, None, "longer than 4096"),
        ("(" * 51 + "a" + ")" * 51, 50, "nested more than 50 deep"),
        ("[" * 4000, 50, "nested more than 50 deep"),
        ("!" * 4000 + "a", None, "cannot be read"),
        ("||".join(["a"] * 200), None, "too many steps in a row"),
    ],
)
def test_an_invalid_expression_is_an_error_that_says_what_to_write(
    expression: str, offset: int | None, part: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Projection.compile(expression)
    (finding,) = caught.value.findings
    assert (finding.code, finding.offset) == ("bad-projection", offset)
    assert part in finding.message


@pytest.mark.parametrize(
    ("expression", "code", "offset"),
    [
        ('items[?id == "p-1"]', "quoted-identifier", 13),
        ('items[?"active" == id]', "quoted-identifier", 7),
        ('join(", ", items[*].id)', "quoted-identifier", 5),
        ('items[?contains(id, "p")]', "quoted-identifier", 20),
        ('items[?starts_with(id, "p")]', "quoted-identifier", 23),
        ("items[?active == true]", "bare-literal", 17),
        ("items[?null != stock]", "bare-literal", 7),
    ],
)
def test_a_key_that_was_probably_meant_as_a_value_is_a_warning(
    expression: str, code: str, offset: int
) -> None:
    (warning,) = Projection.compile(expression).warnings
    assert (warning.severity, warning.code, warning.offset) == ("warning", code, offset)


@pytest.mark.parametrize(
    "expression",
    [
        "items[?\"first-name\" == 'Ann']",
        'items[?"first-name" == id]',
        'items[?id == "sub".deep]',
        'items[?sub."deep" == id]',
        'length("first-name")',
        'contains("first-name", id)',
        '{"first-name": "first-name", a: ["b-c", d]}',
        "items[?active == `true`]",
        "items[?total.true == `true`]",
        "sort_by(items, &price)",
    ],
)
def test_a_key_that_needs_quotes_has_no_warning(expression: str) -> None:
    assert Projection.compile(expression).warnings == ()


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("sum(items)", 'sum() needs a list of numbers, but got {"id":"p-1"'),
        ("sort_by(items, &active)", "sort_by() needs "),
        ("join(', ', nothing)", "join() needs a list of texts, but got null"),
        ("merge(nothing, total)", "merge() needs an object, but got null"),
        ("merge(total, nothing)", "cannot be compared or used in a function"),
        ("max_by(items, &not_null(active, price))", "max_by() needs a number or a text, but got true"),
        ("max_by(items, &not_null(note, price))", "cannot be compared or used in a function"),
        ("contains(total.currency, `1`)", "cannot be compared or used in a function"),
        ("sum(`[1e308, 1e308]`)", "cannot be compared or used in a function"),
        ("avg([big, big]) | avg([@, `1e308`, `1e308`])", "cannot be compared or used in a function"),
    ],
)
def test_a_reply_that_does_not_fit_fails_with_a_sentence(expression: str, part: str) -> None:
    error = failure(expression)
    assert error.code == "projection-failed"
    assert part in str(error)


@pytest.mark.parametrize("expression", ["sum(@)", "sum(@) | [@]", "length(sum(@))", "[0] | sum([@, @])"])
def test_a_sum_that_cannot_be_encoded_fails_with_a_sentence(expression: str) -> None:
    largest = int("9" * sys.get_int_max_str_digits())
    assert encode(Projection.compile("[0]").apply([largest]))
    error = failure(expression, [largest, largest])
    assert error.code == "projection-failed"
    assert "cannot be compared or used in a function" in str(error)


@pytest.mark.parametrize(("times", "fits"), [(4, True), (5, True), (6, False), (39, False)])
def test_a_result_that_is_nested_too_deep_fails_with_a_sentence(times: int, *, fits: bool) -> None:
    expression = "|".join([f"{'[' * 50}@{']' * 50}"] * times)
    projection = Projection.compile(expression)
    if fits:
        assert encode(projection.apply(1, size=1))
        return
    with pytest.raises(UnusableReply, match="its result is nested more than 250 deep") as caught:
        projection.apply(1, size=1)
    assert caught.value.code == "projection-failed"


def failure_code(projection: Projection, document: Json) -> str:
    with pytest.raises(UnusableReply) as caught:
        projection.apply(document)
    return caught.value.code


def chain(step: str, times: int) -> str:
    return "|".join([step] * times)


BOMBS: list[tuple[str, Json]] = [
    (chain("[@,@]", 40), [1]),
    (chain("{a:@,b:@}", 40), [1]),
    (chain("[@,@][]", 40), [1]),
    ("map(&{a: @, b: @, c: @, d: @, e: @, f: @}, @)", list(range(20_000))),
    (chain("to_string([@,@])", 40), '"\\'),
    (chain("join('xx',[@,@])", 40), "abc"),
    (chain("join(@,['','','','',''])", 20), "abc"),
    (chain("[@,reverse(@)]|join('',@)", 25), "abc"),
    ("sort_by(@, &@)", ["x" * 30_000] * 2000),
    ("[?a == b]", [{"a": ["x" * 1000] * 100, "b": ["x" * 1000] * 100}] * 1000),
    (f"[{chain('[@,@]', 30)},{chain('[@,@]', 30)}]|[0]==[1]", [1]),
    (f"contains([{chain('[@,@]', 30)}],{chain('[@,@]', 30)})", [1]),
    (f"[a,b]|{chain('[@,@][]', 9)}|sort(@)|[0]", {"a": "x" * 10**6, "b": "x" * 10**6}),
    (f"{{x:a,y:b}}|{chain('[@,@][]', 9)}|[?x==y]|[0]", {"a": "x" * 10**6, "b": "x" * 10**6}),
    (f"merge({','.join(['@'] * 1000)})", {str(number): number for number in range(1000)}),
    ("[?@]|[]", list(range(900_000))),
    ("[:]", list(range(900_000))),
    ("@", ["x" * 1000] * 5000),
    ("@", [2**4000] * 5000),
]


@pytest.mark.parametrize(("expression", "document"), BOMBS)
def test_a_bomb_is_over_budget_before_it_takes_memory(expression: str, document: Json) -> None:
    projection = Projection.compile(expression)
    tracemalloc.start()
    try:
        code = failure_code(projection, document)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert code == "projection-too-large"


def test_a_deep_document_does_not_crash() -> None:
    document: Json = 1
    for _ in range(5000):
        document = [document]
    assert failure("@", document).code == "projection-failed"


NAMES = st.sampled_from(["a", "b", '"c-d"'])
LITERALS = st.sampled_from(["`1`", "`0`", "'x'", "`null`", "`[1, 2]`", '`{"a": 1}`', "`false`", "''"])
EXPRESSIONS = st.recursive(
    NAMES | LITERALS | st.just("@"),
    lambda inner: st.one_of(
        st.builds("{}.{}".format, NAMES, NAMES),
        st.builds("({})[*].{}".format, inner, NAMES),
        st.builds("({})[]".format, inner),
        st.builds("({}).*".format, inner),
        st.builds("({})[{}]".format, inner, st.integers(-2, 2)),
        st.builds("({})[{}:{}]".format, inner, st.integers(-2, 2), st.integers(-2, 2)),
        st.builds("({})[?{} {} {}]".format, inner, inner, st.sampled_from(["==", "!=", "<", ">="]), inner),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("{{x: {}, y: {}}}".format, inner, inner),
        st.builds("({}) | ({})".format, inner, inner),
        st.builds("({}) && ({})".format, inner, inner),
        st.builds("({}) || !({})".format, inner, inner),
        st.builds("{}({})".format, st.sampled_from(["length", "keys", "sort", "type", "to_array"]), inner),
        st.builds("sort_by({}, &{})".format, inner, inner),
        st.builds("map(&{}, {})".format, inner, inner),
    ),
    max_leaves=6,
)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "x", "yy"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c-d"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS, DOCUMENTS)
def test_a_projection_gives_the_same_result_as_the_library(expression: str, document: Json) -> None:
    try:
        expected = jmespath.search(expression, document)
    except (jmespath.exceptions.JMESPathError, TypeError):
        return
    assert apply(expression, document) == expected


def test_a_projection_is_unfinished_after_the_allowed_steps() -> None:
    projection = Projection.compile("[].[@, @]")
    with pytest.raises(Unfinished):
        projection.apply([1] * 100, steps=100)
    assert projection.apply([1] * 100, steps=1000) == [[1, 1]] * 100


@pytest.mark.parametrize(
    ("selected", "nothing"),
    [
        (None, True),
        ({"id": None, "lines": None}, True),
        ([None, {"id": None}], True),
        ([{"id": None}, {"id": 1}], False),
        ({"sent": {"note": None}}, False),
        ([], False),
        ({}, False),
        ({"id": None, "lines": []}, False),
        (0, False),
        (False, False),
        ("", False),
    ],
)
def test_a_result_with_only_nulls_is_nothing(selected: Json, nothing: bool) -> None:  # noqa: FBT001 - a table's column
    assert is_nothing(selected) is nothing


def test_long_lists_are_sorted_in_runs_and_merged() -> None:
    numbers = [n * 7919 % 25_000 for n in range(25_000)]
    assert Projection.compile("sort(@)").apply(numbers) == list(range(25_000))
    pairs: list[Json] = [{"n": n % 10, "at": at} for at, n in enumerate(numbers)]
    assert Projection.compile("sort_by(@, &n)").apply(pairs) == sorted(pairs, key=lambda pair: pair["n"])
    assert Projection.compile("sort(@)").apply([]) == Projection.compile("sort_by(@, &n)").apply([]) == []


@pytest.mark.parametrize("expression", ["'\\\"" * 1300, '"a' * 2001, "a[?b == `1` && c == '2' && d == `x"])
def test_an_unclosed_quote_is_found(expression: str) -> None:
    with pytest.raises(InvalidSpec) as problem:
        Projection.compile(expression)
    assert [finding.code for finding in problem.value.findings] == ["bad-projection"]
