"""Metrics for Prometheus: counters of events, and gauges of the current state.

The number of label values is limited: past ``_MAX_LABEL_VALUES`` tools or replies, further ones share the label ``other``.
With several workers, the library keeps the metrics in files that all workers share. Each worker answers for all of them.
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, Literal, TypeAlias, assert_never

import anyio
from anyio import to_thread
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from bridge.events import (
    NOT_MADE,
    AuditWritten,
    CallFinished,
    CallStarted,
    CircuitChanged,
    Event,
    HandshakeRefused,
    KeysChanged,
    QuotaKind,
    RequestRefused,
    RequestRetried,
    SnapshotReplaced,
    TokenRequested,
)

SHARED: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Names the directory that workers share. The library reads this variable when it is imported."""
# The buckets of Prometheus' Go client, and 30 s: the default of ``timeout.total``.
_BUCKETS_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_REFRESH_SECONDS: Final = 5.0
_MAX_LABEL_VALUES: Final = 1000
"""Tools, and pairs of upstream and status, with a label of their own."""
_OTHER: Final = "other"
# How gauges of workers become one: the sum over running workers, or the last one set, where all have the same.
_Mode: TypeAlias = Literal["livesum", "mostrecent"]
_GAUGES: Final[Mapping[QuotaKind, tuple[str, str]]] = {
    "calls": ("calls_in_flight", "Calls that run."),
    "streams": ("streams", "Streams on which clients get notifications."),
    "results": ("unread_result_bytes", "Bytes of results that clients have not read yet."),
}

_WORKER_GAUGES: Final = {
    "process_cpu_seconds_total": (
        "worker_cpu_seconds",
        "Processor time of a worker process, since its start.",
    ),
    "process_resident_memory_bytes": ("worker_resident_memory_bytes", "Memory of a worker process."),
    "process_open_fds": ("worker_open_fds", "Open files and connections of a worker process."),
}
"""The figures of the process that each worker shares with the others, by the library's name of them."""


def forget(pid: int, figures: Path) -> None:
    """Remove the gauges of a process that has ended. ``figures`` is the shared directory."""
    mark_process_dead(pid, str(figures))  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class _OfTool:
    """The metrics of one tool; ``calls`` are by outcome."""

    label: str
    calls: dict[str, Counter]
    seconds: Histogram
    read: Counter
    answered: Counter


@dataclass(frozen=True, slots=True)
class StatusGauges:
    """Values of gauges: files by state, digest of all files, and times in seconds since 1970.

    The times are when the next key expires, and from when to when the certificate of the server is valid.
    """

    files: Mapping[str, int]
    digest: str
    next_expiry: float = math.inf
    is_settings_file_broken: bool = False
    certificate_starts: float = -math.inf
    certificate_expires: float = math.inf
    is_certificate_broken: bool = False


class Metrics:
    """``usage`` yields the current values of ``_GAUGES``, ``status`` those of the other gauges.

    ``worker`` is the label of this process among several, in figures that each worker has for itself.
    """

    def __init__(
        self,
        usage: Callable[[], Mapping[QuotaKind, int]],
        status: Callable[[], StatusGauges],
        worker: str | None = None,
    ) -> None:
        self._usage = usage
        self._status = status
        self._encoding = anyio.Lock()
        self._states: set[str] = set()
        self._tools: dict[str, _OfTool] = {}
        self._replies: dict[tuple[str, int], Counter] = {}
        self._registry = registry = CollectorRegistry()
        self._process = ProcessCollector(registry=registry)
        self._worker = worker

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace="restbridge", registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(
                name, text, labels, namespace="restbridge", registry=registry, buckets=_BUCKETS_SECONDS
            )

        def gauge(name: str, text: str, *labels: str, mode: _Mode = "mostrecent") -> Gauge:
            return Gauge(name, text, labels, "restbridge", registry=registry, multiprocess_mode=mode)

        self._calls = counter(
            "calls", "Calls of a tool; the outcome is ok or an error's code.", "tool", "outcome"
        )
        self._seconds = histogram("call_seconds", "How long calls took.", "tool")
        self._read = counter("reply_bytes", "Bytes of replies, before they are projected.", "tool")
        self._answered = counter("result_bytes", "Bytes of results, as agents read them.", "tool")
        self._all_replies = counter("upstream_replies", "Replies of an API, by status.", "upstream", "status")
        self._retries = counter("upstream_retries", "Requests that were sent again.", "upstream", "reason")
        self._tokens = counter(
            "tokens",
            "Requests for a token for an API; the outcome is ok or an error's code.",
            "upstream",
            "outcome",
        )
        self._refused = counter(
            "requests_refused", "Requests that were refused before MCP handled them.", "status"
        )
        self._handshakes_refused = counter("tls_handshakes_refused", "TLS handshakes of clients that failed.")
        self._reloads = counter(
            "reloads", "Reloads; broken are those that left a file with errors.", "outcome"
        )
        self._reload_seconds = histogram("reload_seconds", "How long reloads took.")
        self._changes = counter("list_changes", "Changes of the list of tools that clients are notified of.")
        self._good = gauge("last_good_reload_timestamp_seconds", "When all files were last without errors.")
        self._files = gauge("tool_files", "Tool files, by state.", "state")
        self._digest = gauge("files_digest", "A number that is the same where the same files are served.")
        self._expiry = gauge(
            "next_key_expiry_timestamp_seconds", "When the next key of a caller expires; +Inf if none does."
        )
        self._settings = gauge(
            "settings_file_broken",
            "Whether the settings file has errors and its last good version is in effect.",
        )
        self._certificate_starts = gauge(
            "certificate_start_timestamp_seconds",
            "From when the certificate of the server is valid; -Inf without TLS.",
        )
        self._certificate_expires = gauge(
            "certificate_expiry_timestamp_seconds",
            "When the certificate of the server expires; +Inf without TLS.",
        )
        self._certificate_broken = gauge(
            "certificate_files_broken",
            "Whether the files of http.tls have errors and the last good certificate is in use.",
        )
        self._audit_failures = counter("audit_failures", "Lines that could not be written to the audit file.")
        self._audit_failing = gauge(
            "audit_failing", "How many processes could not write their last line of audit.", mode="livesum"
        )
        self._circuits = gauge(
            "circuit_open",
            "In how many processes the circuit breaker of an API is open.",
            "upstream",
            mode="livesum",
        )
        self._restarts = counter("worker_restarts", "Workers that have ended and were started again.")
        self._worker_gauges = {
            key: gauge(*texts, "worker", mode="livesum") for key, texts in _WORKER_GAUGES.items()
        }
        self._gauges = {key: gauge(*texts, mode="livesum") for key, texts in _GAUGES.items()}

    def record_load(self, *, is_good: bool) -> None:
        """Files were loaded. ``is_good``: none has errors."""
        if is_good:
            self._good.set(time.time())

    def record_restart(self) -> None:
        """Count that this process replaces a worker that has ended."""
        self._restarts.inc()

    def on_event(self, event: Event) -> None:
        match event:
            case CallFinished():
                self._call(event)
            case RequestRetried(upstream, _, reason):
                self._retries.labels(upstream, reason).inc()
            case TokenRequested():
                self._tokens.labels(event.upstream, event.outcome).inc()
            case CircuitChanged():
                self._circuits.labels(event.upstream).set(event.is_open)
            case RequestRefused(status):
                self._refused.labels(status).inc()
            case HandshakeRefused():
                self._handshakes_refused.inc()
            case AuditWritten(failure):
                self._audit_failures.inc(failure is not None)  # by 0 at the end of a failure
                self._audit_failing.set(failure is not None)
            case CallStarted() | KeysChanged():
                pass  # the gauges show the current numbers
            case SnapshotReplaced():
                self._reload(event)
            case _:
                assert_never(event)

    def _reload(self, event: SnapshotReplaced) -> None:
        self._reloads.labels("broken" if event.broken else "good").inc()
        self._reload_seconds.observe(event.seconds)
        self.record_load(is_good=not event.broken)
        if event.visible:
            self._changes.inc()

    def _set_status(self) -> None:
        status = self._status()
        self._states |= status.files.keys()  # a state that no file has any longer must become 0
        for state in self._states:
            self._files.labels(state).set(status.files.get(state, 0))
        self._digest.set(int(status.digest[:12], 16))  # 48 bits: a float holds them exactly
        self._expiry.set(status.next_expiry)
        self._settings.set(status.is_settings_file_broken)
        self._certificate_starts.set(status.certificate_starts)
        self._certificate_expires.set(status.certificate_expires)
        self._certificate_broken.set(status.is_certificate_broken)

    async def run(self) -> None:
        """Update the shared gauges every ``_REFRESH_SECONDS`` if there are several workers. Runs until it is cancelled."""
        # Without workers each scrape refreshes. With workers it refreshes only those of the worker that answers.
        while SHARED in os.environ:
            self._refresh()
            await anyio.sleep(_REFRESH_SECONDS)

    def _refresh(self) -> None:
        for key, number in self._usage().items():
            self._gauges[key].set(number)
        if self._worker:
            for sample in chain.from_iterable(family.samples for family in self._process.collect()):
                if sample.name in self._worker_gauges:
                    self._worker_gauges[sample.name].labels(self._worker).set(sample.value)
        self._set_status()

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format of the Accept header ``accept``, and its media type."""
        self._refresh()
        async with self._encoding:  # many scrapes at once occupy one thread, and not all that the process has
            return await to_thread.run_sync(self._encoded, accept)

    def _encoded(self, accept: str) -> tuple[bytes, str]:
        registry = self._registry
        if SHARED in os.environ:  # a new registry: in ours the metrics of this process would appear twice
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        encode, media_type = choose_encoder(accept)
        return encode(registry), media_type

    def _call(self, event: CallFinished) -> None:
        # Without an upstream there is no such tool: the caller chose the name, and could choose many.
        tool = self._of_tool(event.tool if event.upstream else "unknown")
        # Children are kept in our dicts, as ``labels`` takes a lock and makes texts of all labels each time.
        if event.outcome not in tool.calls:
            tool.calls[event.outcome] = self._calls.labels(tool.label, event.outcome)
        tool.calls[event.outcome].inc()
        if event.outcome not in NOT_MADE:  # refused in no time: many of them would hide slow calls
            tool.seconds.observe(event.seconds)
        tool.read.inc(event.read)
        tool.answered.inc(event.answered)
        if event.upstream and event.status:
            self._reply(event.upstream, event.status).inc()

    def _of_tool(self, name: str) -> _OfTool:
        label = name if name in self._tools or len(self._tools) < _MAX_LABEL_VALUES else _OTHER
        if label not in self._tools:
            figures = self._seconds.labels(label), self._read.labels(label), self._answered.labels(label)
            self._tools[label] = _OfTool(label, {}, *figures)
        return self._tools[label]

    def _reply(self, upstream: str, status: int) -> Counter:
        key = upstream, status
        if key not in self._replies and len(self._replies) >= _MAX_LABEL_VALUES:
            key = _OTHER, status
        if key not in self._replies:
            self._replies[key] = self._all_replies.labels(*key)
        return self._replies[key]
