import json
import os
import socket
from pathlib import Path

import anyio
import pytest

from bridge.events import CallFinished
from bridge.protocol.jsonrpc import MAX_BYTES
from bridge.stdio.descriptors import private_stdio
from bridge.stdio.transport import serve_stdio
from tests.serving.api import Api
from tests.serving.messages import INITIALIZED, META, call, cancel, initialize, request
from tests.serving.pipe import Pipe
from tests.serving.served import Served

pytestmark = pytest.mark.anyio


async def test_a_call_is_answered_on_one_line_of_utf_8(served: Served) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        await pipe.send(call("née"))
        line = await pipe.line()
    assert json.loads(line)["error"]["message"] == "Unknown tool: née"
    assert "née".encode() in line


@pytest.mark.parametrize(
    ("line", "code", "id"),
    [
        (b"hello", -32700, None),
        (b'{"jsonrpc": "2.0", "id": 1, "id": 2, "method": "ping"}', -32700, None),
        (b'"\xff"', -32700, None),
        (b"[" * 300 + b"]" * 300, -32700, None),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', -32600, None),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', -32600, None),
        (b'{"jsonrpc": "2.0", "id": true, "method": "ping"}', -32600, None),
        (b'{"jsonrpc": "2.0", "id": 1.5, "method": "ping"}', -32600, None),
        (b'{"jsonrpc": "2.0", "id": 7, "method": 8}', -32600, 7),
        (b'{"jsonrpc": "2.0", "id": "x", "method": "ping", "params": [1]}', -32600, "x"),
        (b'"' + b"x" * MAX_BYTES + b'"', -32600, None),
    ],
    ids=lambda value: value[:40].decode(errors="replace") if isinstance(value, bytes) else None,
)
async def test_an_invalid_message_is_answered_and_the_next_one_served(
    served: Served, line: bytes, code: int, id: object
) -> None:
    async with served.stdio() as pipe:
        await pipe.write(line + b"\n\n \r\n")
        answer = await pipe.answer()
        await pipe.send(request("ping", 2))
        assert await pipe.answer() == {"jsonrpc": "2.0", "id": 2, "result": {}}
    assert (answer["error"]["code"], answer["id"]) == (code, id)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
async def test_a_lone_surrogate_is_refused_in_an_argument_and_replaced_in_a_name(
    served: Served, mark: str
) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        await pipe.write(mark.encode() + json.dumps(call("\ud800")).encode() + b"\n")
        assert (await pipe.answer())["error"]["message"] == "Unknown tool: \ufffd"
        await pipe.send(request("tools/call", name="any", arguments={"q": "\ud800"}))
        assert (await pipe.answer())["result"]["isError"] is True
        await pipe.send(request("tools/call", name="any", arguments={"q": "\U0001f600"}))
        assert (await pipe.answer())["result"]["isError"] is False


async def test_a_second_request_with_an_id_in_flight_is_refused(served: Served, api: Api) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        await pipe.send(call("hang", "7"), request("tools/list", 7))
        refused = await pipe.answer()
        pipe.hang_up()
        api.release.set()
        answered = await pipe.answer()
    assert (refused["id"], refused["error"]["code"]) == (7, -32600)
    assert (answered["id"], answered["result"]["isError"]) == ("7", False)


@pytest.mark.parametrize("end", ["input ends", "stop"])
@pytest.mark.parametrize("modern", [False, True])
async def test_a_call_in_flight_is_answered_before_the_end(
    served: Served, api: Api, end: str, *, modern: bool
) -> None:
    async with served.stdio() as pipe:
        await _start_hanging(pipe, api, modern=modern)
        if end == "stop":
            served.stop.set()
        else:
            pipe.hang_up()
        api.release.set()
        assert (await pipe.answer())["result"]["isError"] is False
        assert await pipe.line() == b""


async def test_a_call_past_the_grace_is_aborted_and_told_so(served: Served, api: Api) -> None:
    async with served.stdio(grace=0) as pipe:
        await _start_hanging(pipe, api)
        pipe.hang_up()
        assert (await pipe.answer())["error"]["message"].startswith("The server stopped")
        await api.left.wait()
    assert [event.outcome for event in served.events if isinstance(event, CallFinished)] == ["stopped"]


async def test_a_listener_is_told_that_the_server_stops(served: Served) -> None:
    async with served.stdio() as pipe:
        await pipe.send(
            request("subscriptions/listen", 5, notifications={"toolsListChanged": True}, _meta=META)
        )
        assert (await pipe.answer())["method"] == "notifications/subscriptions/acknowledged"
        served.stop.set()
        answer = await pipe.answer()
    assert (answer["id"], answer["result"]["resultType"]) == (5, "complete")


@pytest.mark.parametrize("modern", [False, True])
async def test_cancelling_aborts_the_upstream_call_and_answers_nothing(
    served: Served, api: Api, *, modern: bool
) -> None:
    async with served.stdio() as pipe:
        await _start_hanging(pipe, api, modern=modern)
        await pipe.send(cancel(1))
        with anyio.fail_after(30):
            await api.left.wait()
        pipe.hang_up()
        assert await pipe.line() == b""


async def test_an_id_may_be_used_again_once_its_call_is_cancelled(served: Served, api: Api) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        await pipe.send(call("hang"))
        await api.entered.wait()
        await pipe.send(cancel(1), call("hang"), cancel(1), call("echo"))
        assert "result" in await pipe.answer()
        await pipe.send(request("ping", 2))
        assert await pipe.answer() == {"jsonrpc": "2.0", "id": 2, "result": {}}


async def test_a_modern_call_without_its_envelope_is_refused(served: Served) -> None:
    async with served.stdio() as pipe:
        await pipe.send(request("tools/list", _meta=META))
        await pipe.answer()
        await pipe.send(call("echo"))
        assert (await pipe.answer())["error"]["code"] == -32602
        await pipe.send(call("echo", _meta=META))
        assert "result" in await pipe.answer()


async def test_the_server_ends_when_its_reader_leaves_even_if_there_is_nothing_to_write(
    served: Served,
) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        pipe.stop_reading()
        with anyio.fail_after(30):
            await served.stopped.wait()


async def test_a_call_in_flight_is_cancelled_when_the_reader_leaves(served: Served, api: Api) -> None:
    async with served.stdio() as pipe:
        await _start_hanging(pipe, api)
        pipe.stop_reading()
        with anyio.fail_after(30):
            await served.stopped.wait()
            await api.left.wait()


async def test_a_client_that_does_not_read_cannot_delay_the_end(served: Served) -> None:
    async with served.stdio(grace=0) as pipe:
        await pipe.open()
        await pipe.send(call("large"))
        await pipe.readable()
        served.stop.set()
        with anyio.fail_after(30):
            await served.stopped.wait()


async def test_a_large_answer_arrives_whole(served: Served) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        await pipe.send(call("large"))
        answer = await pipe.answer()
    assert len(answer["result"]["content"][0]["text"]) > 500_000


async def test_requests_may_come_from_a_file_and_answers_go_to_one(served: Served, tmp_path: Path) -> None:
    lines = [initialize(), INITIALIZED, call("echo")]
    (tmp_path / "in").write_text("\n".join(json.dumps(line) for line in lines))
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        await serve_stdio(served.server, source.fileno(), sink.fileno(), served.stop)
    answers = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [0, 1]


async def test_sockets_work_like_pipes_until_they_are_reset(served: Served) -> None:
    """Node starts its children with them."""
    ours, source = socket.socketpair()
    theirs, sink = socket.socketpair()
    with ours, source, theirs, sink, anyio.fail_after(30):
        pipe = Pipe(ours.fileno(), theirs.fileno())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve_stdio, served.server, source.fileno(), sink.fileno(), served.stop)
            theirs.shutdown(socket.SHUT_WR)  # says only that it will not write to the server's stdout
            await pipe.open()
            await pipe.send(call("echo"))
            assert (await pipe.answer())["id"] == 1
            source.send(b"never read")
            ours.close()


async def test_the_server_ends_when_an_answer_has_no_reader(served: Served, api: Api) -> None:
    """One socket for both directions, whose other end is gone: only writing tells."""
    ours, both = socket.socketpair()
    with both, anyio.fail_after(30):
        pipe = Pipe(ours.fileno(), ours.fileno())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve_stdio, served.server, both.fileno(), both.fileno(), served.stop)
            await _start_hanging(pipe, api)
            ours.close()
            api.release.set()


def test_a_stray_print_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with private_stdio() as (source, sink):
        os.write(1, b"stray\n")
        os.write(sink, b"protocol\n")
        assert os.read(0, 1) == b""
        assert os.fstat(source)
    os.write(1, b"after\n")
    assert capfd.readouterr() == ("protocol\nafter\n", "stray\n")


async def _start_hanging(pipe: Pipe, api: Api, *, modern: bool = False) -> None:
    if not modern:
        await pipe.open()
    await pipe.send(call("hang", **({"_meta": META} if modern else {})))
    with anyio.fail_after(30):
        await api.entered.wait()
