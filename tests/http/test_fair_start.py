import anyio
import pytest
from anyio.lowlevel import checkpoint

from bridge.http.fair_start import FairStart

pytestmark = pytest.mark.anyio


async def test_no_turn_of_the_loop_begins_two_requests_of_a_caller() -> None:
    starts, begun = FairStart(), list[str]()

    async def begin(caller: str) -> None:
        await starts.turn(caller)
        begun.append(caller)

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(begin, "ann")
        tasks.start_soon(begin, "bob")
        await checkpoint()
        assert begun == ["ann", "bob"]
        seen = len(begun)
        while len(begun) < 101:
            await checkpoint()
            assert len(begun) - seen <= 1
            seen = len(begun)
    await checkpoint()
    assert starts._waiting == {}


async def test_a_request_whose_client_leaves_while_it_waits_is_passed_over() -> None:
    starts = FairStart()
    await starts.turn("ann")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(starts.turn, "ann")
        tasks.start_soon(starts.turn, "ann")
        tasks.cancel_scope.cancel()
    with anyio.fail_after(30):
        while starts._waiting:
            await checkpoint()
    await starts.turn("ann")
