import json
import time
from collections.abc import AsyncIterator

import anyio
import httpx
import pytest
from mcp.server.context import CallNext, HandlerResult
from mcp.shared.message import ServerMessageMetadata
from mcp_types import ListRootsRequest, ListRootsResult
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from bridge.caller import ANONYMOUS
from bridge.events import CallFinished, RequestRefused
from bridge.http import reply_stream
from bridge.protocol.caller_context import Context
from bridge.protocol.in_flight import ClientKey
from bridge.protocol.session_id import read_session_id
from bridge.settings import Limits
from bridge.upstream.client import Client
from tests.serving.api import Api
from tests.serving.messages import INITIALIZED, call, cancel, initialize, request
from tests.serving.served import Served
from tests.serving.session import Session
from tests.serving.streams import messages, posted
from tests.serving.tools import TOOLS

pytestmark = pytest.mark.anyio

CANCELLED = {"code": -32800, "message": "Request cancelled"}


async def opened(web: httpx.AsyncClient, url: str) -> Session:
    session = Session(web, url)
    await session.open()
    return session


def calls(served: Served) -> list[tuple[str, str]]:
    return [(event.tool, event.outcome) for event in served.events if isinstance(event, CallFinished)]


async def until_calls(served: Served, number: int) -> None:
    with anyio.fail_after(30):
        while len(calls(served)) < number:
            await anyio.lowlevel.checkpoint()


def versions(served: Served) -> list[str]:
    """The versions in which the SDK serves requests from now on."""
    seen: list[str] = []

    async def watch(ctx: Context, call_next: CallNext) -> HandlerResult:
        seen.append(ctx.protocol_version)
        return await call_next(ctx)

    served.server.middleware.append(watch)
    return seen


@pytest.mark.parametrize("version", HANDSHAKE_PROTOCOL_VERSIONS)
async def test_the_id_of_a_session_says_what_its_client_is(
    served: Served, web: httpx.AsyncClient, version: str
) -> None:
    message = initialize(version)
    message["params"]["capabilities"] = {"elicitation": {"url": {}}, "roots": {}}
    async with served.http() as url:
        before = int(time.time())
        reply = await Session(web, url).post(message)
        after = int(time.time())
        (answer,) = await messages(reply)
    assert answer["result"]["protocolVersion"] == version
    session = read_session_id(reply.headers["mcp-session-id"])
    assert session
    assert (session.version, session.modes) == (version, ("url",))
    assert session.digest == served.server.announcer.digest(ANONYMOUS)
    assert before <= session.opened_at <= after


async def test_a_client_with_an_unknown_version_gets_a_session_of_ours(
    served: Served, web: httpx.AsyncClient
) -> None:
    async with served.http() as url:
        reply = await Session(web, url).post(initialize("1999-01-01"))
    (answer,) = await messages(reply)
    session = read_session_id(reply.headers["mcp-session-id"])
    assert session
    assert session.version == answer["result"]["protocolVersion"] == "2025-11-25"


async def test_only_a_handshake_that_succeeds_opens_a_session(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url:
        reply = await Session(web, url).post(request("initialize", 0, protocolVersion="2025-11-25"))
        (answer,) = await messages(reply)
        assert (answer["id"], answer["error"]["code"]) == (0, -32602)
        assert "mcp-session-id" not in reply.headers
        session = await opened(web, url)
        for message in (request("tools/list"), call("echo", 2), request("ping", 3), INITIALIZED):
            assert "mcp-session-id" not in (await session.post(message)).headers


async def test_notifications_and_answers_are_accepted(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url:
        for session in (Session(web, url), await opened(web, url)):
            for message in (
                INITIALIZED,
                {"jsonrpc": "2.0", "id": 1, "result": {}},
                {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "no"}},
                cancel(None),
            ):
                reply = await session.post(message)
                assert (reply.status_code, reply.content) == (202, b"")


@pytest.mark.parametrize("version", [None, *HANDSHAKE_PROTOCOL_VERSIONS])
async def test_a_request_needs_no_session(
    served: Served, web: httpx.AsyncClient, version: str | None
) -> None:
    seen = versions(served)
    async with served.http() as url:
        session = Session(web, url)
        if version:
            session.headers["mcp-protocol-version"] = version
        assert await session.ask(request("ping", "p")) == {"jsonrpc": "2.0", "id": "p", "result": {}}
        listed = (await session.ask(request("tools/list")))["result"]["tools"]
        assert {tool["name"] for tool in listed} == set(TOOLS)
        assert (await session.ask(call("echo")))["result"]["isError"] is False
    assert seen[0] == (version or "2025-03-26")  # MCP 2025-06-18, Streamable HTTP


async def test_the_version_of_the_session_counts(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.shake_hands("2025-11-25")
        seen = versions(served)
        session.headers["mcp-protocol-version"] = "2024-11-05"
        await session.ask(request("ping"))
    assert seen == ["2025-11-25"]


@pytest.mark.parametrize("restart", [False, True])
async def test_a_session_is_served_by_any_server(
    served: Served, api: Api, client: Client, web: httpx.AsyncClient, *, restart: bool
) -> None:
    other = Served(api.url, client, fast_path=served.fast_path)
    other.show(*TOOLS)
    async with served.http() as first:
        session = await opened(web, first)
        if restart:
            served.stop.set()
            await served.stopped.wait()
        async with other.http() as second:
            session.url = second
            for message in (call("echo", 2), call("fail", 3)):
                assert (await session.ask(message))["id"] == message["id"]
            assert len((await session.ask(request("tools/list", 4)))["result"]["tools"]) == len(TOOLS)
            async with session.stream() as stream:
                await other.change("echo")
                assert (await anext(stream))["method"] == "notifications/tools/list_changed"
            assert (await web.delete(second, headers=session.headers)).status_code == 200
    assert calls(other) == [("echo", "ok"), ("fail", "http-500")]
    assert calls(served) == []


@pytest.mark.parametrize("id", ["", "c9bf1f6c0c5f4a4c8b1c7bd5a3a4d7c1", "rb1.e30.xxxxxxxxxxxxxxxxxxxxxx"])
async def test_an_id_that_is_not_one_of_ours_gets_404(
    served: Served, web: httpx.AsyncClient, id: str
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        session.headers["mcp-session-id"] = id
        replies = [
            await session.post(call("echo")),
            await session.post(INITIALIZED),
            await web.get(url, headers=session.headers),
            await web.delete(url, headers=session.headers),
        ]
    assert [(reply.status_code, reply.json()["error"]["message"]) for reply in replies] == [
        (404, "Session not found")
    ] * 4


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_request_without_a_message_needs_a_session(
    served: Served, web: httpx.AsyncClient, method: str
) -> None:
    async with served.http() as url:
        reply = await web.request(method, url, headers=Session(web, url).headers)
        modern = {"mcp-protocol-version": "2026-07-28"}
        refused = await web.request(method, url, headers=modern)
    assert (reply.status_code, reply.json()["error"]["message"]) == (
        400,
        f"{method} needs the header Mcp-Session-Id",
    )
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


PING = json.dumps(request("ping", 5)).encode()


@pytest.mark.parametrize(
    ("body", "headers", "status", "id"),
    [
        (PING, {"accept": "application/json"}, 406, 5),
        (PING, {"content-type": "text/plain"}, 415, None),
        (PING, {"host": "evil.example"}, 421, None),
        (PING, {"origin": "https://evil.example"}, 403, None),
        (b"{", {}, 400, None),
        (b"[]", {}, 400, None),
        (b" " * (Limits().body + 1), {}, 413, None),
        (json.dumps(request("ping", 5, x="x" * 100_000)).encode(), {}, 400, 5),
    ],
    ids=["accept", "type", "host", "origin", "json", "batch", "size", "large"],
)
async def test_a_refused_post_of_a_session_has_status_200_unless_the_client_must_act(
    served: Served,
    web: httpx.AsyncClient,
    body: bytes,
    headers: dict[str, str],
    *,
    status: int,
    id: int | None,
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        plain = await session.post(body, **headers)
        await session.shake_hands()
        in_session = await session.post(body, **headers)
    assert plain.status_code == status
    assert in_session.status_code == (403 if status == 403 else 200)
    assert plain.json() == in_session.json()
    assert plain.json()["id"] == id
    assert plain.json()["error"]["message"]


async def test_a_body_of_unknown_size_is_refused_too(served: Served, web: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b" " * Limits().body
        yield b" "

    async with served.http() as url:
        session = Session(web, url)
        for status in (413, 200):
            reply = await web.post(url, content=chunks(), headers=session.headers)
            assert reply.status_code == status
            assert "larger than" in reply.json()["error"]["message"]
            await session.shake_hands()


async def test_a_get_of_a_session_keeps_its_status(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url:
        session = await opened(web, url)
        reply = await web.get(url, headers=session.headers | {"accept": "application/json"})
        assert (reply.status_code, reply.json()["error"]["message"]) == (
            406,
            "The client must accept text/event-stream",
        )
        host = {"host": "evil.example"}
        assert (await web.get(url, headers=session.headers | host)).status_code == 421


async def test_a_caller_over_its_rate_gets_status_200_in_a_session(
    api: Api, client: Client, web: httpx.AsyncClient
) -> None:
    limits = Limits.model_validate({"perCaller": {"rate": 1}})
    served = Served(api.url, client, limits=limits)
    async with served.http() as url:
        session = Session(web, url)
        await session.shake_hands()
        in_session = await session.post(request("ping", 2))
        plain = await Session(web, url).post(request("ping", 2))
        large = await session.post(b" " * 200_000)  # it is not read for an id
    assert (in_session.status_code, plain.status_code) == (200, 429)
    assert in_session.json()["id"] == plain.json()["id"] == 2
    assert (large.status_code, large.json()["id"]) == (200, None)
    assert "Too many requests" in in_session.json()["error"]["message"]
    assert int(in_session.headers["retry-after"]) > 0


async def test_a_second_request_with_an_id_in_flight_is_refused(
    served: Served, api: Api, web: httpx.AsyncClient
) -> None:
    async with served.http() as url:
        session, other = await opened(web, url), await opened(web, url)
        without = Session(web, url)
        async with posted(session, call("hang", 7)) as reply:
            for message in (request("ping", "7"), call("echo", 7)):
                refused = await session.post(message)
                assert (refused.status_code, refused.json()) == (
                    200,
                    {
                        "jsonrpc": "2.0",
                        "id": message["id"],
                        "error": {"code": -32600, "message": "A request with this id is still in flight"},
                    },
                )
            for free in (other, without):
                assert (await free.ask(call("echo", 7)))["result"]["isError"] is False
            api.release.set()
            (answer,) = await messages(reply)
        assert answer["result"]["isError"] is False
        assert (await session.ask(call("echo", 7)))["result"]["isError"] is False
    assert [event for event in served.events if isinstance(event, RequestRefused)] == [
        RequestRefused(409)
    ] * 2


async def test_a_cancelled_call_gets_an_error_if_its_stream_has_begun(
    served: Served, api: Api, web: httpx.AsyncClient
) -> None:
    async with served.http() as url:
        session = await opened(web, url)
        async with posted(session, call("hang", 7)) as reply:
            await api.entered.wait()
            assert (await session.post(cancel("7"))).status_code == 202
            assert await messages(reply) == [{"jsonrpc": "2.0", "id": 7, "error": CANCELLED}]
            with anyio.fail_after(30):
                await api.left.wait()
    assert calls(served) == [("hang", "cancelled")]


async def test_a_cancelled_call_gets_no_answer_if_its_stream_has_not_begun(
    served: Served, api: Api, web: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply_stream, "_OPEN_SECONDS", 3600)
    replies: list[httpx.Response] = []
    async with served.http() as url, anyio.create_task_group() as tasks:
        session = await opened(web, url)

        async def hang() -> None:
            replies.append(await session.post(call("hang", 7)))

        tasks.start_soon(hang)
        await api.entered.wait()
        await session.post(cancel(7))
    assert (replies[0].status_code, replies[0].content) == (200, b"")
    assert replies[0].headers["content-type"] == "text/event-stream"
    assert calls(served) == [("hang", "cancelled")]


async def test_a_request_that_the_sdk_answers_can_be_cancelled_too(
    served: Served, web: httpx.AsyncClient
) -> None:
    entered = anyio.Event()

    async def hold(ctx: Context, call_next: CallNext) -> HandlerResult:
        if ctx.method == "tools/call":
            entered.set()
            await anyio.sleep_forever()
        return await call_next(ctx)

    served.server.middleware.append(hold)
    async with served.http() as url:
        session = await opened(web, url)
        async with posted(session, call("nosuch", 7)) as reply:
            await entered.wait()
            await session.post(cancel(7))
            assert await messages(reply) == [{"jsonrpc": "2.0", "id": 7, "error": CANCELLED}]


async def test_a_cancellation_may_overtake_its_call(served: Served, api: Api, web: httpx.AsyncClient) -> None:
    async with served.http() as url:
        session = await opened(web, url)
        await session.post(cancel(7))
        reply = await session.post(call("hang", 7))
        assert (reply.status_code, reply.content) == (200, b"")
        assert (await session.ask(call("echo", 7)))["result"]["isError"] is False
    assert not api.entered.is_set()


async def test_a_cancellation_of_another_session_has_no_effect(
    served: Served, api: Api, web: httpx.AsyncClient
) -> None:
    forwarded: list[tuple[ClientKey, str | None]] = []
    served.server.in_flight.forward = lambda client, id: forwarded.append((client, id))
    async with served.http() as url:
        session, other = await opened(web, url), await opened(web, url)
        async with posted(session, call("hang", 7)) as reply:
            await api.entered.wait()
            assert (await other.post(cancel(7))).status_code == 202
            del other.headers["mcp-session-id"]
            assert (await other.post(cancel(7))).status_code == 202
            api.release.set()
            (answer,) = await messages(reply)
    assert answer["result"]["isError"] is False
    ((client, id),) = forwarded  # another process may have the request
    assert (client.caller, id) == (None, "7")
    assert client.session_id != session.headers["mcp-session-id"]


async def test_the_end_of_a_session_cancels_its_calls(
    served: Served, api: Api, web: httpx.AsyncClient
) -> None:
    async with served.http() as url:
        session, other = await opened(web, url), await opened(web, url)
        async with posted(session, call("hang")) as reply:
            await api.entered.wait()
            assert (await web.delete(url, headers=other.headers)).status_code == 200
            ended = await web.delete(url, headers=session.headers)
            assert (ended.status_code, ended.content) == (200, b"")
            assert await messages(reply) == [{"jsonrpc": "2.0", "id": 1, "error": CANCELLED}]
    assert calls(served) == [("hang", "cancelled")]


async def test_a_fault_of_ours_is_an_error_without_details(
    served: Served, web: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(ctx: Context, call_next: CallNext) -> HandlerResult:
        if ctx.method in ("ping", "initialize"):
            raise RuntimeError("secret")
        return await call_next(ctx)

    served.server.middleware.append(fail)
    async with served.http() as url:
        for message in (request("ping", 3), initialize()):
            answer = await Session(web, url).ask(message)
            assert answer == {
                "jsonrpc": "2.0",
                "id": message["id"],
                "error": {"code": -32603, "message": "Internal server error"},
            }
    assert "fault: method=ping" in caplog.text


async def test_the_server_cannot_ask_a_client_nor_notify_it_during_the_handshake(
    served: Served, web: httpx.AsyncClient
) -> None:
    async def ask(ctx: Context, call_next: CallNext) -> HandlerResult:
        if ctx.method == "initialize":
            await ctx.session.report_progress(1)
        if ctx.method == "ping":
            own_stream = ServerMessageMetadata(related_request_id=ctx.request_id)
            await ctx.session.send_request(ListRootsRequest(), ListRootsResult, metadata=own_stream)
        return await call_next(ctx)

    served.server.middleware.append(ask)
    async with served.http() as url:
        session = Session(web, url)
        message = initialize()
        message["params"]["_meta"] = {"progressToken": 1}
        reply = await session.post(message)
        assert [each["id"] for each in await messages(reply)] == [0]
        refused = await session.ask(request("ping"))
    assert "roots/list" in refused["error"]["message"]


async def test_a_stopping_server_refuses_a_request_of_a_session_by_its_id(
    served: Served, web: httpx.AsyncClient
) -> None:
    """The body arrives after the server began to stop, its head before."""
    async with served.http() as url:
        session = await opened(web, url)
        body = json.dumps(call("echo", "a7")).encode()
        replies: list[bytes] = []
        async with session.stream() as stream:
            connections = []
            for headers in (session.headers, Session(web, url).headers):
                connection = await anyio.connect_tcp("127.0.0.1", httpx.URL(url).port or 0)
                lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
                head = f"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n{''.join(lines)}\r\n"
                await connection.send(head.encode() + body[:5])
                connections.append(connection)
            await session.ask(request("ping", 2))  # the server has parsed the heads
            served.stop.set()
            assert [message async for message in stream] == []  # it refuses requests now
        for connection in connections:
            await connection.send(body[5:])
            async with connection:
                replies.append(b"".join([chunk async for chunk in connection]))
    for received, status in zip(replies, (b"200", b"503"), strict=True):
        fields, _, content = received.partition(b"\r\n\r\n")
        assert fields.startswith(b"HTTP/1.1 " + status)
        assert b"\r\nconnection: close" in fields
        assert b"\r\nretry-after: 1" in fields
        answer = json.loads(content)
        assert (answer["id"], answer["error"]["message"]) == ("a7", "The server is stopping")
    assert calls(served) == []


async def test_open_connections_are_answered_while_the_server_drains(
    served: Served, api: Api, web: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply_stream, "_OPEN_SECONDS", 3600)
    replies: list[httpx.Response] = []
    async with served.http(drain=60) as url, anyio.create_task_group() as tasks:
        session = await opened(web, url)

        async def hang() -> None:
            replies.append(await session.post(call("hang", 2)))

        async with httpx.AsyncClient(timeout=30, trust_env=False) as idle:
            other = Session(idle, url)
            assert (await other.post(INITIALIZED)).headers.get("connection") is None
            tasks.start_soon(hang)
            await api.entered.wait()
            served.stop.set()
            with anyio.fail_after(30):
                await no_longer_listens(url)
            reply = await other.post(call("echo"))
            assert (reply.status_code, reply.headers["connection"]) == (200, "close")
            assert '"isError":false' in reply.text
        assert not served.stopped.is_set()
        api.release.set()
        with anyio.fail_after(30):  # no connection is left, so it does not wait any longer
            await served.stopped.wait()
    assert (replies[0].status_code, replies[0].headers["connection"]) == (200, "close")
    assert calls(served) == [("echo", "ok"), ("hang", "ok")]


async def no_longer_listens(url: str) -> None:
    while True:
        try:
            async with await anyio.connect_tcp("127.0.0.1", httpx.URL(url).port or 0):
                await anyio.lowlevel.checkpoint()
        except OSError:
            return


async def test_a_reply_that_has_begun_ends_while_the_server_drains(
    served: Served, api: Api, web: httpx.AsyncClient
) -> None:
    async with served.http(drain=60) as url:
        session = await opened(web, url)
        async with posted(session, call("hang")) as reply:
            served.stop.set()
            with anyio.fail_after(30):
                await no_longer_listens(url)
            api.release.set()
            (answer,) = await messages(reply)
            assert answer["result"]["isError"] is False
        last = await session.post(call("echo", 2))  # on the same connection
        assert (last.status_code, last.headers["connection"]) == (200, "close")
        with anyio.fail_after(30):
            await served.stopped.wait()
