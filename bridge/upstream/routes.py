"""The innermost layers: the route to an upstream, and one exchange on it."""

from typing import Final

import httpx

from bridge.exchange import Reply
from bridge.resolved_upstream import Upstream
from bridge.upstream.call import Call, Route, Send
from bridge.upstream.http import failures
from bridge.upstream.http.pool import TransportPools
from bridge.upstream.request_head import PreparedRequest

_MAX_ROUTES: Final = 256
"""Cached routes to one upstream. Calls that outlive a reload can add routes that are never used again."""


class Routes:
    """The routes to one upstream. Their keys are identities: a tool with its own timeout has its own ``Upstream``."""

    def __init__(self, transports: TransportPools) -> None:
        self._transports = transports
        # By id, as an upstream cannot be hashed. Its route holds it, so no other object gets the same id.
        self._routes: dict[int, Route] = {}

    async def find(self, call: Call, call_next: Send) -> Reply:
        """Raises ``NotSent`` if the upstream's certificate files cannot be used."""
        call.progress.phase = "connecting"  # a new route may have to read certificate files
        call.route = route = self._routes.get(id(call.upstream)) or await self._add(call.upstream)
        route.transport.active_calls += 1
        try:
            return await call_next(call)
        finally:
            route.transport.active_calls -= 1

    def clear(self) -> None:
        """After a reload: calls that begin now find their transport again."""
        self._routes.clear()

    async def _add(self, upstream: Upstream) -> Route:
        route = Route(PreparedRequest(upstream), await self._transports.get(upstream))
        if len(self._routes) >= _MAX_ROUTES:
            self._routes.clear()
        self._routes[id(upstream)] = route
        return route


async def exchange(call: Call) -> Reply:
    """One request and its reply on one connection."""
    route = call.route
    assert route
    try:
        message = route.prepared.message(call.request, needs_new_connection=not call.repeatable)
        return await route.transport.send(message, call.progress)
    except httpx.TransportError as fault:
        raise failures.upstream_error(fault, call.upstream, sent=call.progress.sent) from fault
