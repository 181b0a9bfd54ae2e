"""``restbridge serve``, until the SDK is there: it takes a second to import, the tools are loaded before."""

import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final
from urllib.parse import urlsplit

import click

from bridge.address import Address, is_loopback
from bridge.commands.loading import chosen_view, directories
from bridge.registry import Registry, Snapshot
from bridge.secrets import Sources
from bridge.settings import Settings
from bridge.stdio.descriptors import private_stdio
from bridge.stdio.early_answers import FirstAnswers
from bridge.telemetry import log_output as logs
from bridge.telemetry.log_events import Told
from bridge.toolfiles.directory import Shelf
from bridge.toolfiles.watch.scan import Directories

_log: Final = logging.getLogger("bridge")

_COLLECTOR: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""The variables that name where traces go (the OpenTelemetry specification, exporters)."""
_PROTOCOL: Final = "http/protobuf"


@dataclass(frozen=True, slots=True)
class Beginning:
    """What there is before a server: tools that were loaded, and what was told of them.

    ``worker`` counts from 1 the processes that serve on one port; all see the same files, and the first one
    tells what is to be told of them.
    """

    settings: Settings
    registry: Registry
    shelf: Shelf
    told: Told
    worker: int | None = None
    hangups: Sequence[int] = ()
    """The signals that ask for a reload, of those that came too soon to be heard."""

    @classmethod
    def load(
        cls,
        settings: Settings,
        places: Directories,
        sources: Sources,
        worker: int | None = None,
        hangups: Sequence[int] = (),
    ) -> "Beginning | None":
        """None if a file has errors and ``settings`` are strict."""
        silent = worker is not None and worker > 1
        view = chosen_view(settings)
        registry = Registry(read_only=settings.read_only, view=view)
        told = Told({settings.view: view} if settings.view and view else settings.views, silent=silent)
        keep = settings.on_invalid == "keep"
        shelf = Shelf(places, registry, sources, keep=keep, poll=settings.poll)
        told.tell(shelf.begin(), shelf.loaded)
        if settings.strict and shelf.loaded.broken:
            if not silent:
                _log.error("not started, for a file has errors and --strict was given")
            return None
        if not silent:
            _tell_of_limits(settings, shelf.loaded.snapshot, registry.current)
        return cls(settings, registry, shelf, told, worker, hangups)


def _tell_of_limits(settings: Settings, loaded: Snapshot, served: Snapshot) -> None:
    if left_out := len(loaded.tools) - len(served.tools):
        _log.info(
            "%s: of %d tools %d are not served",
            " and ".join(
                ["read-only"] * settings.read_only + [f"view {settings.view}"] * bool(settings.view)
            ),
            len(loaded.tools),
            left_out,
        )
    if settings.http and not settings.guarded and any(tool.scopes for tool in served.tools):
        _log.warning(
            "scopes of tools bind nobody, as nobody is asked who calls; set access in the settings file"
        )


def run(settings: Settings, *, worker: int | None = None) -> int:
    """Serves until a signal or the end of input; 1 if a file has errors and ``settings`` are strict.

    With several workers it starts as many processes that do; each is told which ``worker`` it is.
    """
    with _held_hangups() as hangups:
        return _run(settings, worker, hangups)


def _run(settings: Settings, worker: int | None, hangups: Sequence[int]) -> int:
    http, several = settings.http, settings.workers > 1 and worker is None
    if http and not (settings.guarded or settings.insecure):
        require_loopback(http)
    if not http:
        _refuse_idle(settings)
    if settings.audit_required and settings.audit is None:
        raise click.UsageError("--audit-required needs the file, too: --audit FILE")
    places = directories(settings)
    logs.configure(form=settings.log_format)
    if several and http:
        from bridge.app.workers import supervise

        return supervise(settings, http)
    beginning = Beginning.load(settings, places, Sources(os.environ), worker, hangups)
    if beginning is None:
        return 1
    if http:
        from bridge.app.runtime import run_http

        return run_http(beginning, http, _traces(beginning))
    with private_stdio() as (source, sink), held_signals() as signals:
        first = FirstAnswers(beginning.registry.current, source, sink)
        if settings.express:
            first.start()
        from bridge.app.runtime import run_stdio

        end_traces = _traces(beginning)
        return run_stdio(beginning, source, sink, first.stop(), signals, end_traces=end_traces)


def _traces(beginning: Beginning) -> Callable[[], None] | None:
    """Begin to send traces, if the environment says where to; what is answered ends that."""
    named = next((name for name in _COLLECTOR if os.environ.get(name)), None)
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if named is None or is_off or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    try:
        from bridge.telemetry.exporter import Exporter
    except ModuleNotFoundError:
        level = logging.DEBUG if beginning.told.silent else logging.WARNING
        _log.log(level, "%s is set, but no traces are made: restbridge[otel] is not installed", named)
        return None
    say, warn = (_log.debug, _log.debug) if beginning.told.silent else (_log.info, _log.warning)
    say("traces go to %s", urlsplit(os.environ[named]).netloc.rpartition("@")[2] or "nowhere")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if os.environ.get(name, _PROTOCOL) != _PROTOCOL:
            warn("%s is set, but traces are sent as %s alone", name, _PROTOCOL)
    return Exporter().close


@contextmanager
def _held_hangups() -> Iterator[list[int]]:
    """Those that come before a server listens for them, which else would end the process."""
    held: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _frame: held.append(number))
    yield held
    signal.signal(signal.SIGHUP, before)


@contextmanager
def held_signals() -> Iterator[list[int]]:
    """The signals that ask to stop while nobody waits for them yet; the second one ends the process at once."""
    held: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {each: signal.signal(each, hold) for each in (signal.SIGTERM, signal.SIGINT)}
    yield held


def _refuse_idle(settings: Settings) -> None:
    """Raises ``click.UsageError`` for what means nothing over stdio."""
    chosen = {
        "--workers": settings.workers > 1,
        "--host-name": bool(settings.host_names),
        "--stateless": settings.stateless,
        "--insecure": settings.insecure,
    }
    if idle := [option for option, is_chosen in chosen.items() if is_chosen]:
        raise click.UsageError(f"{idle[0]} is for HTTP; say where to serve it, too: --http [HOST:]PORT")


def require_loopback(address: Address) -> None:
    """Raises ``click.UsageError`` for an address that others can reach."""
    if not is_loopback(address.host):
        raise click.UsageError(
            f"on {address} others could call the tools, and are not asked who they are; leave the host out, "
            "give callers keys (access in the settings file), or use serve with --insecure if something in "
            "front of the bridge asks"
        )
