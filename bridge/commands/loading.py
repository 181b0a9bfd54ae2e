"""Loads tool files once, for a command."""

import os
import sys
from collections.abc import Mapping
from itertools import chain
from typing import Final

import click

from bridge.app.startup import chosen_view, directories
from bridge.commands import diagnostics_report
from bridge.diagnostics import did_you_mean
from bridge.registry import Registry, Snapshot
from bridge.secrets import Sources
from bridge.settings import Settings
from bridge.tool.compiler import Tool
from bridge.toolfiles.loaded import Loaded, State
from bridge.toolfiles.loader import load_once

STATES: Final[Mapping[State, str]] = {
    "good": "has no errors",
    "kept": "has errors, and its last good version is still served",
    "broken": "has errors",
    "blocked": "waits for its upstream file, which has errors",
    "waiting": "waits for a secret that is not set",
    "disabled": "has enabled: false",
    "ignored": "has a name that is not read",
}
"""State of a file → a predicate for messages, after the name of the file."""


def load(settings: Settings) -> Loaded:
    """Load the files, with the secrets of this process's environment."""
    return load_once(directories(settings), Sources(os.environ))


def served(settings: Settings, loaded: Loaded) -> Snapshot:
    """The loaded tools that ``serve`` would serve."""
    registry = Registry(read_only=settings.read_only, view=chosen_view(settings))
    registry.replace(loaded.snapshot)
    return registry.current


def find(settings: Settings, name: str) -> Tool:
    """One tool by name or alias. If there is none, prints problems and raises ``click.ClickException``."""
    loaded = load(settings)
    tool = served(settings, loaded).find(name)
    if tool is not None:
        return tool
    if loaded.snapshot.find(name):  # the callers have no --view, so only readOnly hides a tool here
        raise click.ClickException(f"{name} is not served: it may change something, and readOnly is set")
    for file in loaded.tools.values():
        if file.place.stem == name:
            upstream = file.parsed.spec.upstream if file.parsed.spec else None
            found = [each.diagnostics for each in loaded.upstreams.values() if each.place.stem == upstream]
            diagnostics_report.write(chain(file.diagnostics, *found), "text", sys.stderr)
            raise click.ClickException(f"{name} is not served: {file.place.shown} {STATES[file.state]}")
    diagnostics_report.write(loaded.diagnostics, "text", sys.stderr)
    # The name may be that of a file: tools.d/get_order.yaml
    stem = name.rpartition("/")[2].removesuffix(".yaml")
    nearest = did_you_mean(stem, [tool.name for tool in loaded.snapshot.tools])
    raise click.ClickException(f"no tool is named {name}{nearest or '; see restbridge list'}")
