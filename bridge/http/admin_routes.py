"""What those who run the bridge may ask it over HTTP: whether it lives, what it serves, and to read the files now."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from bridge.http.request_guard import Gate, told
from bridge.protocol.notifications import caller_in
from bridge.settingsfile import METRICS_SCOPE, OPERATE_SCOPE
from bridge.spec import Json

HEALTHY: Final = "/-/healthy"
READY: Final = "/-/ready"
"""These two tell nothing, and are open to all."""


@dataclass(frozen=True, slots=True)
class Operator:
    """What is answered: what there is now, what came of reading all files again, and figures with their media type."""

    status: Callable[[], dict[str, Json]]
    reload: Callable[[], Awaitable[dict[str, Json]]]
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]]


def routes(operator: Operator, gate: Gate) -> list[Route]:
    """Requests pass the same checks of Host and Origin as those to the endpoint."""

    async def healthy(_request: Request) -> Response:
        return PlainTextResponse("healthy\n")

    async def ready(_request: Request) -> Response:
        if gate.stopping.is_set():
            return PlainTextResponse("stopping\n", 503)
        return PlainTextResponse("ready\n")

    async def status(request: Request) -> Response:
        return _refusal(request, gate) or JSONResponse(operator.status())

    async def reload(request: Request) -> Response:
        return _refusal(request, gate) or JSONResponse(await operator.reload())

    async def metrics(request: Request) -> Response:
        if refused := _refusal(request, gate, METRICS_SCOPE):
            return refused
        figures, media_type = await operator.metrics(request.headers.get("accept", ""))
        return Response(figures, headers={"content-type": media_type})

    return [
        Route(HEALTHY, healthy),
        Route(READY, ready),
        Route("/-/status", status),
        Route("/-/reload", reload, methods=["POST"]),
        Route("/metrics", metrics),
    ]


def _refusal(request: Request, gate: Gate, scope: str = OPERATE_SCOPE) -> Response | None:
    scopes = caller_in(request.scope).scopes
    if scopes is not None and scopes.isdisjoint({scope, OPERATE_SCOPE}):
        why = f"{request.url.path} takes the scope {scope}"
        gate.refusals.tell(request.scope, 403, why)
        challenge = f'Bearer realm="restbridge", error="insufficient_scope", scope="{scope}"'
        return PlainTextResponse(f"{why}\n", 403, {"WWW-Authenticate": challenge})
    if stranger := gate.stranger(request.headers):
        gate.refusals.tell(request.scope, stranger.status_code, told(stranger, request.headers))
    return stranger
