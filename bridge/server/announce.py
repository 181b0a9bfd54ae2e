"""Tells every client that the list of tools changed: once a change, in both eras.

A client of 2026-07-28 opens a ``subscriptions/listen`` stream, which ``ListenHandler`` serves. A
client of the handshake era has a session: from its ``notifications/initialized`` on, a task in the
connection's own task group waits for changes and tells it, so that it ends with the connection and
a client that does not read holds up nobody else. Over HTTP the SDK drops what it sends while a
session has no GET stream open; then the change stays pending until the stream opens or the session
lists the tools.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp_types import (
    SubscriptionFilter,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    ToolListChangedNotification,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request

Context: TypeAlias = ServerRequestContext[dict[str, Any], Request]

SESSION_HEADER: Final = "mcp-session-id"
_PATIENCE: Final = 1.0
"""Seconds in which a session must take a notification."""


@dataclass(slots=True)
class _Session:
    """``pending``: the tools changed, and the client has neither heard of it nor listed them since."""

    pending: bool
    wake: anyio.Event = field(default_factory=anyio.Event)

    def change(self, _event: object) -> None:
        self.pending = True
        self.wake.set()


class Announcer:
    """``announce`` is for whoever swaps the tools; the rest is wired into the server and its transports."""

    def __init__(self) -> None:
        self.generation = 0
        self._bus = InMemorySubscriptionBus()
        self._listen = ListenHandler(self._bus)
        self._sessions: dict[str | int, _Session] = {}
        self._streams: Counter[str] = Counter()

    async def announce(self) -> None:
        """The list of tools differs from now on; returns without waiting for any client."""
        self.generation += 1
        await self._bus.publish(ToolsListChanged())

    def close(self) -> None:
        """End every listen stream with its result (MCP 2026-07-28, subscriptions)."""
        self._listen.close()

    async def listen(
        self, ctx: Context, params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """Serve one listen stream; only what can change is acknowledged, and here that is tools."""
        wanted = SubscriptionFilter(tools_list_changed=params.notifications.tools_list_changed)
        return await self._listen(ctx, params.model_copy(update={"notifications": wanted}))

    def stream_opened(self, session_id: str) -> None:
        """A handshake session can hear from now on: its GET stream is open."""
        self._streams[session_id] += 1
        if session := self._sessions.get(session_id):
            session.wake.set()

    def stream_closed(self, session_id: str) -> None:
        self._streams[session_id] -= 1
        if not self._streams[session_id]:
            del self._streams[session_id]

    async def middleware(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """To stand outermost: it holds a session's ``initialized`` open for as long as the session lives."""
        if ctx.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS:
            return await call_next(ctx)
        match ctx.method:
            case "initialize" if ctx.request is None:
                ctx.lifespan_context["generation"] = self.generation
            case "notifications/initialized" if _key(ctx) not in self._sessions:
                return await self._serve(ctx, call_next)
            case "tools/list":
                self._listed(ctx)
        return await call_next(ctx)

    async def _serve(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        key = _key(ctx)
        session = self._sessions[key] = _Session(self.generation > self._seen(ctx))
        unsubscribe = self._bus.subscribe(session.change)
        try:
            await call_next(ctx)
            while True:
                if session.pending and self._can_hear(key):
                    await _tell(session, ctx.session)
                await session.wake.wait()
                session.wake = anyio.Event()
        finally:
            unsubscribe()
            del self._sessions[key]

    def _seen(self, ctx: Context) -> int:
        """The generation when the client connected; what changed since, it has to hear of."""
        if ctx.request is None:
            return int(ctx.lifespan_context.get("generation", self.generation))
        return int(ctx.request.state.generation)

    def _listed(self, ctx: Context) -> None:
        key = _key(ctx)
        session = self._sessions.get(key)
        if session and not self._can_hear(key):
            session.pending = False

    def _can_hear(self, key: str | int) -> bool:
        return isinstance(key, int) or key in self._streams


def _key(ctx: Context) -> str | int:
    """What tells sessions apart: HTTP's session id, else the lifespan, which is entered per connection."""
    return id(ctx.lifespan_context) if ctx.request is None else ctx.request.headers[SESSION_HEADER]


async def _tell(session: _Session, client: ServerSession) -> None:
    """A client that does not take it in time hears of it with the next change or its next stream."""
    session.pending = False
    with anyio.move_on_after(_PATIENCE) as patience:
        await client.send_notification(ToolListChangedNotification())
    session.pending |= patience.cancelled_caught
