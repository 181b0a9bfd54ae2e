"""Handlers of tools/list and tools/call: the SDK's server over a registry of tools."""

import logging
import math
import re
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import x_mcp_header_map
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    JSONRPCRequest,
    PaginatedRequestParams,
)
from starlette.datastructures import Headers
from starlette.types import Scope

from bridge import NAME, __version__
from bridge.access.quotas import Quotas
from bridge.caller import Caller, CredentialLease, Inbound
from bridge.codec import clean, log_safe
from bridge.errors import BridgeError, TooMany
from bridge.events import CallFinished, Event, Listener
from bridge.invoke import invoke
from bridge.protocol.caller_context import CURRENT_CALLER, Context, caller_in, caller_of
from bridge.protocol.capabilities import INSTRUCTIONS, encode_result, page
from bridge.protocol.in_flight import SessionsInFlight
from bridge.protocol.large_arguments import LARGE_ARGUMENTS, LargeArguments
from bridge.protocol.list_splicer import TOOL_LIST_SPLICER, ToolListSplicer
from bridge.protocol.notifications import Announcer
from bridge.protocol.tool_list_cache import ToolListCache
from bridge.registry import Registry, Snapshot, VisibleTools
from bridge.settings import Limits
from bridge.spec import NAME_PATTERN, Json
from bridge.telemetry.tracing import Tracing
from bridge.tool.compiler import Tool
from bridge.tool.result.content import Result
from bridge.tool.result.errors import error_result
from bridge.upstream.client import Client

_log = logging.getLogger(__name__)

_MAX_QUOTED_NAME: Final = 128
"""Characters of an unknown tool name that the error quotes."""
CANCELLED: Final = -32800
"""JSON-RPC error code of a call that its client cancelled."""


class ToolServer(Server[TaskGroup]):
    """The SDK's server over a registry.

    ``announcer`` notifies its clients of changes. ``in_flight`` has the requests of clients with a session over HTTP.
    """

    def __init__(
        self,
        registry: Registry,
        client: Client,
        emit: Listener,
        *,
        limits: Limits | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.limits = Quotas(limits)
        self.announcer = Announcer(registry)
        self.in_flight = SessionsInFlight()
        self._registry = registry
        self._client = client
        self._emit = emit
        self._tracing = tracing
        self._running: set[anyio.CancelScope] = set()
        self._deadline = math.inf  # of every call, on the loop's clock; ``stop`` sets it
        self._list_cache = ToolListCache()
        super().__init__(
            NAME,
            version=__version__,
            instructions=INSTRUCTIONS,
            lifespan=_with_tasks,
            get_tool_input_schema=self._input_schema,
            on_subscriptions_listen=self.announcer.listen,
        )
        # The constructor accepts only handlers that return the SDK's models. These return JSON objects.
        self.add_request_handler("tools/list", PaginatedRequestParams, self._list_tools)
        self.add_request_handler("tools/call", CallToolRequestParams, self._call_tool)
        self.middleware.append(self.announcer.middleware)

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        """Over HTTP the SDK passes no options, and so would not announce ``listChanged`` to handshake clients."""
        options = notification_options or NotificationOptions(tools_changed=True)
        return super().create_initialization_options(options, experimental_capabilities, extensions)

    def stop(self, grace: float) -> None:
        """End the listen streams now. Calls in flight are cancelled after ``grace`` seconds."""
        self.announcer.close()
        # Also for calls that begin from now on: some requests have passed the checks already.
        self._deadline = anyio.current_time() + grace
        if self._running:
            _log.info("stopping: calls in flight: %d; grace period: %g s", len(self._running), grace)
        for running in self._running:
            running.deadline = self._deadline

    async def _list_tools(self, ctx: Context, params: PaginatedRequestParams) -> dict[str, Any]:
        tools = self.visible_tools(caller_of(ctx)).tools
        start = _page_start(params.cursor, tools)
        result = page(tools, start)
        if ctx.request is None:
            return result  # over stdio there is no ASGI ``send`` that could put encoded tools in
        splicer: ToolListSplicer = ctx.request.scope[TOOL_LIST_SPLICER]
        shown = tools[start : start + len(result["tools"])]
        splicer.tools = self._list_cache.tools(self._registry.current, shown, ctx.protocol_version)
        return result | {"tools": []}

    async def _call_tool(self, ctx: Context, params: CallToolRequestParams) -> dict[str, Any]:
        caller = caller_of(ctx)
        tool = self.visible_tools(caller).find(params.name)
        if tool is None:
            # No similar name is suggested: after a deletion it may be a tool that does the opposite.
            hidden = self.hidden_tool(params.name, caller)
            outcome = "not-permitted" if hidden else "unknown-tool"
            self.report_refusal(params.name, outcome, Inbound(caller, log_safe(ctx.request_id)), hidden)
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {clean(params.name[:_MAX_QUOTED_NAME])}")
        headers, scope = (ctx.request.headers.raw, ctx.request.scope) if ctx.request else ((), {})
        inbound = Inbound(caller, log_safe(ctx.request_id), headers)
        large: LargeArguments | None = scope.get(LARGE_ARGUMENTS)
        return await self.call(tool, large.take() if large else params.arguments or {}, inbound)

    def mirrored_arguments(self, name: str, arguments: dict[str, Json], caller: Caller) -> dict[str, Json]:
        """The arguments that headers may mirror (``x-mcp-header`` in the schema): the SDK compares only these.

        A list or object becomes an empty one, because no header can hold it.
        """
        mirrored: dict[str, Json] = {}
        tool = self.visible_tools(caller).find(name)
        for path in x_mcp_header_map(tool.arguments.schema) if tool and not tool.is_plain else ():
            value, parent = _value_at(arguments, path), mirrored
            if value is not None:
                for key in path[:-1]:
                    parent = parent.setdefault(key, {})
                parent.setdefault(path[-1], type(value)() if isinstance(value, dict | list) else value)
        return mirrored

    def visible_tools(self, caller: Caller) -> Snapshot | VisibleTools:
        """The tools that the caller may see now."""
        return self._registry.current.seen_by(caller)

    def hidden_tool(self, name: str, caller: Caller) -> Tool | None:
        """The tool with this name if only the caller's scopes hide it, otherwise None."""
        tool = self.visible_tools(replace(caller, scopes=None)).find(name)
        return tool if tool and self.visible_tools(caller).find(name) is None else None

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes of all tools."""
        return self._registry.current.scopes

    def listing(self, version: str, caller: Caller, id: object) -> bytes:
        """The encoded first page of tools/list, for a request on the fast path."""
        if self._tracing:
            with self._tracing.request("tools/list", version, id):
                return self._listing(version, caller)
        return self._listing(version, caller)

    def _listing(self, version: str, caller: Caller) -> bytes:
        return self._list_cache.first_page(self._registry.current, self.visible_tools(caller), version)

    async def call_encoded(
        self,
        tool: Tool,
        arguments: dict[str, Json],
        inbound: Inbound,
        version: str,
        running: anyio.CancelScope,
    ) -> bytes:
        """Like ``call``, for a request on the fast path: returns the result encoded for a protocol version."""
        if self._tracing is None:
            result = await self.call(tool, arguments, inbound, running)
        else:
            with self._tracing.request("tools/call", version, inbound.id, tool.name) as span:
                result = await self.call(tool, arguments, inbound, running)
                self._tracing.set_result(span, result)
        return encode_result(version, result)

    async def call(
        self,
        tool: Tool,
        arguments: dict[str, Json],
        inbound: Inbound,
        running: anyio.CancelScope | None = None,
    ) -> dict[str, Any]:
        """The ``CallToolResult`` of one call, as JSON. Raises ``MCPError`` if the call is cancelled or fails inside.

        ``running`` is the scope of the call, for a caller that may cancel it.
        """
        try:
            self.limits.begin_call(inbound.caller)
        except TooMany as error:
            self.report_refusal(tool.name, error.code, inbound, tool)
            return _call_result(error_result(error))
        try:
            return await self._call(tool, arguments, inbound, running)
        finally:
            self.limits.add("calls", inbound.caller, -1)

    def refusal_result(self, message: JSONRPCRequest, problem: BridgeError, scope: Scope) -> bytes:
        """The encoded result of a tools/call over HTTP that is refused."""
        name, caller = str((message.params or {}).get("name")), caller_in(scope)
        inbound = Inbound(caller, log_safe(message.id))
        self.report_refusal(name, problem.code, inbound, self.visible_tools(caller).find(name))
        version = Headers(scope=scope).get("mcp-protocol-version", "")
        return encode_result(version, _call_result(error_result(problem)))

    def _emit_call_event(self, event: Event, lease: CredentialLease | None = None) -> None:
        """Emit an event. A call cancelled by the end of its lease or of the server gets its own outcome."""
        if isinstance(event, CallFinished) and event.outcome == "cancelled":
            if lease and lease.ended.is_set():
                event = event._replace(outcome="withdrawn")
            elif anyio.current_time() >= self._deadline:
                event = event._replace(outcome="stopped")
        self._emit(event)

    def report_refusal(self, name: str, outcome: str, inbound: Inbound, tool: Tool | None) -> None:
        """Emit the event of a call that is refused. ``name`` comes from the client."""
        # Other text would let a client write what it likes into logs and audit files.
        known = name if re.fullmatch(NAME_PATTERN, name) else "?"
        self._emit(
            CallFinished(
                known if tool is None else tool.name,
                outcome,
                0,
                None if tool is None else tool.upstream.name,
                caller=inbound.caller.name,
                request=inbound.id,
                issuer=inbound.caller.issuer,
                method=None if tool is None else tool.spec.request.method,
            )
        )

    async def _call(
        self,
        tool: Tool,
        arguments: dict[str, Json],
        inbound: Inbound,
        running: anyio.CancelScope | None,
    ) -> dict[str, Any]:
        running = running or anyio.CancelScope()
        running.deadline = self._deadline
        lease = inbound.caller.lease
        with running:
            self._running.add(running)
            if lease:
                lease.running.add(running)
                # A lease that ends cancels only what is in ``running``. This one may have ended before.
                if lease.ended.is_set():
                    running.cancel()
            try:
                emit = partial(self._emit_call_event, lease=lease) if lease else self._emit_call_event
                result = await invoke(tool, arguments, self._client, emit, inbound)
            except Exception as fault:
                # The outermost place for a call: in the handshake era the SDK would send the text of the exception.
                _log.exception("fault: tool=%s id=%s", tool.name, inbound.id)
                raise _call_error("The bridge itself failed on this call, not the API", tool) from fault
            finally:
                self._running.discard(running)
                if lease:
                    lease.running.discard(running)
        # The scope does not say who cancelled it: the lease, the client, or the deadline that ``stop`` set.
        if running.cancelled_caught:
            if lease and lease.ended.is_set():
                raise _call_error("The credential of this call was revoked or has expired", tool)
            if anyio.current_time() < running.deadline:
                raise MCPError(CANCELLED, "Request cancelled")
            raise _call_error("The server stopped before this call was done", tool)
        return _call_result(result)

    def _input_schema(self, name: str) -> dict[str, Any] | None:
        """Hook of the SDK, which otherwise lists all tools on every modern call over HTTP."""
        tool = self.visible_tools(CURRENT_CALLER.get()).find(name)
        return None if tool is None else tool.arguments.schema


def _call_result(result: Result) -> dict[str, Any]:
    answer = {"resultType": "complete", "content": result.content, "isError": result.is_error}
    if result.structured is not None:
        answer["structuredContent"] = result.structured
    if result.meta:
        answer["_meta"] = result.meta
    return answer


@asynccontextmanager
async def _with_tasks(_server: Server[TaskGroup]) -> AsyncIterator[TaskGroup]:
    async with anyio.create_task_group() as tasks:
        yield tasks
        tasks.cancel_scope.cancel()  # notifications that their clients do not read


def _page_start(cursor: str | None, tools: Sequence[Tool]) -> int:
    if cursor is None:
        return 0
    if re.fullmatch(NAME_PATTERN, cursor) is None:
        raise MCPError(INVALID_PARAMS, "Invalid cursor")
    # The tool that the cursor names may be gone: the page begins with the first name after it.
    return bisect_right(tools, cursor, key=attrgetter("name"))


def _value_at(arguments: Json, path: tuple[str, ...]) -> Json:
    """The value at a path of keys, or None."""
    for name in path:
        arguments = arguments.get(name) if isinstance(arguments, dict) else None
    return arguments


def _call_error(text: str, tool: Tool) -> MCPError:
    warning = "" if tool.read_only else "; it may have been carried out: check before repeating it"
    return MCPError(INTERNAL_ERROR, f"{text}{warning}")
