"""OpenTelemetry traces: a span for each request of a client, and below a call's one for each request to an API.

Names and attributes are those of the semantic conventions for MCP and for HTTP clients, but for ``url.full``:
arguments stand there. Who calls may hand over a trace's context in ``_meta`` (SEP-414), which the SDK reads.
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

from bridge import __version__
from bridge.errors import BridgeError
from bridge.events import CallFinished, CallStarted
from bridge.exchange import Header, Reply, Request
from bridge.protocol.capabilities import NAME
from bridge.secrets import Upstream
from bridge.telemetry.log_output import fit

_CONTEXT: Final = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class _Sending:
    """One request to an API as it is sent; ``headers`` go with it (W3C Trace Context)."""

    span: Span
    headers: tuple[Header, ...]

    def end(self, outcome: Reply | BridgeError) -> None:
        if isinstance(outcome, Reply):
            self.span.set_attribute("http.response.status_code", outcome.status)
            if outcome.status >= 400:
                _fail(self.span, str(outcome.status))
        else:
            _fail(self.span, outcome.code)


class Tracing:
    """Makes the spans that the SDK does not make; they go where its own go, or to a ``provider``."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = get_tracer(NAME, __version__, provider)

    @contextmanager
    def request(self, method: str, version: str, id: object, tool: str | None = None) -> Iterator[Span]:
        """A client's request that the SDK does not see; as that would tell of it."""
        attributes = {
            "mcp.method.name": method,
            "mcp.protocol.version": version,
            "jsonrpc.request.id": fit(id),
        }
        name = method
        if tool is not None:
            attributes |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool}
            name = f"{method} {tool}"
        with self._span(name, SpanKind.SERVER, attributes) as span:
            try:
                yield span
            except MCPError as error:
                code = str(error.error.code)
                span.set_attribute("rpc.response.status_code", code)
                _fail(span, code, error.error.message)
                raise

    def judge(self, span: Span, result: Mapping[str, Any]) -> None:
        """A tool's own error is none of the protocol's, and is told of all the same."""
        if result["isError"]:
            _fail(span, "tool_error")

    def outcome(self, event: CallFinished) -> CallFinished:
        """How the call ended whose span is the current one; the event with its trace, for the log to name."""
        get_current_span().set_attribute("restbridge.outcome", event.outcome)
        return event._replace(trace=_current_trace())

    def started(self, event: CallStarted) -> CallStarted:
        """The event with the trace of the current span."""
        return event._replace(trace=_current_trace())

    @contextmanager
    def sending(self, request: Request, upstream: Upstream, attempt: int) -> Iterator[_Sending]:
        """An attempt to send a request; ``attempt`` counts from 1."""
        host, _, port = upstream.place.rpartition(":")
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
            _CONTEXT.inject(carrier)
            try:
                yield _Sending(span, tuple(carrier.items()))
            except BridgeError as error:
                _fail(span, error.code)
                raise

    @contextmanager
    def _span(self, name: str, kind: SpanKind, attributes: Mapping[str, Any]) -> Iterator[Span]:
        # What an exception says may hold arguments and secrets.
        with self._tracer.start_as_current_span(
            name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            yield span


def _current_trace() -> str:
    return format_trace_id(get_current_span().get_span_context().trace_id)


def _fail(span: Span, kind: str, text: str | None = None) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, text)
