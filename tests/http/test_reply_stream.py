import json
from typing import Any

import anyio
import httpx
import pytest
from mcp.server.context import CallNext, HandlerResult
from mcp_types import ProgressNotification, ProgressNotificationParams
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.types import Message

from bridge.events import CallFinished
from bridge.http import reply_stream
from bridge.http.reply_stream import EarlyHeaders, ReplyStream, interrupted_request, opening_event
from bridge.protocol.caller_context import Context
from tests.serving.api import Api
from tests.serving.messages import Json, call, request
from tests.serving.served import Served
from tests.serving.session import Session
from tests.serving.streams import blocks, messages, posted

pytestmark = pytest.mark.anyio

ERAS = pytest.mark.parametrize("modern", [False, True], ids=["handshake", "modern"])


class Gate:
    """A middleware of the SDK that holds requests of one method until ``release``."""

    def __init__(self, served: Served, method: str) -> None:
        self.entered, self.release = anyio.Event(), anyio.Event()
        self._method = method
        served.server.middleware.append(self._hold)

    async def _hold(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        if ctx.method == self._method:
            self.entered.set()
            await self.release.wait()
        return await call_next(ctx)


@pytest.mark.parametrize("version", HANDSHAKE_PROTOCOL_VERSIONS)
@pytest.mark.parametrize("id", [7, "a.b/c é"])
async def test_the_headers_of_a_reply_do_not_wait_for_its_call(
    served: Served, api: Api, web: httpx.AsyncClient, version: str, id: int | str
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.shake_hands(version)
        async with posted(session, call("hang", id)) as reply:
            assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream")
            assert "mcp-session-id" not in reply.headers
            events = blocks(reply)
            if version == "2025-11-25":
                opening = await anext(events)
                assert opening.keys() == {"id", "data"}
                assert opening["data"] == ""
                assert interrupted_request(opening["id"]) == id
            api.release.set()
            answer = await anext(events)
            assert answer.keys() == {"event", "data"}
            assert (json.loads(answer["data"])["id"], answer["event"]) == (id, "message")
            assert [event async for event in events] == []


@pytest.mark.parametrize("version", ["2025-03-26", "2025-11-25"])
async def test_a_reply_without_a_session_has_no_opening_event(
    served: Served, api: Api, web: httpx.AsyncClient, version: str
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        session.headers["mcp-protocol-version"] = version
        async with posted(session, call("hang")) as reply:
            api.release.set()
            (event,) = [event async for event in blocks(reply)]
            assert json.loads(event["data"])["result"]["isError"] is False


async def test_a_slow_modern_call_is_answered_with_an_event(
    served: Served, api: Api, web: httpx.AsyncClient
) -> None:
    async with (
        served.http() as url,
        posted(Session(web, url), call("hang"), modern=True) as reply,
    ):
        assert reply.headers["content-type"] == "text/event-stream"
        api.release.set()
        (answer,) = await messages(reply)
        assert answer["result"]["resultType"] == "complete"


@ERAS
@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (call("nosuch"), "Unknown tool: nosuch"),
        (call("echo", _meta={"progressToken": 1}), '"path":"/echo"'),
    ],
    ids=["unknown tool", "result"],
)
async def test_a_slow_answer_of_the_sdk_becomes_an_event(
    served: Served, web: httpx.AsyncClient, message: Json, shown: str, *, modern: bool
) -> None:
    gate = Gate(served, "tools/call")
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        async with posted(session, message, modern=modern) as reply:
            assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream")
            await gate.entered.wait()
            gate.release.set()
            (answer,) = await messages(reply)
    assert answer["id"] == 1
    assert shown in json.dumps(answer).replace("\\", "")


@ERAS
async def test_a_slow_list_is_an_event(served: Served, web: httpx.AsyncClient, *, modern: bool) -> None:
    gate = Gate(served, "tools/list")
    async with served.http(fast_path=False) as url:
        session = Session(web, url)
        await session.open()
        async with posted(session, request("tools/list"), modern=modern) as reply:
            await gate.entered.wait()
            gate.release.set()
            (answer,) = await messages(reply)
    assert [tool["name"] for tool in answer["result"]["tools"]] == sorted(
        tool.name for tool in served.registry.current.tools
    )


@ERAS
@pytest.mark.parametrize("slow", [False, True])
async def test_notifications_of_a_request_are_events_before_its_answer(
    served: Served, web: httpx.AsyncClient, *, modern: bool, slow: bool
) -> None:
    started = anyio.Event()

    async def notify(ctx: Context, call_next: CallNext) -> HandlerResult:
        if ctx.method == "tools/call":
            if slow:
                await started.wait()
            await ctx.session.report_progress(1, 3, "well")
            await ctx.session.report_progress(2)
            params = ProgressNotificationParams(progress_token="other", progress=0.5)
            await ctx.session.send_notification(ProgressNotification(params=params), ctx.request_id)
        return await call_next(ctx)

    served.server.middleware.append(notify)
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        for meta in ({"progressToken": "a"}, {"x": 1}):
            async with posted(session, call("echo", _meta=meta), modern=modern) as reply:
                started.set()
                *notified, answer = await messages(reply)
            assert answer["result"]["isError"] is False
            assert {each["method"] for each in notified} == {"notifications/progress"}
            other = {"progressToken": "other", "progress": 0.5}
            own = [
                {"progressToken": "a", "progress": 1, "total": 3, "message": "well"},
                {"progressToken": "a", "progress": 2},
            ]
            assert [each["params"] for each in notified] == [*own * ("progressToken" in meta), other]


async def test_a_stream_that_waits_for_its_answer_is_kept_alive(
    served: Served, api: Api, web: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply_stream, "PING_SECONDS", 0.01)
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        async with posted(session, call("hang")) as reply:
            events = blocks(reply)
            assert (await anext(events))["data"] == ""
            for _ in range(2):
                assert await anext(events) == {"": "ping"}
            api.release.set()
            rest = [event async for event in events if event != {"": "ping"}]
    assert [event["event"] for event in rest] == ["message"]


async def test_a_call_of_a_session_goes_on_when_its_client_leaves(
    served: Served, api: Api, web: httpx.AsyncClient
) -> None:
    """The client may come back, or may have lost its connection only (MCP 2025-11-25, Streamable HTTP)."""
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        async with posted(session, call("hang")):
            pass
        # A later request on a new connection: by then the server has seen the client leave.
        assert (await session.ask(call("echo", 2)))["result"]["isError"] is False
        api.release.set()
        with anyio.fail_after(30):
            while len(outcomes(served)) < 2:
                await anyio.lowlevel.checkpoint()
    assert outcomes(served) == ["ok", "ok"]


@pytest.mark.parametrize("early", [False, True])
async def test_a_call_without_a_session_is_cancelled_when_its_client_leaves(
    served: Served, api: Api, web: httpx.AsyncClient, *, early: bool
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        session.headers["mcp-protocol-version"] = "2025-11-25"
        if early:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(session.post, call("hang"))
                await api.entered.wait()
                tasks.cancel_scope.cancel()
        else:
            async with posted(session, call("hang")):
                pass
        with anyio.fail_after(30):
            await api.left.wait()
            while not outcomes(served):
                await anyio.lowlevel.checkpoint()
    assert outcomes(served) == ["cancelled"]


def outcomes(served: Served) -> list[str]:
    return [event.outcome for event in served.events if isinstance(event, CallFinished)]


@pytest.mark.parametrize("id", [0, -5, "", "1", "a.b.c", "p.x", 'quote"\\', "é%2F", "\n"])
def test_the_id_of_an_opening_event_names_its_request(id: int | str) -> None:
    first, *_ = opening_event("2025-11-25", id).split(b"\r\n")
    assert interrupted_request(first.decode().removeprefix("id: ")) == id
    assert first.isascii()


@pytest.mark.parametrize("text", ["", "p", "x.abc.1", "p.abc.", "p.abc.x", "p.abc.null", "p.abc.%5B1%5D"])
def test_another_event_id_names_no_request(text: str) -> None:
    assert interrupted_request(text) is None


class Sink:
    """An ASGI ``send`` that waits for ``release`` before the first message."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.entered, self.release = anyio.Event(), anyio.Event()

    async def send(self, message: Message) -> None:
        self.entered.set()
        await self.release.wait()
        self.sent.append(message)

    @property
    def shape(self) -> list[Any]:
        return [message.get("status", message.get("body")) for message in self.sent]


async def never() -> Message:
    await anyio.sleep_forever()
    raise AssertionError


async def test_a_reply_is_sent_as_a_whole_if_its_headers_still_wait_for_an_earlier_reply() -> None:
    sink = Sink()
    reply = ReplyStream(never, sink.send, b"opening")
    await sink.entered.wait()
    await reply.end()
    sink.release.set()
    await reply.answer(b"{}")
    assert sink.shape == [200, b"event: message\r\ndata: {}\r\n\r\n"]


async def test_a_client_of_a_session_that_leaves_is_no_longer_watched() -> None:
    sink, left = Sink(), anyio.Event()
    sink.release.set()

    async def leave() -> Message:
        left.set()
        return {"type": "http.disconnect"}

    reply = ReplyStream(leave, sink.send)
    await left.wait()
    await reply.end()
    await reply.answer(b"")
    assert sink.shape == [200, b""]


async def test_an_answer_waits_until_early_headers_are_sent() -> None:
    sink = Sink()
    early = EarlyHeaders(sink.send)
    await sink.entered.wait()

    async def answer() -> None:
        headers = [(b"content-type", b"application/json")]
        await early.send({"type": "http.response.start", "status": 200, "headers": headers})
        await early.send({"type": "http.response.body", "body": b"{}"})

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer)
        await anyio.wait_all_tasks_blocked()
        sink.release.set()
    await early.end()
    assert sink.shape == [200, b"event: message\r\ndata: {}\r\n\r\n"]
