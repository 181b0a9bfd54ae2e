"""Requests in flight, and the cancellations that overtake them or reach another process."""

import anyio
import pytest
from mcp_types import jsonrpc_message_adapter

from bridge.caller import Caller
from bridge.protocol.in_flight import ClientKey, RequestsInFlight, SessionsInFlight, client_key
from bridge.protocol.jsonrpc import InvalidMessage
from tests.serving.messages import Json, call, cancel

pytestmark = pytest.mark.anyio

ANN, EVE = ClientKey(None, "ann", "s"), ClientKey(None, "eve", "s")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Forwarded(list[tuple[ClientKey, str | None]]):
    """What is passed on to other processes."""

    def __call__(self, client: ClientKey, id: str | None) -> None:
        self.append((client, id))


def applied(requests: RequestsInFlight, message: Json) -> object:
    return requests.apply(jsonrpc_message_adapter.validate_python(message))


def is_cancelled(scope: anyio.CancelScope) -> bool:
    return scope.cancel_called


async def test_a_notification_cancels_the_request_that_it_names() -> None:
    requests = RequestsInFlight()
    assert applied(requests, call("echo", "None")) is None
    other = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1}}
    for message in (other, cancel(2), cancel(None), cancel("x" * 257), cancel({}), cancel([])):
        assert applied(requests, message) is None
    scope = requests.add(1)
    assert not is_cancelled(scope)
    assert applied(requests, cancel("1")) == "1"
    assert is_cancelled(scope)


async def test_an_id_is_used_once_at_a_time_by_each_client() -> None:
    sessions = SessionsInFlight()
    sessions.add(ANN, 1)
    with pytest.raises(InvalidMessage, match="still in flight"):
        sessions.add(ANN, "1")
    for other in (EVE, ANN._replace(session_id="t"), ANN._replace(issuer="https://login.example")):
        assert not sessions.holds(other, 1)
        sessions.add(other, 1)
    sessions.remove(ANN, 1)
    assert not sessions.holds(ANN, 1)
    assert not is_cancelled(sessions.add(ANN, 1))


async def test_a_client_is_known_by_its_caller_and_its_session() -> None:
    assert client_key(Caller("ann", issuer="https://login.example"), "s") == (
        "https://login.example",
        "ann",
        "s",
    )
    assert client_key(Caller(), "s") == (None, None, "s")


async def test_a_cancellation_is_passed_on_only_if_its_request_is_not_here() -> None:
    sessions = SessionsInFlight(forwarded := Forwarded())
    scope = sessions.add(ANN, 1)
    sessions.cancel(EVE, 1)
    assert not is_cancelled(scope)
    sessions.cancel(ANN, 2)
    assert forwarded == [(EVE, "1"), (ANN, "2")]
    sessions.cancel(ANN, 1)
    assert is_cancelled(scope)
    assert len(forwarded) == 2


async def test_a_cancellation_from_another_process_is_not_passed_on_again() -> None:
    sessions = SessionsInFlight(forwarded := Forwarded())
    scope = sessions.add(ANN, 1)
    assert sessions.cancel_here(ANN, "1")
    assert is_cancelled(scope)
    assert not sessions.cancel_here(ANN, "2")
    assert forwarded == []


async def test_a_request_that_its_cancellation_has_overtaken_is_cancelled_at_once() -> None:
    clock = Clock()
    sessions = SessionsInFlight(clock=clock)
    sessions.cancel(ANN, 1)
    sessions.cancel(ANN, 2)
    assert not is_cancelled(sessions.add(EVE, 1))
    clock.now += 1.9
    assert is_cancelled(sessions.add(ANN, 1))
    sessions.remove(ANN, 1)
    assert not is_cancelled(sessions.add(ANN, 1))
    clock.now += 0.1
    assert not is_cancelled(sessions.add(ANN, 2))


async def test_a_repeated_cancellation_is_kept_from_its_last_time_on() -> None:
    clock = Clock()
    sessions = SessionsInFlight(clock=clock)
    sessions.cancel(ANN, 1)
    clock.now += 1
    sessions.cancel(ANN, 2)
    clock.now += 0.5
    sessions.cancel(ANN, 1)
    clock.now += 1.5
    assert is_cancelled(sessions.add(ANN, 1))
    assert not is_cancelled(sessions.add(ANN, 2))


async def test_no_more_than_1000_cancellations_are_kept() -> None:
    sessions = SessionsInFlight(clock=Clock())
    for id in range(1001):
        sessions.cancel(ANN, id)
    assert not is_cancelled(sessions.add(ANN, 0))
    assert all(is_cancelled(sessions.add(ANN, id)) for id in range(1, 1001))


async def test_cancellations_whose_time_is_over_make_room_first() -> None:
    clock = Clock()
    sessions = SessionsInFlight(clock=clock)
    for id in range(999):
        sessions.cancel(ANN, id)
    clock.now += 2
    for id in range(999, 1999):
        sessions.cancel(ANN, id)
    assert all(is_cancelled(sessions.add(ANN, id)) for id in range(999, 1999))


async def test_the_end_of_a_session_cancels_its_requests_everywhere() -> None:
    sessions = SessionsInFlight(forwarded := Forwarded())
    mine = [sessions.add(ANN, id) for id in (1, 2)]
    others = [sessions.add(EVE, 1), sessions.add(ANN._replace(session_id="t"), 1)]
    sessions.end(ANN)
    sessions.end(ClientKey(None, "bob", "s"))
    assert all(map(is_cancelled, mine))
    assert not any(map(is_cancelled, others))
    assert forwarded == [(ANN, None), (ClientKey(None, "bob", "s"), None)]
    sessions.end_here(EVE)
    assert is_cancelled(others[0])
    assert len(forwarded) == 2


async def test_without_another_process_nothing_is_passed_on() -> None:
    sessions = SessionsInFlight()
    sessions.cancel(ANN, 1)
    sessions.end(ANN)
    assert is_cancelled(sessions.add(ANN, 1))
