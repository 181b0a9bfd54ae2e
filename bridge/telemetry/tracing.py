"""OpenTelemetry traces: a span for each request of a client, with a child span for each request to an API.

Names and attributes follow the semantic conventions for MCP and for HTTP clients, except ``url.full``, which would hold
arguments. A client may send a trace context in ``_meta`` (SEP-414), which the SDK reads.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    TracerProvider,
    format_trace_id,
    get_current_span,
    get_tracer,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bridge import NAME, __version__
from bridge.codec import log_safe
from bridge.errors import BridgeError
from bridge.events import CallFinished, CallStarted
from bridge.exchange import Header, Reply, Request
from bridge.resolved_upstream import Upstream

# Not the global propagator: by default it also sends baggage, and that may come from the client.
_CONTEXT: Final = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class _Sending:
    """One request to an API. ``headers`` must be sent with it (W3C Trace Context)."""

    span: Span
    headers: tuple[Header, ...]

    def end(self, outcome: Reply | BridgeError) -> None:
        if isinstance(outcome, Reply):
            self.span.set_attribute("http.response.status_code", outcome.status)
            if outcome.status >= 400:  # even one that the tool accepts: so the conventions for client spans
                _fail(self.span, str(outcome.status))
        else:
            _fail(self.span, outcome.code)


class Tracing:
    """Creates the spans that the SDK does not create, with its provider or with ``provider``."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = get_tracer(NAME, __version__, provider)

    @contextmanager
    def request(self, method: str, version: str, id: object, tool: str | None = None) -> Iterator[Span]:
        """The span of a client's request that bypasses the SDK. It is like the span that the SDK would create."""
        attributes = {
            "mcp.method.name": method,
            "mcp.protocol.version": version,
            "jsonrpc.request.id": log_safe(id),
        }
        name = method
        if tool is not None:
            attributes |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool}
            name = f"{method} {tool}"
        with self._span(name, SpanKind.SERVER, attributes) as span:
            try:
                yield span
            except MCPError as error:  # a protocol error; tool errors are results, see ``set_result``
                code = str(error.error.code)
                span.set_attribute("rpc.response.status_code", code)
                _fail(span, code, error.error.message)
                raise

    def set_result(self, span: Span, result: Mapping[str, Any]) -> None:
        """Mark the span as failed if the result is a tool error, which is a success of the protocol."""
        if result["isError"]:
            _fail(span, "tool_error")

    def outcome(self, event: CallFinished) -> CallFinished:
        """Set the outcome on the current span; returns the event with the trace id."""
        get_current_span().set_attribute("restbridge.outcome", event.outcome)
        return event._replace(trace=_current_trace())

    def started(self, event: CallStarted) -> CallStarted:
        """The event with the trace id of the current span."""
        return event._replace(trace=_current_trace())

    @contextmanager
    def sending(self, request: Request, upstream: Upstream, attempt: int) -> Iterator[_Sending]:
        """The span of one attempt to send a request; ``attempt`` counts from 1."""
        host, _, port = upstream.authority.rpartition(":")
        attributes: dict[str, str | int] = {
            "http.request.method": request.method,
            "server.address": host.strip("[]"),
            "server.port": int(port),
        }
        if request.template:
            attributes["url.template"] = request.template
        if attempt > 1:
            attributes["http.request.resend_count"] = attempt - 1
        with self._span(f"{request.method} {request.template}".strip(), SpanKind.CLIENT, attributes) as span:
            carrier: dict[str, str] = {}
            _CONTEXT.inject(carrier)  # nothing without an SDK: spans are then invalid
            try:
                yield _Sending(span, tuple(carrier.items()))
            except BridgeError as error:
                _fail(span, error.code)
                raise

    @contextmanager
    def _span(self, name: str, kind: SpanKind, attributes: Mapping[str, Any]) -> Iterator[Span]:
        # The message of an exception may hold arguments and secrets.
        with self._tracer.start_as_current_span(
            name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            yield span


def _current_trace() -> str:
    return format_trace_id(get_current_span().get_span_context().trace_id)


def _fail(span: Span, kind: str, text: str | None = None) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, text)
