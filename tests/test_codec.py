import json
import math
import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.codec import (
    BYTES_OF_CONTAINER,
    FREE_CONTAINERS,
    MAX_DEPTH,
    Json,
    NotJson,
    TooManyContainers,
    clean,
    decode,
    encode,
    encode_soon,
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
def test_what_is_encoded_decodes_to_the_same(value: Any) -> None:
    assert decode(encode(value)) == value


@given(VALUES, st.sampled_from([{}, {"indent": 2}, {"ensure_ascii": False}, {"separators": (",", ":")}]))
def test_what_the_standard_library_writes_is_read_as_it_would(value: Any, options: Any) -> None:
    text = json.dumps(value, **options)
    decoded = decode(text)
    assert decoded == json.loads(text)
    assert repr(decoded) == repr(json.loads(text))


@given(
    st.lists(st.tuples(st.text('":\\\\ a', max_size=2), st.text('":\\\\ a', max_size=3)), max_size=4),
    st.sampled_from([":", " :", ": ", "\t:\n"]),
    st.sampled_from(["", ":", '"', '":']),
)
def test_no_escape_or_blank_hides_a_duplicate_key(
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
def test_odd_documents_are_read_exactly(data: bytes | str, expected: Any) -> None:
    decoded = decode(data)
    assert decoded == expected
    assert type(decoded) is type(expected)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b'{"a": 1', "it breaks off at line 1, column 8"),
        (b"[1,\n2}", "it departs from JSON at line 2, column 2"),
        (b"<html>", "it departs from JSON at line 1, column 1"),
        (b"{} {}", "it departs from JSON at line 1, column 4"),
        (b"NaN", "NaN is no JSON number"),
        (b"[-Infinity]", "-Infinity is no JSON number"),
        (b"1e999", "the number 1e999 is past the range of a double"),
        (b"[-1E400]", "the number -1E400 is past the range of a double"),
        (b'{"a":1,"a":2}', 'an object has the key "a" more than once'),
        (b'{"a" :1,"a"\t:2}', 'an object has the key "a" more than once'),
        (b'[{"a":{"b":1},"c":"x:y","a":[]}]', 'an object has the key "a" more than once'),
        (rb'{"a":1,"\u0061":2}', 'an object has the key "a" more than once'),
        (rb'{"x":"\u003a","a":1,"a":2}', 'an object has the key "a" more than once'),
        (rb'{"x":"\u003A","a":1,"a":2}', 'an object has the key "a" more than once'),
        (rb'{"\ud800":1,"\ud801":2}', r'an object has the key "\ufffd" more than once'),
        (b'{"%s":1,"%s":2}' % (b"k" * 99, b"k" * 99), f'an object has the key "{"k" * 40}"… more than once'),
        (b'"a\nb"', "it departs from JSON at line 1, column 3"),
        (nested(MAX_DEPTH + 1), "it is nested more than 200 deep"),
        (nested(100_000), "it is nested more than 200 deep"),
        (b'{"a":' * 201 + b"12345678901234567890" + b"}" * 201, "it is nested more than 200 deep"),
    ],
)
def test_what_is_not_json_is_refused_and_the_text_says_where(data: bytes, said: str) -> None:
    with pytest.raises(NotJson) as caught:
        decode(data)
    assert str(caught.value) == said


def test_an_integer_past_the_interpreters_digits_is_refused() -> None:
    digits = sys.get_int_max_str_digits() + 1
    with pytest.raises(NotJson, match=f"an integer has {digits} digits"):
        decode(b"1" * digits)


@pytest.mark.parametrize("data", [nested(MAX_DEPTH), nested(MAX_DEPTH - 1)[:-1] + b",1234567890123456789]"])
def test_nesting_is_read_up_to_its_limit(data: bytes) -> None:
    assert encode(decode(data)) is not None


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": None, "b": [1.5, True]}, b'{"a":null,"b":[1.5,true]}'),
        ((None, 1), b"[null,1]"),
        (2**70, b"1180591620717411303424"),
        (["\ud800", {"\udfff": "é"}], '["\ufffd",{"\ufffd":"é"}]'.encode()),
        ([[2**64]], b"[[18446744073709551616]]"),
    ],
)
def test_values_are_written_exactly_and_compact(value: Any, written: bytes) -> None:
    assert encode(value) == written


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("wrap", [lambda n: n, lambda n: [None, {"a": n}], lambda n: (2**70, [n])])
def test_what_json_cannot_say_is_never_written(number: float, wrap: Any) -> None:
    with pytest.raises(NotJson, match="NaN or infinite"):
        encode(wrap(number))


def test_an_integer_that_no_text_can_hold_is_refused() -> None:
    with pytest.raises(NotJson, match="more digits"):
        encode(10 ** (sys.get_int_max_str_digits() + 1))


def test_what_is_nested_too_deep_is_not_written() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(NotJson, match="nested too deep"):
        encode(value)


def test_a_depth_past_orjsons_own_is_written() -> None:
    value: list[Any] = []
    for _ in range(300):
        value = [value]
    assert encode(value) == nested(301)


@given(st.text())
def test_a_clean_text_can_be_encoded_and_keeps_what_could_be_before(text: str) -> None:
    assert clean(text) == "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


def test_foreign_text_is_quoted_in_ascii_and_bounded() -> None:
    assert quote("a\u202eb\n") == r'"a\u202eb\n"'
    assert quote("abc", limit=2) == '"ab"…'


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": 1}, b'{"a":1}'),
        ([None], b"[null]"),
        ([None] * 50_000, None),
        (2**70, None),
        ("\ud800", None),
    ],
)
def test_what_takes_long_to_write_is_not_written_soon(value: Json, written: bytes | None) -> None:
    assert encode_soon(value) == written


@pytest.mark.parametrize("inner", ["[]", "{}", '{"a":1}', "[[]]"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_more_arrays_and_objects_than_memory_is_for_are_not_decoded(inner: str, encoding: str) -> None:
    text = f"[{','.join([inner] * FREE_CONTAINERS)}]"
    with pytest.raises(TooManyContainers, match=f"^it holds more than {FREE_CONTAINERS} arrays and objects$"):
        decode(text.encode(encoding))


def test_a_longer_text_may_hold_more_arrays_and_objects() -> None:
    most = 2 * FREE_CONTAINERS
    inner = b"[]," * (most - 2) + b"[]"
    size = most * BYTES_OF_CONTAINER
    assert len(decode((b"[%s]" % inner).ljust(size))) == most - 1
    with pytest.raises(TooManyContainers):
        decode((b"[[],%s]" % inner).ljust(size))


@pytest.mark.parametrize(
    "text", ["[" * 2 * FREE_CONTAINERS, '\\"{' * FREE_CONTAINERS, "ab{\u5b5b\n" * FREE_CONTAINERS]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_brackets_in_strings_are_no_arrays_and_objects(text: str, encoding: str) -> None:
    assert decode(json.dumps([text, {}]).encode(encoding)) == [text, {}]


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


@pytest.mark.parametrize(("depth", "deeper"), [(0, False), (64, False), (65, True), (200, True)])
def test_depth_is_known_without_a_walk(depth: int, *, deeper: bool) -> None:
    value: Any = 1
    for number in range(depth):
        value = [value] if number % 2 else {"a": value}
    assert may_be_deeper(value, 64) is deeper


def test_what_cannot_be_written_may_be_deeper() -> None:
    assert may_be_deeper([2**64], 64)
