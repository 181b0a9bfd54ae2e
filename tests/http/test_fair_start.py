import anyio
import pytest
from anyio.lowlevel import checkpoint

from bridge.http.fair_start import FairStart

pytestmark = pytest.mark.anyio


async def test_a_caller_starts_one_request_in_two_turns_of_the_loop() -> None:
    starts, started = FairStart(), list[str]()

    async def start(caller: str) -> None:
        await starts.wait_for_turn(caller)
        started.append(caller)

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(start, "ann")
        tasks.start_soon(start, "bob")
        await checkpoint()
        assert started == ["ann", "bob"]
        counts = [len(started)]
        while len(started) < 101:
            await checkpoint()
            counts.append(len(started))
        assert all(later - earlier <= 1 for earlier, later in zip(counts, counts[2:], strict=False))
    await checkpoint()
    assert starts._waiting == {}


async def test_a_waiting_request_whose_client_leaves_is_skipped() -> None:
    starts = FairStart()
    await starts.wait_for_turn("ann")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(starts.wait_for_turn, "ann")
        tasks.start_soon(starts.wait_for_turn, "ann")
        tasks.cancel_scope.cancel()
    with anyio.fail_after(30):
        while starts._waiting:
            await checkpoint()
    await starts.wait_for_turn("ann")
