"""Tool files, read once for a command."""

import os
import sys

import click

from bridge.commands import report
from bridge.diagnostics import did_you_mean
from bridge.secrets import Sources
from bridge.settings import Settings
from bridge.tool.compiler import Tool
from bridge.toolfiles.files import Directories
from bridge.toolfiles.loaded import Loaded
from bridge.toolfiles.loader import load_once


def directories(settings: Settings) -> Directories:
    """Where the files are; raises ``click.ClickException`` for a directory that is not there."""
    upstreams = () if settings.upstreams is None else (settings.upstreams,)
    for directory in (*settings.directories, *upstreams):
        if not directory.is_dir():
            raise click.ClickException(
                f"{directory.absolute()} is not there; make it, or name another directory"
            )
    return Directories(tuple(map(str, settings.directories)), *map(str, upstreams))


def load(settings: Settings) -> Loaded:
    """What the files come to now, with the secrets of this process's environment."""
    return load_once(directories(settings), Sources(os.environ))


def find(settings: Settings, name: str) -> Tool:
    """One tool by name or alias; else what is wrong with the files is told, and wrong use raised."""
    loaded = load(settings)
    tool = loaded.snapshot.find(name)
    if tool is not None:
        return tool
    report.mistakes(loaded.diagnostics, "text", sys.stderr)
    for file in loaded.tools.values():
        if file.place.stem == name:
            raise click.ClickException(f"{name} is not served: {file.place.shown} is {file.state}")
    nearest = did_you_mean(name, [tool.name for tool in loaded.snapshot.tools])
    raise click.ClickException(f"no tool is named {name}{nearest or '; see restbridge list'}")
