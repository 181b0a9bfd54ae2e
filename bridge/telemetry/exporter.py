"""Sends spans to a collector (OTLP over HTTP), as the variables of OpenTelemetry say; with the extra ``otel`` alone."""

import os
from threading import Thread
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import set_tracer_provider

from bridge import __version__
from bridge.protocol.capabilities import NAME

_PATIENCE: Final = 2.0
"""Seconds in which the last spans must leave when the process ends."""
_LONGEST: Final = "1024"
"""Characters of an attribute: clients choose what some say."""


class Exporter:
    """All spans go out from now on, in batches, from a thread of their own; those that cannot be sent are lost."""

    def __init__(self) -> None:
        named = {SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", NAME), SERVICE_VERSION: __version__}
        os.environ.setdefault(OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT, _LONGEST)
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        set_tracer_provider(self._provider)

    def close(self) -> None:
        """Send what is left; blocks for a while, but no longer where the collector does not answer."""
        last = Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(_PATIENCE)
