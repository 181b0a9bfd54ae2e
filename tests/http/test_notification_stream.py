import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from bridge.caller import ANONYMOUS
from bridge.http import notification_stream
from bridge.http.reply_stream import opening_event
from bridge.protocol.session_id import Session as SessionFields
from bridge.protocol.session_id import new_session_id
from bridge.settings import Limits
from bridge.upstream.client import Client
from tests.access.test_credentials import access_config, credentials_for, entry, session_of
from tests.serving.api import Api
from tests.serving.messages import Json, call
from tests.serving.served import Served
from tests.serving.session import Session
from tests.serving.streams import blocks, messages, posted

pytestmark = pytest.mark.anyio

CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
LATE = 0
FRESH = 2**40
"""Times of a handshake. The latest possible one stays fresh however long a test takes."""
OLD_DIGEST = "0123456789abcdef"


def digest(served: Served) -> str:
    return served.server.announcer.digest(ANONYMOUS)


def id_of(digest: str, opened_at: int, version: str = "2025-11-25") -> str:
    return new_session_id(SessionFields(version, (), digest, opened_at))


@asynccontextmanager
async def opened(
    web: httpx.AsyncClient, url: str, session_id: str, last_event_id: str = ""
) -> AsyncIterator[AsyncIterator[dict[str, str]]]:
    """The events of a GET stream."""
    headers = Session(web, url).headers | {"mcp-session-id": session_id}
    if last_event_id:
        headers["last-event-id"] = last_event_id
    async with web.stream("GET", url, headers=headers) as reply:
        assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream")
        yield blocks(reply)


async def announced(events: AsyncIterator[dict[str, str]]) -> str:
    """The digest that the next notification announces."""
    async for event in events:
        if "data" in event:
            assert json.loads(event["data"]) == CHANGED
            return event["id"].partition(".")[0]
    raise AssertionError


@pytest.mark.parametrize("version", HANDSHAKE_PROTOCOL_VERSIONS)
async def test_a_stream_says_when_to_open_it_again(
    served: Served, web: httpx.AsyncClient, version: str
) -> None:
    """Older clients cannot read an event without data, so it waits for the first notification."""
    async with served.http() as url, opened(web, url, id_of(digest(served), FRESH, version)) as events:
        if version == "2025-11-25":
            assert await anext(events) == {"retry": "3000"}
        await served.change("echo")
        first = await anext(events)
        await served.change("fail")
        second = await anext(events)
    assert first.pop("retry", None) == (None if version == "2025-11-25" else "3000")
    for event in (first, second):
        assert event.keys() == {"id", "event", "data"}
        assert event["event"] == "message"
        assert json.loads(event["data"]) == CHANGED
    assert first["id"] != second["id"]


@pytest.mark.parametrize(
    ("known", "opened_at", "last_event_id"),
    [
        ("now", FRESH, ""),
        ("old", FRESH, "{now}.x_-9"),
        ("old", LATE, "{now}.x_-9"),
        ("now", FRESH, "5"),
        ("now", FRESH, "{now}"),
    ],
)
async def test_a_client_that_knows_the_list_is_not_notified_of_it(
    served: Served, web: httpx.AsyncClient, known: str, opened_at: int, last_event_id: str
) -> None:
    now = digest(served)
    session_id = id_of(now if known == "now" else OLD_DIGEST, opened_at)
    async with (
        served.http() as url,
        opened(web, url, session_id, last_event_id.format(now=now)) as events,
    ):
        assert await anext(events) == {"retry": "3000"}
        await served.change("echo")
        assert await announced(events) == digest(served) != now


@pytest.mark.parametrize(
    ("known", "opened_at", "last_event_id"),
    [
        ("old", FRESH, ""),
        ("now", LATE, ""),  # the list may have changed twice, back to what it was
        ("now", FRESH, f"{OLD_DIGEST}.x"),
        ("now", LATE, f"{OLD_DIGEST}.x"),
        ("now", LATE, "5"),
        ("now", LATE, "{now}"),
        ("now", LATE, "p.abc.null"),
    ],
)
async def test_a_client_that_may_not_know_the_list_is_notified_at_once(
    served: Served, web: httpx.AsyncClient, known: str, opened_at: int, last_event_id: str
) -> None:
    now = digest(served)
    session_id = id_of(now if known == "now" else OLD_DIGEST, opened_at)
    async with (
        served.http() as url,
        opened(web, url, session_id, last_event_id.format(now=now)) as events,
    ):
        assert await announced(events) == now


async def test_a_client_that_was_notified_opens_its_stream_again_with_the_id(
    served: Served, web: httpx.AsyncClient
) -> None:
    session_id = id_of(digest(served), FRESH)
    async with served.http() as url:
        async with opened(web, url, session_id) as events:
            await served.change("echo")
            last = [await anext(events) for _ in range(2)][-1]["id"]
        await served.change("fail")
        async with opened(web, url, session_id, last) as events:
            assert await announced(events) == digest(served)
        await served.change("echo")
        async with opened(web, url, session_id, last) as events:
            assert await anext(events) == {"retry": "3000"}
            await served.change("any")
            assert await announced(events) == digest(served)


async def test_two_changes_that_cancel_each_other_out_are_none(
    served: Served, web: httpx.AsyncClient
) -> None:
    await served.change("echo")
    async with served.http() as url, opened(web, url, id_of(digest(served), FRESH)) as events:
        assert await anext(events) == {"retry": "3000"}
        served.show("fail")
        await served.change("echo")
        await served.change("any")
        assert await announced(events) == digest(served)


async def test_a_session_may_have_several_streams(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url:
        session_id = id_of(digest(served), FRESH)
        async with opened(web, url, session_id) as first, opened(web, url, session_id) as second:
            assert served.server.limits.usage["streams"] == 2
            await served.change("echo")
            assert await announced(first) == await announced(second) == digest(served)
        async with opened(web, url, session_id) as third:
            assert await announced(third) == digest(served)
        with anyio.fail_after(30):
            while served.server.limits.usage["streams"]:
                await anyio.lowlevel.checkpoint()


async def test_the_number_of_streams_is_limited(api: Api, client: Client, web: httpx.AsyncClient) -> None:
    served = Served(api.url, client, limits=Limits.model_validate({"total": {"streams": 1}}))
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        async with session.stream():
            refused = await web.get(url, headers=session.headers)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "60")
            async with session.listen(toolsListChanged=True) as listening:
                with pytest.raises(StopAsyncIteration):
                    await anext(listening)


async def test_a_stream_ends_when_the_server_stops(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url, opened(web, url, id_of(digest(served), FRESH)) as events:
        assert await anext(events) == {"retry": "3000"}
        served.stop.set()
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_a_stream_of_an_older_client_is_broken_off_when_the_server_stops(
    served: Served, web: httpx.AsyncClient
) -> None:
    """Such a client may open no other stream when it sees the end of one."""
    older = id_of(digest(served), FRESH, "2025-06-18")
    async with served.http() as url, opened(web, url, older) as events:
        served.stop.set()
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
            await anext(events)


async def test_a_revoked_key_ends_its_stream(served: Served, web: httpx.AsyncClient) -> None:
    access = credentials_for([entry("ann"), entry("bob")])
    async with served.http(access=access) as url:
        ann, bob = session_of("ann", web, url), session_of("bob", web, url)
        for session in (ann, bob):
            await session.open()
        async with ann.stream() as of_ann, bob.stream() as of_bob:
            access.replace(access_config([entry("bob")]))
            with anyio.fail_after(30):
                assert [message async for message in of_ann] == []
            await served.change("echo")
            assert await anext(of_bob) == CHANGED
        with anyio.fail_after(30):
            while served.server.limits.usage["streams"]:  # until the server sees that bob has left
                await anyio.lowlevel.checkpoint()
        assert (await web.get(url, headers=ann.headers)).status_code == 401


async def test_a_quiet_stream_is_kept_alive(
    served: Served, web: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notification_stream, "PING_SECONDS", 0.01)
    async with served.http() as url, opened(web, url, id_of(digest(served), FRESH)) as events:
        assert await anext(events) == {"retry": "3000"}
        for _ in range(2):
            assert await anext(events) == {"": "ping"}
        await served.change("echo")
        assert await announced(events) == digest(served)


@pytest.mark.parametrize("id", [7, "a.b/c é"])
async def test_a_client_whose_connection_was_lost_gets_an_error_for_its_request(
    served: Served, api: Api, web: httpx.AsyncClient, id: int | str
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        async with posted(session, call("hang", id)) as reply:
            opening = await anext(blocks(reply))
        headers = session.headers | {"last-event-id": opening["id"]}
        (answer,) = await resumed(web, url, headers)
        assert answer["id"] == id
        assert answer["error"]["code"] == -32603
        assert answer["error"]["message"].startswith(
            "The connection was lost before this request was answered."
        )
        assert not api.left.is_set()  # the call goes on
        api.release.set()


async def test_a_request_that_another_process_began_gets_an_error_too(
    served: Served, web: httpx.AsyncClient
) -> None:
    event_id = opening_event("2025-11-25", "x").split(b"\r\n")[0].decode().removeprefix("id: ")
    _, _, id = event_id.split(".")
    async with served.http() as url:
        session = Session(web, url)
        session.headers["mcp-session-id"] = id_of(OLD_DIGEST, LATE)
        (answer,) = await resumed(web, url, session.headers | {"last-event-id": f"p.other-process.{id}"})
    assert answer["id"] == "x"


async def resumed(web: httpx.AsyncClient, url: str, headers: dict[str, str]) -> list[Json]:
    async with web.stream("GET", url, headers=headers) as reply:
        assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream")
        return await messages(reply)
