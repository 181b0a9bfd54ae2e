import anyio
import pytest
from anyio.lowlevel import checkpoint

from tests.upstream.faulty import Faulty
from tests.upstream.sending import Caller, upstream

pytestmark = pytest.mark.anyio


async def test_connections_that_rest_too_long_are_closed(
    caller: Caller, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.upstream.wire._REST", 0.5)
    to = upstream(faulty.url)
    async with anyio.create_task_group() as calls:
        calls.start_soon(caller.send, to, "/waits")
        await faulty.arrived.wait()
        await caller.send(to)
        later = anyio.current_time() + 0.2  # the other one comes to rest while this one does
        while anyio.current_time() < later:
            await checkpoint()
        faulty.go.set()
    with anyio.fail_after(30):
        while faulty.open:
            await checkpoint()
    assert faulty.connections == 2
    await caller.send(to)
    assert faulty.connections == 3
