"""``restbridge call``: one call of one tool, with the result that an agent would get."""

import json
from functools import partial
from typing import Any, Literal

import anyio

from bridge.commands import arguments, loading
from bridge.invoke import invoke
from bridge.settings import Settings
from bridge.spec import Json
from bridge.tool.compiler import Tool
from bridge.tool.content import Result
from bridge.upstream.client import Client, ignore


def run(settings: Settings, name: str, words: tuple[str, ...], format_: Literal["text", "json"]) -> int:
    """Prints the result; answers 1 if it is an error."""
    tool = loading.find(settings, name)
    values = arguments.read(words, tool.arguments)
    result = anyio.run(partial(_call, tool, values))
    if format_ == "json":
        print(json.dumps(_as_sent(result), ensure_ascii=False, indent=2))
    else:
        for block in result.content:
            print(_readable(block))
    return int(result.is_error)


async def _call(tool: Tool, values: dict[str, Json]) -> Result:
    client = Client()
    try:
        return await invoke(tool, values, client, ignore)
    finally:
        await client.aclose()


def _as_sent(result: Result) -> dict[str, Any]:
    """The result of tools/call (MCP 2026-07-28, CallToolResult)."""
    sent: dict[str, Any] = {"content": result.content, "isError": result.is_error}
    if result.structured is not None:
        sent["structuredContent"] = result.structured
    if result.meta:
        sent["_meta"] = result.meta
    return sent


def _readable(block: dict[str, Any]) -> str:
    """A text as it is, also a resource's; of other blocks what they are."""
    part = block.get("resource", block)
    if "text" in part:
        return str(part["text"])
    return f"[{block['type']} {part.get('mimeType') or part['uri']}]"
