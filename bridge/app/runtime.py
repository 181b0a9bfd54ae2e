"""The rooms of a process that serves, wired: tool files become tools that agents call, over stdio or HTTP."""

import ctypes
import gc
import logging
import math
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import Final, TypeAlias

import anyio
import click
from anyio import to_thread

from bridge.access.jwks import fetch_or_read
from bridge.access.quotas import UNBOUNDED
from bridge.address import Address
from bridge.app.admin import Desk, Digest
from bridge.app.settings_watcher import LiveSettings
from bridge.app.signals import ask_on_signal, stop_on_signal
from bridge.caller import Caller
from bridge.commands.serve import Beginning
from bridge.events import CallFinished, CallStarted, Ear, Event, SnapshotReplaced
from bridge.http.admin_routes import Operator
from bridge.http.resource_metadata import Resource
from bridge.http.server import serve_http
from bridge.protocol.handlers import ToolServer
from bridge.registry import Registry
from bridge.settings import Settings
from bridge.settingsfile import matches
from bridge.spec import TokenExchangeAuth
from bridge.stdio.descriptors import private_stdio
from bridge.stdio.early_answers import Before
from bridge.stdio.transport import serve_stdio
from bridge.telemetry import log_events as report
from bridge.telemetry.audit import OTHERS, Audit
from bridge.telemetry.metrics import Metrics, Standing
from bridge.telemetry.tracing import Tracing
from bridge.toolfiles.reloader import Reloader
from bridge.upstream.client import Client

Transport: TypeAlias = Callable[["Bridge", anyio.Event], Awaitable[None]]
"""Serves until the event is set; raises ``OSError``, whose text is shown, where it cannot begin."""

EndTraces: TypeAlias = Callable[[], None]

_log: Final = logging.getLogger("bridge")
_MMAP_THRESHOLD: Final = -3
"""M_MMAP_THRESHOLD of malloc.h."""


def run_http(beginning: Beginning, address: Address, end_traces: EndTraces | None = None) -> int:
    """Serves HTTP until a signal; a worker, too, until its stdin ends. Its URL goes to its stdout.

    With ``end_traces`` there are traces, until that is called.
    """
    uvloop = {"use_uvloop": find_spec("uvloop") is not None}  # halves what a request costs
    if beginning.worker is None:
        say = partial(_say_url, beginning.settings)
        transport = partial(over_http, address, say)
        return anyio.run(serve, beginning, transport, end_traces, backend_options=uvloop)
    with private_stdio() as (source, sink):
        transport = partial(_beside_others, address, source, sink)
        return anyio.run(serve, beginning, transport, end_traces, backend_options=uvloop)


def run_stdio(
    beginning: Beginning,
    source: int,
    sink: int,
    before: Before,
    signals: Sequence[int] = (),
    *,
    end_traces: EndTraces | None = None,
) -> int:
    """Serves the client at the other end of two descriptors, after what was said ``before``.

    After ``signals`` that came meanwhile it answers what waits, and ends.
    """

    async def over(bridge: Bridge, stop: anyio.Event) -> None:
        if signals:
            stop.set()
        await over_stdio(source, sink, before, bridge, stop)

    return anyio.run(serve, beginning, over, end_traces)


async def serve(beginning: Beginning, transport: Transport, end_traces: EndTraces | None = None) -> int:
    """Serve over ``transport`` and reload meanwhile, until it or a signal ends that; 2 if it cannot begin."""
    bridge = Bridge(beginning, Tracing() if end_traces else None)
    _share_evenly()
    _give_back_memory()
    stop = anyio.Event()
    code = 0
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(stop_on_signal, stop)
            await tasks.start(ask_on_signal, bridge.ask)
            if beginning.hangups:
                bridge.ask()
            tasks.start_soon(bridge.reloader.run)
            tasks.start_soon(bridge.metrics.run)
            if bridge.live:
                tasks.start_soon(bridge.live.run)
            try:
                await transport(bridge, stop)
            except OSError as error:
                _log.error("%s", error.strerror)
                code = 2
            tasks.cancel_scope.cancel()
    finally:
        bridge.log.flush()
        await bridge.client.aclose()
        if bridge.audit:
            bridge.audit.close()
        if end_traces:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(end_traces)
    return code


def _share_evenly() -> None:
    """Let nothing that takes long hold up the calls beside it.

    The collector stops every thread while it looks at all there is: so it leaves alone what was loaded,
    and looks seldom, as hardly anything that a call leaves behind is a cycle. And whoever reads a large
    reply in a thread gives way after a millisecond, where each step of a call waits for its turn.
    """
    gc.freeze()
    gc.set_threshold(2_000, 10, 10)
    sys.setswitchinterval(0.001)


def _give_back_memory() -> None:
    """Have large buffers mapped one by one, so that each is given back when it is freed (mallopt(3)).

    Left alone, glibc learns from the first large replies to cut such buffers from its heap, and for hours that grows
    by the holes that they leave there. Other libraries know no such word. What asyncio reads with, 256 KiB each time,
    stays in the heap: to map that costs more than the rest of a call.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 320 * 1024)


class Bridge:
    """The rooms of one process, wired."""

    def __init__(self, beginning: Beginning, tracing: Tracing | None = None) -> None:
        settings = beginning.settings
        self._tracing = tracing
        self.express = settings.express
        self.grace = settings.grace
        self.views = settings.offered
        self.host_names = settings.host_names
        self._shelf, self._told = beginning.shelf, beginning.told
        self._digest = Digest()
        self._audited = self._digest.of(self._shelf.loaded) if settings.audit else ""
        self.registry = beginning.registry
        self.audit = self._open_audit(settings, silent=beginning.told.silent)
        self.client = Client(emit=self._ear, watch=tracing.sending if tracing else None)
        self.live = _live(settings, self.client, self._ear, silent=beginning.told.silent)
        self.shares_port = beginning.worker is not None
        alone = not (self.shares_port or settings.stateless)
        resource = self.live and self.live.resource
        self.resource = Resource(resource, self._scopes_supported) if resource else None
        limits = settings.limits if settings.http else UNBOUNDED
        self.server = ToolServer(
            self.registry, self.client, self._ear, alone=alone, limits=limits, tracing=tracing
        )
        self.metrics = Metrics(lambda: self.server.limits.now, self._standing)
        self.metrics.begin(good=not self._shelf.loaded.broken)
        self.log = report.EventLog()
        self._ears: list[Ear] = [self.log.hear]
        if settings.http:
            self._ears.append(self.metrics.hear)
        if self.audit:
            self._ears.append(self.audit.hear)
        if not beginning.told.silent:
            self._tell_of_nobody()
        announce = self.server.announcer.announce
        self.reloader = Reloader(beginning.shelf, emit=self._hear, announce=announce, alone=alone)
        self.desk = Desk(
            self.registry,
            beginning.shelf,
            self.reloader,
            self.server.announcer,
            self.live,
            self.views,
            self._digest,
        )

    def _open_audit(self, settings: Settings, *, silent: bool) -> Audit | None:
        if settings.audit is None:
            return None
        try:
            audit = Audit(settings.audit, self._ear, required=settings.audit_required)
        except OSError as error:
            raise click.ClickException(
                f"the audit file {settings.audit} cannot be written: {error.strerror}; name another"
            ) from None
        if audit.mode & OTHERS and not silent:
            text = "audit: others may read or write %s (mode %03o); restrict it: chmod 600"
            _log.warning(text, settings.audit, audit.mode)
        return audit

    def _tell_of_nobody(self) -> None:
        """Whom no token is shown for."""
        upstreams = {tool.upstream.name: tool.upstream.spec.auth for tool in self.registry.current.tools}
        exchanging = [name for name, auth in upstreams.items() if isinstance(auth, TokenExchangeAuth)]
        if exchanging and not (self.live and self.live.access and self.live.access.issuers):
            text = "%s: called in the name of who shows a token, and here nobody can; set access.jwt, and serve HTTP"
            _log.warning(text, ", ".join(exchanging))

    def _scopes_supported(self) -> Iterable[str]:
        """The scopes that clients without a token are told to ask for."""
        assert self.live
        assert self.live.access
        patterns = self.live.access.scopes_supported
        return [scope for scope in self.registry.current.scopes if any(matches(p, scope) for p in patterns)]

    def _standing(self) -> Standing:
        loaded, live = self._shelf.loaded, self.live
        return Standing(
            Counter(file.state for file in loaded.tools.values()),
            self._digest.of(loaded),
            live.access.next_expiry if live and live.access else math.inf,
            is_settings_file_broken=live is not None and live.is_broken,
        )

    def begin(self) -> None:
        """It serves from now on."""
        if self.audit and not self._told.silent:
            self.audit.began(self._audited)

    def ask(self) -> None:
        """Have all files read again soon."""
        self.reloader.ask()
        if self.live:
            self.live.ask()

    def _ear(self, event: Event) -> None:
        if self._tracing:
            match event:
                case CallStarted():
                    event = self._tracing.started(event)
                case CallFinished():
                    event = self._tracing.outcome(event)
                case _:
                    pass
        for ear in self._ears:
            ear(event)

    def _hear(self, event: SnapshotReplaced) -> None:
        """After a reload: what no tool sends to is let go."""
        self._told.tell(event, self._shelf.loaded)
        self.metrics.hear(event)
        if self.audit and not self._told.silent:
            before, self._audited = self._audited, self._digest.of(self._shelf.loaded)
            self.audit.reloaded(event, before, self._audited)
        if event.rerouted:
            self.client.retire(tool.upstream for tool in self._shelf.loaded.snapshot.tools)


def _live(settings: Settings, client: Client, emit: Ear, *, silent: bool) -> LiveSettings | None:
    if settings.config is None:
        return None
    fetch = partial(fetch_or_read, client)
    return LiveSettings(settings.config, settings.poll, fetch, emit, guarded=settings.guarded, silent=silent)


async def over_http(
    address: Address, started: Callable[[str, Registry], None], bridge: Bridge, stop: anyio.Event
) -> None:
    """Serve HTTP; ``started`` hears the URL, and what is served."""
    bridge.begin()
    await serve_http(
        bridge.server,
        address.host,
        address.port,
        stop,
        lambda url: started(url, bridge.registry),
        express=bridge.express,
        grace=bridge.grace,
        views=bridge.views,
        access=bridge.live.access if bridge.live else None,
        resource=bridge.resource,
        names=bridge.host_names,
        shared=bridge.shares_port,
        operator=Operator(bridge.desk.status, bridge.desk.reload, bridge.metrics.exposition),
    )
    if not bridge.shares_port:
        _log.info("stopped")


async def _beside_others(address: Address, source: int, sink: int, bridge: Bridge, stop: anyio.Event) -> None:
    """Serve HTTP until there is an end to read from ``source``; the URL goes to ``sink``."""

    async def heed() -> None:
        await anyio.wait_readable(source)
        stop.set()

    def started(url: str, _registry: Registry) -> None:
        with suppress(BrokenPipeError):  # then the end waits to be read, too
            os.write(sink, f"{url}\n".encode())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(heed)
        if bridge.live:
            tasks.start_soon(_release, bridge.live, stop)
            await bridge.live.readable()
        if not stop.is_set():
            await over_http(address, started, bridge, stop)
        tasks.cancel_scope.cancel()


async def _release(live: LiveSettings, stop: anyio.Event) -> None:
    await stop.wait()
    live.release()


async def over_stdio(source: int, sink: int, before: Before, bridge: Bridge, stop: anyio.Event) -> None:
    """Serve the one client at the other end of two descriptors."""
    bridge.begin()
    _log.info("serving over stdio")
    await serve_stdio(
        bridge.server, source, sink, stop, before=before, express=bridge.express, grace=bridge.grace
    )


def _say_url(settings: Settings, url: str, registry: Registry) -> None:
    _log.info("serving %s%s", url, f"; {report.NO_SESSIONS}" if settings.stateless else "")
    for name, view in settings.offered.items():
        tools = registry.current.seen_by(Caller(view=view)).tools
        _log.info("view %s: %s at %s/%s", name, report.count(len(tools), "tool"), url, name)
