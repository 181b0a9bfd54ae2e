import asyncio

import anyio
import pytest
from anyio.lowlevel import checkpoint

from bridge.errors import NotSent
from bridge.spec import Limits
from bridge.upstream.slots import MAX_WAITING_CALLS, Slots

pytestmark = pytest.mark.anyio

ONE = Limits(concurrency=1)
ONE_SHORT = Limits.model_validate({"concurrency": 1, "queue": "1ms"})


async def settle() -> None:
    for _ in range(5):
        await checkpoint()


async def test_waiting_calls_get_slots_in_order_of_arrival() -> None:
    slots, order = Slots(), list[int]()

    async def wait(number: int) -> None:
        await slots.acquire(ONE)
        order.append(number)

    await slots.acquire(ONE)
    async with anyio.create_task_group() as waiting:
        for number in range(3):
            waiting.start_soon(wait, number)
            await settle()
        for number in range(3):
            slots.release()
            await settle()
            assert order == list(range(number + 1))
    slots.release()
    assert slots.is_idle


@pytest.mark.parametrize(("concurrency", "processes", "part"), [(8, 2, 4), (9, 2, 5), (1, 4, 1)])
async def test_processes_divide_the_slots_rounded_up(concurrency: int, processes: int, part: int) -> None:
    slots, started = Slots(processes), list[int]()

    async def call(number: int) -> None:
        await slots.acquire(Limits(concurrency=concurrency))
        started.append(number)

    async with anyio.create_task_group() as waiting:
        for number in range(concurrency + 1):
            waiting.start_soon(call, number)
        await settle()
        assert len(started) == part
        waiting.cancel_scope.cancel()


async def test_a_free_slot_goes_to_the_caller_with_the_fewest_running_calls() -> None:
    slots, order = Slots(), list[str]()
    limits = Limits(concurrency=8)

    async def call(caller: str) -> None:
        await slots.acquire(limits, caller)
        order.append(caller)

    async with anyio.create_task_group() as waiting:
        for _ in range(72):
            waiting.start_soon(call, "ann")
        await settle()
        for caller in ("bob", "bob", "cid"):
            waiting.start_soon(call, caller)
        await settle()
        assert order == [*["ann"] * 6, "bob", "bob"]
        slots.release("bob")
        await settle()
        assert order[8:] == ["cid"]
        for _ in range(66):
            slots.release("ann")
            await settle()
        for caller in ("bob", "cid", *["ann"] * 6):
            slots.release(caller)
    assert slots.is_idle
    assert (slots._running, slots._waiting, slots._waiting_calls) == ({}, {}, 0)


@pytest.mark.parametrize(("concurrency", "share"), [(1, 1), (2, 1), (4, 3), (32, 24)])
async def test_a_caller_with_a_name_leaves_a_quarter_of_the_slots(concurrency: int, share: int) -> None:
    slots = Slots()
    limits = Limits.model_validate({"concurrency": concurrency, "queue": "1ms"})
    for _ in range(share):
        await slots.acquire(limits, "ann")
    with pytest.raises(NotSent, match="none ended within"):
        await slots.acquire(limits, "ann")
    for _ in range(concurrency - share):
        await slots.acquire(limits, "bob")


async def test_callers_without_a_name_may_use_all_slots() -> None:
    slots = Slots()
    for _ in range(4):
        await slots.acquire(Limits(concurrency=4))
    assert not slots.is_idle


async def test_above_a_thousand_waiting_calls_others_are_refused_at_once() -> None:
    slots = Slots()
    await slots.acquire(ONE, "ann")
    async with anyio.create_task_group() as waiting:
        for _ in range(MAX_WAITING_CALLS):
            waiting.start_soon(slots.acquire, ONE, "ann")
        await settle()
        with pytest.raises(NotSent, match="and 1000 more are waiting"):
            await slots.acquire(ONE, "bob")
        waiting.cancel_scope.cancel()
    assert slots._waiting_calls == 0


async def test_a_call_that_raises_the_limit_admits_waiting_calls() -> None:
    slots = Slots()
    await slots.acquire(ONE)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(slots.acquire, ONE)
            await settle()
            await slots.acquire(Limits(concurrency=3))


async def test_a_lower_limit_applies_once_enough_calls_have_ended() -> None:
    slots = Slots()
    for _ in range(3):
        await slots.acquire(Limits(concurrency=3))
    with pytest.raises(NotSent):
        await slots.acquire(ONE_SHORT)
    for _ in range(2):
        slots.release()
    with pytest.raises(NotSent):
        await slots.acquire(ONE_SHORT)
    slots.release()
    await slots.acquire(ONE)


async def test_a_cancelled_waiting_call_takes_no_slot() -> None:
    slots = Slots()
    await slots.acquire(ONE)
    async with anyio.create_task_group() as waiting:
        waiting.start_soon(slots.acquire, ONE)
        await settle()
        waiting.cancel_scope.cancel()
    slots.release()
    assert slots.is_idle


async def test_a_call_cancelled_as_it_gets_a_slot_releases_it() -> None:
    slots = Slots()
    await slots.acquire(ONE)
    waiting = asyncio.create_task(slots.acquire(ONE))
    await settle()
    slots.release()
    waiting.cancel()  # an asyncio timeout cancels at this moment, an anyio scope does not
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert slots.is_idle


async def test_a_slot_does_not_go_to_a_cancelled_call() -> None:
    slots = Slots()
    await slots.acquire(ONE)
    async with anyio.create_task_group() as waiting:
        waiting.start_soon(slots.acquire, ONE)
        await settle()
        waiting.cancel_scope.cancel()
        slots.release()
    assert slots.is_idle
