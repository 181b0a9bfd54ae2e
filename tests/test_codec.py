import json
import math
import sys
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.codec import (
    BYTES_PER_CONTAINER,
    FREE_CONTAINERS,
    MAX_DEPTH,
    Json,
    NotJson,
    TooManyContainers,
    clean,
    decode,
    encode,
    encode_fast,
    may_be_deeper,
    quote,
)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@given(VALUES)
def test_an_encoded_value_decodes_to_the_same_value(value: Any) -> None:
    assert decode(encode(value)) == value


@given(VALUES, st.sampled_from([{}, {"indent": 2}, {"ensure_ascii": False}, {"separators": (",", ":")}]))
def test_json_of_the_standard_library_decodes_to_the_same_value(value: Any, options: Any) -> None:
    text = json.dumps(value, **options)
    decoded = decode(text)
    assert decoded == json.loads(text)
    assert repr(decoded) == repr(json.loads(text))


@given(
    st.lists(st.tuples(st.text('":\\\\ a', max_size=2), st.text('":\\\\ a', max_size=3)), max_size=4),
    st.sampled_from([":", " :", ": ", "\t:\n"]),
    st.sampled_from(["", ":", '"', '":']),
)
def test_no_escape_or_space_hides_a_duplicate_key(
    pairs: list[tuple[str, str]], colon: str, escaped: str
) -> None:
    def written(text: str) -> str:
        escapes = [f"\\u{ord(c):04x}" if c in escaped else json.dumps(c)[1:-1] for c in text]
        return f'"{"".join(escapes)}"'

    text = "{" + ",".join(written(key) + colon + written(value) for key, value in pairs) + "}"
    if len(dict(pairs)) < len(pairs):
        with pytest.raises(NotJson, match="more than once"):
            decode(text)
    else:
        assert decode(text) == dict(pairs)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"18446744073709551616", 2**64),
        (b"-9223372036854775809", -(2**63) - 1),
        (b'{"id": 123456789012345678901234567890}', {"id": 123456789012345678901234567890}),
        (b"[1234567890123456789012345, 1.5]", [1234567890123456789012345, 1.5]),
        (b"[1,\n-1234567890123456789012345]", [1, -1234567890123456789012345]),
        (b'"1234567890123456789012345"', "1234567890123456789012345"),
        (b"0.1234567890123456789012345", 0.1234567890123456789012345),
        (b"1e2", 100.0),
        (b"\xef\xbb\xbf{}", {}),
        ("\ufeff[1]", [1]),
        ('{"ä":1}'.encode("utf-16"), {"ä": 1}),
        (b"\xfe\xff" + "[1]".encode("utf-16-be"), [1]),
        ('{"ä":1}'.encode("utf-32"), {"ä": 1}),
        (b"\x00\x00\xfe\xff" + "[1]".encode("utf-32-be"), [1]),
        (b'"\xff"', "\ufffd"),
        (rb'"\ud800"', "\ufffd"),
        (rb'"\udc00\ud83d\ude00\ud800x"', "\ufffd😀\ufffdx"),
        (rb'"\\ud800"', r"\ud800"),
        ('"\ud800"', "\ufffd"),
        (rb'{"\ud800": "a\u003ab"}', {"\ufffd": "a:b"}),
        (rb'{"a\u0022\u003a": 1, "b": "\":"}', {'a":': 1, "b": '":'}),
        (b'"\\u0000"', "\0"),
    ],
)
def test_unusual_documents_are_decoded_exactly(data: bytes | str, expected: Any) -> None:
    decoded = decode(data)
    assert decoded == expected
    assert type(decoded) is type(expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b'{"a": 1', "it ends too early at line 1, column 8"),
        (b"[1,\n2}", "it has a syntax error at line 2, column 2"),
        (b"\xef\xbb\xbf" * 2 + b"[]", "it has a syntax error at line 1, column 1"),
        (b"\xef\xbb\xbf" * 2 + b"[%s1]" % (b"1," * 200_000), "it has a syntax error at line 1, column 1"),
        (b"\xff\xfe" + "\ufeff[]".encode("utf-16-le"), "it has a syntax error at line 1, column 1"),
        (b"<html>", "it has a syntax error at line 1, column 1"),
        (b"{} {}", "it has a syntax error at line 1, column 4"),
        (b"NaN", "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
        (b"1e999", "the number 1e999 is outside the range of a double"),
        (b"[-1E400]", "the number -1E400 is outside the range of a double"),
        (b'{"a":1,"a":2}', 'an object has the key "a" more than once'),
        (b'{"a" :1,"a"\t:2}', 'an object has the key "a" more than once'),
        (b'[{"a":{"b":1},"c":"x:y","a":[]}]', 'an object has the key "a" more than once'),
        (rb'{"a":1,"\u0061":2}', 'an object has the key "a" more than once'),
        (rb'{"x":"\u003a","a":1,"a":2}', 'an object has the key "a" more than once'),
        (rb'{"x":"\u003A","a":1,"a":2}', 'an object has the key "a" more than once'),
        (rb'{"\ud800":1,"\ud801":2}', r'an object has the key "\ufffd" more than once'),
        (b'{"%s":1,"%s":2}' % (b"k" * 99, b"k" * 99), f'an object has the key "{"k" * 40}"… more than once'),
        (b'"a\nb"', "it has a syntax error at line 1, column 3"),
        (nested(MAX_DEPTH + 1), "it is nested more than 200 deep"),
        (nested(100_000), "it is nested more than 200 deep"),
        (b'{"a":' * 201 + b"12345678901234567890" + b"}" * 201, "it is nested more than 200 deep"),
    ],
)
def test_invalid_json_is_refused_and_the_error_says_where(data: bytes, message: str) -> None:
    with pytest.raises(NotJson) as caught:
        decode(data)
    assert str(caught.value) == message


def test_an_integer_with_more_digits_than_python_allows_is_refused() -> None:
    digits = sys.get_int_max_str_digits() + 1
    with pytest.raises(NotJson, match=f"an integer has {digits} digits"):
        decode(b"1" * digits)


@pytest.mark.parametrize("data", [nested(MAX_DEPTH), nested(MAX_DEPTH - 1)[:-1] + b",1234567890123456789]"])
def test_nesting_is_decoded_up_to_its_limit(data: bytes) -> None:
    assert encode(decode(data)) is not None


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ({"a": None, "b": [1.5, True]}, b'{"a":null,"b":[1.5,true]}'),
        ((None, 1), b"[null,1]"),
        (2**70, b"1180591620717411303424"),
        (["\ud800", {"\udfff": "é"}], '["\ufffd",{"\ufffd":"é"}]'.encode()),
        ([[2**64]], b"[[18446744073709551616]]"),
    ],
)
def test_values_are_encoded_exactly_and_compactly(value: Any, encoded: bytes) -> None:
    assert encode(value) == encoded


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("wrap", [lambda n: n, lambda n: [None, {"a": n}], lambda n: (2**70, [n])])
def test_nan_and_infinity_are_never_encoded(number: float, wrap: Any) -> None:
    with pytest.raises(NotJson, match="NaN or infinite"):
        encode(wrap(number))


def test_an_integer_with_too_many_digits_is_not_encoded() -> None:
    with pytest.raises(NotJson, match="too many digits"):
        encode(10 ** (sys.get_int_max_str_digits() + 1))


def test_a_value_that_is_nested_too_deep_is_not_encoded() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(NotJson, match="nested too deep"):
        encode(value)


def test_a_value_deeper_than_the_limit_of_orjson_is_encoded() -> None:
    value: list[Any] = []
    for _ in range(300):
        value = [value]
    assert encode(value) == nested(301)


@given(st.text())
def test_clean_replaces_only_lone_surrogates(text: str) -> None:
    assert clean(text) == "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


def test_untrusted_text_is_quoted_in_ascii_and_cut() -> None:
    assert quote("a\u202eb\n") == r'"a\u202eb\n"'
    assert quote("abc", limit=2) == '"ab"…'


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ({"a": 1}, b'{"a":1}'),
        ([None], b"[null]"),
        ([None] * 50_000, None),
        (2**70, None),
        ("\ud800", None),
    ],
)
def test_values_that_are_slow_to_encode_are_not_encoded_fast(value: Json, encoded: bytes | None) -> None:
    assert encode_fast(value) == encoded


@pytest.mark.parametrize("inner", ["[]", "{}", '{"a":1}', "[[]]"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_too_many_arrays_and_objects_are_not_decoded(inner: str, encoding: str) -> None:
    text = f"[{','.join([inner] * FREE_CONTAINERS)}]"
    with pytest.raises(
        TooManyContainers, match=f"^it contains more than {FREE_CONTAINERS} arrays and objects$"
    ):
        decode(text.encode(encoding))


def test_a_longer_text_may_contain_more_arrays_and_objects() -> None:
    count = 2 * FREE_CONTAINERS
    inner = b"[]," * (count - 2) + b"[]"
    size = count * BYTES_PER_CONTAINER
    assert len(decode((b"[%s]" % inner).ljust(size))) == count - 1
    with pytest.raises(TooManyContainers):
        decode((b"[[],%s]" % inner).ljust(size))


@pytest.mark.parametrize(
    "text", ["[" * 2 * FREE_CONTAINERS, '\\"{' * FREE_CONTAINERS, "ab{\u5b5b\n" * FREE_CONTAINERS]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_brackets_in_strings_do_not_count_as_arrays_and_objects(text: str, encoding: str) -> None:
    assert decode(json.dumps([text, {}]).encode(encoding)) == [text, {}]


@pytest.mark.parametrize("unit", [b" ", b"1", b"[1],", b"\\"])
def test_brackets_are_counted_in_linear_time(unit: bytes) -> None:
    """With quadratic time this test would not end."""
    content = b'[%s"%s"' % (unit * 500_000, b"[" * 4 * FREE_CONTAINERS)
    with pytest.raises(NotJson):
        decode(content + b"]]")
    with pytest.raises(NotJson):
        decode(content[:-1])


def test_brackets_count_only_outside_strings() -> None:
    text = "[" * (FREE_CONTAINERS + 8)
    assert decode(f'["{text}"]') == [text]
    with pytest.raises(TooManyContainers):
        decode(f'["{text}"{",[]" * len(text)}]')


_PAIRS = [b'{"\xc3\xa9%03d":"z%03d"}' % (each % 1000, each % 1000) for each in range(FREE_CONTAINERS - 2)]


@pytest.mark.parametrize("more", [b"", b",12345678901234567890"])
def test_a_value_takes_at_most_twenty_times_the_memory_of_its_text(more: bytes) -> None:
    content = b"[%s%s]" % (b",".join(_PAIRS), more)
    tracemalloc.start()
    try:
        value = decode(content)
        assert tracemalloc.get_traced_memory()[0] < 20 * len(content)
        assert value[0] == {"\xe9000": "z000"}
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [rb"%s\ud800" % (rb"\n" * 1_000_000), rb"\ud800" * 350_000])
def test_escapes_of_lone_surrogates_take_little_memory(content: bytes) -> None:
    tracemalloc.start()
    try:
        decode(b'"%s"' % content)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(content)
    finally:
        tracemalloc.stop()


def test_lone_surrogates_are_kept_on_request() -> None:
    content = rb'{"\ud800":"\ud83d\ude00\udc00","a":"\\ud800"}'
    assert decode(content, keep_surrogates=True) == {"\ud800": "😀\udc00", "a": r"\ud800"}


def test_a_large_value_is_not_decoded_again_after_encoding() -> None:
    called: list[object] = []
    value = ["é"] * 100_000 + [None]
    sys.setprofile(lambda _frame, _event, function: called.append(function))
    try:
        encode(value)
    finally:
        sys.setprofile(None)
    assert orjson.dumps in called
    assert orjson.loads not in called
    with pytest.raises(NotJson, match="NaN or infinite"):
        encode([*value, {"a": [math.nan]}])


@pytest.mark.parametrize(("depth", "deeper"), [(0, False), (64, False), (65, True), (200, True)])
def test_may_be_deeper_finds_deep_nesting(depth: int, *, deeper: bool) -> None:
    value: Any = 1
    for number in range(depth):
        value = [value] if number % 2 else {"a": value}
    assert may_be_deeper(value, 64) is deeper


def test_a_value_that_orjson_cannot_encode_may_be_deeper() -> None:
    assert may_be_deeper([2**64], 64)
