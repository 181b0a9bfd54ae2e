"""The state before the server starts: loaded tools, and signals that arrived early.

The SDK is not imported here, as that takes a second. Tools are loaded meanwhile, and early requests are answered.
"""

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from bridge.address import is_loopback
from bridge.app.reload_log import ReloadReporter
from bridge.app.worker import Worker
from bridge.codec import quote
from bridge.diagnostics import did_you_mean
from bridge.errors import StartError
from bridge.registry import Registry, Snapshot
from bridge.secrets import Sources
from bridge.settings import Settings
from bridge.toolfiles.directory import ToolDirectory
from bridge.toolfiles.place import Directories, Owner
from bridge.view import View

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StartupState:
    """What a server starts with: settings, loaded tools, and the reporter that has logged their problems.

    ``worker`` is this worker process, None without workers. All workers load the same files; only the first one logs
    their problems.
    """

    settings: Settings
    registry: Registry
    tool_directory: ToolDirectory
    reporter: ReloadReporter
    worker: Worker | None = None
    hangups: Sequence[int] = ()
    """SIGHUPs that arrived before a handler was installed."""

    @classmethod
    def load(
        cls,
        settings: Settings,
        places: Directories,
        sources: Sources,
        worker: Worker | None = None,
        hangups: Sequence[int] = (),
    ) -> "StartupState | None":
        """None if a file has errors and ``settings`` are strict."""
        is_silent = worker is not None and worker.number > 1
        view = chosen_view(settings)
        registry = Registry(read_only=settings.read_only, view=view)
        keep = settings.on_invalid == "keep"
        tool_directory = ToolDirectory(places, registry, sources, keep=keep, poll=settings.poll)
        views = {settings.view: view} if settings.view and view else settings.views
        reporter = ReloadReporter(lambda: tool_directory.loaded, views, is_silent=is_silent)
        reporter.on_event(tool_directory.start())  # before the check: --strict shows the errors, too
        if settings.strict and tool_directory.loaded.broken:
            if not is_silent:
                _log.error("not started: a file has errors, and --strict is set")
            return None
        if not is_silent:
            _log_restrictions(settings, tool_directory.loaded.snapshot, registry.current)
        return cls(settings, registry, tool_directory, reporter, worker, hangups)


def _log_restrictions(settings: Settings, loaded: Snapshot, served: Snapshot) -> None:
    if left_out := len(loaded.tools) - len(served.tools):
        _log.info(
            "%s: of %d tools %d are not served",
            " and ".join(
                ["read-only"] * settings.read_only + [f"view {settings.view}"] * bool(settings.view)
            ),
            len(loaded.tools),
            left_out,
        )
    if settings.http and settings.http.stateless:
        _log.warning("stateless has no effect: the server no longer keeps sessions; remove it")
    if settings.http and not settings.has_access_control and any(tool.scopes for tool in served.tools):
        _log.warning("scopes of tools have no effect without access control; set access in the settings file")
    if (http := settings.http) and not (http.tls or http.insecure or is_loopback(http.listen.host)):
        text = "%s: keys and results cross the network in clear text; set http.tls, or have a proxy add TLS"
        _log.warning(text, http.listen)


@contextmanager
def held_reload_signals() -> Iterator[list[int]]:
    """Collect each SIGHUP until the server handles it, and ignore SIGUSR2, which only a supervisor handles.

    The default handlers would end the process.
    """
    held: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _frame: held.append(number))
    upgrade = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    yield held
    signal.signal(signal.SIGHUP, before)
    signal.signal(signal.SIGUSR2, upgrade)


@contextmanager
def held_signals() -> Iterator[list[int]]:
    """Collect the first SIGTERM or SIGINT until the server handles it. The second one ends the process."""
    held: list[int] = []
    previous = {each: signal.getsignal(each) for each in _STOP_SIGNALS}

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)
        restore()

    def restore() -> None:
        for each, handler in previous.items():
            signal.signal(each, handler)

    for each in _STOP_SIGNALS:
        signal.signal(each, hold)
    if held:  # it came after the first of the two
        restore()
    yield held


def directories(settings: Settings) -> Directories:
    """The directories of the settings; raises ``StartError`` if one does not exist."""
    upstreams = settings.upstreams
    for directory in (*settings.tools, *([upstreams] if upstreams else [])):
        if directory.is_file():
            raise StartError(f"{directory} is a file, expected a directory; name its directory")
        if not directory.is_dir():
            advice = "create it, or name another directory"
            if directory.name.isdigit():  # restbridge serve 8000
                advice = f"to serve HTTP on that port, write --http {directory.name}"
            raise StartError(f"{directory.absolute()} does not exist; {advice}")
    owners = tuple(_owner(settings, pattern, folder) for pattern, folder in settings.owners.items())
    return Directories(tuple(map(str, settings.tools)), str(upstreams) if upstreams else None, owners)


def _owner(settings: Settings, pattern: str, folder: str) -> Owner:
    """The owner that an entry under ``owners`` names.

    ``folder`` is relative to the settings file, and must be one of the directories or be inside one. If there is only one
    directory, ``folder`` may be relative to it. With several, that would be ambiguous: anyone who creates such a folder in
    another directory would become an owner.
    """
    # abspath, not resolve: places of files are compared as written, without following links.
    written = Path(os.path.abspath((settings.config.parent if settings.config else Path()) / folder))  # noqa: PTH100 - see toolfiles/watch/scan
    for directory in (*settings.tools, *([settings.upstreams] if settings.upstreams else [])):
        root = os.path.abspath(directory)  # noqa: PTH100
        if written.is_relative_to(root):
            within = written.relative_to(root).as_posix()
            return Owner(pattern, str(directory), "" if within == "." else within)
    if len(settings.tools) > 1:
        example = f"{settings.tools[0]}/{folder}"
        text = f"owners: {folder} is in no directory of tool files; write its path, for example {example}"
        raise StartError(text)
    return Owner(pattern, str(settings.tools[0]), os.path.normpath(folder))


def chosen_view(settings: Settings) -> View | None:
    """The view that the settings choose; raises ``StartError`` if it does not exist."""
    if settings.view is None:
        return None
    if view := settings.views.get(settings.view):
        return view
    if settings.views:
        known = ", ".join(settings.views)
        advice = did_you_mean(settings.view, settings.views) or f"; the settings file has {known}"
    elif settings.config:
        advice = f"; {settings.config} has no views"
    else:
        advice = "; views are named in the settings file: --config FILE"
    raise StartError(f"there is no view {quote(settings.view)}{advice}")
