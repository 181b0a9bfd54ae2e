"""FastMCP over an OpenAPI document; runs where FastMCP is installed. ``python openapi.py PORT|stdio UPSTREAM``."""

import sys

import httpx2
from fastmcp import FastMCP  # type: ignore[import-not-found]

port, upstream = sys.argv[1:]
QUERY = [
    {"name": "category", "in": "query", "schema": {"type": "string"}},
    {"name": "limit", "in": "query", "schema": {"type": "integer"}},
]
OK = {"description": "Products", "content": {"application/json": {"schema": {"type": "object"}}}}
SPEC = {
    "openapi": "3.1.0",
    "info": {"title": "Shop", "version": "1"},
    "paths": {
        "/api/products": {
            "get": {"operationId": "list_products", "parameters": QUERY, "responses": {"200": OK}}
        }
    },
}
mcp = FastMCP.from_openapi(SPEC, client=httpx2.AsyncClient(base_url=upstream), name="shop")
if port == "stdio":
    mcp.run(transport="stdio", show_banner=False, log_level="warning")
else:
    mcp.run(
        transport="http",
        host="127.0.0.1",
        port=int(port),
        path="/mcp",
        stateless_http=True,
        show_banner=False,
        log_level="warning",
        uvicorn_config={"access_log": False},
    )
