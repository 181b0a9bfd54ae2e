"""``restbridge call``: one call of one tool, with the result that an agent would get."""

import json
import os
import pwd
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, Literal, TypeVar

import anyio
import click

from bridge.caller import Caller, Inbound
from bridge.codec import quote
from bridge.commands import arguments, loading
from bridge.errors import BridgeError
from bridge.events import Ear, Event, TokenAsked, ignore
from bridge.exchange import Reply
from bridge.invoke import fetch, invoke
from bridge.settings import Settings
from bridge.spec import Json, TokenExchangeAuth, may_change
from bridge.telemetry import log_events as report
from bridge.telemetry.audit import Audit
from bridge.tool.compiler import Tool
from bridge.tool.result.bounds import visible
from bridge.tool.result.content import Result, redacted
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
    with _auditing(settings, tool) as emit:
        if format_ == "raw":
            return _raw(tool, values, caller, emit)
        result = anyio.run(partial(_with_client, partial(_call, tool, values, caller, emit)))
    if format_ == "json":
        print(visible(json.dumps(_as_sent(result), ensure_ascii=False, indent=2)))
    else:
        for block in result.content:
            print(_readable(block))
    return int(result.is_error)


@contextmanager
def _auditing(settings: Settings, tool: Tool) -> Iterator[Ear]:
    """Where the events of the call go: into the audit file, if there is one and the tool may change something.

    Raises ``click.ClickException`` if that is required and the file cannot be opened.
    """
    if settings.audit is None or not may_change(tool.spec.request.method):
        yield ignore
        return
    try:
        audit = Audit(settings.audit, required=settings.audit_required, fields=_user(os.getuid()))
    except OSError as error:
        problem = f"the audit file {settings.audit} cannot be written: {error.strerror}"
        if settings.audit_required:
            raise click.ClickException(f"the call was not made: {problem}") from None
        print(f"the call is not recorded: {problem}", file=sys.stderr)
        yield ignore
        return
    with closing(audit):
        yield audit.hear


def _user(uid: int) -> dict[str, Json]:
    """Who types, as the operating system knows them; ``--caller`` is only what they say."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # users of containers often have none
        name = str(uid)
    return {"by": "command-line", "user": name}


def _raw(tool: Tool, values: dict[str, Json], caller: Caller, emit: Ear) -> int:
    """The reply before the tool makes anything of it, but for secrets."""
    try:
        reply = anyio.run(partial(_with_client, partial(_fetch, tool, values, caller, emit)))
    except BridgeError as error:
        print(visible(tool.upstream.redactor().text(str(error))))
        return 1
    reply = redacted(reply, tool.upstream.redactor(*reply.secrets))
    headers = [f"{name}: {value}" for name, value in reply.headers.items()]
    print(visible("\n".join([str(reply.status), *headers, "", report.body(reply.content)])))
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


async def _call(tool: Tool, values: dict[str, Json], caller: Caller, emit: Ear, client: Client) -> Result:
    return await invoke(tool, values, client, emit, Inbound(caller))


async def _fetch(tool: Tool, values: dict[str, Json], caller: Caller, emit: Ear, client: Client) -> Reply:
    return await fetch(tool, values, client, emit, Inbound(caller))


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
