"""The settings file, as the commands take it: what was typed counts before what it says."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from bridge.diagnostics import Findings, InvalidSpec
from bridge.secrets import Sources
from bridge.settings import Settings
from bridge.settingsfile import ApiKey, SettingsFile, is_past
from bridge.telemetry import log_events as report
from bridge.toolfiles.check.validation import validate
from bridge.toolfiles.settings_file import read_configuration


def settings(path: Path, typed: Mapping[str, Any], *, lenient: bool) -> Settings:
    """Raises ``click.ClickException`` for a file with errors, which are told; if ``lenient``, it says nothing."""
    configuration = read_configuration(path, Sources(os.environ))
    if not lenient:
        report.mistakes(configuration.diagnostics, "text", sys.stderr)
    if configuration.words is None and not lenient:
        raise click.ClickException(f"the settings file {path} has errors; mend them first")
    return Settings(**{**_said(configuration.words or SettingsFile(), path), **typed, "config": path})


def wrong_key(field: str, value: Any) -> str | None:
    """What is wrong with one word of a key's entry, in the words of the settings file."""
    if value is None:
        return None
    entry = {"name": "x", "sha256": "x", field: list(value) if isinstance(value, tuple) else value}
    findings = Findings()
    with suppress(InvalidSpec):
        key = validate(ApiKey, entry, findings)
        if is_past(key.expires):
            return f"{value} is over; name a time to come"
    return "; ".join(finding.message for finding in findings) or None


def _said(words: SettingsFile, path: Path) -> dict[str, Any]:
    """By the names of ``Settings``."""
    said: dict[str, Any] = {
        name: getattr(words, name)
        for name in (
            "strict",
            "on_invalid",
            "poll",
            "grace",
            "express",
            "read_only",
            "views",
            "limits",
            "owners",
        )
    }
    said["directories"] = tuple(path.parent / each for each in words.tools or ("tools.d",))
    said["log_format"] = words.log.format
    said["guarded"] = words.access is not None
    if words.audit is not None:
        said["audit"] = path.parent / words.audit.file
        said["audit_required"] = words.audit.required
    if words.upstreams is not None:
        said["upstreams"] = path.parent / words.upstreams
    if words.http:
        said |= {
            name: getattr(words.http, name) for name in ("workers", "insecure", "host_names", "stateless")
        }
        said["http"] = words.http.listen
    return said
