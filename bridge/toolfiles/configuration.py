"""The settings file: read, judged as tool files are, and its secrets resolved."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
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
_OF_NOTHING: Final = sha256(b"").hexdigest()
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
    if isinstance(content, Finding) and content.code == "not-a-file":
        content = replace(content, message="found no regular file; name the one that holds the settings")
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
    for name, view in words.views.items():
        if not view.tools and not view.tags:
            message = "nothing is in this view; name tools or tags: a pattern of all names is *"
            findings.error("missing-key", message, "views", name, at_key=True)
    if words.access:
        words = words.model_copy(update={"access": _resolved(words.access, sources, findings)})
    findings.raise_errors()
    return words, tuple(findings)


def _resolved(access: Access, sources: Sources, findings: Findings) -> Access:
    """Without the keys whose digest is not there: one secret that is missing shuts nobody else out."""
    keys: dict[str, ApiKey] = {}
    holders: dict[str, str] = {}
    for index, key in enumerate(access.api_keys):
        route = ("access", "apiKeys", index)
        if key.name in keys:
            findings.error(
                "duplicate-key", f"the name {key.name} stands above already; take another", *route, "name"
            )
        digest = _digest(key, sources, findings, *route, "sha256")
        if digest in holders:
            message = f"this is the digest of the key of {holders[digest]}, too; give each its own key"
            findings.error("duplicate-key", message, *route, "sha256")
        elif digest:
            holders[digest] = key.name
            keys[key.name] = key.model_copy(update={"sha256": digest})
    return access.model_copy(update={"api_keys": tuple(keys.values())})


def _digest(key: ApiKey, sources: Sources, findings: Findings, *route: str | int) -> str:
    """A key's digest, in lower case; empty where that is not there."""
    found = Findings()
    text = resolved(key.sha256, sources, found, *route)
    digest, is_written = text.strip().lower(), text == key.sha256
    for each in found:
        findings.extend([replace(each, severity="warning") if each.code == "unset-secret" else each])
    if found.errors:
        return ""
    if _DIGEST.fullmatch(digest) and digest != _OF_NOTHING:
        return digest
    if digest == _OF_NOTHING:
        message = "this is the digest of an empty key; make one with restbridge key new"
    elif is_written:
        message = "expected the SHA-256 of the key, 64 hexadecimal digits; restbridge key new prints both"
    else:
        message = "what it stands for is no SHA-256, 64 hexadecimal digits; until it is, nobody has this key"
    if is_written:
        findings.error("wrong-value", message, *route)
    else:
        findings.warn("unset-secret", message, *route)
    return ""
