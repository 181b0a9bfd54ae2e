"""Tool files, read once for a command."""

import os
import sys
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Final

import click

from bridge.codec import quote
from bridge.diagnostics import did_you_mean
from bridge.registry import Registry, Snapshot
from bridge.secrets import Sources
from bridge.settings import Settings
from bridge.settingsfile import View
from bridge.telemetry import log_events as report
from bridge.tool.compiler import Tool
from bridge.toolfiles.loaded import Loaded, State
from bridge.toolfiles.loader import load_once
from bridge.toolfiles.watch.scan import Directories, Owner

STATES: Final[Mapping[State, str]] = {
    "good": "is right",
    "kept": "is wrong, and its last good version serves on",
    "broken": "is wrong",
    "blocked": "waits for its upstream file, which is wrong",
    "waiting": "waits for a secret that is not there",
    "disabled": "says enabled: false",
    "ignored": "has a name that is not read",
}
"""What a state of a file is, in words that follow the file's name."""


def directories(settings: Settings) -> Directories:
    """Where the files are; raises ``click.ClickException`` for a directory that is not there."""
    upstreams = settings.upstreams
    for directory in (*settings.directories, *([upstreams] if upstreams else [])):
        if directory.is_file():
            raise click.ClickException(f"{directory} is a file; name the directory that it lies in")
        if not directory.is_dir():
            advice = "make it, or name another directory"
            if directory.name.isdigit():
                advice = f"to serve HTTP on that port, write --http {directory.name}"
            raise click.ClickException(f"{directory.absolute()} is not there; {advice}")
    owners = tuple(_owner(settings, pattern, folder) for pattern, folder in settings.owners.items())
    return Directories(tuple(map(str, settings.directories)), str(upstreams) if upstreams else None, owners)


def _owner(settings: Settings, pattern: str, folder: str) -> Owner:
    """A folder of the settings file is one of the directories, seen from that file, or lies in one of them."""
    written = (settings.config.parent if settings.config else Path()) / folder
    for directory in (*settings.directories, *([settings.upstreams] if settings.upstreams else [])):
        if os.path.abspath(directory) == os.path.abspath(written):  # noqa: PTH100 - see toolfiles/files
            return Owner(pattern, folder, str(directory))
    return Owner(pattern, os.path.normpath(folder))


def load(settings: Settings) -> Loaded:
    """What the files come to now, with the secrets of this process's environment."""
    return load_once(directories(settings), Sources(os.environ))


def served(settings: Settings, loaded: Loaded) -> Snapshot:
    """What ``serve`` would serve of what was loaded."""
    registry = Registry(read_only=settings.read_only, view=chosen_view(settings))
    registry.replace(loaded.snapshot)
    return registry.current


def chosen_view(settings: Settings) -> View | None:
    """The one that is chosen; raises ``click.UsageError`` if there is no such view."""
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
    raise click.UsageError(f"there is no view {quote(settings.view)}{advice}")


def find(settings: Settings, name: str) -> Tool:
    """One tool by name or alias; else what is wrong with the files is told, and wrong use raised."""
    loaded = load(settings)
    tool = served(settings, loaded).find(name)
    if tool is not None:
        return tool
    if loaded.snapshot.find(name):
        raise click.ClickException(f"{name} is not served: it may change something, and readOnly is set")
    for file in loaded.tools.values():
        if file.place.stem == name:
            upstream = file.words.spec.upstream if file.words.spec else None
            told = [each.diagnostics for each in loaded.upstreams.values() if each.place.stem == upstream]
            report.mistakes(chain(file.diagnostics, *told), "text", sys.stderr)
            raise click.ClickException(f"{name} is not served: {file.place.shown} {STATES[file.state]}")
    report.mistakes(loaded.diagnostics, "text", sys.stderr)
    stem = name.rpartition("/")[2].removesuffix(".yaml")
    nearest = did_you_mean(stem, [tool.name for tool in loaded.snapshot.tools])
    raise click.ClickException(f"no tool is named {name}{nearest or '; see restbridge list'}")
