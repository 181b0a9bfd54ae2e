import asyncio
import socket

import anyio
import pytest
from anyio.lowlevel import checkpoint

from bridge.upstream.wire import Wire
from tests.upstream.faulty import Faulty
from tests.upstream.sending import Caller, upstream

pytestmark = pytest.mark.anyio


async def test_a_reply_that_comes_faster_than_it_is_read_is_read_whole() -> None:
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, wire = await loop.create_connection(lambda: Wire(loop), sock=ours)
    wire.set_response_params(read_bufsize=10)
    theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100)
    message, body = await wire.answer()
    assert message.code == 200
    assert await body.read() == b"x" * 100
    transport.close()
    theirs.close()


async def test_connections_that_rest_too_long_are_closed(
    caller: Caller, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.upstream.wire._REST", 0.2)
    to = upstream(faulty.url)
    async with anyio.create_task_group() as calls:
        calls.start_soon(caller.send, to, "/waits")
        await faulty.arrived.wait()
        await caller.send(to)
        faulty.go.set()
    with anyio.fail_after(5):
        while faulty.open:
            await checkpoint()
    assert faulty.connections == 2
    await caller.send(to)
    assert faulty.connections == 3
