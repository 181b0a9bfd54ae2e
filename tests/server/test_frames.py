from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.server import plain
from bridge.server.frames import Refused, parse
from bridge.server.lines import Lines


def test_what_would_take_seconds_to_read_is_not_read() -> None:
    lists = b"[%s[]]" % (b"[]," * 50_000)
    message = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":%s}}'
    assert plain.request(message % lists) is None
    with pytest.raises(Refused, match="A message may have 50000 opening brackets and braces"):
        parse(message % lists)
    assert plain.request(message % b'"%s"' % lists[:-10_000])


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200)))
def test_lines_are_the_same_however_they_arrive(data: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    lines = Lines()
    got = [line for start, end in pairwise(bounds) for line in lines.feed(data[start:end])]
    got += lines.end()
    *ended, rest = data.split(b"\n")
    assert got == [*ended, *([rest] if rest else [])]


@pytest.mark.parametrize(("size", "kept"), [(10, True), (11, False), (1000, False)])
def test_a_line_past_the_limit_is_dropped_and_does_not_pile_up(
    monkeypatch: pytest.MonkeyPatch, size: int, *, kept: bool
) -> None:
    monkeypatch.setattr("bridge.server.lines.MAX_BYTES", 10)
    line = b"x" * size
    lines = Lines()
    for index in range(size):
        assert list(lines.feed(line[index : index + 1])) == []
        assert len(lines._line) <= 11
    assert list(lines.feed(b"\nnext\n")) == [line if kept else None, b"next"]
