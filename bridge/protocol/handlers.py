"""What the server answers: the tools of the moment, and their calls."""

import logging
import math
import re
from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup
from mcp.server.caching import CacheHint
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    SERVER_INFO_META_KEY,
    CallToolRequestParams,
    JSONRPCRequest,
    PaginatedRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.types import Scope

from bridge import __version__
from bridge.access.quotas import Limits
from bridge.caller import Caller, Inbound, Stay
from bridge.codec import clean, encode
from bridge.errors import BridgeError, TooMany
from bridge.events import CallFinished, Ear, Event
from bridge.http.rejection_log import Refusals
from bridge.invoke import invoke
from bridge.protocol.capabilities import INSTRUCTIONS, NAME, TTL, page
from bridge.protocol.notifications import ARGUMENTS, CALLING, Announcer, Context, caller_in, caller_of
from bridge.protocol.tool_list_cache import Listings
from bridge.registry import Registry, Snapshot, VisibleTools
from bridge.settingsfile import Limits as LimitWords
from bridge.spec import NAME_PATTERN, Json
from bridge.telemetry.log_output import fit
from bridge.telemetry.tracing import Tracing
from bridge.tool.compiler import Tool
from bridge.tool.result.content import Result
from bridge.tool.result.errors import error_result
from bridge.upstream.client import Client

_log = logging.getLogger(__name__)

_NAME_LENGTH: Final = 128
CANCELLED: Final = -32800
"""The code of a call that its client took back."""
_HINT: Final = CacheHint(ttl_ms=TTL, scope="private")


class ToolServer(Server[TaskGroup]):
    """The SDK's server over a registry; ``announcer`` tells its clients of changes.

    Beside one that is not ``alone`` others serve the same, and any of them may get a client's next request: so it
    keeps no sessions, and clients of the handshake era are not told of changes.
    """

    def __init__(
        self,
        registry: Registry,
        client: Client,
        emit: Ear,
        *,
        alone: bool = True,
        limits: LimitWords | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.alone = alone
        self.limits = Limits(limits)
        self.refusals = Refusals(emit)
        self.announcer = Announcer(registry, self.limits)
        self._registry = registry
        self._client = client
        self._emit = emit
        self._tracing = tracing
        self._running: set[anyio.CancelScope] = set()
        self._deadline = math.inf
        self._listings = Listings({"ttlMs": _HINT.ttl_ms, "cacheScope": _HINT.scope}, self.written)
        super().__init__(
            NAME,
            version=__version__,
            instructions=INSTRUCTIONS,
            lifespan=_with_tasks,
            cache_hints={"tools/list": _HINT},
            get_tool_input_schema=self._input_schema,
            on_subscriptions_listen=self.announcer.listen,
        )
        # Registered so, because here handlers may answer JSON; the constructor wants the SDK's models.
        self.add_request_handler("tools/list", PaginatedRequestParams, self._list_tools)
        self.add_request_handler("tools/call", CallToolRequestParams, self._call_tool)
        self._stamp = self.server_info_stamp
        if alone:
            self.middleware.insert(0, self.announcer.middleware)

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        """Over HTTP the SDK asks without options, and would deny handshake clients ``listChanged``."""
        options = notification_options or NotificationOptions(tools_changed=self.alone)
        return super().create_initialization_options(options, experimental_capabilities, extensions)

    def stop(self, grace: float) -> None:
        """End the listen streams now; calls in flight are answered within ``grace`` seconds."""
        self.announcer.close()
        self._deadline = anyio.current_time() + grace
        if self._running:
            _log.info("stopping: calls in flight have %g s; there are %d", grace, len(self._running))
        for running in self._running:
            running.deadline = self._deadline

    async def _list_tools(self, ctx: Context, params: PaginatedRequestParams) -> dict[str, Any]:
        tools = self.seen(caller_of(ctx)).tools
        return page(tools, _after(params.cursor, tools))

    async def _call_tool(self, ctx: Context, params: CallToolRequestParams) -> dict[str, Any]:
        caller = caller_of(ctx)
        tool = self.seen(caller).find(params.name)
        if tool is None:
            # No nearest name: after a deletion that may be a tool that does the opposite.
            hidden = self.hidden(params.name, caller)
            outcome = "not-permitted" if hidden else "unknown-tool"
            self.refuse(params.name, outcome, Inbound(caller, fit(ctx.request_id)), hidden)
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {clean(params.name[:_NAME_LENGTH])}")
        headers, scope = (ctx.request.headers.raw, ctx.request.scope) if ctx.request else ((), {})
        arguments = scope.pop(ARGUMENTS, params.arguments or {})
        inbound = Inbound(caller, fit(ctx.request_id), headers)
        return await self.call(tool, arguments, inbound)

    def alone_reads_arguments(self, name: str, caller: Caller) -> bool:
        """Whether the SDK may do without the arguments of a call: it compares those that are mirrored into headers."""
        tool = self.seen(caller).find(name)
        return tool is None or tool.is_plain

    def seen(self, caller: Caller) -> Snapshot | VisibleTools:
        """The tools that are there for somebody now."""
        return self._registry.current.seen_by(caller)

    def hidden(self, name: str, caller: Caller) -> Tool | None:
        """The tool of a name that is there, but not for a caller with these scopes."""
        tool = self.seen(replace(caller, scopes=None)).find(name)
        return tool if tool and self.seen(caller).find(name) is None else None

    @property
    def scopes(self) -> frozenset[str]:
        """All that tools ask for now."""
        return self._registry.current.scopes

    def listing(self, version: str, caller: Caller, id: object) -> bytes:
        """The result of tools/list as it is sent to somebody in one protocol version: its first page.

        It answers a request that the SDK does not see.
        """
        if self._tracing:
            with self._tracing.request("tools/list", version, id):
                return self._listing(version, caller)
        return self._listing(version, caller)

    def _listing(self, version: str, caller: Caller) -> bytes:
        return self._listings.first_page(self._registry.current, self.seen(caller), version)

    def written(self, version: str, result: dict[str, Any]) -> bytes:
        """A result as it is sent in a protocol version: the modern era has the name of the server in each."""
        if version not in MODERN_PROTOCOL_VERSIONS:
            return encode({key: value for key, value in result.items() if key != "resultType"})
        meta = result.get("_meta", {}) | {SERVER_INFO_META_KEY: self._stamp}
        return encode(result | {"_meta": meta})

    async def call_plain(
        self,
        tool: Tool,
        arguments: Mapping[str, Json],
        inbound: Inbound,
        version: str,
        running: anyio.CancelScope,
    ) -> bytes:
        """The same as ``call``, for a request that the SDK does not see: the result as it is sent in one protocol version."""
        if self._tracing is None:
            result = await self.call(tool, arguments, inbound, running)
        else:
            with self._tracing.request("tools/call", version, inbound.id, tool.name) as span:
                result = await self.call(tool, arguments, inbound, running)
                self._tracing.judge(span, result)
        return self.written(version, result)

    async def call(
        self,
        tool: Tool,
        arguments: Mapping[str, Json],
        inbound: Inbound,
        running: anyio.CancelScope | None = None,
    ) -> dict[str, Any]:
        """The result of one tools/call, in MCP's words; raises ``MCPError`` where there is none.

        It runs within ``running``, which the caller may cancel, if it is given.
        """
        try:
            self.limits.begin_call(inbound.caller)
        except TooMany as error:
            self.refuse(tool.name, error.code, inbound, tool)
            return _answer(error_result(error))
        try:
            return await self._call(tool, arguments, inbound, running)
        finally:
            self.limits.add("calls", inbound.caller, -1)

    def refuse_call(self, message: JSONRPCRequest, problem: BridgeError, scope: Scope) -> bytes:
        """The result of a tools/call over HTTP that is not made, as it is sent."""
        name, caller = str((message.params or {}).get("name")), caller_in(scope)
        inbound = Inbound(caller, fit(message.id))
        self.refuse(name, problem.code, inbound, self.seen(caller).find(name))
        version = Headers(scope=scope).get("mcp-protocol-version", "")
        return self.written(version, _answer(error_result(problem)))

    def _tell(self, event: Event, stay: Stay | None = None) -> None:
        """Of a call that was cut by the end of the server, or of its caller's stay, as such: its client did not take it back."""
        if isinstance(event, CallFinished) and event.outcome == "cancelled":
            if stay and stay.over.is_set():
                event = event._replace(outcome="withdrawn")
            elif anyio.current_time() >= self._deadline:
                event = event._replace(outcome="stopped")
        self._emit(event)

    def refuse(self, name: str, outcome: str, inbound: Inbound, tool: Tool | None) -> None:
        """Tell of a call that is not made; ``name`` is what the client calls the tool."""
        known = name if re.match(NAME_PATTERN, name) else "?"
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
        arguments: Mapping[str, Json],
        inbound: Inbound,
        running: anyio.CancelScope | None,
    ) -> dict[str, Any]:
        running = running or anyio.CancelScope()
        running.deadline = self._deadline
        stay = inbound.caller.stay
        with running:
            self._running.add(running)
            if stay:
                stay.running.add(running)
                if stay.over.is_set():
                    running.cancel()
            try:
                emit = partial(self._tell, stay=stay) if stay else self._tell
                result = await invoke(tool, arguments, self._client, emit, inbound)
            except Exception as fault:
                # The outermost place: in the handshake era the SDK would send the exception's own text.
                _log.exception("fault: tool=%s id=%s", tool.name, inbound.id)
                raise _failed("The bridge itself failed on this call, not the API", tool) from fault
            finally:
                self._running.discard(running)
                if stay:
                    stay.running.discard(running)
        if running.cancelled_caught:
            if stay and stay.over.is_set():
                raise _failed("The key of this call counts no more", tool)
            if anyio.current_time() < running.deadline:
                raise MCPError(CANCELLED, "Request cancelled")
            raise _failed("The server stopped before this call was done", tool)
        return _answer(result)

    def _input_schema(self, name: str) -> dict[str, Any] | None:
        """Without this the SDK lists all tools on every modern call over HTTP."""
        tool = self.seen(CALLING.get()).find(name)
        return None if tool is None else tool.arguments.schema


def _answer(result: Result) -> dict[str, Any]:
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
        tasks.cancel_scope.cancel()


def _after(cursor: str | None, tools: Sequence[Tool]) -> int:
    if cursor is None:
        return 0
    if re.match(NAME_PATTERN, cursor) is None:
        raise MCPError(INVALID_PARAMS, "Invalid cursor")
    return bisect_right(tools, cursor, key=attrgetter("name"))


def _failed(text: str, tool: Tool) -> MCPError:
    doubt = "" if tool.read_only else "; it may have been carried out: check before repeating it"
    return MCPError(INTERNAL_ERROR, f"{text}{doubt}")
