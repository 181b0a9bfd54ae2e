"""A collector of traces (OTLP over HTTP) and an API, on one real socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.upstream.apps import serving

_KINDS: Final = {trace_pb2.Span.SPAN_KIND_SERVER: "server", trace_pb2.Span.SPAN_KIND_CLIENT: "client"}


class Span(NamedTuple):
    """``trace``, ``id`` and ``parent`` are in hexadecimal; the parent of a root span is empty."""

    service: str
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    failed: bool
    attributes: dict[str, Any]


class Collector:
    """``spans`` are the received spans, ``calls`` the requests to the API. The first request to ``/flaky`` fails."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []
        self.calls: list[Request] = []

    async def collect(self, request: Request) -> Response:
        sent = ExportTraceServiceRequest.FromString(await request.body())
        for group in sent.resource_spans:
            service = _values(group.resource.attributes)["service.name"]
            self.spans += [_read(service, span) for scope in group.scope_spans for span in scope.spans]
        return Response(b"", media_type="application/x-protobuf")

    async def api(self, request: Request) -> Response:
        self.calls.append(request)
        if request.url.path == "/api/flaky/1" and sum("flaky" in each.url.path for each in self.calls) == 1:
            return Response(status_code=503)
        return JSONResponse({"id": 1}, 404 if "missing" in request.url.path else 200)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


def _read(service: str, span: trace_pb2.Span) -> Span:
    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
    failed = span.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    assert not span.events
    return Span(service, span.name, _KINDS[span.kind], *ids, failed, _values(span.attributes))


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@asynccontextmanager
async def serving_collector() -> AsyncIterator[Collector]:
    running = Collector()
    app = Starlette(
        routes=[
            Route("/v1/traces", running.collect, methods=["POST"]),
            Route("/api/{rest:path}", running.api),
        ]
    )
    async with serving(app) as running.url:
        yield running
