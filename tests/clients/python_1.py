"""The Python SDK 1.x, which most agent frameworks pin; it supports only the handshake era."""

from contextlib import AsyncExitStack

import anyio
from mcp import (  # type: ignore[attr-defined]  # McpError exists in 1.x; mypy checks with 2.x
    ClientSession,
    McpError,
    StdioServerParameters,
    stdio_client,
)
from mcp.client.streamable_http import streamable_http_client

from tests.clients.commands import CONFIG, on_message, run_commands, write_line


async def main() -> None:
    async with AsyncExitStack() as stack:
        if "url" in CONFIG:
            streams = await stack.enter_async_context(streamable_http_client(CONFIG["url"]))
        else:
            streams = await stack.enter_async_context(stdio_client(StdioServerParameters(**CONFIG["stdio"])))
        session = await stack.enter_async_context(
            ClientSession(streams[0], streams[1], message_handler=on_message)
        )
        initialized = (await session.initialize()).model_dump(by_alias=True)
        tools = initialized["capabilities"]["tools"] or {}
        write_line(ready={"version": initialized["protocolVersion"], "listChanged": tools.get("listChanged")})
        await run_commands(session.list_tools, session.call_tool, McpError)


anyio.run(main)
