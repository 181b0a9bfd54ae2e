"""Reads the settings file for a command, and checks fields of a key for ``key new``."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from bridge.clock import is_expired
from bridge.commands import diagnostics_report
from bridge.diagnostics import Findings, InvalidSpec
from bridge.secrets import Sources
from bridge.settings import ApiKey, SettingsFile
from bridge.toolfiles.check.validation import validate
from bridge.toolfiles.settings_file import read_settings_file


def read(path: Path, *, lenient: bool) -> SettingsFile:
    """The settings of the file. If it has errors, prints them and raises ``click.ClickException``.

    ``lenient``: a file with errors counts as empty, and nothing is printed.
    """
    parsed = read_settings_file(path, Sources(os.environ))
    if lenient:
        return parsed.settings or SettingsFile.model_validate({}, context=path.parent)
    diagnostics_report.write(parsed.diagnostics, "text", sys.stderr)
    if parsed.settings is None:
        raise click.ClickException(f"the settings file {path} has errors; fix them first")
    return parsed.settings


def invalid_key_field(field: str, value: Any) -> str | None:
    """Why a value is invalid for one field of an entry of ``access.apiKeys``; None if it is valid."""
    if value is None:
        return None
    # The other fields only have to be there. The digest itself is checked when a settings file is read.
    entry = {"name": "x", "sha256": "x", field: list(value) if isinstance(value, tuple) else value}
    findings = Findings()
    with suppress(InvalidSpec):
        key = validate(ApiKey, entry, findings)
        if is_expired(key.expires):
            return f"{value} is in the past; give a time in the future"
    return "; ".join(finding.message for finding in findings) or None
