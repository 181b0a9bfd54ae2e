"""What the SDK's own client sees, in both eras over both transports."""

import os

import anyio
import pytest
from mcp import Client, MCPError
from mcp.client.session import IncomingMessage
from mcp.client.stdio import StdioServerParameters
from mcp_types import ToolListChangedNotification

from tests.serving.api import Api
from tests.serving.served import Served
from tests.serving.tools import TOOLS, Files

pytestmark = pytest.mark.anyio


class NotificationCounter:
    """Counts the notifications that a client gets."""

    def __init__(self) -> None:
        self.count = 0
        self._arrived = anyio.Event()

    async def message(self, message: IncomingMessage) -> None:
        if isinstance(message, ToolListChangedNotification):
            self.count_one()

    def count_one(self) -> None:
        self.count += 1
        self._arrived.set()

    async def wait_for_next(self) -> int:
        with anyio.fail_after(30):
            await self._arrived.wait()
        self._arrived = anyio.Event()
        return self.count


MODES = pytest.mark.parametrize("mode", ["legacy", "auto"])


@pytest.mark.slow
@MODES
async def test_a_client_over_stdio_lists_calls_and_is_notified(mode: str, api: Api, files: Files) -> None:
    counter = NotificationCounter()
    program, *arguments = files.command
    process = StdioServerParameters(command=program, args=arguments, env=dict(os.environ))
    async with Client(process, mode=mode, message_handler=counter.message) as client:
        await _use_client(client, counter, files, api)


@MODES
async def test_a_client_over_http_lists_calls_and_is_notified(mode: str, api: Api, served: Served) -> None:
    counter = NotificationCounter()
    async with served.http() as url, Client(url, mode=mode, message_handler=counter.message) as client:
        await _use_client(client, counter, served, api)


async def _use_client(client: Client, counter: NotificationCounter, tools: Files | Served, api: Api) -> None:
    assert client.server_capabilities.tools
    assert client.server_capabilities.tools.list_changed is True
    assert await _names(client) == set(TOOLS)
    await _calls(client)
    await _cancels(client, api)
    if client.protocol_version == "2025-11-25":
        await _is_notified(client, counter, tools)
        return
    assert client.protocol_version == "2026-07-28"
    async with client.listen(tools_list_changed=True):
        await _is_notified(client, counter, tools)


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


async def _is_notified(client: Client, counter: NotificationCounter, tools: Files | Served) -> None:
    """Once for each change: a repeated notification would be counted with the next one."""
    await tools.add("new1")
    assert await counter.wait_for_next() == 1
    assert await _names(client) == {*TOOLS, "new1"}
    assert not (await client.call_tool("new1", {})).is_error
    await tools.add("new2")
    assert await counter.wait_for_next() == 2
    await tools.drop("new1")
    assert await counter.wait_for_next() == 3
    assert await _names(client) == {*TOOLS, "new2"}
    with pytest.raises(MCPError, match="Unknown tool: new1"):
        await client.call_tool("new1", {})


async def _names(client: Client) -> set[str]:
    return {tool.name for tool in (await client.list_tools()).tools}
