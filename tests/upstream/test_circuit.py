from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
import httpx
import pytest

from bridge.errors import NotAnswered, NotSent
from bridge.events import CircuitChanged, Event
from bridge.exchange import Request
from bridge.secrets import Upstream
from bridge.upstream.client import Client
from tests.upstream.faulty import Faulty
from tests.upstream.sending import Caller, upstream

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def caller(clock: Clock) -> AsyncIterator[Caller]:
    events: list[Event] = []
    client = Client(emit=events.append, clock=clock)
    yield Caller(client, events)
    await client.aclose()


def breaking(faulty: Faulty, **words: int | str) -> Upstream:
    return upstream(faulty.url, retries={"max": 0}, circuit={"failures": 3, **words})


def changes(caller: Caller) -> list[tuple[bool, int]]:
    return [(event.is_open, event.failures) for event in caller.events if isinstance(event, CircuitChanged)]


async def test_an_api_that_fails_is_left_alone_and_then_tried_once(
    caller: Caller, faulty: Faulty, clock: Clock
) -> None:
    to = breaking(faulty)
    for path in ("/status?code=503", "/ok", "/status?code=503", "/close_before_head", "/status?code=503"):
        with suppress(NotAnswered):
            await caller.send(to, path, "POST")
    heard = len(faulty.heard)
    with pytest.raises(NotSent) as refused:
        await caller.send(to)
    place = httpx.URL(faulty.url).netloc.decode()
    text = f"The API server at {place} failed 3 times in a row, and is left alone for now."
    assert (refused.value.code, str(refused.value)) == ("circuit-open", f"{text} Please try again in 10 s.")
    assert len(faulty.heard) == heard
    clock.seconds += 11
    assert (await caller.send(to, "/status?code=503")).status == 503
    with pytest.raises(NotSent, match="failed 4 times in a row"):
        await caller.send(to)
    clock.seconds += 11
    assert (await caller.send(to)).status == 200
    assert (await caller.send(to)).status == 200
    assert changes(caller) == [(True, 3), (False, 4)]


async def test_while_one_tries_no_other_does(caller: Caller, faulty: Faulty, clock: Clock) -> None:
    to = breaking(faulty, failures=1)
    before = anyio.CancelScope()

    async def earlier() -> None:
        with before:
            await caller.send(to, "/never_answers")

    async def until_heard(number: int) -> None:
        with anyio.fail_after(30):
            while len(faulty.heard) < number:
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(earlier)
        await until_heard(1)
        await caller.send(to, "/status?code=503")
        clock.seconds += 11
        tasks.start_soon(caller.send, to, "/never_answers")
        await until_heard(3)
        for _ in range(2):
            with pytest.raises(NotSent, match=r"Please try again in a moment\."):
                await caller.send(to)
            before.cancel()
            await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert (await caller.send(to)).status == 200


@pytest.mark.parametrize("left", ["nothing", "no breaker", "another"])
async def test_what_is_left_alone_no_more_after_a_reload_is_told(
    caller: Caller, faulty: Faulty, left: str
) -> None:
    to = breaking(faulty, failures=1)
    await caller.send(to, "/status?code=503")
    caller.client.retire([to])
    assert changes(caller) == [(True, 1)]
    after = {"nothing": [], "no breaker": [upstream(faulty.url)], "another": [upstream(faulty.url, name="x")]}
    caller.client.retire(after[left])
    assert changes(caller) == [(True, 1), (False, 1)]


async def test_who_does_not_answer_in_time_or_is_not_there_fails_and_what_is_ours_does_not(
    caller: Caller, faulty: Faulty
) -> None:
    to = breaking(faulty, failures=2)
    gone = upstream("http://127.0.0.1:9", name="gone", retries={"max": 0}, circuit={"failures": 1})
    for _ in range(3):
        with pytest.raises(NotSent, match="held back"):
            await caller.client.send(_elsewhere(), to, deadline=anyio.current_time() + 5)
    for _ in range(2):
        with pytest.raises(NotAnswered):
            await caller.send(to, "/never_answers", within=1)
    with pytest.raises(NotSent, match="connection refused"):
        await caller.send(gone)
    for each in (to, gone):
        with pytest.raises(NotSent) as refused:
            await caller.send(each)
        assert refused.value.code == "circuit-open"


def _elsewhere() -> Request:
    return Request("GET", "http://elsewhere.example/x")
