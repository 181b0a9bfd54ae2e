"""Decoding in pieces gives the same value, or the same error, as decoding at once."""

import json
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.codec import NotJson, _decode_strictly, decode
from bridge.pieces import DuplicateKey, InvalidJson, PieceDecoder, TooDeep
from tests.test_codec import VALUES

_SIZES: Final = st.integers(0, 40)
_STYLES: Final = st.sampled_from([{}, {"indent": 1}, {"ensure_ascii": False}, {"separators": (",", ":")}])
_CONTAINERS: Final = st.lists(VALUES) | st.dictionaries(st.text('ab"\\,:{}[]é', max_size=3), VALUES)
_EDITS: Final = st.lists(st.tuples(st.floats(0, 1), st.sampled_from([*'[]{},:"\\ 1a-\n', ""])), max_size=3)


def in_pieces(content: bytes, size: int, max_depth: int = 200) -> Any:
    return PieceDecoder(content, lambda piece, _: decode(piece), max_depth, piece_bytes=size).decode()


@pytest.mark.slow
@given(_CONTAINERS, _STYLES, _SIZES)
def test_pieces_give_the_same_value(value: Any, style: Any, size: int) -> None:
    text = json.dumps(value, **style)
    assert repr(in_pieces(text.encode(), size)) == repr(json.loads(text))


@pytest.mark.slow
@given(_CONTAINERS, _STYLES, _EDITS, _SIZES)
@example([1], {}, [(0, ",")], 0)
def test_pieces_of_invalid_json_are_invalid(value: Any, style: Any, edits: Any, size: int) -> None:
    text = json.dumps(value, **style)
    for place, replacement in edits:
        at = int(place * len(text))
        text = text[:at] + replacement + text[at + 1 :]
    if not text.strip(" \t\r\n").startswith(("[", "{")):
        return
    try:
        expected = decode(text)
    except NotJson:
        with pytest.raises((NotJson, InvalidJson, DuplicateKey, TooDeep)):
            in_pieces(text.encode(), size)
    else:
        assert repr(in_pieces(text.encode(), size)) == repr(expected)


@pytest.mark.parametrize(
    "content",
    [
        b"[" + b",".join([b'{"a": 1}'] * 200_000) + b"]",
        b'{"items": [' + b",\n".join([b'"x"'] * 400_000) + b'], "total": 1}',
        b"{" + b",".join(b'"%d": %d' % (number, number) for number in range(150_000)) + b"}",
        b"[" * 100 + b",".join([b"[1]"] * 100_000) + b"]" * 100,
        (b"[" + b"0," * 31_000) * 40 + b"0" + b"]" * 40,
        (b"[" + b"0," * 31_000) * 40 + b"0" + b",0]" * 40,
        (b'{"a": 1, "%s": 2, "b": ' % (b"k" * 62_000)) * 40 + b"0" + b"}" * 40,
        (b"[" + b"[[0]]," * 10_000) * 10 + b"0" + b"]" * 10,
    ],
)
def test_no_piece_of_large_json_is_large(content: bytes) -> None:
    sizes: list[int] = []

    def decode_piece(piece: bytes, _: int) -> Any:
        sizes.append(len(piece))
        return json.loads(piece)

    assert PieceDecoder(content, decode_piece, 200).decode() == json.loads(content)
    assert max(sizes) < 150_000
    assert len(sizes) >= len(content) // 100_000


@pytest.mark.parametrize("content", [b'[1 "', b"[1 [[2]]]", b'{"a": 1, "a": 2}', b'{"a": [2], "a": 1}'])
def test_an_error_between_pieces_is_found(content: bytes) -> None:
    with pytest.raises((InvalidJson, DuplicateKey)):
        in_pieces(content, 0)


@pytest.mark.parametrize("depth", [4, 5, 6])
@pytest.mark.parametrize("inner", [b"", b"1", b"1, 2", b'"["', b"1, " * 1000 + b"2"])
@pytest.mark.parametrize("size", [0, 1000])
def test_depth_is_limited_in_any_piece(depth: int, inner: bytes, size: int) -> None:
    content = b"[1, " * (depth - 1) + b"[%s]" % inner + b", 2]" * (depth - 1)
    if depth > 5:
        with pytest.raises(TooDeep):
            in_pieces(content, size, 5)
    else:
        assert in_pieces(content, size, 5) == json.loads(content)


@pytest.mark.parametrize(
    "unit", [b'"', b'\\"', b"[", b"{", b",", b'{"a":', b"[[],", b"a", b'"a"', b'"a":', b" "]
)
def test_invalid_json_is_found_in_linear_time(unit: bytes) -> None:
    """With quadratic time this test would not end."""
    for begin in (b"[", b'["', b"{"):
        with pytest.raises((NotJson, InvalidJson, TooDeep)):
            in_pieces(begin + unit * (2_000_000 // len(unit)), 1000)


MANY: Final = ", ".join(f'"b{number}": []' for number in range(30_000))
LARGE: Final = ", ".join(f'{{"a{number}": "é"}}' for number in range(27_000))


@pytest.mark.parametrize(
    "text",
    [
        f"[{LARGE}, nul, {LARGE}]",
        f"[{LARGE},\n\n {{a: 1}}, {LARGE}]",
        f"[{LARGE}, ",
        f'[{LARGE}, "a, {LARGE}',
        f"[{LARGE}] x",
        f"[{LARGE}}}",
        f"[{LARGE},]",
        f"[, {LARGE}]",
        f"[[{LARGE}], [{LARGE}], {{[{LARGE}]}}]",
        f"[[{LARGE}] 1, [{LARGE}]]",
        f'{{{LARGE[1:-1].replace("}, {", ", ")}, "a1": 1}}',
        f'{{{MANY}, "b1": 1}}',
        "[1, " * 201 + LARGE + "]" * 201,
    ],
    ids=lambda text: f"{text[:5]}…{text[-5:]}",
)
def test_errors_in_large_json_are_the_same_as_in_small_json(text: str) -> None:
    with pytest.raises(NotJson) as whole:
        _decode_strictly(text)
    with pytest.raises(NotJson) as raised:
        decode(text)
    assert str(raised.value) == str(whole.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_large_json_may_have_a_byte_order_mark(encoding: str) -> None:
    assert decode(f"[{LARGE}]".encode(encoding)) == json.loads(f"[{LARGE}]")
