import anyio
import pytest
from anyio.lowlevel import checkpoint

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
