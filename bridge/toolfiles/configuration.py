"""The settings file: read, judged as tool files are, and its secrets resolved."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bridge.diagnostics import Finding, Findings, InvalidSpec
from bridge.secrets import Sources, resolved
from bridge.settingsfile import Access, ApiKey, SettingsFile
from bridge.spec import Json
from bridge.toolfiles.document import Document
from bridge.toolfiles.files import Content, Place, read
from bridge.toolfiles.validation import validate
from bridge.toolfiles.words import Told, at_top, told

_PRIVATE: Final = frozenset({"access"})
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_GONE: Final = Finding("unreadable", "found no such file; name the file that holds the settings")


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a settings file says; no ``words`` where something is wrong with that."""

    content: Content
    words: SettingsFile | None
    diagnostics: Told


def read_configuration(path: Path, sources: Sources) -> Configuration:
    """A settings file as it is now, with the secrets of ``sources``."""
    place = Place(0, path.name, str(path.parent))
    found = read(place)
    content = found[1] if found else _GONE
    if isinstance(content, Finding):
        return Configuration(content, None, (at_top(place, content),))
    document = Document.parse(content, str(path), _PRIVATE)
    if document.problems:
        return Configuration(content, None, told(place, document.problems))
    words = None
    try:
        words, findings = _judged(document.value, sources)
    except InvalidSpec as problem:
        findings = problem.findings
    return Configuration(content, words, told(place, map(document.locate, findings)))


def _judged(value: Mapping[str, Json], sources: Sources) -> tuple[SettingsFile, tuple[Finding, ...]]:
    """The words and warnings; raises ``InvalidSpec`` with every finding."""
    findings = Findings()
    words = validate(SettingsFile, value, findings, _PRIVATE)
    if words.access:
        words = words.model_copy(update={"access": _resolved(words.access, sources, findings)})
    findings.raise_errors()
    return words, tuple(findings)


def _resolved(access: Access, sources: Sources, findings: Findings) -> Access:
    """Without the keys whose digest is not there: one secret that is missing shuts nobody else out."""
    keys: dict[str, ApiKey] = {}
    for index, key in enumerate(access.api_keys):
        route = ("access", "apiKeys", index)
        if key.name in keys:
            findings.error(
                "duplicate-key", f"the name {key.name} stands above already; take another", *route, "name"
            )
        missing = Findings()
        digest = resolved(key.sha256, sources, missing, *route, "sha256").strip().lower()
        if missing.errors:
            for each in missing.errors:
                findings.warn(each.code, each.message, *each.route)
        elif not _DIGEST.fullmatch(digest):
            message = "expected 64 hexadecimal digits; restbridge key new prints them with a new key"
            findings.error("wrong-value", message, *route, "sha256")
        else:
            keys[key.name] = key.model_copy(update={"sha256": digest})
    return access.model_copy(update={"api_keys": tuple(keys.values())})
