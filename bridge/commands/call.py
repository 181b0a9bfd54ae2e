"""``restbridge call``: calls one tool, and prints the result that an agent would get."""

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
from bridge.commands import arguments, diagnostics_report, loading
from bridge.errors import BridgeError
from bridge.events import Event, Listener, TokenRequested, ignore
from bridge.exchange import Reply
from bridge.invoke import fetch, invoke
from bridge.settings import Settings
from bridge.spec import Json, TokenExchangeAuth, may_change
from bridge.telemetry.audit import Audit
from bridge.tool.compiler import Tool
from bridge.tool.result.bounds import visible
from bridge.tool.result.content import Result, redact_reply
from bridge.upstream.client import Client
from bridge.wording import MAX_QUOTED_CHARACTERS

_T = TypeVar("_T")


def run(
    settings: Settings,
    name: str,
    typed: tuple[str, ...],
    format_: Literal["text", "json", "raw"],
    caller: Caller,
) -> int:
    """Print the result, or the raw reply, that ``caller`` would get; answers 1 if it is an error."""
    tool = loading.find(settings, name)
    values = arguments.parse(typed, tool.arguments)
    # Not an error: the result shows what an agent without a token gets.
    if isinstance(tool.upstream.spec.auth, TokenExchangeAuth) and caller.token is None:
        print("this tool needs the token of a caller; add --token-file FILE", file=sys.stderr)
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
def _auditing(settings: Settings, tool: Tool) -> Iterator[Listener]:
    """The listener for the call: the audit file, if it is configured and the tool may change something.

    Raises ``click.ClickException`` if audit is required and the file cannot be opened.
    """
    config = settings.audit
    # A tool that only reads can be called without the right to write the audit file.
    if config is None or not may_change(tool.spec.request.method):
        yield ignore
        return
    try:
        audit = Audit(config.file, required=config.required, fields=_user(os.getuid()))
    except OSError as error:
        problem = f"the audit file {config.file} cannot be written: {error.strerror}"
        if config.required:
            raise click.ClickException(f"the call was not made: {problem}") from None
        print(f"the call is not recorded: {problem}", file=sys.stderr)
        yield ignore
        return
    with closing(audit):
        yield audit.on_event


def _user(uid: int) -> dict[str, Json]:
    """The user of the operating system. ``--caller`` is not proof of identity."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # users of containers often have none
        name = str(uid)
    return {"by": "command-line", "user": name}


def _raw(tool: Tool, values: dict[str, Json], caller: Caller, emit: Listener) -> int:
    """Print the reply of the API as it is, with secrets redacted."""
    try:
        reply = anyio.run(partial(_with_client, partial(_fetch, tool, values, caller, emit)))
    except BridgeError as error:
        print(visible(tool.upstream.redactor().text(str(error))))
        return 1
    reply = redact_reply(reply, tool.upstream.redactor(*reply.secrets))
    # visible: a reply must not send control sequences to the terminal.
    headers = [f"{name}: {value}" for name, value in reply.headers.items()]
    print(visible("\n".join([str(reply.status), *headers, "", diagnostics_report.body(reply.content)])))
    return 0


def _print_token_error(event: Event) -> None:
    """Show the operator why an authorization server gave no token. It is not shown to a model."""
    if isinstance(event, TokenRequested) and event.error:
        description = (
            f": {quote(event.error_description, MAX_QUOTED_CHARACTERS)}" if event.error_description else ""
        )
        print(f"no token for {event.upstream}: {quote(event.error)}{description}", file=sys.stderr)


async def _with_client(send: Callable[[Client], Awaitable[_T]]) -> _T:
    client = Client(emit=_print_token_error)
    try:
        return await send(client)
    finally:
        await client.aclose()


async def _call(
    tool: Tool, values: dict[str, Json], caller: Caller, emit: Listener, client: Client
) -> Result:
    return await invoke(tool, values, client, emit, Inbound(caller))


async def _fetch(
    tool: Tool, values: dict[str, Json], caller: Caller, emit: Listener, client: Client
) -> Reply:
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
    """The text of a block or of its resource; for other blocks their type and media type."""
    part = block.get("resource", block)
    if "text" in part:
        return str(part["text"])
    return f"[{block['type']} {part.get('mimeType') or part['uri']}]"
