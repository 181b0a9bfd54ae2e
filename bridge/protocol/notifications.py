"""Notifies every client that its list of tools changed, once for each change, in both eras.

A modern client (2026-07-28) opens a ``subscriptions/listen`` stream. ``ListenHandler`` of the SDK serves it. Streams of callers
that see the same tools form one ``_SubscriberGroup``.

A client of the handshake era has a session. Over HTTP the SDK drops notifications while the session has no GET stream.
So a change stays pending until the client can be reached:

| Event | Effect on the session |
|---|---|
| ``initialize`` | it exists, belongs to its caller, and counts for the quota |
| ``notifications/initialized`` | it is ready: a pending change is sent |
| its list of tools changed | the change is pending, and sent if the session is ready and reachable |
| its GET stream opens | it is reachable: a pending change is sent |
| ``tools/list`` while it has no stream | the client sees the new list: nothing is pending |
| the notification is not taken within a second | the change is pending again |
| its connection or its HTTP session ends | it is removed, and its calls on the fast path are cancelled |

Over stdio a session is always reachable. Each notification is a task of its own, so a client that does not read delays no other.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp_types import (
    SubscriptionFilter,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.types import Scope

from bridge.access.quotas import Quotas
from bridge.caller import Caller
from bridge.protocol.caller_context import Context, caller_of
from bridge.protocol.in_flight import RequestsInFlight
from bridge.registry import Registry, Snapshot, VisibleTools, visibly_changed_names
from bridge.spec import Json
from bridge.view import View

_VisibilityKey: TypeAlias = tuple[frozenset[str] | None, View | None]

SESSION_HEADER: Final = "mcp-session-id"
OPENING: Final = "restbridge.opening"
"""Key of the ASGI scope of a request that opens a session: ``RequestGuard`` has counted the session already."""
_NOTIFY_TIMEOUT_SECONDS: Final = 1.0


@dataclass(slots=True)
class Session:
    """A client of the handshake era, until its connection ends.

    ``has_pending_change``: its tools changed, and it has neither been notified nor listed them since.
    ``last_seen_by_sdk`` is in the event loop's seconds. ``is_ready``: it has sent ``notifications/initialized``.
    ``user`` is the owner in the SDK's form.
    """

    connection: Connection
    owner: Caller
    user: object
    tasks: TaskGroup
    has_pending_change: bool
    last_seen_by_sdk: float
    in_flight: RequestsInFlight = field(default_factory=RequestsInFlight)
    is_ready: bool = False
    has_ended: bool = False


class _SubscriberGroup:
    """The listen streams of callers who see the same tools as ``caller``."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.streams = 0
        # A bus of the SDK sends an event to all of its streams: it does not know what their callers see.
        self.bus = InMemorySubscriptionBus()
        self.listen = ListenHandler(self.bus)


class Announcer:
    """Knows the sessions and listen streams. Call ``announce`` after each change of the registry."""

    def __init__(self, registry: Registry, limits: Quotas | None = None) -> None:
        self._has_announced = False
        self._registry = registry
        self.limits = limits or Quotas()
        self._announced = registry.current
        self._groups: dict[_VisibilityKey, _SubscriberGroup] = {}
        self._sessions: dict[str | int, Session] = {}
        # The open GET streams of a session. The SDK lets the next stream open before ``RequestGuard`` reports
        # that the last one is closed, so there may be two for a moment.
        self._streams: Counter[str] = Counter()

    async def announce(self) -> None:
        """Notify the clients whose own list of tools differs now. Does not wait for them."""
        self._has_announced = True
        # Before the first await: the registry may change during it. The next ``announce`` compares with this.
        before, self._announced = self._announced, self._registry.current
        after, names = self._announced, visibly_changed_names(before, self._announced)
        changed: dict[_VisibilityKey, bool] = {}

        async def sees_change(caller: Caller) -> bool:
            key = _visibility_key(caller)
            if key not in changed:
                old, new = before.seen_by(caller), after.seen_by(caller)
                changed[key] = any(_definition(old, name) != _definition(new, name) for name in names)
                await checkpoint()  # thousands of callers may each see different tools
            return changed[key]

        # Copies, since clients come and leave during each await. A session may have ended before its turn.
        for session in list(self._sessions.values()):
            if await sees_change(session.owner) and not session.has_ended:
                session.has_pending_change = True
                self._notify_if_reachable(session)
        for group in list(self._groups.values()):
            if await sees_change(group.caller):
                await group.bus.publish(ToolsListChanged())

    def close(self) -> None:
        """End every listen stream with its result (MCP 2026-07-28, subscriptions)."""
        for group in self._groups.values():
            group.listen.close()

    async def listen(
        self, ctx: Context, params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """Serve one listen stream. Of the requested notifications only ``toolsListChanged`` is acknowledged."""
        # The SDK's handler would also acknowledge prompts and resources, which are never announced here.
        wanted = SubscriptionFilter(tools_list_changed=params.notifications.tools_list_changed)
        caller = caller_of(ctx)
        key = _visibility_key(caller)
        if key not in self._groups:
            self._groups[key] = _SubscriberGroup(caller)
        group = self._groups[key]
        group.streams += 1
        try:
            return await group.listen(ctx, params.model_copy(update={"notifications": wanted}))
        finally:
            group.streams -= 1
            # Otherwise a group would stay for each set of scopes that ever had a stream.
            if not group.streams:
                del self._groups[key]

    @property
    def sessions(self) -> int:
        """Number of sessions that are ready."""
        return sum(session.is_ready for session in self._sessions.values())

    def session(self, session_id: str, caller: Caller) -> Session | None:
        """The session with this id over HTTP, if it belongs to the caller.

        A caller is its name, issuer and view. So a replaced key keeps the sessions of its name, as in the SDK.
        """
        session = self._sessions.get(session_id)
        return session if session and session.owner.is_same(caller) else None

    def sessions_of_unknown_owners(self, is_known: Callable[[Caller], bool]) -> list[Session]:
        """The sessions over HTTP whose owner no longer exists."""
        return [session for session in self._sessions.values() if not is_known(session.owner)]

    def has_other_view(self, session_id: str, caller: Caller) -> bool:
        """Whether the session was opened at the path of another view."""
        session = self._sessions.get(session_id)
        return session is not None and session.owner.view != caller.view

    def stream_opened(self, session_id: str) -> None:
        self._streams[session_id] += 1
        if session := self._sessions.get(session_id):
            self._notify_if_reachable(session)

    def stream_closed(self, session_id: str) -> None:
        self._streams[session_id] -= 1
        if not self._streams[session_id]:
            del self._streams[session_id]

    async def middleware(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """Record the session of each request. Must be the outermost middleware: handlers rely on the session."""
        if ctx.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS:
            return await call_next(ctx)
        # The SDK intends middleware to use a connection's state and exit_stack, but has no public way to get it.
        connection = ctx.session._connection  # noqa: SLF001
        session = self._sessions.get(_key(connection))
        if session:
            session.last_seen_by_sdk = anyio.current_time()
        match ctx.method:
            # A client may send it twice on one connection. That is one session: it counts once and ends once.
            case "initialize" if session is None:
                self._open(connection, ctx)
            case "notifications/initialized" if session:
                session.is_ready = True
                self._notify_if_reachable(session)
            case "tools/list":
                self.tools_listed(connection)
        return await call_next(ctx)

    def _open(self, connection: Connection, ctx: Context) -> None:
        key, owner = _key(connection), caller_of(ctx)
        scope: Scope = ctx.request.scope if ctx.request else {}
        # Over stdio EarlyAnswers may have sent the first list, before a change that happened since.
        has_pending_change = connection.session_id is None and self._has_announced
        self._sessions[key] = Session(
            connection,
            owner,
            scope.get("user"),
            ctx.lifespan_context,
            has_pending_change,
            anyio.current_time(),
        )
        if not scope.pop(OPENING, None):
            self.limits.add("sessions", owner, 1)
        # The SDK closes the stack however the connection ends: by DELETE, after idle time, by an exception.
        connection.exit_stack.callback(self._end, key)

    def _end(self, key: str | int) -> None:
        session = self._sessions.pop(key)
        session.has_ended = True
        self.limits.add("sessions", session.owner, -1)
        session.in_flight.cancel_all()

    def tools_listed(self, connection: Connection) -> None:
        """The session is about to get the current list.

        A session that can be reached is notified all the same.
        """
        session = self._sessions.get(_key(connection))
        if session and not self._is_reachable(session.connection.session_id):
            session.has_pending_change = False

    def _is_reachable(self, session_id: str | None) -> bool:
        return session_id is None or session_id in self._streams

    def _notify_if_reachable(self, session: Session) -> None:
        if (
            session.is_ready
            and session.has_pending_change
            and self._is_reachable(session.connection.session_id)
        ):
            session.tasks.start_soon(_notify, session)


def _visibility_key(caller: Caller) -> _VisibilityKey:
    return caller.scopes, caller.view


def _definition(tools: Snapshot | VisibleTools, name: str) -> Mapping[str, Json] | None:
    tool = tools.find(name)
    return None if tool is None else tool.definition


def _key(connection: Connection) -> str | int:
    """The session id; over stdio there is none, so the connection's identity."""
    return connection.session_id or id(connection)


async def _notify(session: Session) -> None:
    """Send the notification. If the client does not take it in time, the change is pending again."""
    # Before the await: a change during it sets this again, and ``|=`` keeps that.
    session.has_pending_change = False
    with anyio.move_on_after(_NOTIFY_TIMEOUT_SECONDS) as timeout:
        await session.connection.send_tool_list_changed()
    session.has_pending_change |= timeout.cancelled_caught
