"""The Python SDK 2.x, which supports both eras."""

from contextlib import AsyncExitStack

import anyio
from mcp import Client, MCPError, StdioServerParameters

from tests.clients.commands import CONFIG, on_message, run_commands, write_line


async def main() -> None:
    server = CONFIG.get("url") or StdioServerParameters(**CONFIG["stdio"])
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            Client(server, mode=CONFIG["mode"], message_handler=on_message)
        )
        if CONFIG["mode"] == "auto":
            await stack.enter_async_context(client.listen(tools_list_changed=True))
        tools = client.server_capabilities.tools
        write_line(
            ready={"version": client.protocol_version, "listChanged": bool(tools and tools.list_changed)},
        )
        await run_commands(client.list_tools, client.call_tool, MCPError)


anyio.run(main)
