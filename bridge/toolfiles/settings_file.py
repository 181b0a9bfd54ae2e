"""The settings file: read, judged as tool files are, and its secrets resolved."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Final

from bridge.address import is_in_the_open, is_loopback
from bridge.caller import Caller
from bridge.codec import quote
from bridge.diagnostics import Finding, Findings, InvalidSpec, invalid
from bridge.registry import Snapshot
from bridge.secrets import Sources, resolved
from bridge.settingsfile import (
    METRICS_SCOPE,
    OPERATE_SCOPE,
    Access,
    ApiKey,
    Issuer,
    SettingsFile,
    is_past,
    matches,
)
from bridge.spec import Json, TokenExchangeAuth
from bridge.tool.request.base_url import split
from bridge.toolfiles.check.parsed import Told, at_top, told
from bridge.toolfiles.check.validation import validate
from bridge.toolfiles.text.document import Document
from bridge.toolfiles.watch.scan import Content, Owner, Place, read

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
    place = _place(path)
    found = read(place)
    content = found[1] if found else _GONE
    if isinstance(content, Finding) and content.code == "not-a-file":
        content = replace(content, message="found no regular file; name the one that holds the settings")
    if isinstance(content, Finding):
        return Configuration(content, None, (at_top(place, content),))
    content = bytes(content)  # it was named by hand: a link to it may lead anywhere
    document = Document.parse(content, str(path), _PRIVATE)
    if document.problems:
        return Configuration(content, None, told(content, document.problems))
    words = None
    try:
        words, findings = _judged(document.value, path.parent, sources)
    except InvalidSpec as problem:
        findings = problem.findings
    return Configuration(content, words, told(content, map(document.locate, findings)))


def beside_tools(
    path: Path,
    configuration: Configuration,
    snapshot: Snapshot,
    owners: Iterable[Owner] = (),
    places: Collection[Place] = (),
) -> Told:
    """Warnings of what has no effect, or is left open, with the tools of ``snapshot``.

    ``owners`` are the configuration's, ``places`` those of all tool files.
    """
    if configuration.words is None or not isinstance(configuration.content, bytes):
        return ()
    document = Document.parse(configuration.content, str(path), _PRIVATE)
    findings = Findings()
    _check_open(configuration.words, findings)
    if configuration.words.access:
        _check_access(configuration.words.access, findings)
        _check_callers(configuration.words.access, snapshot, findings)
    for name, view in configuration.words.views.items():
        for key, patterns in (("tools", view.tools), ("tags", view.tags), ("without", view.without)):
            for index, pattern in enumerate(patterns):
                if problem := _in_vain(pattern, snapshot, tags=key == "tags"):
                    findings.warn("idle-view", problem, "views", name, key, index)
        if not snapshot.seen_by(Caller(view=view)).tools:
            findings.warn("idle-view", "no tool is in this view", "views", name, at_key=True)
    _check_owners(owners, snapshot, places, findings)
    return told(configuration.content, map(document.locate, findings))


def _check_owners(
    owners: Iterable[Owner], snapshot: Snapshot, places: Collection[Place], findings: Findings
) -> None:
    """Whether there are tools, and files, that they are about."""
    for owner in owners:
        route = ("owners", owner.pattern)
        if not any(map(owner.has, places)):
            findings.warn("unused-owner", f"no tool file is in {owner.folder}; name its folder", *route)
        if not any(matches(owner.pattern, name) for name in (*snapshot.by_name, *snapshot.aliases)):
            message = f"no tool has the name {quote(owner.pattern)}; correct the pattern"
            findings.warn("unused-owner", message, *route, at_key=True)


def _check_open(words: SettingsFile, findings: Findings) -> None:
    http = words.http
    if http and not (words.access or http.insecure or is_loopback(http.listen.host)):
        message = "others can reach this address, and nobody is asked who calls: serve refuses it; add access, or insecure"
        findings.warn("open-address", message, "http", "listen")


def _check_access(access: Access, findings: Findings) -> None:
    """Whether somebody can call, and issuers of whose keys nothing is known."""
    if not (access.api_keys or access.jwt):
        findings.warn("idle-access", "nobody can call: there is no key, and no issuer", "access", at_key=True)
    for index, issuer in enumerate(access.jwt or ()):
        if "://" not in issuer.jwks and not Path(issuer.jwks).is_file():
            message = f"no file is there: {issuer.jwks}; until one is, no token of this issuer counts"
            findings.warn("idle-access", message, "access", "jwt", index, "jwks")


def _check_callers(access: Access, snapshot: Snapshot, findings: Findings) -> None:
    """Whether those who may call can be told apart, and have what tools need of them."""
    issuers, keys = len(access.jwt or ()), bool(access.api_keys)
    for tool in snapshot.tools:
        asked = tool.request.asked
        if "$caller" in asked and "$caller.iss" not in asked and issuers + keys > 1:
            what = "two issuers" if issuers > 1 else "a key and a token"
            message = f"the tool {tool.name} sends {{$caller}}, and of {what} two callers may have one name"
            findings.warn("unclear-caller", f"{message}; send {{$caller.iss}}, too", "access", at_key=True)
            break
    for index, issuer in enumerate(access.jwt or ()):
        for number, pattern in enumerate(issuer.grants or ()):
            if not any(matches(pattern, scope) for scope in (*snapshot.scopes, OPERATE_SCOPE, METRICS_SCOPE)):
                message = f"no tool asks for a scope that matches {quote(pattern)}"
                findings.warn("idle-access", message, "access", "jwt", index, "grants", number)
    for tool in snapshot.tools:
        if not issuers and isinstance(tool.upstream.spec.auth, TokenExchangeAuth):
            message = f"the tool {tool.name} is called in the name of who shows a token, and here nobody can"
            findings.warn("unclear-caller", f"{message}; name jwt", "access", at_key=True)
            break


def _in_vain(pattern: str, snapshot: Snapshot, *, tags: bool) -> str | None:
    """What is wrong with a pattern of tags, or of names, that stands for nothing that is there."""

    def stands_for(words: Iterable[str]) -> str | None:
        return next((word for word in words if matches(pattern, word)), None)

    name, alias = stands_for(snapshot.by_name), stands_for(snapshot.aliases)
    tag = stands_for(chain.from_iterable(tool.spec.tags for tool in snapshot.tools))
    if tag if tags else name:
        return None
    if tags:
        hint = f"; {name} is a tool, and goes under tools" if name else ""
        return f"no tool has the tag {quote(pattern)}{hint}"
    if alias:
        hint = f"; {alias} is an alias of {snapshot.aliases[alias].name}: write that"
    else:
        hint = f"; {tag} is a tag, and goes under tags" if tag else ""
    return f"no tool has the name {quote(pattern)}{hint}"


def _place(path: Path) -> Place:
    return Place(0, path.name, str(path.parent))


def _judged(
    value: Mapping[str, Json], folder: Path, sources: Sources
) -> tuple[SettingsFile, tuple[Finding, ...]]:
    """The words and warnings; raises ``InvalidSpec`` with every finding."""
    findings = Findings()
    words = validate(SettingsFile, value, findings, _PRIVATE)
    for name, view in words.views.items():
        if not view.tools and not view.tags:
            message = "nothing is in this view; name tools or tags: a pattern of all names is *"
            findings.error("missing-key", message, "views", name, at_key=True)
    if words.access:
        words = words.model_copy(update={"access": _resolved(words.access, folder, sources, findings)})
    findings.raise_errors()
    return words, tuple(findings)


def _resolved(access: Access, folder: Path, sources: Sources, findings: Findings) -> Access:
    if access.api_keys is None and access.jwt is None:
        message = "nobody could call; name apiKeys, as restbridge key new prints them, or jwt"
        findings.error("missing-key", message, "access", at_key=True)
    resource = access.resource
    if resource is not None:
        with findings.at("access", "resource"):
            resource = "".join(_url(resource, is_contacted=False))
            if "?" in resource or "#" in resource:
                raise invalid("bad-url", "expected an address without ? and # (RFC 9728 1.2)")
    issuers = [
        _issuer(issuer, resource, folder, findings, "access", "jwt", index)
        for index, issuer in enumerate(access.jwt or ())
    ]
    for index, issuer in enumerate(issuers):
        if issuer.issuer in {each.issuer for each in issuers[:index]}:
            message = "this issuer stands above already; join the two"
            findings.error("duplicate-key", message, "access", "jwt", index, "issuer")
    if issuers and resource is None:
        message = "the key resource is missing; add it: clients learn there where to get a token (RFC 9728)"
        findings.error("missing-key", message, "access", "jwt", at_key=True)
    keys = _keys(access, sources, findings)
    return access.model_copy(update={"api_keys": keys, "jwt": tuple(issuers), "resource": resource})


def _issuer(
    issuer: Issuer, resource: str | None, folder: Path, findings: Findings, *route: str | int
) -> Issuer:
    """With the address or the path of its keys written out, and whom its tokens must be for."""
    jwks = issuer.jwks
    if "${" in jwks:
        message = "expected an address or a path, written out: what is published is no secret"
        findings.error("wrong-value", message, *route, "jwks")
    elif "://" in jwks:
        with findings.at(*route, "jwks"):
            origin, rest = _url(jwks)
            jwks = origin + rest
            if is_in_the_open(jwks):
                message = "over http anybody on the way could change the keys; use https, or name a file"
                raise invalid("bad-url", message)
    else:
        jwks = str((folder / jwks).absolute())
    audience = issuer.audience or ((resource,) if resource else ())
    return issuer.model_copy(update={"jwks": jwks, "audience": audience})


def _url(text: str, *, is_contacted: bool = True) -> tuple[str, str]:
    """The origin of an address, and what follows; raises ``InvalidSpec``."""
    if not text.startswith(("http://", "https://")):
        raise invalid("bad-url", "expected an address that begins with https://")
    return split(text, is_contacted=is_contacted)


def _keys(access: Access, sources: Sources, findings: Findings) -> tuple[ApiKey, ...]:
    """Without those whose digest is not there: one secret that is missing shuts nobody else out."""
    keys: dict[str, ApiKey] = {}
    holders: dict[str, str] = {}
    for index, key in enumerate(access.api_keys or ()):
        route = ("access", "apiKeys", index)
        if key.name in keys:
            findings.error(
                "duplicate-key", f"the name {key.name} stands above already; take another", *route, "name"
            )
        if is_past(key.expires):
            findings.warn("idle-access", f"the key of {key.name} has expired", *route, "expires")
        for number, scope in enumerate(key.scopes):
            if scope.startswith("restbridge:") and scope not in (OPERATE_SCOPE, METRICS_SCOPE):
                message = f"restbridge has no scope {scope}, but {OPERATE_SCOPE} and {METRICS_SCOPE}"
                findings.warn("idle-access", message, *route, "scopes", number)
        digest = _digest(key, sources, findings, *route, "sha256")
        if digest in holders:
            message = f"this is the digest of the key of {holders[digest]}, too; give each its own key"
            findings.error("duplicate-key", message, *route, "sha256")
        elif digest:
            holders[digest] = key.name
            keys[key.name] = key.model_copy(update={"sha256": digest})
    return tuple(keys.values())


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
