import gzip
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import UnusableReply
from bridge.upstream.http.decoding import Content


def content(codings: str, *parts: bytes, limit: int = 1000) -> bytes:
    collected = Content(limit, codings, 200)
    for part in parts:
        collected.feed(part)
    return collected.finish()


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=300), max_size=4), st.integers(1, 50))
def test_gzip_members_in_pieces_of_any_size_are_joined(members: list[bytes], size: int) -> None:
    data = b"".join(map(gzip.compress, members))
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert content("gzip", *pieces, limit=10_000) == b"".join(members)


def test_gzip_can_arrive_byte_by_byte() -> None:
    data = gzip.compress(b"one") + gzip.compress(b"two")
    assert content("gzip", *(data[at : at + 1] for at in range(len(data)))) == b"onetwo"


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=300), st.data())
def test_gzip_that_is_cut_anywhere_is_refused(data: bytes, where: st.DataObject) -> None:
    whole = gzip.compress(data)
    cut = whole[: where.draw(st.integers(1, len(whole) - 1))]
    with pytest.raises(UnusableReply):
        content("gzip", cut)


@pytest.mark.parametrize("codings", ["", ",", "identity,chunked", "Identity"])
def test_content_without_coding_is_unchanged(codings: str) -> None:
    assert content(codings, b"a", b"", b"b") == b"ab"


@pytest.mark.parametrize("codings", ["gzip", "x-gzip", "GZIP,chunked", " gzip , identity"])
def test_gzip_has_several_spellings(codings: str) -> None:
    assert content(codings, gzip.compress(b"x")) == b"x"


@pytest.mark.parametrize("codings", ["br", "deflate", "zstd", "gzip,gzip", "gzip, br", "compress"])
def test_another_coding_is_refused_unless_the_content_is_empty(codings: str) -> None:
    assert content(codings) == b""
    with pytest.raises(UnusableReply) as caught:
        content(codings, gzip.compress(b"x"))
    assert (caught.value.code, caught.value.status) == ("bad-encoding", 200)


@pytest.mark.parametrize("codings", ["", "gzip"])
def test_the_limit_holds_for_decompressed_content(codings: str) -> None:
    data = bytes(1000)
    assert content(codings, gzip.compress(data) if codings else data) == data
    with pytest.raises(UnusableReply) as caught:
        content(codings, gzip.compress(data + b"x") if codings else data + b"x")
    assert caught.value.code == "reply-too-large"
    assert "1000 bytes" in str(caught.value)


def test_the_limit_holds_for_compressed_content_too() -> None:
    empty = gzip.compress(b"")
    with pytest.raises(UnusableReply, match="larger"):
        content("gzip", *[empty] * 100)


def test_a_gzip_bomb_is_not_decompressed_on_the_event_loop() -> None:
    limit = 16_000_000
    bomb = gzip.compress(bytes(limit))
    collected = Content(limit, "gzip", 200)
    tracemalloc.start()
    try:
        collected.feed(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert collected.is_large
    assert collected.finish() == bytes(limit)


@pytest.mark.parametrize(("size", "is_large"), [(1000, False), (1_100_000, True)])
def test_content_is_large_above_one_mebibyte(*, size: int, is_large: bool) -> None:
    collected = Content(2_000_000, "", 200)
    for _ in range(2000):
        collected.feed(b"x" * (size // 2000))
    collected.feed(b"x" * (size % 2000))
    assert collected.is_large == is_large
    assert collected.finish() == b"x" * size
