"""``restbridge serve``: loads the tools, then imports the SDK, which takes a second, and serves.

| Step of a start | Why then |
|---|---|
| SIGHUP is collected | by default it would end the process |
| the socket of systemd, or of the old version, is taken | its address counts |
| the address, the directories and the certificate are checked | wrong use is reported like that of every command, without the format of the log |
| the log is configured, the tools are loaded | problems of files are logged; with --strict they end the start |
| over stdio: stdout becomes private | a stray print of a library would break the protocol |
| over stdio: signals are collected, early answers start | the client waits, and may end the process, during the import |
| the SDK is imported, ``app/transports`` serves | late, so that errors above are shown at once |
"""

import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

import click

from bridge.address import Address, is_loopback
from bridge.app.activation import activated_listener, address_of
from bridge.app.handover import Handover
from bridge.app.processors import allowed_processors, automatic_workers
from bridge.app.startup import StartupState, directories, held_reload_signals, held_signals
from bridge.app.worker import Worker
from bridge.errors import StartError
from bridge.http.listeners import bind
from bridge.secrets import Sources
from bridge.settings import Http, Settings
from bridge.stdio.descriptors import private_stdio
from bridge.stdio.early_answers import EarlyAnswers
from bridge.telemetry import log_output

_log: Final = logging.getLogger(__name__)

_COLLECTOR: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""The variables that name the collector of traces (OpenTelemetry specification, OTLP exporter)."""
_PROTOCOL: Final = "http/protobuf"


def run(settings: Settings, *, worker: Worker | None = None) -> int:
    """Serve until a signal or the end of input; answers 1 if ``settings`` are strict and a file has errors.

    With several workers, it runs the supervisor. ``worker`` is this worker process.
    """
    with held_reload_signals() as hangups:
        return _run(settings, worker, hangups)


def run_worker() -> int:
    """Serve as a worker process, with what the supervisor writes to stdin."""
    # It stays open: its end, later, tells the worker to stop. The supervisor may have ended before the line.
    with open(0, "rb", closefd=False) as stdin:
        line = stdin.readline()
    if not line.endswith(b"\n"):
        return 0
    worker, settings = Worker.from_json(line)
    return run(settings, worker=worker)


def _run(settings: Settings, worker: Worker | None, hangups: Sequence[int]) -> int:
    handover = Handover.take(os.environ) if worker is None else None
    settings, listener = _with_open_socket(settings, handover) if worker is None else (settings, None)
    http = settings.http
    needs_certificate = http and http.tls and http.tls.client_ca_file
    if http and not (settings.has_access_control or http.insecure or needs_certificate):
        require_loopback(http.listen)
    places = directories(settings)
    if http and http.tls and worker is None:  # workers would each show the same error
        from bridge.app.tls_watcher import files_of, load

        load(files_of(http.tls))
    log_output.configure(form=settings.log.format, worker=worker.name if worker else None)
    if http and worker is None and ((workers := _workers(http)) > 1 or handover):
        return _supervise(settings, http, workers, listener, handover)
    startup = StartupState.load(settings, places, Sources(os.environ), worker, hangups)
    if startup is None:
        return 1
    if http:
        from bridge.app.transports import run_http

        return run_http(startup, http.listen, _traces(startup), listener)
    with private_stdio() as (source, sink), held_signals() as signals:
        early_answers = EarlyAnswers(startup.registry.current, source, sink)
        if settings.fast_path:
            early_answers.start()
        from bridge.app.transports import run_stdio

        end_traces = _traces(startup)
        return run_stdio(startup, source, sink, early_answers.stop(), signals, end_traces=end_traces)


def _with_open_socket(settings: Settings, handover: Handover | None) -> tuple[Settings, socket.socket | None]:
    """The socket of the old version, or of systemd, if there is one. Then ``listen`` of the settings is its address."""
    http = settings.http
    if http is None:
        if handover:
            handover.listener.close()
            raise StartError("the settings no longer serve HTTP; stop and start the bridge instead")
        return settings, None
    listener = handover.listener if handover else activated_listener(os.environ)
    if listener:
        # Clients may still use the name of the host that was to be bound.
        names = (*http.host_names, http.listen.host)
        http = http.model_copy(update={"listen": address_of(listener), "host_names": names})
        settings = settings.model_copy(update={"http": http})
    return settings, listener


def _supervise(
    settings: Settings,
    http: Http,
    workers: int,
    listener: socket.socket | None,
    handover: Handover | None,
) -> int:
    from bridge.app.workers import supervise  # the supervisor itself never imports the SDK

    if handover and handover.is_check:
        import bridge.app.transports  # noqa: F401 - what the workers need

        handover.listener.close()
        return 0
    try:
        listener = listener or bind(http.listen)
    except OSError as error:
        _log.error("%s", error.strerror)
        return 2
    return supervise(settings, http, workers, listener, handover)


def _workers(http: Http) -> int:
    return automatic_workers(allowed_processors()) if http.workers == "auto" else http.workers


def _traces(startup: StartupState) -> Callable[[], None] | None:
    """Start to send traces if the environment names a collector; answers what stops that."""
    variable = next((name for name in _COLLECTOR if os.environ.get(name)), None)
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if variable is None or is_off or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    try:
        from bridge.telemetry.exporter import Exporter
    except ModuleNotFoundError:
        level = logging.DEBUG if startup.reporter.is_silent else logging.WARNING
        _log.log(level, "%s is set, but tracing is off: restbridge[otel] is not installed", variable)
        return None
    # Only the first worker logs. The netloc is cut, as it may hold a password: https://user:password@host
    info, warn = (_log.debug, _log.debug) if startup.reporter.is_silent else (_log.info, _log.warning)
    info("traces go to %s", urlsplit(os.environ[variable]).netloc.rpartition("@")[2] or "nowhere")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if os.environ.get(name, _PROTOCOL) != _PROTOCOL:
            warn("%s is set, but traces are always sent as %s", name, _PROTOCOL)
    return Exporter().close


def require_loopback(address: Address) -> None:
    """Raises ``click.UsageError`` for an address that other machines can reach."""
    if not is_loopback(address.host):
        raise click.UsageError(
            f"on {address} others could call the tools without authentication; leave the host out, set access "
            "in the settings file, or use serve --insecure if a proxy in front of the bridge authenticates "
            "callers"
        )
