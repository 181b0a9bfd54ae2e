import anyio
import pytest
from anyio.lowlevel import checkpoint

from bridge.upstream.http.reply_reader import Progress, ReplyReader
from tests.upstream.faulty import Faulty
from tests.upstream.sending import Caller, upstream

pytestmark = pytest.mark.anyio


async def test_connections_that_are_idle_for_too_long_are_closed(caller: Caller, faulty: Faulty) -> None:
    to = upstream(faulty.url)

    async def until_open(number: int) -> None:
        with anyio.fail_after(30):
            while len(faulty.open) != number:
                await checkpoint()

    async with anyio.create_task_group() as calls:
        calls.start_soon(caller.send, to, "/waits")
        await faulty.arrived.wait()
        await caller.send(to)
        faulty.go.set()
    (transport,) = caller.client._transports._transports.values()
    pool = transport._pool
    first, second = pool._idle
    first.idle_since -= 3600
    pool._expire()
    assert pool._idle == [second]
    assert pool._expiry
    # uvloop's timers count milliseconds
    assert pool._expiry.when() - second.idle_since == pytest.approx(55, abs=0.01)
    await until_open(1)
    pool._expiry.cancel()
    second.idle_since -= 3600
    pool._expire()
    assert pool._expiry is None
    await until_open(0)
    assert faulty.connections == 2
    await caller.send(to)
    assert faulty.connections == 3


@pytest.mark.parametrize("fed", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
@pytest.mark.parametrize("error", [None, ConnectionResetError()])
async def test_the_reply_of_a_cancelled_call_is_dropped(fed: bytes, error: Exception | None) -> None:
    reader = ReplyReader(100, Progress(), has_content=True)
    reader.feed(fed)
    reader.received.cancel()
    reader.connection_lost(error)
    assert reader.is_last
    assert reader.received.cancelled()
