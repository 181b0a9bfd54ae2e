import json
import sys
from itertools import pairwise
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.protocol import fast_path
from bridge.protocol.jsonrpc import InvalidMessage, parse
from bridge.stdio.framing import LineReader
from tests.serving.messages import Json, call, initialize, request


def test_a_message_with_too_many_values_is_not_parsed() -> None:
    lists = b"[%s[]]" % (b"[]," * 50_000)
    message = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":%s}}'
    assert fast_path.parse_request(message % lists) is None
    with pytest.raises(InvalidMessage, match="A message may have at most 50000 opening brackets and braces"):
        parse(message % lists)
    assert fast_path.parse_request(message % b'"%s"' % lists[:-10_000])


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
def test_a_message_with_much_outside_of_the_arguments_is_refused(message: Json) -> None:
    with pytest.raises(
        InvalidMessage, match="A message may hold at most 512 values and 65536 characters"
    ) as refused:
        parse(json.dumps(message).encode())
    assert refused.value.id == message["id"]


def test_large_arguments_and_detailed_client_info_are_accepted() -> None:
    rich = call("any", id="x" * 256)
    rich["params"]["arguments"] = {"list": [[]] * 10_000, "number": 10**100}
    first = initialize()
    icon = {"src": f"data:image/png;base64,{'x' * 20_000}", "mimeType": "image/png", "sizes": ["48x48"]}
    first["params"]["clientInfo"]["icons"] = [icon, icon]
    for message in (rich, first):
        assert parse(json.dumps(message).encode()).model_dump(by_alias=True, exclude_unset=True) == message


@pytest.mark.parametrize("id", [2**64, -(2**64), 10**4000, "x" * 257])
def test_a_long_id_is_refused_on_and_off_the_fast_path(id: int | str) -> None:
    message = b'{"jsonrpc":"2.0","id":%s,"method":"ping"}'
    assert fast_path.parse_request(message % json.dumps(id).encode()) is None
    with pytest.raises(
        InvalidMessage, match="The id of a request may have at most 256 characters or 64 bits"
    ) as refused:
        parse(message % json.dumps(id).encode())
    assert refused.value.id is None
    longest = b"%d" % (2**64 - 1)
    assert fast_path.parse_request(message % longest)
    parse(message % longest)


@pytest.mark.parametrize("escape", [r"\ud83d\ude00", r"\ud83d", r"\\ud83d"])
def test_an_escape_does_not_send_a_whole_message_to_the_slow_decoder(escape: str) -> None:
    """The standard library's decoder blocks the event loop, so it gets at most one piece at a time."""
    sizes: list[int] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is json.JSONDecoder.decode.__code__:
            sizes.append(len(frame.f_locals["s"]))

    values = ",".join(["1.5"] * 200_000)
    text = json.dumps(request("tools/call", name="any", arguments={"list": "…"})).replace(
        r'"\u2026"', f'[{values},"{escape}"]'
    )
    sys.setprofile(note)
    try:
        message = parse(text.encode())
    finally:
        sys.setprofile(None)
    assert message.model_dump(by_alias=True, exclude_unset=True) == json.loads(text)
    assert max(sizes, default=0) < 150_000


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200)))
def test_lines_do_not_depend_on_how_their_bytes_arrive(data: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    lines = LineReader()
    got = [line for start, end in pairwise(bounds) for line in lines.feed(data[start:end])]
    got += lines.end()
    *ended, rest = data.split(b"\n")
    assert got == [*ended, *([rest] if rest else [])]


@pytest.mark.parametrize(("size", "kept"), [(10, True), (11, False), (1000, False)])
def test_a_line_over_the_limit_is_dropped_and_not_buffered(
    monkeypatch: pytest.MonkeyPatch, size: int, *, kept: bool
) -> None:
    monkeypatch.setattr("bridge.stdio.framing.MAX_BYTES", 10)
    line = b"x" * size
    lines = LineReader()
    for index in range(size):
        assert list(lines.feed(line[index : index + 1])) == []
        assert len(lines._line) <= 11
    assert list(lines.feed(b"\nnext\n")) == [line if kept else None, b"next"]
