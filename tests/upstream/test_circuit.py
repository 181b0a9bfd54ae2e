from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
import httpx
import pytest

from bridge.errors import NotAnswered, NotSent
from bridge.events import CircuitChanged, Event
from bridge.exchange import Request
from bridge.resolved_upstream import Upstream
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


def breaking(faulty: Faulty, **keys: int | str) -> Upstream:
    return upstream(faulty.url, retries={"max": 0}, circuit={"failures": 3, **keys})


def changes(caller: Caller) -> list[tuple[bool, int]]:
    return [(event.is_open, event.failures) for event in caller.events if isinstance(event, CircuitChanged)]


async def test_after_some_failures_the_circuit_opens_and_then_one_call_probes(
    caller: Caller, faulty: Faulty, clock: Clock
) -> None:
    to = breaking(faulty)
    for path in ("/status?code=503", "/ok", "/status?code=503", "/close_before_head", "/status?code=503"):
        with suppress(NotAnswered):
            await caller.send(to, path, "POST")
    received = len(faulty.exchanges)
    with pytest.raises(NotSent) as refused:
        await caller.send(to)
    place = httpx.URL(faulty.url).netloc.decode()
    text = f"The API server at {place} failed 3 times in a row, so no calls are made for now."
    assert (refused.value.code, str(refused.value)) == ("circuit-open", f"{text} Please try again in 10 s.")
    assert len(faulty.exchanges) == received
    clock.seconds += 11
    assert (await caller.send(to, "/status?code=503")).status == 503
    with pytest.raises(NotSent, match="failed 4 times in a row"):
        await caller.send(to)
    clock.seconds += 11
    assert (await caller.send(to)).status == 200
    assert (await caller.send(to)).status == 200
    assert changes(caller) == [(True, 3), (False, 4)]


async def test_only_one_call_probes_at_a_time(caller: Caller, faulty: Faulty, clock: Clock) -> None:
    to = breaking(faulty, failures=1)
    before = anyio.CancelScope()

    async def earlier() -> None:
        with before:
            await caller.send(to, "/never_answers")

    async def until_received(number: int) -> None:
        with anyio.fail_after(30):
            while len(faulty.exchanges) < number:
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(earlier)
        await until_received(1)
        await caller.send(to, "/status?code=503")
        clock.seconds += 11
        tasks.start_soon(caller.send, to, "/never_answers")
        await until_received(3)
        for _ in range(2):
            with pytest.raises(NotSent, match=r"Please try again in a moment\."):
                await caller.send(to)
            before.cancel()
            await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert (await caller.send(to)).status == 200


@pytest.mark.parametrize("left", ["nothing", "no breaker", "another"])
async def test_a_reload_that_removes_the_upstream_or_its_circuit_closes_it(
    caller: Caller, faulty: Faulty, left: str
) -> None:
    to = breaking(faulty, failures=1)
    await caller.send(to, "/status?code=503")
    caller.client.retire([to])
    assert changes(caller) == [(True, 1)]
    after = {"nothing": [], "no breaker": [upstream(faulty.url)], "another": [upstream(faulty.url, name="x")]}
    caller.client.retire(after[left])
    assert changes(caller) == [(True, 1), (False, 1)]


@pytest.mark.slow
async def test_timeouts_and_refused_connections_count_as_failures_and_our_own_errors_do_not(
    caller: Caller, faulty: Faulty
) -> None:
    to = breaking(faulty, failures=2)
    gone = upstream("http://127.0.0.1:9", name="gone", retries={"max": 0}, circuit={"failures": 1})
    for _ in range(3):
        with pytest.raises(NotSent, match="was not sent"):
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
