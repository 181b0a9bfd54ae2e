import asyncio

import anyio
import pytest
from anyio.lowlevel import checkpoint

from bridge.errors import NotSent
from bridge.spec import Limits
from bridge.upstream.limits import Slots

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
