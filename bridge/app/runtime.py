"""Composes the server: loaded tools, upstream client, MCP server, listeners of events, reloads."""

import ctypes
import gc
import logging
import math
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Final, TypeAlias

import anyio
from anyio import to_thread

from bridge.access.jwks import fetch_or_read
from bridge.access.quotas import UNBOUNDED
from bridge.app.admin import AdminService, Digest
from bridge.app.all_workers import AllWorkers
from bridge.app.settings_watcher import SettingsWatcher
from bridge.app.siblings import Siblings
from bridge.app.signals import reload_on_signal, stop_on_signal
from bridge.app.startup import StartupState
from bridge.app.tls_watcher import TlsWatcher, files_of
from bridge.errors import StartError
from bridge.events import CallFinished, CallStarted, Event, Listener, SnapshotReplaced
from bridge.http.resource_metadata import Resource
from bridge.protocol.handlers import ToolServer
from bridge.protocol.in_flight import ClientKey
from bridge.settings import Audit as AuditConfig
from bridge.spec import Json, TokenExchangeAuth
from bridge.telemetry.audit import OTHERS, Audit
from bridge.telemetry.log_events import EventLog
from bridge.telemetry.metrics import Metrics, StatusGauges
from bridge.telemetry.tracing import Tracing
from bridge.toolfiles.reloader import Reloader
from bridge.upstream.client import Client
from bridge.view import matches

Transport: TypeAlias = Callable[["Runtime", anyio.Event], Awaitable[None]]
"""Serves until the event is set; raises ``OSError``, whose text is shown, if it cannot start."""

StopTracing: TypeAlias = Callable[[], None]

_log: Final = logging.getLogger(__name__)
_MMAP_THRESHOLD: Final = -3
"""M_MMAP_THRESHOLD in malloc.h."""


async def serve(startup: StartupState, transport: Transport, end_traces: StopTracing | None = None) -> int:
    """Serve over ``transport``, and reload files, until a signal or the end of the transport; answers 2 if it cannot start."""
    runtime = Runtime(startup, Tracing() if end_traces else None)
    limit_pauses()
    _return_memory()
    stop = anyio.Event()
    code = 0
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(stop_on_signal, stop)
            # start() returns when the handler is in place. SIGHUPs before that are in startup.hangups.
            await tasks.start(reload_on_signal, runtime.request_reload)
            if startup.hangups:
                runtime.request_reload()
            tasks.start_soon(runtime.reloader.run)
            tasks.start_soon(runtime.metrics.run)
            if runtime.settings_watcher:
                tasks.start_soon(runtime.settings_watcher.run)
            if runtime.tls_watcher:
                tasks.start_soon(runtime.tls_watcher.run)
            try:
                await transport(runtime, stop)
            except OSError as error:  # the port is taken, for example
                _log.error("%s", error.strerror)
                code = 2
            tasks.cancel_scope.cancel()  # the other tasks never end by themselves
    finally:
        runtime.log.flush()
        await runtime.client.aclose()
        if runtime.audit:
            runtime.audit.close()
        if end_traces:
            # Shielded: the last spans are also sent when serve() is cancelled. It blocks for a bounded time.
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(end_traces)
    return code


def limit_pauses() -> None:
    """Keep long work from delaying concurrent calls.

    The garbage collector stops all threads. So it skips objects that exist at the start, and runs rarely: calls leave hardly
    any reference cycles. A thread that reads a large reply releases the interpreter lock each millisecond.
    """
    # With the defaults, a ping took up to 188 ms while a thread ran a large projection (kit strain).
    gc.freeze()
    # Not rarer: with 10_000, 10, 100 half an hour of calls grew to 200 MB before a full collection.
    gc.set_threshold(2_000, 10, 10)
    sys.setswitchinterval(0.001)


def _return_memory() -> None:
    """Return the memory of large buffers to the system when they are freed (mallopt(3)).

    By default, glibc raises its threshold for mmap after the first large replies. Then large buffers come from the heap,
    which grows by fragmentation for hours. Other C libraries have no such option. The read buffers of asyncio (256 KiB)
    stay below the threshold, as to map them would cost more than the rest of a call.
    """
    with suppress(AttributeError):  # musl and macOS have no mallopt
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 320 * 1024)


class Runtime:
    """The parts of one server process, connected."""

    def __init__(self, startup: StartupState, tracing: Tracing | None = None) -> None:
        self.settings = settings = startup.settings
        self.registry = startup.registry
        self.worker = startup.worker
        self.siblings = startup.worker.siblings if startup.worker else Siblings()
        self._tool_directory, self._reporter = startup.tool_directory, startup.reporter
        self._tracing = tracing
        self._digest = Digest()
        # These get emit() before there are listeners. They emit only later: for calls, requests and reloads.
        self.audit = self._open_audit(settings.audit)
        self.client = Client(
            emit=self.emit,
            watch=tracing.sending if tracing else None,
            processes=self.worker.workers if self.worker else 1,
        )
        self.settings_watcher = self._watch_settings()
        self.tls_watcher = self._watch_tls()
        self.credentials = self.settings_watcher.credentials if self.settings_watcher else None
        resource = self.settings_watcher and self.settings_watcher.resource
        self.resource = Resource(resource, self._scopes_supported, settings.offered) if resource else None
        http = settings.http
        # Over stdio there is one caller, who owns the process.
        limits = settings.limits if http else UNBOUNDED
        self.server = ToolServer(
            self.registry,
            self.client,
            self.emit,
            limits=limits,
            tracing=tracing,
        )
        self.siblings.handle("cancel", self._cancel_for_sibling)
        self.server.in_flight.forward = self._forward_cancellation
        label = str(self.worker.number) if self.worker else None
        self.metrics = Metrics(lambda: self.server.limits.usage, self._status, label)
        if self.worker and self.worker.restarts:
            self.metrics.record_restart()
        # The first load was before there were listeners.
        self.metrics.record_load(is_good=not self._tool_directory.loaded.broken)
        self.log = EventLog()
        self._listeners = self._all_listeners()
        if not self._reporter.is_silent:
            self._warn_of_missing_issuers()
        announce = self.server.announcer.announce
        self.reloader = Reloader(
            self._tool_directory,
            emit=self._on_reload,
            announce=announce,
            is_only_process=self.worker is None,
        )
        self.admin = AdminService(
            self.registry,
            self._tool_directory,
            self.reloader,
            self.settings_watcher,
            self.tls_watcher,
            settings.offered,
            self._digest,
            lambda: self.server.limits.usage,
        )
        self.all_workers = AllWorkers(
            self.admin, self.siblings, startup.worker.restarts if startup.worker else 0
        )

    def _all_listeners(self) -> list[Listener]:
        listeners: list[Listener] = [self._reporter.on_event, self.log.on_event]
        if self.settings.http:  # over stdio nothing can read the metrics
            listeners.append(self.metrics.on_event)
        if self.audit:
            listeners.append(self.audit.on_event)
        return listeners

    def _open_audit(self, config: AuditConfig | None) -> Audit | None:
        if config is None:
            return None
        try:
            # Several workers write to one file, and all reload: only one of them records starts and reloads.
            digest = None if self._reporter.is_silent else self._served_digest
            fields = {"worker": self.worker.name} if self.worker else None
            audit = Audit(config.file, self.emit, required=config.required, fields=fields, digest=digest)
        except OSError as error:
            raise StartError(
                f"the audit file {config.file} cannot be written: {error.strerror}; name another"
            ) from None
        if audit.mode & OTHERS and not self._reporter.is_silent:
            text = "audit: others may read or write %s (mode %03o); restrict it: chmod 600"
            _log.warning(text, config.file, audit.mode)
        return audit

    def _watch_settings(self) -> SettingsWatcher | None:
        if self.settings.config is None:
            return None
        return SettingsWatcher(
            self.settings.config,
            self.settings.poll,
            partial(fetch_or_read, self.client),
            self.emit,
            has_access_control=self.settings.has_access_control,
            is_silent=self._reporter.is_silent,
        )

    def _watch_tls(self) -> TlsWatcher | None:
        tls = self.settings.http and self.settings.http.tls
        if not tls:
            return None
        return TlsWatcher(files_of(tls), self.settings.poll, is_silent=self._reporter.is_silent)

    def _warn_of_missing_issuers(self) -> None:
        """Warn if an upstream needs the tokens of callers, and no issuer of tokens is configured."""
        upstreams = {tool.upstream.name: tool.upstream.spec.auth for tool in self.registry.current.tools}
        exchanging = [name for name, auth in upstreams.items() if isinstance(auth, TokenExchangeAuth)]
        if exchanging and not (self.credentials and self.credentials.issuers):
            text = "%s: token exchange needs the tokens of callers; set access.jwt, and serve HTTP"
            _log.warning(text, ", ".join(exchanging))

    def _scopes_supported(self) -> Iterable[str]:
        """The scopes that clients without a token are advised to request (RFC 9728 2)."""
        assert self.credentials  # otherwise there is no resource, and nobody asks
        patterns = self.credentials.scopes_supported
        return [scope for scope in self.registry.current.scopes if any(matches(p, scope) for p in patterns)]

    def _forward_cancellation(self, client: ClientKey, id: str | None) -> None:
        self.siblings.broadcast("cancel", [*client, id])

    def _cancel_for_sibling(self, payload: Json) -> None:
        """Cancel a request, or all requests of a session, that another worker was asked to cancel."""
        match payload:
            case [str() | None as issuer, str() | None as caller, str(session_id), str() | None as id]:
                client = ClientKey(issuer, caller, session_id)
            case _:
                raise ValueError("expected a client and a request")
        if id is None:
            self.server.in_flight.end_here(client)
        else:
            self.server.in_flight.cancel_here(client, id)

    def _status(self) -> StatusGauges:
        loaded, watcher, tls = self._tool_directory.loaded, self.settings_watcher, self.tls_watcher
        return StatusGauges(
            Counter(file.state for file in loaded.tools.values()),
            self._served_digest(),
            self.credentials.next_expiry if self.credentials else math.inf,
            is_settings_file_broken=watcher is not None and watcher.is_broken,
            certificate_starts=tls.tls.state.starts if tls else -math.inf,
            certificate_expires=tls.tls.state.expires if tls else math.inf,
            is_certificate_broken=tls is not None and tls.problem is not None,
        )

    def _served_digest(self) -> str:
        return self._digest.of(self._tool_directory.loaded)

    def record_start(self) -> None:
        """Record in the audit file that this process serves."""
        if self.audit:
            self.audit.record_start()

    def request_reload(self) -> None:
        """Have all files read again soon."""
        self.reloader.request_reload()
        if self.settings_watcher:
            self.settings_watcher.request_reload()
        if self.tls_watcher:
            self.tls_watcher.request_reload()

    def emit(self, event: Event) -> None:
        # Before the listeners: tracing adds the trace id that the log and the audit write.
        if self._tracing:
            match event:
                case CallStarted():
                    event = self._tracing.started(event)
                case CallFinished():
                    event = self._tracing.outcome(event)
                case _:
                    pass
        for listener in self._listeners:
            listener(event)

    def _on_reload(self, event: SnapshotReplaced) -> None:
        """Emit the event, and close the connections of upstreams that no tool uses any longer."""
        self.emit(event)
        if event.rerouted:
            self.client.retire(tool.upstream for tool in self._tool_directory.loaded.snapshot.tools)
