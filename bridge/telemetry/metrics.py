"""Figures for Prometheus of what happens: an ear on events, and what there is at the moment.

Labels are bounded: tools and upstreams are those of files, and past a thousand all others are ``other``. With several
workers the library keeps the figures in files that all share, and whichever is asked answers for all.
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, assert_never

import anyio
from anyio import to_thread
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.process_collector import ProcessCollector

from bridge.access.quotas import Kind
from bridge.events import (
    NOT_MADE,
    AuditWritten,
    CallFinished,
    CallStarted,
    CircuitChanged,
    Event,
    KeysChanged,
    RequestRefused,
    RequestRetried,
    SnapshotReplaced,
    TokenAsked,
)

SHARED: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which the library learns, when it is imported, of the directory that workers share."""
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_OFTEN: Final = 5.0
_MOST: Final = 1000
"""Tools, and replies of upstreams, that have figures of their own."""
_OTHER: Final = "other"
_Mode: TypeAlias = Literal["livesum", "mostrecent"]
_NOW: Final[Mapping[Kind, tuple[str, str]]] = {
    "calls": ("calls_in_flight", "Calls that run."),
    "sessions": ("sessions", "Sessions of clients of 2025-11-25 and before."),
    "streams": ("streams", "Streams on which clients hear of changes."),
    "results": ("unread_result_bytes", "Bytes of results that clients have not read yet."),
}


def forget(pid: int, figures: Path) -> None:
    """What there was at the moment in a process that has ended is no more; ``figures`` is the shared folder."""
    mark_process_dead(pid, str(figures))  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class _OfTool:
    """The figures of one tool; ``calls`` are by outcome."""

    label: str
    calls: dict[str, Counter]
    seconds: Histogram
    read: Counter
    answered: Counter


@dataclass(frozen=True, slots=True)
class Standing:
    """How many files are in which state, and a digest of all; when the next key expires, in seconds since 1970."""

    files: Mapping[str, int]
    digest: str
    next_expiry: float = math.inf
    is_settings_file_broken: bool = False


class Metrics:
    """``now`` tells how much there is at the moment, by the keys of ``_NOW``, and ``standing`` the rest."""

    def __init__(
        self,
        now: Callable[[], Mapping[Kind, int]],
        standing: Callable[[], Standing],
    ) -> None:
        self._now = now
        self._standing = standing
        self._encoding = anyio.Lock()
        self._states: set[str] = set()
        self._tools: dict[str, _OfTool] = {}
        self._replies: dict[tuple[str, int], Counter] = {}
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace="restbridge", registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, namespace="restbridge", registry=registry, buckets=_SECONDS)

        def gauge(name: str, text: str, *labels: str, of_all: _Mode = "mostrecent") -> Gauge:
            return Gauge(name, text, labels, "restbridge", registry=registry, multiprocess_mode=of_all)

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
            "requests_refused", "Requests that were turned away before any tool heard of them.", "status"
        )
        self._reloads = counter(
            "reloads", "Reloads; broken are those that left a file with errors.", "outcome"
        )
        self._reload_seconds = histogram("reload_seconds", "How long reloads took.")
        self._changes = counter("list_changes", "Changes of the list of tools, of which clients are told.")
        self._good = gauge("last_good_reload_timestamp_seconds", "When all files were right at last.")
        self._files = gauge("tool_files", "Tool files, by state.", "state")
        self._digest = gauge("files_digest", "A number that is the same where the same files are served.")
        self._expiry = gauge(
            "next_key_expiry_timestamp_seconds", "When the next key of a caller expires; +Inf if none does."
        )
        self._settings = gauge(
            "settings_file_broken", "Whether the settings file has errors, and what it said before holds."
        )
        self._audit_failures = counter("audit_failures", "Lines that could not be written to the audit file.")
        self._audit_failing = gauge(
            "audit_failing", "How many processes could not write their last line of audit.", of_all="livesum"
        )
        self._circuits = gauge(
            "circuit_open",
            "Whether an API is left alone; how many processes do.",
            "upstream",
            of_all="livesum",
        )
        self._gauges = {key: gauge(*words, of_all="livesum") for key, words in _NOW.items()}

    def begin(self, *, good: bool) -> None:
        """That files were read at the start; ``good``: all were right."""
        if good:
            self._good.set(time.time())

    def hear(self, event: Event) -> None:
        match event:
            case CallFinished():
                self._call(event)
            case RequestRetried(upstream, _, reason):
                self._retries.labels(upstream, reason).inc()
            case TokenAsked():
                self._tokens.labels(event.upstream, event.outcome).inc()
            case CircuitChanged():
                self._circuits.labels(event.upstream).set(event.is_open)
            case RequestRefused(status):
                self._refused.labels(status).inc()
            case AuditWritten(failure):
                self._audit_failures.inc(failure is not None)
                self._audit_failing.set(failure is not None)
            case CallStarted() | KeysChanged():
                pass  # what there is now, the gauges tell
            case SnapshotReplaced():
                self._reloads.labels("broken" if event.broken else "good").inc()
                self._reload_seconds.observe(event.seconds)
                self.begin(good=not event.broken)
                if event.visible:
                    self._changes.inc()
            case _:
                assert_never(event)

    def _count_standing(self) -> None:
        standing = self._standing()
        self._states |= standing.files.keys()
        for state in self._states:
            self._files.labels(state).set(standing.files.get(state, 0))
        self._digest.set(int(standing.digest[:12], 16))  # what a float holds exactly
        self._expiry.set(standing.next_expiry)
        self._settings.set(standing.is_settings_file_broken)

    async def run(self) -> None:
        """Tell those who share the figures what there is, every few seconds; ends when it is cancelled."""
        while SHARED in os.environ:
            self._refresh()
            await anyio.sleep(_OFTEN)

    def _refresh(self) -> None:
        for key, number in self._now().items():
            self._gauges[key].set(number)
        self._count_standing()

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """All figures in the format that is asked for, and its media type."""
        self._refresh()
        async with self._encoding:
            return await to_thread.run_sync(self._encoded, accept)

    def _encoded(self, accept: str) -> tuple[bytes, str]:
        registry = self._registry
        if SHARED in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        encode, media_type = choose_encoder(accept)
        return encode(registry), media_type

    def _call(self, event: CallFinished) -> None:
        tool = self._of_tool(event.tool if event.upstream else "unknown")
        if event.outcome not in tool.calls:
            tool.calls[event.outcome] = self._calls.labels(tool.label, event.outcome)
        tool.calls[event.outcome].inc()
        if event.outcome not in NOT_MADE:
            tool.seconds.observe(event.seconds)
        tool.read.inc(event.read)
        tool.answered.inc(event.answered)
        if event.upstream and event.status:
            self._reply(event.upstream, event.status).inc()

    def _of_tool(self, name: str) -> _OfTool:
        label = name if name in self._tools or len(self._tools) < _MOST else _OTHER
        if label not in self._tools:
            figures = self._seconds.labels(label), self._read.labels(label), self._answered.labels(label)
            self._tools[label] = _OfTool(label, {}, *figures)
        return self._tools[label]

    def _reply(self, upstream: str, status: int) -> Counter:
        key = upstream, status
        if key not in self._replies and len(self._replies) >= _MOST:
            key = _OTHER, status
        if key not in self._replies:
            self._replies[key] = self._all_replies.labels(*key)
        return self._replies[key]
