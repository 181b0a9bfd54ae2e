"""``restbridge serve``: tool files become tools that agents call, over stdio or HTTP."""

import errno
import gc
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.util import find_spec
from typing import Final, TypeAlias

import anyio
import click

from bridge.commands import report
from bridge.commands.loading import directories
from bridge.diagnostics import Diagnostic
from bridge.events import SnapshotReplaced
from bridge.registry import Registry
from bridge.secrets import Sources
from bridge.server import logs
from bridge.server.handlers import ToolServer
from bridge.server.http import is_loopback, serve_http
from bridge.server.signals import ask_on_signal, stop_on_signal
from bridge.server.stdio import private_stdio, serve_stdio
from bridge.settings import Address, Settings
from bridge.toolfiles.files import Directories
from bridge.toolfiles.reloader import Reloader
from bridge.upstream.client import Client

Transport: TypeAlias = Callable[["Bridge", anyio.Event], Awaitable[None]]
"""Serves until the event is set; raises ``OSError``, whose text is shown, where it cannot begin."""

_log: Final = logging.getLogger("bridge")
_LEVELS: Final = {"error": logging.ERROR, "warning": logging.WARNING}


def run(settings: Settings, http: Address | None, *, insecure: bool) -> int:
    """Serves until a signal or the end of input."""
    if http and not insecure:
        require_loopback(http)
    places = directories(settings)
    logs.configure()
    serve_over = partial(serve, settings, places, Sources(os.environ))
    if http:
        uvloop = {"use_uvloop": find_spec("uvloop") is not None}  # halves what a request costs
        return anyio.run(serve_over, partial(over_http, http, _say_url), backend_options=uvloop)
    with private_stdio() as (source, sink):
        return anyio.run(serve_over, partial(over_stdio, source, sink))


def require_loopback(address: Address) -> None:
    """Raises ``click.UsageError`` for an address that others can reach."""
    if not is_loopback(address.host):
        raise click.UsageError(
            f"on {address} others could call the tools, and are not asked who they are; leave the host out, "
            "or use serve with --insecure if something in front of the bridge asks"
        )


async def serve(settings: Settings, places: Directories, sources: Sources, transport: Transport) -> int:
    """Load, then serve over ``transport`` and reload meanwhile, until it or a signal ends that.

    Answers 1 if a file has errors and ``settings`` are strict, 2 if ``transport`` cannot begin.
    """
    bridge = Bridge(settings, places, sources)
    await bridge.reloader.reload()
    _share_evenly()
    if settings.strict and bridge.reloader.loaded.broken:
        _log.error("not started, for a file has errors and --strict was given")
        return 1
    stop = anyio.Event()
    code = 0
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(stop_on_signal, stop)
            await tasks.start(ask_on_signal, bridge.reloader.ask)
            tasks.start_soon(bridge.reloader.run)
            try:
                await transport(bridge, stop)
            except OSError as error:
                _log.error("%s", error.strerror)
                code = 2
            tasks.cancel_scope.cancel()
    finally:
        await bridge.client.aclose()
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


class Bridge:
    """The rooms of one process, wired."""

    def __init__(self, settings: Settings, places: Directories, sources: Sources) -> None:
        self.express = settings.express
        self.registry = Registry()
        self.client = Client(emit=report.ear)
        self.server = ToolServer(self.registry, self.client, report.ear)
        self.reloader = Reloader(
            places,
            self.registry,
            sources,
            emit=self._hear,
            announce=self.server.announcer.announce,
            keep=settings.on_invalid == "keep",
            poll=settings.poll,
        )
        self._told: frozenset[Diagnostic] = frozenset()

    def _hear(self, event: SnapshotReplaced) -> None:
        """After a reload: what is wrong is told once, and what no tool sends to is let go."""
        report.ear(event)
        loaded = self.reloader.loaded
        for diagnostic in loaded.diagnostics:
            if diagnostic not in self._told:
                _log.log(_LEVELS[diagnostic.severity], "%s", diagnostic)
        for file in loaded.kept:
            if not self._told.issuperset(file.diagnostics):
                _log.info("%s: its last good version serves on", file.place.shown)
        self._told = frozenset(loaded.diagnostics)
        if event.rerouted:
            self.client.retire(tool.upstream for tool in loaded.snapshot.tools)


async def over_http(
    address: Address, started: Callable[[str, Registry], None], bridge: Bridge, stop: anyio.Event
) -> None:
    """Serve HTTP; ``started`` hears the URL, and what is served."""
    try:
        await serve_http(
            bridge.server,
            address.host,
            address.port,
            stop,
            lambda url: started(url, bridge.registry),
            express=bridge.express,
        )
    except OSError as error:
        advice = "; choose another port" if error.errno == errno.EADDRINUSE else ""
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}{advice}") from error


async def over_stdio(source: int, sink: int, bridge: Bridge, stop: anyio.Event) -> None:
    """Serve the one client at the other end of two descriptors."""
    _log.info("serving over stdio")
    await serve_stdio(bridge.server, source, sink, stop)


def _say_url(url: str, _registry: Registry) -> None:
    _log.info("serving %s", url)
