"""Counts every request, of any path, for the rate limit of its caller.

A request over the limit is refused here. Only MCP messages pass on, with the error in the scope: ``RequestGuard`` parses
them, so its answer has the id of the request.
"""

from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.access.quotas import Quotas
from bridge.errors import TooMany
from bridge.http.admin_routes import HEALTHY, READY
from bridge.http.request_guard import RATE_LIMIT_ERROR, RequestGuard, strip_values
from bridge.protocol.caller_context import caller_in

_UNCOUNTED: Final = (HEALTHY, READY)


class RateLimitMiddleware:
    """An ASGI app in front of ``app``. MCP messages are POST requests to one of ``paths``."""

    def __init__(self, app: ASGIApp, guard: RequestGuard, quotas: Quotas, paths: Collection[str]) -> None:
        self._app = app
        self._guard = guard
        self._quotas = quotas
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _UNCOUNTED and (error := self._count(scope)):
            if not self._is_message(scope):
                await self._guard.too_many_reply(error, scope)(scope, receive, send)
                return
            scope[RATE_LIMIT_ERROR] = error
        await self._app(scope, receive, send)

    def _count(self, scope: Scope) -> TooMany | None:
        """Count a request. Returns the error if its caller is over the rate limit.

        A request from a page of another server does not count for the callers without a name.
        """
        caller = caller_in(scope)
        # Otherwise any web page could make browsers use up the rate of all callers without a name.
        if caller.name is None and self._guard.check_host_and_origin(_headers(scope)):
            return None
        try:
            self._quotas.count_request(caller)
        except TooMany as error:
            return error
        return None

    def _is_message(self, scope: Scope) -> bool:
        return (
            scope["method"] == "POST"
            and scope["path"].removesuffix("/") in self._paths
            and self._guard.check_headers("POST", _headers(scope)) is None
        )


def _headers(scope: Scope) -> Headers:
    return Headers(raw=strip_values(scope["headers"]))
