"""HTTP endpoints for operators and their tools: health probes, status, reload, metrics."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from bridge.http.replies import rejection_reason
from bridge.http.request_guard import RequestGuard
from bridge.protocol.caller_context import caller_in
from bridge.settings import METRICS_SCOPE, OPERATE_SCOPE
from bridge.spec import Json

HEALTHY: Final = "/-/healthy"
READY: Final = "/-/ready"
"""The two probes reveal nothing and need no credential."""


@dataclass(frozen=True, slots=True)
class AdminEndpoints:
    """What the endpoints answer. ``metrics`` gets the Accept header and returns the body and its media type."""

    status: Callable[[], Awaitable[dict[str, Json]]]
    reload: Callable[[], Awaitable[dict[str, Json]]]
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]]


def routes(endpoints: AdminEndpoints, guard: RequestGuard, stop: anyio.Event) -> list[Route]:
    """The routes. When ``stop`` is set, the server is not ready any longer. Host and Origin are checked as at the MCP endpoint, but not for the probes."""

    async def healthy(_request: Request) -> Response:
        return PlainTextResponse("healthy\n")

    async def ready(_request: Request) -> Response:
        if stop.is_set():
            return PlainTextResponse("stopping\n", 503)
        return PlainTextResponse("ready\n")

    async def status(request: Request) -> Response:
        return _refusal(request, guard) or JSONResponse(await endpoints.status())

    async def reload(request: Request) -> Response:
        return _refusal(request, guard) or JSONResponse(await endpoints.reload())

    async def metrics(request: Request) -> Response:
        if refused := _refusal(request, guard, METRICS_SCOPE):
            return refused
        body, media_type = await endpoints.metrics(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": media_type})

    return [
        Route(HEALTHY, healthy),
        Route(READY, ready),
        Route("/-/status", status),
        Route("/-/reload", reload, methods=["POST"]),
        Route("/metrics", metrics),
    ]


def _refusal(request: Request, guard: RequestGuard, scope: str = OPERATE_SCOPE) -> Response | None:
    scopes = caller_in(request.scope).scopes
    if scopes is not None and scopes.isdisjoint({scope, OPERATE_SCOPE}):
        why = f"{request.url.path} needs the scope {scope}"
        guard.rejections.report(request.scope, 403, why)
        challenge = f'Bearer realm="restbridge", error="insufficient_scope", scope="{scope}"'
        return PlainTextResponse(f"{why}\n", 403, {"WWW-Authenticate": challenge})
    if refused := guard.check_host_and_origin(request.headers):
        guard.rejections.report(
            request.scope, refused.status_code, rejection_reason(refused, request.headers)
        )
    return refused
