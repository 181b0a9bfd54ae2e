"""The transports of a server process: HTTP, HTTP as one of several workers, stdio."""

import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import Final

import anyio

from bridge.address import Address
from bridge.app.runtime import Runtime, StopTracing, serve
from bridge.app.settings_watcher import SettingsWatcher
from bridge.app.startup import StartupState
from bridge.caller import Caller
from bridge.http.admin_routes import AdminEndpoints
from bridge.http.listeners import inherited
from bridge.http.server import Endpoint, Listening, serve_http
from bridge.registry import Registry
from bridge.settings import Settings
from bridge.stdio.descriptors import private_stdio
from bridge.stdio.early_answers import Handoff
from bridge.stdio.transport import serve_stdio
from bridge.wording import count

DRAIN_SECONDS: Final = 0.5
"""For requests that clients sent before they knew that the server stops."""

_log: Final = logging.getLogger(__name__)


def run_http(
    startup: StartupState,
    address: Address,
    end_traces: StopTracing | None = None,
    listener: socket.socket | None = None,
) -> int:
    """Serve HTTP until a signal, on ``listener`` if it is given; answers the exit code.

    A worker also ends at the end of its stdin, and writes its URL to stdout. With ``end_traces``, calls are traced until
    that is called.
    """
    uvloop = {"use_uvloop": find_spec("uvloop") is not None}  # halves the cost of a request
    if startup.worker is None:
        transport = partial(over_http, address, partial(_log_url, startup.settings), listener=listener)
        return anyio.run(serve, startup, transport, end_traces, backend_options=uvloop)
    with private_stdio() as (source, sink):
        transport = partial(_as_worker, address, source, sink)
        return anyio.run(serve, startup, transport, end_traces, backend_options=uvloop)


def run_stdio(
    startup: StartupState,
    source: int,
    sink: int,
    before: Handoff,
    signals: Sequence[int] = (),
    *,
    end_traces: StopTracing | None = None,
) -> int:
    """Serve the client at two file descriptors; answers the exit code.

    ``before`` holds the messages that were read before the SDK was imported. If ``signals`` came meanwhile, waiting requests
    are answered, and serving ends.
    """

    async def over(runtime: Runtime, stop: anyio.Event) -> None:
        if signals:
            stop.set()
        await over_stdio(source, sink, before, runtime, stop)

    return anyio.run(serve, startup, over, end_traces)


async def over_http(
    address: Address,
    started: Callable[[str, Registry], None],
    runtime: Runtime,
    stop: anyio.Event,
    *,
    listener: socket.socket | None = None,
) -> None:
    """Serve HTTP. ``started`` gets the URL and the registry."""
    runtime.record_start()  # before the first call: the audit file shows which files were served then
    settings, http = runtime.settings, runtime.settings.http
    await serve_http(
        runtime.server,
        _listening(address, runtime, listener),
        stop,
        lambda url: started(url, runtime.registry),
        endpoint=Endpoint(
            host_names=http.host_names if http else (),
            fast_path=settings.fast_path,
            credentials=runtime.credentials,
            resource=runtime.resource,
            admin=AdminEndpoints(
                runtime.all_workers.status, runtime.all_workers.reload, runtime.metrics.exposition
            ),
            views=settings.offered,
        ),
        emit=runtime.emit,
    )
    if runtime.worker is None:  # for workers, the supervisor logs it once
        _log.info("stopped")


def _listening(address: Address, runtime: Runtime, listener: socket.socket | None) -> Listening:
    worker = runtime.worker
    return Listening(
        address,
        runtime.settings.grace,
        DRAIN_SECONDS,
        inherited=inherited(worker.listener) if worker else listener,
        share=worker.share if worker else None,
        tls=runtime.tls_watcher.tls if runtime.tls_watcher else None,
    )


async def _as_worker(address: Address, source: int, sink: int, runtime: Runtime, stop: anyio.Event) -> None:
    """Serve HTTP until the end of ``source``. The URL is written to ``sink``."""

    async def stop_at_end() -> None:
        await anyio.wait_readable(source)  # the supervisor writes nothing after the settings: this is the end
        stop.set()

    def started(url: str, _registry: Registry) -> None:
        with suppress(BrokenPipeError):  # the supervisor is gone, so source is at its end, too
            os.write(sink, f"{url}\n".encode())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop_at_end)
        await tasks.start(runtime.siblings.run)
        if runtime.settings_watcher:
            tasks.start_soon(_release, runtime.settings_watcher, stop)
            # The supervisor restarts a worker also after an edit that broke the file. Without keys it would
            # refuse callers that the other workers accept.
            await runtime.settings_watcher.wait_until_read()
        if not stop.is_set():
            await over_http(address, started, runtime, stop)
        tasks.cancel_scope.cancel()


async def _release(watcher: SettingsWatcher, stop: anyio.Event) -> None:
    """Let a worker that waits for its settings file stop."""
    await stop.wait()
    watcher.release()


async def over_stdio(source: int, sink: int, before: Handoff, runtime: Runtime, stop: anyio.Event) -> None:
    """Serve the client at two file descriptors."""
    runtime.record_start()
    _log.info("serving over stdio")
    settings = runtime.settings
    await serve_stdio(
        runtime.server, source, sink, stop, handoff=before, fast_path=settings.fast_path, grace=settings.grace
    )


def _log_url(settings: Settings, url: str, registry: Registry) -> None:
    _log.info("serving %s", url)
    for name, view in settings.offered.items():
        tools = registry.current.seen_by(Caller(view=view)).tools
        _log.info("view %s: %s at %s/%s", name, count(len(tools), "tool"), url, name)
