import anyio
import httpx
import pytest
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from bridge.protocol import notifications
from bridge.registry import Registry
from tests.serving.messages import INITIALIZED, META, initialize, request
from tests.serving.pipe import Pipe
from tests.serving.served import Served
from tests.serving.session import Session

pytestmark = pytest.mark.anyio

CHANGED = "notifications/tools/list_changed"


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


async def test_a_change_while_the_stream_is_closed_is_notified_once_when_it_opens(
    served: Served, web: httpx.AsyncClient
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        await served.change("echo")
        await served.change("echo", "fail")
        async with session.stream() as stream:
            assert (await anext(stream))["method"] == CHANGED
        async with session.stream() as stream:
            await served.change("echo")
            assert (await anext(stream))["method"] == CHANGED
            served.stop.set()
            assert [message async for message in stream] == []


async def test_a_change_that_was_listed_is_not_notified_when_the_stream_opens(
    served: Served, web: httpx.AsyncClient
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        await served.change("echo")
        await session.ask(request("tools/list"))
        async with session.stream() as stream:
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


async def test_a_stream_may_open_before_the_last_one_has_closed() -> None:
    announcer = notifications.Announcer(Registry())
    announcer.stream_opened("s")
    announcer.stream_opened("s")
    announcer.stream_closed("s")
    assert announcer._is_reachable("s")
    announcer.stream_closed("s")
    assert not announcer._is_reachable("s")


async def test_a_client_that_does_not_read_delays_no_other(served: Served) -> None:
    to_server, inbox = anyio.create_memory_object_stream[SessionMessage | Exception](2)
    outbox, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    async with served.stdio() as other, to_server, from_server, anyio.create_task_group() as tasks:
        await other.open()
        tasks.start_soon(served.server.run, inbox, outbox, served.server.create_initialization_options())
        for message in (initialize(), INITIALIZED):
            await to_server.send(SessionMessage(jsonrpc_message_adapter.validate_python(message)))
        await from_server.receive()
        for number in range(3):
            await served.change("echo", f"new{number}")
            assert (await other.answer())["method"] == CHANGED
        tasks.cancel_scope.cancel()


async def test_a_notification_that_timed_out_is_repeated_with_the_next_change(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        with monkeypatch.context() as context:
            context.setattr(notifications, "_NOTIFY_TIMEOUT_SECONDS", 0)
            await _settled(pipe)
            await served.change("echo")
            await _settled(pipe)
        await served.change("fail")
        assert (await pipe.answer())["method"] == CHANGED
        await _settled(pipe)


async def test_an_ended_session_is_forgotten(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        async with session.stream():
            pass
        assert (await web.delete(url, headers=session.headers)).status_code == 200
        await served.change("echo")
    assert not served.server.announcer._sessions
    assert not served.server.announcer._streams


async def _settled(pipe: Pipe) -> None:
    """The next message of the server is the answer to this ping: no notification came before."""
    await pipe.send(request("ping", 9))
    assert await pipe.answer() == {"jsonrpc": "2.0", "id": 9, "result": {}}
