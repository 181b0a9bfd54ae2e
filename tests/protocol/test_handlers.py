import json
import logging
from typing import Any

import httpx
import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import PaginatedRequestParams

from bridge import __version__
from bridge.caller import Caller, CredentialLease, Inbound
from bridge.events import CallFinished
from bridge.exchange import Reply
from bridge.protocol.caller_context import Context
from bridge.protocol.handlers import ToolServer
from bridge.upstream.client import Client
from tests.serving.api import Api
from tests.serving.messages import META, Json, call, initialize, request
from tests.serving.pipe import Pipe
from tests.serving.served import Served
from tests.serving.session import Session

pytestmark = pytest.mark.anyio


class BrokenClient(Client):
    async def send(self, *_arguments: object, **_named: object) -> Reply:
        raise RuntimeError("Bearer canary")


async def test_the_server_says_who_it_is_and_that_its_tools_change(served: Served) -> None:
    async with served.stdio() as pipe:
        await pipe.send(initialize("2024-11-05"))
        result = (await pipe.answer())["result"]
    assert result["protocolVersion"] == "2024-11-05"
    assert result["serverInfo"] == {"name": "restbridge", "version": __version__}
    assert result["capabilities"]["tools"] == {"listChanged": True}
    assert "list them again" in result["instructions"]


async def test_tools_are_listed_by_name_in_the_same_bytes_each_time(served: Served) -> None:
    served.show("b", "c", "a")
    async with served.stdio() as pipe:
        await pipe.open()
        await pipe.send(request("tools/list"))
        first = await pipe.line()
        await pipe.send(request("tools/list"))
        second = await pipe.line()
    assert first == second
    assert [tool["name"] for tool in json.loads(first)["result"]["tools"]] == ["a", "b", "c"]


async def test_a_modern_client_may_cache_the_list_for_five_seconds(served: Served) -> None:
    async with served.stdio() as pipe:
        await pipe.send(request("tools/list", _meta=META))
        result = (await pipe.answer())["result"]
    assert (result["ttlMs"], result["cacheScope"]) == (5000, "private")


async def test_a_reload_between_pages_loses_no_tool(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.protocol.capabilities.PAGE_SIZE", 2)
    served.show("a", "b", "c", "d")
    async with served.stdio() as pipe:
        await pipe.open()
        first = await _ask(pipe, request("tools/list"))
        served.show("c", "d")
        second = await _ask(pipe, request("tools/list", cursor=first["nextCursor"]))
    assert [tool["name"] for tool in first["tools"]] == ["a", "b"]
    assert [tool["name"] for tool in second["tools"]] == ["c", "d"]
    assert "nextCursor" not in second


@pytest.mark.parametrize("cursor", ["", "no name", "name\n", "x" * 129])
async def test_a_cursor_that_is_no_name_is_invalid(served: Served, cursor: str) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        await pipe.send(request("tools/list", cursor=cursor))
        assert (await pipe.answer())["error"] == {"code": -32602, "message": "Invalid cursor"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing-alike", "Unknown tool: nothing-alike"),
        ("ecko", "Unknown tool: ecko"),
        ("x" * 1000, "Unknown tool: " + "x" * 128),
        ("name\n", "Unknown tool: name\n"),
    ],
    ids=["far", "near", "long", "line feed"],
)
async def test_an_unknown_tool_is_a_protocol_error(served: Served, name: str, message: str) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        await pipe.send(call(name))
        assert (await pipe.answer())["error"] == {"code": -32602, "message": message}
    logged = name if len(name) < 128 and name.isprintable() else "?"
    assert served.events == [CallFinished(logged, "unknown-tool", 0, None, request="1")]


@pytest.mark.parametrize(
    ("id", "logged"),
    [
        (7, "7"),
        (-7, "-7"),
        ("a.b:c", "a.b:c"),
        ("a b\n", '"a b\\n"'),
        ("x" * 129, f'"{"x" * 40}"…'),
        ("", '""'),
    ],
)
async def test_the_id_of_a_request_is_logged_as_one_word(served: Served, id: Json, logged: str) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        await pipe.send(call("echo", id))
        await pipe.answer()
    assert [event.request for event in served.events if isinstance(event, CallFinished)] == [logged]


async def test_an_internal_error_is_logged_and_not_shown(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    broken = Served(api.url, BrokenClient())
    broken.show("echo", "change")
    async with broken.stdio() as pipe:
        await pipe.open()
        await pipe.send(call("echo"), call("change", 2))
        read, written = await pipe.answer(), await pipe.answer()
    assert read["error"] == {"code": -32603, "message": "The bridge itself failed on this call, not the API"}
    assert written["error"]["message"].endswith("it may have been carried out: check before repeating it")
    assert "canary" not in str((read, written))
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "fault: tool=echo id=1",
        "fault: tool=change id=2",
    ]


@pytest.mark.parametrize("fast_path", [True, False])
async def test_an_internal_error_is_not_shown_over_http(
    api: Api, web: httpx.AsyncClient, *, fast_path: bool
) -> None:
    broken = Served(api.url, BrokenClient(), fast_path=fast_path)
    broken.show("echo")
    async with broken.http() as url:
        session = Session(web, url)
        await session.open()
        answers = [await session.ask(call("echo")), await session.ask_modern(call("echo"))]
    for answer in answers:
        assert answer["error"]["message"] == "The bridge itself failed on this call, not the API"
    assert "canary" not in str(answers)


class Counting(ToolServer):
    """Counts the requests for all tools."""

    listed = 0

    async def _list_tools(self, ctx: Context, params: PaginatedRequestParams) -> dict[str, Any]:
        self.listed += 1
        return await super()._list_tools(ctx, params)


async def test_a_call_outside_the_fast_path_does_not_list_the_tools(
    api: Api, client: Client, web: httpx.AsyncClient
) -> None:
    served = Served(api.url, client, fast_path=False)
    served.server = server = Counting(served.registry, client, served.events.append)
    served.show("echo")
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        assert "result" in await session.ask_modern(call("echo"))
        assert "result" in await session.ask(call("echo"))
        assert server.listed == 0
        await session.ask_modern(request("tools/list"))
    assert server.listed == 1


async def test_structured_content_and_its_nulls_arrive(served: Served) -> None:
    async with served.stdio() as pipe:
        await pipe.open()
        result = await _ask(pipe, call("typed"))
    assert result["structuredContent"] == {"path": "/typed", "text": "x", "nothing": None}


async def test_a_call_to_a_stopping_server_is_cancelled(served: Served) -> None:
    served.server.stop(grace=0)
    async with served.stdio() as pipe:
        await pipe.open()
        await pipe.send(call("hang"))
        assert (await pipe.answer())["error"]["message"].startswith("The server stopped")


async def test_a_call_whose_lease_has_ended_is_not_made(served: Served, api: Api) -> None:
    lease = CredentialLease()
    lease.end()
    tool = served.registry.current.find("hang")
    assert tool
    with pytest.raises(MCPError, match="The credential of this call was revoked or has expired"):
        await served.server.call(tool, {}, Inbound(Caller("ann", lease=lease)))
    assert lease.running == set()
    assert not api.entered.is_set()


async def _ask(pipe: Pipe, message: Json) -> Json:
    await pipe.send(message)
    result: Json = (await pipe.answer())["result"]
    return result
