import anyio
import httpx
import pytest
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from bridge.protocol import notifications as announce
from bridge.registry import Registry
from tests.serving.served import INITIALIZED, META, Pipe, Served, Session, initialize, request

pytestmark = pytest.mark.anyio

CHANGED = "notifications/tools/list_changed"


async def test_each_change_is_told_once_over_stdio(served: Served) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        for number in range(3):
            await _settled(pipe)
            await served.change("echo", f"new{number}")
            assert (await pipe.answer())["method"] == CHANGED


async def test_a_session_that_says_twice_that_it_is_ready_is_told_once(served: Served) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        await pipe.send(INITIALIZED)
        await _settled(pipe)
        await served.change("echo")
        assert (await pipe.answer())["method"] == CHANGED
        await _settled(pipe)


async def test_a_change_between_the_handshake_and_its_end_is_told(served: Served) -> None:
    async with served.stdio() as pipe:
        await pipe.send(initialize())
        await pipe.answer()
        await served.change("echo")
        await pipe.send(INITIALIZED)
        assert (await pipe.answer())["method"] == CHANGED
        await _settled(pipe)


async def test_a_modern_connection_is_told_only_what_it_listens_for(served: Served) -> None:
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


async def test_each_change_is_told_once_over_http(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        async with session.stream() as told, session.listen(toolsListChanged=True) as heard:
            await anext(heard)
            for number in range(3):
                await served.change("echo", f"new{number}")
                assert (await anext(told))["method"] == CHANGED
                assert (await anext(heard))["method"] == CHANGED
            served.stop.set()
            assert [message async for message in told] == []


async def test_a_change_while_the_stream_is_closed_is_told_once_when_it_opens(
    served: Served, web: httpx.AsyncClient
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        await served.change("echo")
        await served.change("echo", "fail")
        async with session.stream() as told:
            assert (await anext(told))["method"] == CHANGED
        async with session.stream() as told:
            await served.change("echo")
            assert (await anext(told))["method"] == CHANGED
            served.stop.set()
            assert [message async for message in told] == []


async def test_a_change_that_was_listed_is_not_told_when_the_stream_opens(
    served: Served, web: httpx.AsyncClient
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        await served.change("echo")
        await session.ask(request("tools/list"))
        async with session.stream() as told:
            served.stop.set()
            assert [message async for message in told] == []


async def test_a_stream_may_open_before_the_client_says_that_it_is_ready(
    served: Served, web: httpx.AsyncClient
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.shake_hands()
        async with session.stream() as told:
            await session.post(INITIALIZED)
            await served.change("echo")
            assert (await anext(told))["method"] == CHANGED


async def test_a_stream_may_open_before_the_last_one_is_seen_to_close() -> None:
    announcer = announce.Announcer(Registry())
    announcer.stream_opened("s")
    announcer.stream_opened("s")
    announcer.stream_closed("s")
    assert announcer._can_hear("s")
    announcer.stream_closed("s")
    assert not announcer._can_hear("s")


async def test_a_client_that_does_not_read_holds_up_nobody(served: Served) -> None:
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


async def test_what_was_not_taken_in_time_is_told_with_the_next_change(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        with monkeypatch.context() as impatient:
            impatient.setattr(announce, "_PATIENCE", 0)
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
    """The next thing that the server says is the answer to this: nothing was told before."""
    await pipe.send(request("ping", 9))
    assert await pipe.answer() == {"jsonrpc": "2.0", "id": 9, "result": {}}
