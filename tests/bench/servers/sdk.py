"""A server like that in the tutorial of the SDK, with httpx. ``python sdk.py new|shared PORT|stdio UPSTREAM [NAME…]``.

``new`` makes a client for each call, as the tutorial does; ``shared`` uses one client. The tools are list_products
and copies of it with the given names.
"""

import sys
from typing import Any

import httpx
import uvicorn
from mcp.server.mcpserver import MCPServer

kind, port, upstream, *names = sys.argv[1:]
mcp = MCPServer("shop", log_level="WARNING")
shared = httpx.AsyncClient()


@mcp.tool()
async def list_products(category: str, limit: int = 10) -> str:
    """List products."""
    params: dict[str, Any] = {"category": category, "limit": limit}
    if kind == "shared":
        reply = await shared.get(f"{upstream}/api/products", params=params)
    else:
        async with httpx.AsyncClient() as client:
            reply = await client.get(f"{upstream}/api/products", params=params)
    reply.raise_for_status()
    return reply.text


for name in names:
    mcp.add_tool(list_products, name=name)

if port == "stdio":
    mcp.run("stdio")
else:
    uvicorn.run(
        mcp.streamable_http_app(stateless_http=True),
        host="127.0.0.1",
        port=int(port),
        log_level="warning",
        access_log=False,
    )
