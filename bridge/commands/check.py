"""``restbridge check``: reports the problems of tool files. Nothing is sent."""

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import click

from bridge.app.startup import directories
from bridge.commands import diagnostics_report
from bridge.commands.loading import load
from bridge.diagnostics import Diagnostic, as_json
from bridge.secrets import Sources
from bridge.settings import Settings
from bridge.toolfiles.check.parsed import Diagnostics
from bridge.toolfiles.loaded import Loaded, State, ToolFile, UpstreamFile
from bridge.toolfiles.place import Place
from bridge.toolfiles.settings_file import check_against_tools, read_settings_file
from bridge.wording import count

_NOT_SERVED: Final[Mapping[State, str]] = {
    "blocked": "not served while the upstream file has errors",
    "waiting": "not served until a secret is set",
    "disabled": "disabled",
}
"""State of a file without errors whose tools are not served → the reason."""


def run(settings: Settings, format_: diagnostics_report.Format, *, secrets: bool) -> int:
    """Print all problems; answers 1 if one is an error. ``secrets``: an unset secret is an error, not a warning."""
    loaded = load(settings)
    if not loaded.files:
        where = ", ".join(map(str, settings.tools))
        raise click.ClickException(f"no tool files in {where}; name the directory that holds them")
    found = [*_of_settings(settings, loaded), *loaded.diagnostics]
    diagnostics = [_with_severity(diagnostic, secrets=secrets) for diagnostic in found]
    severities = Counter(diagnostic.severity for diagnostic in diagnostics)
    states = Counter(file.state for file in loaded.tools.values())
    counts = {
        "tools": _count_valid(loaded.tools),
        **{state: states[state] for state in ("blocked", "waiting", "disabled")},
        "upstreams": _count_valid(loaded.upstreams),
        "errors": severities["error"],
        "warnings": severities["warning"],
    }
    if format_ == "json":
        values = [as_json(diagnostic) for diagnostic in diagnostics]
        print(json.dumps(counts | {"diagnostics": values}, ensure_ascii=False))
    else:
        diagnostics_report.write(diagnostics, format_, sys.stdout)
        print(_summary(counts))
    return int(severities["error"] > 0)


def _of_settings(settings: Settings, loaded: Loaded) -> Diagnostics:
    if settings.config is None:
        return ()
    # Read again for its diagnostics: ``settings`` come from a lenient read, which drops them.
    configuration = read_settings_file(settings.config, Sources(os.environ))
    owners = directories(settings).owners
    warnings = check_against_tools(settings.config, configuration, loaded.snapshot, owners, loaded.tools)
    return (*configuration.diagnostics, *warnings)


def _with_severity(diagnostic: Diagnostic, *, secrets: bool) -> Diagnostic:
    if secrets and diagnostic.code == "unset-secret":
        return replace(diagnostic, severity="error")
    return diagnostic


def _summary(counts: dict[str, int]) -> str:
    # Without the s: count() adds it unless there is only one.
    problems = [count(counts[key], key[:-1]) for key in ("errors", "warnings") if counts[key]]
    tools = count(counts["tools"], "tool")
    not_served = [f"{counts[state]} {reason}" for state, reason in _NOT_SERVED.items() if counts[state]]
    if not_served:
        tools += f" ({', '.join(not_served)})"
    return ", ".join([tools, count(counts["upstreams"], "upstream"), *(problems or ["no problems"])])


def _count_valid(files: Mapping[Place, ToolFile] | Mapping[Place, UpstreamFile]) -> int:
    """How many files have no errors. Their secrets may be unset."""
    return sum(file.state in {"good", "blocked", "waiting"} for file in files.values())
