"""Exports spans to a collector (OTLP over HTTP), configured by the environment variables of OpenTelemetry.

Needs the extra ``otel``.
"""

import os
from threading import Thread
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import set_tracer_provider

from bridge import NAME, __version__

_SHUTDOWN_SECONDS: Final = 2.0
"""How long the end of the process waits until the last spans are sent."""
_MAX_ATTRIBUTE_CHARACTERS: Final = "1024"
"""A bound, because clients choose the text of some attributes."""


class Exporter:
    """Sends all spans of this process from now on, in batches and in a thread of its own. Spans that cannot be sent are lost."""

    def __init__(self) -> None:
        # Resource.create lets its argument win over the environment, so the variable is read here.
        resource = {SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", NAME), SERVICE_VERSION: __version__}
        # In the environment: a SpanLimits argument would win over the value that the operator set there.
        os.environ.setdefault(OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT, _MAX_ATTRIBUTE_CHARACTERS)
        # shutdown_on_exit would wait at exit for a collector that does not answer; ``close`` has a bound.
        self._provider = TracerProvider(resource=Resource.create(resource), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        set_tracer_provider(self._provider)

    def close(self) -> None:
        """Send the remaining spans. Blocks for at most ``_SHUTDOWN_SECONDS``."""
        # TracerProvider.shutdown takes no timeout, and the batch processor's own is 30 s.
        last = Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(_SHUTDOWN_SECONDS)
