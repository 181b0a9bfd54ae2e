"""The Python SDK 1.x, which most agent frameworks pin; it knows the handshake only."""

from contextlib import AsyncExitStack

import anyio
from mcp import (  # type: ignore[attr-defined]  # McpError is of 1.x; mypy sees 2.x
    ClientSession,
    McpError,
    StdioServerParameters,
    stdio_client,
)
from mcp.client.streamable_http import streamable_http_client

from tests.clients.commands import CONFIG, obey, on_message, say


async def main() -> None:
    async with AsyncExitStack() as stack:
        if "url" in CONFIG:
            streams = await stack.enter_async_context(streamable_http_client(CONFIG["url"]))
        else:
            streams = await stack.enter_async_context(stdio_client(StdioServerParameters(**CONFIG["stdio"])))
        session = await stack.enter_async_context(
            ClientSession(streams[0], streams[1], message_handler=on_message)
        )
        opened = (await session.initialize()).model_dump(by_alias=True)
        tools = opened["capabilities"]["tools"] or {}
        say(ready={"version": opened["protocolVersion"], "listChanged": tools.get("listChanged")})
        await obey(session.list_tools, session.call_tool, McpError)


anyio.run(main)
