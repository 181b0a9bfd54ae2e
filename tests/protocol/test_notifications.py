"""Which clients are notified of a change, over both transports and in both eras, and how often."""

import anyio
import httpx
import pytest
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from bridge.caller import ANONYMOUS
from tests.serving.messages import INITIALIZED, META, Json, initialize, request
from tests.serving.pipe import Pipe
from tests.serving.served import Served
from tests.serving.session import Session
from tests.serving.tools import TOOLS

pytestmark = pytest.mark.anyio

CHANGED = "notifications/tools/list_changed"
WANTED = {"toolsListChanged": True}


def as_message(message: Json) -> SessionMessage:
    return SessionMessage(jsonrpc_message_adapter.validate_python(message))


def as_json(message: SessionMessage) -> Json:
    return message.message.model_dump()


async def test_each_change_is_notified_once_over_stdio(served: Served) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        for number in range(3):
            await _settled(pipe)
            await served.change("echo", f"new{number}")
            assert (await pipe.answer())["method"] == CHANGED


async def test_a_session_that_is_initialized_twice_is_notified_once(served: Served) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        await pipe.send(INITIALIZED)
        await _settled(pipe)
        await served.change("echo")
        assert (await pipe.answer())["method"] == CHANGED
        await _settled(pipe)


async def test_a_change_during_the_handshake_is_notified(served: Served) -> None:
    async with served.stdio() as pipe:
        await pipe.send(initialize())
        await pipe.answer()
        await served.change("echo")
        await pipe.send(INITIALIZED)
        assert (await pipe.answer())["method"] == CHANGED
        await _settled(pipe)


async def test_a_modern_connection_gets_only_the_notifications_that_it_listens_for(served: Served) -> None:
    async with served.stdio() as pipe:
        wanted = {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": ["a:b"]}
        await pipe.send(request("tools/list", 1, _meta=META))
        await pipe.answer()
        await served.change("echo")
        await pipe.send(request("subscriptions/listen", 2, notifications=wanted, _meta=META))
        acknowledged = await pipe.answer()
        assert acknowledged["params"]["notifications"] == {"toolsListChanged": True}
        await served.change("echo", "fail")
        assert (await pipe.answer())["method"] == CHANGED


async def test_each_change_is_notified_once_over_http(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        async with session.stream() as stream, session.listen(toolsListChanged=True) as events:
            await anext(events)
            for number in range(3):
                await served.change("echo", f"new{number}")
                assert (await anext(stream))["method"] == CHANGED
                assert (await anext(events))["method"] == CHANGED
            served.stop.set()
            assert [message async for message in stream] == []


async def test_a_change_while_no_stream_is_open_is_notified_once_when_one_opens(
    served: Served, web: httpx.AsyncClient
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        await served.change("echo")
        await served.change("echo", "fail")
        async with session.stream() as stream:
            assert (await anext(stream))["method"] == CHANGED
            await served.change("echo")
            assert (await anext(stream))["method"] == CHANGED
            served.stop.set()
            assert [message async for message in stream] == []


async def test_a_stream_may_open_before_the_session_is_initialized(
    served: Served, web: httpx.AsyncClient
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.shake_hands()
        async with session.stream() as stream:
            await session.post(INITIALIZED)
            await served.change("echo")
            assert (await anext(stream))["method"] == CHANGED


async def test_each_stream_of_a_session_is_notified(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        async with session.stream() as first, session.stream() as second:
            await served.change("echo")
            assert [(await anext(each))["method"] for each in (first, second)] == [CHANGED] * 2


async def test_a_client_that_does_not_read_delays_no_other(served: Served) -> None:
    to_server, inbox = anyio.create_memory_object_stream[SessionMessage | Exception](2)
    outbox, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    async with served.stdio() as other, to_server, from_server, anyio.create_task_group() as tasks:
        await other.open()
        tasks.start_soon(served.server.run, inbox, outbox, served.server.create_initialization_options())
        for message in (initialize(), INITIALIZED):
            await to_server.send(as_message(message))
        await from_server.receive()
        for number in range(3):
            await served.change("echo", f"new{number}")
            assert (await other.answer())["method"] == CHANGED
        await from_server.receive()
        # The changes while it did not read are one more notification.
        assert as_json(await from_server.receive())["method"] == CHANGED
        await to_server.send(as_message(request("ping", 9)))
        assert as_json(await from_server.receive())["id"] == 9
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("modern", [False, True], ids=["handshake", "modern"])
async def test_changes_that_cancel_each_other_out_are_not_notified(served: Served, *, modern: bool) -> None:
    async with served.stdio() as pipe:
        if modern:
            await pipe.send(request("subscriptions/listen", 1, notifications=WANTED, _meta=META))
            assert (await pipe.answer())["method"] == "notifications/subscriptions/acknowledged"
        else:
            await pipe.open()
            await _settled(pipe)
        served.show("echo")
        await served.change(*TOOLS)
        await served.change("fail")
        assert (await pipe.answer())["method"] == CHANGED
        await _settled(pipe, modern=modern)


async def test_a_change_of_what_clients_do_not_see_is_not_notified(served: Served) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        await _settled(pipe)
        served.tags = {"echo": ["more"]}
        await served.change(*TOOLS)
        await _settled(pipe)


async def test_a_change_between_early_answers_and_the_server_is_notified(served: Served) -> None:
    assert served.server.announcer.digest(ANONYMOUS)  # made before the change, as in a process
    messages = (initialize(), INITIALIZED, request("tools/list", 1))
    async with served.stdio_after(*messages, read=2, waiting=0) as pipe:
        await served.change("echo")  # does not let the server start first
        assert (await pipe.answer())["method"] == CHANGED
        await _settled(pipe)


async def test_the_next_connection_is_notified_too(served: Served) -> None:
    for name in ("echo", "fail"):
        served.stop, served.stopped = anyio.Event(), anyio.Event()
        async with served.stdio() as pipe:
            await pipe.open()
            await _settled(pipe)
            await served.change(name)
            assert (await pipe.answer())["method"] == CHANGED
        served.show(*TOOLS)


async def _settled(pipe: Pipe, *, modern: bool = False) -> None:
    """The next message of the server is the answer to this request: no notification came before."""
    await pipe.send(request("tools/list", 9, _meta=META) if modern else request("ping", 9))
    assert (await pipe.answer())["id"] == 9
