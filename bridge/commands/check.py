"""``restbridge check``: what is wrong with the tool files; nothing is sent."""

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import click

from bridge.commands.loading import directories, load
from bridge.diagnostics import Diagnostic
from bridge.secrets import Sources
from bridge.settings import Settings
from bridge.telemetry import log_events as report
from bridge.toolfiles.check.parsed import Told
from bridge.toolfiles.loaded import Loaded, State, ToolFile, UpstreamFile
from bridge.toolfiles.settings_file import beside_tools, read_configuration
from bridge.toolfiles.watch.scan import Place

_IDLE: Final[Mapping[State, str]] = {
    "blocked": "not served while the upstream file is wrong",
    "waiting": "not served until a secret is there",
    "disabled": "disabled",
}
"""Files that are right and of which no tool serves, and why."""


def run(settings: Settings, format_: report.Format, *, secrets: bool) -> int:
    """Prints what is wrong; answers 1 if something is an error. ``secrets``: an unset one is, too."""
    loaded = load(settings)
    if not loaded.files:
        where = ", ".join(map(str, settings.directories))
        raise click.ClickException(f"no tool files in {where}; name the directory that holds them")
    told = [*_of_settings(settings, loaded), *loaded.diagnostics]
    diagnostics = [_judged(diagnostic, secrets=secrets) for diagnostic in told]
    severities = Counter(diagnostic.severity for diagnostic in diagnostics)
    states = Counter(file.state for file in loaded.tools.values())
    counts = {
        "tools": _right(loaded.tools),
        **{state: states[state] for state in ("blocked", "waiting", "disabled")},
        "upstreams": _right(loaded.upstreams),
        "errors": severities["error"],
        "warnings": severities["warning"],
    }
    if format_ == "json":
        found = [report.as_json(diagnostic) for diagnostic in diagnostics]
        print(json.dumps(counts | {"diagnostics": found}, ensure_ascii=False))
    else:
        report.mistakes(diagnostics, format_, sys.stdout)
        print(_summary(counts))
    return int(severities["error"] > 0)


def _of_settings(settings: Settings, loaded: Loaded) -> Told:
    if settings.config is None:
        return ()
    configuration = read_configuration(settings.config, Sources(os.environ))
    owners = directories(settings).owners
    warnings = beside_tools(settings.config, configuration, loaded.snapshot, owners, loaded.tools)
    return (*configuration.diagnostics, *warnings)


def _judged(diagnostic: Diagnostic, *, secrets: bool) -> Diagnostic:
    if secrets and diagnostic.code == "unset-secret":
        return replace(diagnostic, severity="error")
    return diagnostic


def _summary(counts: dict[str, int]) -> str:
    problems = [report.count(counts[key], key[:-1]) for key in ("errors", "warnings") if counts[key]]
    tools = report.count(counts["tools"], "tool")
    idle = [f"{counts[state]} {why}" for state, why in _IDLE.items() if counts[state]]
    if idle:
        tools += f" ({', '.join(idle)})"
    return ", ".join([tools, report.count(counts["upstreams"], "upstream"), *(problems or ["no problems"])])


def _right(files: Mapping[Place, ToolFile] | Mapping[Place, UpstreamFile]) -> int:
    """How many files are as they should be; their secrets may still be missing."""
    return sum(file.state in {"good", "blocked", "waiting"} for file in files.values())
