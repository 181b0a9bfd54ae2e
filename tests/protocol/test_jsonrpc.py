import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.protocol import fast_path as plain
from bridge.protocol.jsonrpc import Refused, parse
from bridge.stdio.framing import Lines
from tests.serving.served import Json, call, initialize, request


def test_what_would_take_seconds_to_read_is_not_read() -> None:
    lists = b"[%s[]]" % (b"[]," * 50_000)
    message = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":%s}}'
    assert plain.request(message % lists) is None
    with pytest.raises(Refused, match="A message may have 50000 opening brackets and braces"):
        parse(message % lists)
    assert plain.request(message % b'"%s"' % lists[:-10_000])


@pytest.mark.parametrize(
    "message",
    [
        initialize() | {"params": {"capabilities": {"experimental": {"a": {"b": [[]] * 600}}}}},
        request("subscriptions/listen", 1, x=[{"a": 0}] * 600),
        request("tools/list", 1, x={str(number): 0 for number in range(600)}),
        call("any", id=1) | {"x": [0] * 600},
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"arguments": {}, "x": [[]] * 600}},
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": [[]] * 600},
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x" * 70_000}},
        {"jsonrpc": "2.0", "id": 1, "result": {"x": [[]] * 600}},
        request("x", 1, progressToken=2**64),
    ],
)
def test_what_nobody_asks_for_is_not_kept(message: Json) -> None:
    with pytest.raises(Refused, match="A message may hold 512 values and 65536 characters") as refused:
        parse(json.dumps(message).encode())
    assert refused.value.id == message["id"]


def test_arguments_may_hold_much_and_clients_may_say_who_they_are() -> None:
    rich = call("any", id="x" * 256)
    rich["params"]["arguments"] = {"list": [[]] * 10_000, "number": 10**100}
    first = initialize()
    icon = {"src": f"data:image/png;base64,{'x' * 20_000}", "mimeType": "image/png", "sizes": ["48x48"]}
    first["params"]["clientInfo"]["icons"] = [icon, icon]
    for message in (rich, first):
        assert parse(json.dumps(message).encode()).model_dump(by_alias=True, exclude_unset=True) == message


@pytest.mark.parametrize("id", [2**64, -(2**64), 10**4000, "x" * 257])
def test_a_long_id_is_refused_in_every_lane(id: int | str) -> None:
    message = b'{"jsonrpc":"2.0","id":%s,"method":"ping"}'
    assert plain.request(message % json.dumps(id).encode()) is None
    with pytest.raises(Refused, match="The id of a request may have 256 characters, or 64 bits") as refused:
        parse(message % json.dumps(id).encode())
    assert refused.value.id is None
    longest = b"%d" % (2**64 - 1)
    assert plain.request(message % longest)
    parse(message % longest)


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
    monkeypatch.setattr("bridge.stdio.framing.MAX_BYTES", 10)
    line = b"x" * size
    lines = Lines()
    for index in range(size):
        assert list(lines.feed(line[index : index + 1])) == []
        assert len(lines._line) <= 11
    assert list(lines.feed(b"\nnext\n")) == [line if kept else None, b"next"]
