"""Notifies every client that its list of tools changed, in both eras.

A client is notified when the digest of the list that its caller sees differs from the digest at the last notification. So
two changes that cancel each other out between two notifications are none.

| Client | Its channel | Who sends |
|---|---|---|
| modern (2026-07-28) | a ``subscriptions/listen`` stream | ``ListenHandler`` of the SDK, one for each ``_SubscriberGroup`` |
| handshake era, HTTP | a GET stream | ``http/notification_stream.py``, which waits for ``Announcer.changed`` |
| handshake era, stdio | the connection | ``Announcer.middleware`` |

No client delays another one: each stream and each connection has a task of its own.
"""

from typing import Final, TypeAlias

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from mcp.server.context import CallNext, HandlerResult
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp_types import (
    SubscriptionFilter,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from bridge.caller import ANONYMOUS, Caller
from bridge.protocol.caller_context import Context, caller_of
from bridge.registry import Registry
from bridge.view import View

_VisibilityKey: TypeAlias = tuple[frozenset[str] | None, View | None]

LIST_CHANGED: Final = "notifications/tools/list_changed"


class _SubscriberGroup:
    """The listen streams of callers who see the same tools as ``caller``."""

    def __init__(self, caller: Caller, digest: str) -> None:
        self.caller = caller
        self.digest = digest
        self.streams = 0
        # A bus of the SDK sends an event to all of its streams: it does not know what their callers see.
        self.bus = InMemorySubscriptionBus()
        self.listen = ListenHandler(self.bus)


class Announcer:
    """Call ``announce`` after each change of the registry. ``changed`` is then set, and replaced by a new event."""

    def __init__(self, registry: Registry) -> None:
        self.changed = anyio.Event()
        self._registry = registry
        self._first_digest = self.digest(ANONYMOUS)
        self._groups: dict[_VisibilityKey, _SubscriberGroup] = {}
        self._connections: set[TaskGroup] = set()
        """Over stdio: the connections whose clients are notified."""

    def digest(self, caller: Caller) -> str:
        """The digest of the list that the caller sees now."""
        return self._registry.current.seen_by(caller).digest

    async def announce(self) -> None:
        """Notify the clients whose own list of tools differs now. Does not wait for them."""
        changed, self.changed = self.changed, anyio.Event()
        changed.set()
        # A copy, since clients come and leave during each await.
        for group in list(self._groups.values()):
            before, group.digest = group.digest, self.digest(group.caller)
            if group.digest != before:
                await group.bus.publish(ToolsListChanged())
            await checkpoint()  # thousands of callers may each see different tools

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
        key = (caller.scopes, caller.view)
        if key not in self._groups:
            self._groups[key] = _SubscriberGroup(caller, self.digest(caller))
        group = self._groups[key]
        group.streams += 1
        try:
            return await group.listen(ctx, params.model_copy(update={"notifications": wanted}))
        finally:
            group.streams -= 1
            # Otherwise a group would stay for each set of scopes that ever had a stream.
            if not group.streams:
                del self._groups[key]

    async def middleware(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """Over stdio, notify a client of the handshake era from ``notifications/initialized`` on."""
        if (
            ctx.method == "notifications/initialized"
            and ctx.request is None
            and ctx.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS
            and ctx.lifespan_context not in self._connections  # a client may send it twice
        ):
            self._connections.add(ctx.lifespan_context)
            ctx.lifespan_context.start_soon(self._notify, ctx.session, ctx.lifespan_context)
        return await call_next(ctx)

    async def _notify(self, session: ServerSession, connection: TaskGroup) -> None:
        """Notify one client until its connection ends."""
        # Not the digest of now: ``EarlyAnswers`` may have sent the first list before a change.
        told = self._first_digest
        try:
            while True:
                changed, digest = self.changed, self.digest(ANONYMOUS)
                if digest != told:
                    told = digest
                    await session.send_tool_list_changed()
                await changed.wait()
        finally:
            self._connections.discard(connection)
