"""Tells every client that the list of tools changed: once a change, in both eras.

A client of 2026-07-28 opens a ``subscriptions/listen`` stream, which ``ListenHandler`` serves. A
client of the handshake era has a session: from its ``initialize`` on it belongs to who opened it, and from
its ``notifications/initialized`` on until its connection ends it is told of each change, by a task of its
own, so that a client that does not read holds up nobody else. Over HTTP the SDK drops what it sends while a
session has no GET stream open; then the change stays pending until the stream opens or the session lists the
tools.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp_types import (
    SubscriptionFilter,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request
from starlette.types import Scope

from bridge.access.quotas import Limits
from bridge.caller import ANYBODY, Caller
from bridge.registry import Registry, Snapshot, VisibleTools, other_names
from bridge.settingsfile import View
from bridge.spec import Json

Context: TypeAlias = ServerRequestContext[TaskGroup, Request]
"""Its lifespan is a task group that ends with the transport."""
_Sight: TypeAlias = tuple[frozenset[str] | None, View | None]

_CALLER: Final = "restbridge.caller"
"""Where a request's scope has its ``Caller``."""
CALLING: Final[ContextVar[Caller]] = ContextVar("caller", default=ANYBODY)
"""The same, for what the SDK asks without showing the request."""
SESSION_HEADER: Final = "mcp-session-id"
OPENING: Final = "restbridge.opening"
"""What the scope of a request has that opens a session, until that is there: it counts already."""
ARGUMENTS: Final = "restbridge.arguments"
"""What the scope of a tools/call has whose arguments are parsed, and not shown to the SDK."""
_PATIENCE: Final = 1.0
"""Seconds in which a session must take a notification."""


@dataclass(slots=True)
class Session:
    """A handshake client, until its connection ends.

    ``pending``: the tools changed, and the client has neither heard of it nor listed them since. ``seen``
    is when the SDK last saw a request of it; ``calls`` are those that it does not see, by their ids.
    ``ready``: it has said that it is initialized. ``user`` is its owner, as the SDK knows one.
    """

    connection: Connection
    owner: Caller
    user: object
    tasks: TaskGroup
    pending: bool
    seen: float
    calls: dict[str, anyio.CancelScope] = field(default_factory=dict)
    ready: bool = False
    ended: bool = False


class _Audience:
    """The listen streams of callers who see the same tools as ``caller``."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.streams = 0
        self.bus = InMemorySubscriptionBus()
        self.listen = ListenHandler(self.bus)


class Announcer:
    """``announce`` is for whoever swaps the tools; the rest is wired into the server and its transports."""

    def __init__(self, registry: Registry, limits: Limits | None = None) -> None:
        self._has_changed = False
        self._registry = registry
        self.limits = limits or Limits()
        self._announced = registry.current
        self._audiences: dict[_Sight, _Audience] = {}
        self._sessions: dict[str | int, Session] = {}
        self._streams: Counter[str] = Counter()

    async def announce(self) -> None:
        """The list of tools differs from now on; those are told whose own list does, and none is waited for."""
        self._has_changed = True
        before, self._announced = self._announced, self._registry.current
        after, names = self._announced, other_names(before, self._announced)
        changed: dict[_Sight, bool] = {}

        async def is_other(caller: Caller) -> bool:
            key = _sight(caller)
            if key not in changed:
                old, new = before.seen_by(caller), after.seen_by(caller)
                changed[key] = any(_definition(old, name) != _definition(new, name) for name in names)
                await checkpoint()  # thousands of callers may each see other tools
            return changed[key]

        for session in list(self._sessions.values()):
            if await is_other(session.owner) and not session.ended:
                session.pending = True
                self._tell_soon(session)
        for audience in list(self._audiences.values()):
            if await is_other(audience.caller):
                await audience.bus.publish(ToolsListChanged())

    def close(self) -> None:
        """End every listen stream with its result (MCP 2026-07-28, subscriptions)."""
        for audience in self._audiences.values():
            audience.listen.close()

    async def listen(
        self, ctx: Context, params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """Serve one listen stream; only what can change is acknowledged, and here that is tools."""
        wanted = SubscriptionFilter(tools_list_changed=params.notifications.tools_list_changed)
        caller = caller_of(ctx)
        sight = _sight(caller)
        if sight not in self._audiences:
            self._audiences[sight] = _Audience(caller)
        audience = self._audiences[sight]
        audience.streams += 1
        try:
            return await audience.listen(ctx, params.model_copy(update={"notifications": wanted}))
        finally:
            audience.streams -= 1
            if not audience.streams:
                del self._audiences[sight]

    @property
    def sessions(self) -> int:
        """How many handshake clients are ready."""
        return sum(session.ready for session in self._sessions.values())

    def session(self, session_id: str, caller: Caller) -> Session | None:
        """The session over HTTP with that id, once it is ready; nobody has another's.

        A key that was made anew has the same name, and the same sessions, as for the SDK.
        """
        session = self._sessions.get(session_id)
        return session if session and session.ready and session.owner.is_same(caller) else None

    def sessions_without(self, is_known: Callable[[Caller], bool]) -> list[Session]:
        """Those over HTTP whose owner is nobody any more."""
        return [session for session in self._sessions.values() if not is_known(session.owner)]

    def is_elsewhere(self, session_id: str, caller: Caller) -> bool:
        """Whether a session was opened to see another part of the tools."""
        session = self._sessions.get(session_id)
        return session is not None and session.owner.view != caller.view

    def cancel(self, session_id: str, caller: Caller, request_id: object) -> None:
        """Cancel a call that the SDK does not see, if there is one."""
        session = self.session(session_id, caller)
        if session and (call := session.calls.get(str(request_id))):
            call.cancel()

    def stream_opened(self, session_id: str) -> None:
        """A handshake session can hear from now on: its GET stream is open."""
        self._streams[session_id] += 1
        if session := self._sessions.get(session_id):
            self._tell_soon(session)

    def stream_closed(self, session_id: str) -> None:
        self._streams[session_id] -= 1
        if not self._streams[session_id]:
            del self._streams[session_id]

    async def middleware(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """To stand outermost, so that a session is known before its request is served."""
        if ctx.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS:
            return await call_next(ctx)
        # The SDK means middleware to use a connection's state and exit_stack, and leaves no other way there.
        connection = ctx.session._connection  # noqa: SLF001
        session = self._sessions.get(_key(connection))
        if session:
            session.seen = anyio.current_time()
        match ctx.method:
            case "initialize" if session is None:
                self._begin(connection, ctx)
            case "notifications/initialized" if session:
                session.ready = True
                self._tell_soon(session)
            case "tools/list":
                self.listed(connection)
        return await call_next(ctx)

    def _begin(self, connection: Connection, ctx: Context) -> None:
        """What changes from now on, the client has to hear of."""
        key, owner = _key(connection), caller_of(ctx)
        scope: Scope = ctx.request.scope if ctx.request else {}
        # Over stdio it may have seen the very first list, before the SDK was there.
        pending = connection.session_id is None and self._has_changed
        self._sessions[key] = Session(
            connection, owner, scope.get("user"), ctx.lifespan_context, pending, anyio.current_time()
        )
        if not scope.pop(OPENING, None):
            self.limits.add("sessions", owner, 1)
        connection.exit_stack.callback(self._end, key)

    def _end(self, key: str | int) -> None:
        session = self._sessions.pop(key)
        session.ended = True
        self.limits.add("sessions", session.owner, -1)
        for call in session.calls.values():
            call.cancel()

    def listed(self, connection: Connection) -> None:
        """A session is about to get the list as it is now."""
        session = self._sessions.get(_key(connection))
        if session and not self._can_hear(session.connection.session_id):
            session.pending = False

    def _can_hear(self, session_id: str | None) -> bool:
        return session_id is None or session_id in self._streams

    def _tell_soon(self, session: Session) -> None:
        if session.ready and session.pending and self._can_hear(session.connection.session_id):
            session.tasks.start_soon(_tell, session)


def caller_of(ctx: Context) -> Caller:
    """Who sends a request."""
    return caller_in(ctx.request.scope) if ctx.request else ANYBODY


def caller_in(scope: Scope) -> Caller:
    """The same, by its ASGI scope."""
    caller: Caller = scope.get(_CALLER, ANYBODY)
    return caller


def come_from(caller: Caller, scope: Scope) -> None:
    """Have a request, and all that it does, be somebody's."""
    scope[_CALLER] = caller
    CALLING.set(caller)


def _sight(caller: Caller) -> _Sight:
    return caller.scopes, caller.view


def _definition(tools: Snapshot | VisibleTools, name: str) -> Mapping[str, Json] | None:
    tool = tools.find(name)
    return None if tool is None else tool.definition


def _key(connection: Connection) -> str | int:
    """What tells sessions apart; over stdio they have no id."""
    return connection.session_id or id(connection)


async def _tell(session: Session) -> None:
    """A client that does not take it in time hears of it with the next change or its next stream."""
    session.pending = False
    with anyio.move_on_after(_PATIENCE) as patience:
        await session.connection.send_tool_list_changed()
    session.pending |= patience.cancelled_caught
