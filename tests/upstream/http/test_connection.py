import anyio
import pytest
from anyio.lowlevel import checkpoint

from bridge.upstream.http.reply_reader import Incoming, Progress
from tests.upstream.faulty import Faulty
from tests.upstream.sending import Caller, upstream

pytestmark = pytest.mark.anyio


async def test_connections_that_rest_too_long_are_closed(caller: Caller, faulty: Faulty) -> None:
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
    (pool,) = caller.client._pools._pools.values()
    lines = pool._lines
    first, second = lines._resting
    first.rests_since -= 3600
    lines._expire()
    assert lines._resting == [second]
    assert lines._expiry
    assert lines._expiry.when() - second.rests_since == pytest.approx(55)
    await until_open(1)
    lines._expiry.cancel()
    second.rests_since -= 3600
    lines._expire()
    assert lines._expiry is None
    await until_open(0)
    assert faulty.connections == 2
    await caller.send(to)
    assert faulty.connections == 3


@pytest.mark.parametrize("fed", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
@pytest.mark.parametrize("error", [None, ConnectionResetError()])
async def test_a_reply_that_nobody_waits_for_any_more_is_dropped(fed: bytes, error: Exception | None) -> None:
    incoming = Incoming(100, Progress(), has_content=True)
    incoming.feed(fed)
    incoming.arrived.cancel()
    incoming.lost(error)
    assert incoming.is_last
    assert incoming.arrived.cancelled()
