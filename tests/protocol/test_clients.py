"""What the SDK's own client sees, in both eras over both transports."""

import os

import anyio
import pytest
from mcp import Client, MCPError
from mcp.client.session import IncomingMessage
from mcp.client.stdio import StdioServerParameters
from mcp.server.subscriptions import ToolsListChanged
from mcp_types import ToolListChangedNotification

from tests.serving.served import TOOLS, Api, Files, Served

pytestmark = pytest.mark.anyio


class Ears:
    """Counts what a client hears of changes."""

    def __init__(self) -> None:
        self.count = 0
        self._heard = anyio.Event()

    async def message(self, message: IncomingMessage) -> None:
        if isinstance(message, ToolListChangedNotification):
            self.hear()

    def hear(self) -> None:
        self.count += 1
        self._heard.set()

    async def hear_next(self) -> int:
        with anyio.fail_after(30):
            await self._heard.wait()
        self._heard = anyio.Event()
        return self.count


MODES = pytest.mark.parametrize("mode", ["legacy", "auto"])


@MODES
async def test_a_client_over_stdio_lists_calls_and_hears(mode: str, api: Api, files: Files) -> None:
    ears = Ears()
    program, *arguments = files.command
    process = StdioServerParameters(command=program, args=arguments, env=dict(os.environ))
    async with Client(process, mode=mode, message_handler=ears.message) as client:
        await _use(client, ears, files, api)


@MODES
async def test_a_client_over_http_lists_calls_and_hears(mode: str, api: Api, served: Served) -> None:
    ears = Ears()
    async with served.http() as url, Client(url, mode=mode, message_handler=ears.message) as client:
        await _use(client, ears, served, api)


async def _use(client: Client, ears: Ears, tools: Files | Served, api: Api) -> None:
    assert client.server_capabilities.tools
    assert client.server_capabilities.tools.list_changed is True
    assert await _names(client) == set(TOOLS)
    await _calls(client)
    await _cancels(client, api)
    if client.protocol_version == "2025-11-25":
        await _hears(client, ears, tools)
        return
    assert client.protocol_version == "2026-07-28"
    async with client.listen(tools_list_changed=True):
        await _hears(client, ears, tools)


async def _calls(client: Client) -> None:
    echo = await client.call_tool("echo", {})
    assert not echo.is_error
    typed = await client.call_tool("typed", {})
    assert typed.structured_content == {"path": "/typed", "text": "x", "nothing": None}
    for name, arguments in (("fail", {}), ("strict", {}), ("strict", {"n": "one"})):
        assert (await client.call_tool(name, arguments)).is_error
    with pytest.raises(MCPError, match="Unknown tool: nothing-alike"):
        await client.call_tool("nothing-alike", {})


async def _cancels(client: Client, api: Api) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.call_tool, "hang", {})
        with anyio.fail_after(30):
            await api.entered.wait()
        tasks.cancel_scope.cancel()
    with anyio.fail_after(30):
        await api.left.wait()


async def _hears(client: Client, ears: Ears, tools: Files | Served) -> None:
    """Each change once: a second telling of one would be counted with the next."""
    await tools.add("new1")
    assert await ears.hear_next() == 1
    assert await _names(client) == {*TOOLS, "new1"}
    assert not (await client.call_tool("new1", {})).is_error
    await tools.add("new2")
    assert await ears.hear_next() == 2
    await tools.drop("new1")
    assert await ears.hear_next() == 3
    assert await _names(client) == {*TOOLS, "new2"}
    with pytest.raises(MCPError, match="Unknown tool: new1"):
        await client.call_tool("new1", {})


async def _names(client: Client) -> set[str]:
    return {tool.name for tool in (await client.list_tools()).tools}


@MODES
async def test_where_no_sessions_are_kept_only_modern_clients_are_promised_changes(
    mode: str, api: Api, shared: Served
) -> None:
    async with shared.http() as url, Client(url, mode=mode) as client:
        assert client.server_capabilities.tools
        assert client.server_capabilities.tools.list_changed is (mode == "auto")
        assert await _names(client) == set(TOOLS)
        await _calls(client)
        if mode == "auto":
            await _cancels(client, api)
            async with client.listen(tools_list_changed=True) as changes:
                await shared.add("new")
                with anyio.fail_after(30):
                    assert isinstance(await anext(aiter(changes)), ToolsListChanged)
        else:
            await shared.add("new")
        assert await _names(client) == {*TOOLS, "new"}
