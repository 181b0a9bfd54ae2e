"""``restbridge call``: one call of one tool, with the result that an agent would get."""

import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal, TypeVar

import anyio

from bridge.caller import Caller, Inbound
from bridge.codec import quote
from bridge.commands import arguments, loading, report
from bridge.errors import BridgeError
from bridge.events import Event, TokenAsked, ignore
from bridge.invoke import ask, invoke
from bridge.settings import Settings
from bridge.spec import Json, TokenExchangeAuth
from bridge.tool.bounds import visible
from bridge.tool.compiler import Tool
from bridge.tool.content import Result
from bridge.upstream.client import Client

_T = TypeVar("_T")


def run(
    settings: Settings,
    name: str,
    words: tuple[str, ...],
    format_: Literal["text", "json", "raw"],
    caller: Caller,
) -> int:
    """Prints the result, or the raw reply, that somebody would get; answers 1 if it is an error."""
    tool = loading.find(settings, name)
    values = arguments.read(words, tool.arguments)
    if isinstance(tool.upstream.spec.auth, TokenExchangeAuth) and caller.token is None:
        print("this tool takes the token of a caller: --token-file FILE", file=sys.stderr)
    if format_ == "raw":
        return _raw(tool, values, caller)
    result = anyio.run(partial(_with_client, partial(_call, tool, values, caller)))
    if format_ == "json":
        print(json.dumps(_as_sent(result), ensure_ascii=False, indent=2))
    else:
        for block in result.content:
            print(_readable(block))
    return int(result.is_error)


def _raw(tool: Tool, values: dict[str, Json], caller: Caller) -> int:
    """The reply before the tool makes anything of it, but for secrets."""
    try:
        _, reply = anyio.run(partial(_with_client, partial(ask, tool, values, inbound=Inbound(caller))))
    except BridgeError as error:
        print(error)
        return 1
    headers = [f"{name}: {value}" for name, value in reply.headers.items()]
    text = "\n".join([str(reply.status), *headers, "", report.body(reply.content)])
    print(visible(tool.upstream.redact(text, *reply.secrets)))
    return 0


def _hear(event: Event) -> None:
    """What an authorization server says is for whoever runs the bridge, and no model reads it."""
    if isinstance(event, TokenAsked) and event.error:
        said = f": {quote(event.said, report.SAID)}" if event.said else ""
        print(f"no token for {event.upstream}: {quote(event.error)}{said}", file=sys.stderr)


async def _with_client(send: Callable[[Client], Awaitable[_T]]) -> _T:
    client = Client(emit=_hear)
    try:
        return await send(client)
    finally:
        await client.aclose()


async def _call(tool: Tool, values: dict[str, Json], caller: Caller, client: Client) -> Result:
    return await invoke(tool, values, client, ignore, Inbound(caller))


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
