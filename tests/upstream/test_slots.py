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


async def test_turns_come_in_the_order_of_arrival() -> None:
    slots, order = Slots(), list[int]()

    async def wait(number: int) -> None:
        await slots.take(ONE)
        order.append(number)

    await slots.take(ONE)
    async with anyio.create_task_group() as waiting:
        for number in range(3):
            waiting.start_soon(wait, number)
            await settle()
        for number in range(3):
            slots.give()
            await settle()
            assert order == list(range(number + 1))
    slots.give()
    assert slots.idle


async def test_a_free_slot_goes_to_the_caller_with_the_fewest_running_calls() -> None:
    slots, order = Slots(), list[str]()
    limits = Limits(concurrency=8)

    async def call(caller: str) -> None:
        await slots.take(limits, caller)
        order.append(caller)

    async with anyio.create_task_group() as waiting:
        for _ in range(72):
            waiting.start_soon(call, "ann")
        await settle()
        for caller in ("bob", "bob", "cid"):
            waiting.start_soon(call, caller)
        await settle()
        assert order == [*["ann"] * 6, "bob", "bob"]
        slots.give("bob")
        await settle()
        assert order[8:] == ["cid"]
        for _ in range(66):
            slots.give("ann")
            await settle()
        for caller in ("bob", "cid", *["ann"] * 6):
            slots.give(caller)
    assert slots.idle
    assert (slots._running, slots._waiting, slots._waiting_calls) == ({}, {}, 0)


@pytest.mark.parametrize(("concurrency", "share"), [(1, 1), (2, 1), (4, 3), (32, 24)])
async def test_a_caller_with_a_name_leaves_a_quarter_of_the_slots(concurrency: int, share: int) -> None:
    slots = Slots()
    limits = Limits.model_validate({"concurrency": concurrency, "queue": "1ms"})
    for _ in range(share):
        await slots.take(limits, "ann")
    with pytest.raises(NotSent, match="none ended within"):
        await slots.take(limits, "ann")
    for _ in range(concurrency - share):
        await slots.take(limits, "bob")


async def test_callers_without_a_name_may_have_all_slots() -> None:
    slots = Slots()
    for _ in range(4):
        await slots.take(Limits(concurrency=4))
    assert not slots.idle


async def test_past_a_thousand_waiting_calls_others_are_refused_at_once() -> None:
    slots = Slots()
    await slots.take(ONE, "ann")
    async with anyio.create_task_group() as waiting:
        for _ in range(MAX_WAITING_CALLS):
            waiting.start_soon(slots.take, ONE, "ann")
        await settle()
        with pytest.raises(NotSent, match="and 1000 more wait"):
            await slots.take(ONE, "bob")
        waiting.cancel_scope.cancel()
    assert slots._waiting_calls == 0


async def test_a_newcomer_who_knows_of_more_slots_lets_the_others_in() -> None:
    slots = Slots()
    await slots.take(ONE)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(slots.take, ONE)
            await settle()
            await slots.take(Limits(concurrency=3))


async def test_fewer_slots_count_once_enough_calls_have_ended() -> None:
    slots = Slots()
    for _ in range(3):
        await slots.take(Limits(concurrency=3))
    with pytest.raises(NotSent):
        await slots.take(ONE_SHORT)
    for _ in range(2):
        slots.give()
    with pytest.raises(NotSent):
        await slots.take(ONE_SHORT)
    slots.give()
    await slots.take(ONE)


async def test_who_gives_up_takes_no_slot() -> None:
    slots = Slots()
    await slots.take(ONE)
    async with anyio.create_task_group() as waiting:
        waiting.start_soon(slots.take, ONE)
        await settle()
        waiting.cancel_scope.cancel()
    slots.give()
    assert slots.idle


async def test_who_is_cut_off_as_the_turn_comes_gives_it_on() -> None:
    slots = Slots()
    await slots.take(ONE)
    waiting = asyncio.create_task(slots.take(ONE))
    await settle()
    slots.give()
    waiting.cancel()  # as asyncio's timeouts do, which anyio's scopes would not at this moment
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert slots.idle


async def test_who_has_given_up_is_passed_over() -> None:
    slots = Slots()
    await slots.take(ONE)
    async with anyio.create_task_group() as waiting:
        waiting.start_soon(slots.take, ONE)
        await settle()
        waiting.cancel_scope.cancel()
        slots.give()
    assert slots.idle
