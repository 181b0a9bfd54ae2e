"""Loads the settings file: reads and validates it, and resolves its secrets."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Final

from bridge.address import is_loopback, is_plaintext_remote
from bridge.caller import CERTIFICATE_ISSUER, Caller
from bridge.clock import is_expired
from bridge.codec import quote
from bridge.diagnostics import Finding, Findings, InvalidSpec, invalid
from bridge.registry import Snapshot
from bridge.secrets import Sources, resolve_text
from bridge.settings import METRICS_SCOPE, OPERATE_SCOPE, Access, ApiKey, Issuer, SettingsFile
from bridge.spec import Json, TokenExchangeAuth
from bridge.tool.request.base_url import split_url
from bridge.toolfiles.check.parsed import Diagnostics, at_top, reportable
from bridge.toolfiles.check.validation import validate
from bridge.toolfiles.place import Content, Owner, Place
from bridge.toolfiles.text.document import Document
from bridge.toolfiles.watch.scan import read
from bridge.view import matches

_PRIVATE: Final = frozenset({"access"})
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
# What sha256sum prints if the variable that should hold the key is not set.
_DIGEST_OF_EMPTY: Final = sha256(b"").hexdigest()
_GONE: Final = Finding("unreadable", "found no such file; name the file that holds the settings")


@dataclass(frozen=True, slots=True)
class ParsedSettings:
    """A parsed settings file; ``settings`` is None if there are errors."""

    content: Content
    settings: SettingsFile | None
    diagnostics: Diagnostics


def read_settings_file(path: Path, sources: Sources) -> ParsedSettings:
    """Read and validate a settings file, with the secrets of ``sources``."""
    place = _place(path)
    found = read(place)
    content = found[1] if found else _GONE
    if isinstance(content, Finding) and content.code == "not-a-file":
        content = replace(content, message="found no regular file; name the one that holds the settings")
    if isinstance(content, Finding):
        return ParsedSettings(content, None, (at_top(place, content),))
    content = bytes(content)  # the operator named the file, so messages may quote it even behind a link
    document = Document.parse(content, str(path), _PRIVATE)
    if document.problems:
        return ParsedSettings(content, None, reportable(content, document.problems))
    settings = None
    try:
        settings, findings = _checked(document.value, path.parent, sources)
    except InvalidSpec as problem:
        findings = problem.findings
    return ParsedSettings(content, settings, reportable(content, map(document.locate, findings)))


def check_against_tools(
    path: Path,
    configuration: ParsedSettings,
    snapshot: Snapshot,
    owners: Iterable[Owner] = (),
    places: Collection[Place] = (),
) -> Diagnostics:
    """Warnings about settings that have no effect or leave access open, given the tools of ``snapshot``.

    ``owners`` are those of the configuration, ``places`` are the places of all tool files.
    """
    if configuration.settings is None or not isinstance(configuration.content, bytes):
        return ()
    document = Document.parse(configuration.content, str(path), _PRIVATE)  # again, for positions
    findings = Findings()
    _check_open(configuration.settings, findings)
    if configuration.settings.access:
        _check_access(configuration.settings.access, findings)
        _check_callers(configuration.settings.access, snapshot, findings)
    for name, view in configuration.settings.views.items():
        for key, patterns in (("tools", view.tools), ("tags", view.tags), ("without", view.without)):
            for index, pattern in enumerate(patterns):
                if problem := _problem_of_pattern(pattern, snapshot, tags=key == "tags"):
                    findings.warn("unused-view", problem, "views", name, key, index)
        if not snapshot.seen_by(Caller(view=view)).tools:
            findings.warn("unused-view", "no tool is in this view", "views", name, at_key=True)
    _check_owners(owners, snapshot, places, findings)
    return reportable(configuration.content, map(document.locate, findings))


def _check_owners(
    owners: Iterable[Owner], snapshot: Snapshot, places: Collection[Place], findings: Findings
) -> None:
    """Warn about owners whose pattern matches no tool or whose folder has no tool file."""
    for owner in owners:
        route = ("owners", owner.pattern)
        if not any(map(owner.contains, places)):
            findings.warn(
                "unused-owner",
                f"there are no tool files in {owner.shown}; name the folder that has them",
                *route,
            )
        if not any(map(owner.matches, (*snapshot.by_name, *snapshot.aliases))):
            message = f"no tool has the name {quote(owner.pattern)}; correct the pattern"
            findings.warn("unused-owner", message, *route, at_key=True)


def _check_open(settings: SettingsFile, findings: Findings) -> None:
    http = settings.http
    needs_certificate = http and http.tls and http.tls.client_ca_file
    if http and not (settings.access or http.insecure or needs_certificate or is_loopback(http.listen.host)):
        message = "other machines can reach this address without a key or token: serve refuses it; add access, or insecure"
        findings.warn("open-address", message, "http", "listen")


def _check_access(access: Access, findings: Findings) -> None:
    """Warn if no caller can authenticate, and about issuers whose key file does not exist."""
    if not (access.api_keys or access.jwt or access.certificates):
        message = "nobody can call: there is no key, no issuer and no entry of certificates"
        findings.warn("unused-credential", message, "access", at_key=True)
    for index, issuer in enumerate(access.jwt or ()):
        if "://" not in issuer.jwks and not Path(issuer.jwks).is_file():
            message = (
                f"the file {issuer.jwks} does not exist; until it does, the tokens of this issuer are refused"
            )
            findings.warn("unused-credential", message, "access", "jwt", index, "jwks")


def _check_callers(access: Access, snapshot: Snapshot, findings: Findings) -> None:
    """Warn if two callers may have the same name, or if callers lack what a tool needs."""
    issuers, keys = len(access.jwt or ()), bool(access.api_keys) + bool(access.certificates)
    for tool in snapshot.tools:
        asked = tool.request.caller_placeholders
        if "$caller" in asked and "$caller.iss" not in asked and issuers + keys > 1:
            what = "two issuers" if issuers > 1 else "two kinds of credentials"
            message = (
                f"the tool {tool.name} sends {{$caller}}, and with {what} two callers may have the same name"
            )
            findings.warn("unclear-caller", f"{message}; send {{$caller.iss}} too", "access", at_key=True)
            break  # one tool shows the problem, which is one of the settings
    for index, issuer in enumerate(access.jwt or ()):
        for number, pattern in enumerate(issuer.grants or ()):
            if not any(matches(pattern, scope) for scope in (*snapshot.scopes, OPERATE_SCOPE, METRICS_SCOPE)):
                message = f"no tool asks for a scope that matches {quote(pattern)}"
                findings.warn("unused-credential", message, "access", "jwt", index, "grants", number)
    for tool in snapshot.tools:
        if not issuers and isinstance(tool.upstream.spec.auth, TokenExchangeAuth):
            message = f"the tool {tool.name} exchanges the token of its caller, and no caller can present one"
            findings.warn("unclear-caller", f"{message}; add jwt", "access", at_key=True)
            break


def _problem_of_pattern(pattern: str, snapshot: Snapshot, *, tags: bool) -> str | None:
    """The problem of a pattern of tags or names that matches nothing; None if it matches."""

    def first_match(candidates: Iterable[str]) -> str | None:
        return next((each for each in candidates if matches(pattern, each)), None)

    name, alias = first_match(snapshot.by_name), first_match(snapshot.aliases)
    tag = first_match(chain.from_iterable(tool.spec.tags for tool in snapshot.tools))
    if tag if tags else name:
        return None
    if tags:
        hint = f"; {name} is a tool: write it under tools" if name else ""
        return f"no tool has the tag {quote(pattern)}{hint}"
    if alias:
        hint = f"; {alias} is an alias of {snapshot.aliases[alias].name}: write that"
    else:
        hint = f"; {tag} is a tag: write it under tags" if tag else ""
    return f"no tool has the name {quote(pattern)}{hint}"


def _place(path: Path) -> Place:
    return Place(0, path.name, str(path.parent))


def _checked(
    value: Mapping[str, Json], folder: Path, sources: Sources
) -> tuple[SettingsFile, tuple[Finding, ...]]:
    """Returns the settings and warnings; raises ``InvalidSpec`` with every finding."""
    findings = Findings()
    settings = validate(SettingsFile, value, findings, _PRIVATE, folder)
    for name, view in settings.views.items():
        if not view.tools and not view.tags:
            message = "this view selects nothing; name tools or tags: the pattern * matches all names"
            findings.error("missing-key", message, "views", name, at_key=True)
    _warn_of_unused(settings, findings)
    if settings.access:
        tls = settings.http and settings.http.tls
        if settings.access.certificates and not (tls and tls.client_ca_file):
            message = (
                "no client shows a certificate; name the authorities of clients in http.tls.clientCaFile"
            )
            findings.error("missing-key", message, "access", "certificates", at_key=True)
        settings = settings.model_copy(
            update={"access": _resolved(settings.access, folder, sources, findings)}
        )
    findings.raise_errors()
    return settings, tuple(findings)


def _warn_of_unused(settings: SettingsFile, findings: Findings) -> None:
    """A warning for each setting that no longer has an effect."""
    limits = {"perCaller": settings.limits.per_caller, "total": settings.limits.total}
    routes: list[tuple[str, ...]] = [
        ("limits", name, "sessions") for name, each in limits.items() if each.sessions
    ]
    if settings.http and settings.http.stateless:
        routes.append(("http", "stateless"))
    for route in routes:
        message = f"{route[-1]} has no effect: the server no longer keeps sessions; remove it"
        findings.warn("unused-setting", message, *route, at_key=True)


def _resolved(access: Access, folder: Path, sources: Sources, findings: Findings) -> Access:
    if access.api_keys is None and access.jwt is None and access.certificates is None:
        message = "nobody could call; add apiKeys, as restbridge key new prints them, jwt or certificates"
        findings.error("missing-key", message, "access", at_key=True)
    resource = access.resource
    if resource is not None:
        with findings.at("access", "resource"):
            resource = "".join(_url(resource, is_contacted=False))  # ours, so it may be any address
            if "?" in resource or "#" in resource:
                raise invalid("bad-url", "expected an address without ? and # (RFC 9728 1.2)")
    issuers = [
        _issuer(issuer, resource, folder, findings, "access", "jwt", index)
        for index, issuer in enumerate(access.jwt or ())
    ]
    for index, issuer in enumerate(issuers):
        if issuer.issuer in {each.issuer for each in issuers[:index]}:
            message = "this issuer is listed above already; merge the two entries"
            findings.error("duplicate-key", message, "access", "jwt", index, "issuer")
        if issuer.issuer == CERTIFICATE_ISSUER:
            message = (
                "this name stands for certificates of clients; an issuer has the address in its tokens (iss)"
            )
            findings.error("wrong-value", message, "access", "jwt", index, "issuer")
    if issuers and resource is None:
        message = "the key resource is missing; add it: clients find there how to get a token (RFC 9728)"
        findings.error("missing-key", message, "access", "jwt", at_key=True)
    for index, client in enumerate(access.certificates or ()):
        _check_scopes(client.scopes, findings, "access", "certificates", index)
    keys = _keys(access, sources, findings)
    return access.model_copy(update={"api_keys": keys, "jwt": tuple(issuers), "resource": resource})


def _issuer(
    issuer: Issuer, resource: str | None, folder: Path, findings: Findings, *route: str | int
) -> Issuer:
    """The issuer with the absolute address or path of its keys, and with the audience that its tokens must have."""
    jwks = issuer.jwks
    if "${" in jwks:
        message = "expected an address or a path without ${…}: published keys are not secret"
        findings.error("wrong-value", message, *route, "jwks")
    elif "://" in jwks:
        with findings.at(*route, "jwks"):
            origin, rest = _url(jwks)
            jwks = origin + rest
            if is_plaintext_remote(jwks):
                message = "found http, where anyone on the network could replace the keys; use https, or name a file"
                raise invalid("bad-url", message)
    else:  # relative to the settings file, wherever the process was started
        jwks = str((folder / jwks).absolute())
    audience = issuer.audience or ((resource,) if resource else ())
    return issuer.model_copy(update={"jwks": jwks, "audience": audience})


def _url(text: str, *, is_contacted: bool = True) -> tuple[str, str]:
    """The canonical origin of a URL, and the rest of it as written; raises ``InvalidSpec``."""
    if not text.startswith(("http://", "https://")):
        raise invalid("bad-url", "expected an address that begins with https://")
    return split_url(text, is_contacted=is_contacted)


def _keys(access: Access, sources: Sources, findings: Findings) -> tuple[ApiKey, ...]:
    """The keys whose digest is known. A missing secret disables only its own key."""
    keys: list[ApiKey] = []
    names: set[str] = set()  # also of keys without a digest: where their secret is set, the names would clash
    by_digest: dict[str, str] = {}
    for index, key in enumerate(access.api_keys or ()):
        route = ("access", "apiKeys", index)
        if key.name in names:
            findings.error(
                "duplicate-key", f"the name {key.name} is used above already; use another", *route, "name"
            )
        names.add(key.name)
        if is_expired(key.expires):
            findings.warn("unused-credential", f"the key of {key.name} has expired", *route, "expires")
        _check_scopes(key.scopes, findings, *route)
        digest = _digest(key, sources, findings, *route, "sha256")
        if digest in by_digest:
            message = f"the key of {by_digest[digest]} has the same digest; give each its own key"
            findings.error("duplicate-key", message, *route, "sha256")
        elif digest:
            by_digest[digest] = key.name
            keys.append(key.model_copy(update={"sha256": digest}))
    return tuple(keys)


def _check_scopes(scopes: Iterable[str], findings: Findings, *route: str | int) -> None:
    """Warn about scopes of the bridge that do not exist."""
    for number, scope in enumerate(scopes):
        if scope.startswith("restbridge:") and scope not in (OPERATE_SCOPE, METRICS_SCOPE):
            message = f"restbridge has no scope {scope}; its scopes are {OPERATE_SCOPE} and {METRICS_SCOPE}"
            findings.warn("unused-credential", message, *route, "scopes", number)


def _digest(key: ApiKey, sources: Sources, findings: Findings, *route: str | int) -> str:
    """A key's digest in lower case; empty if it is invalid or not set."""
    found = Findings()
    text = resolve_text(key.sha256, sources, found, *route)
    digest, is_literal = text.strip().lower(), text == key.sha256
    # What is wrong outside the file is a warning: it must not take the keys of all other callers.
    for each in found:
        findings.extend([replace(each, severity="warning") if each.code == "unset-secret" else each])
    if found.errors:
        return ""
    if _DIGEST.fullmatch(digest) and digest != _DIGEST_OF_EMPTY:
        return digest
    if digest == _DIGEST_OF_EMPTY:
        message = "this is the digest of an empty key; create a key with restbridge key new"
    elif is_literal:
        message = "expected the SHA-256 of the key, 64 hexadecimal digits; restbridge key new prints both"
    else:
        message = "its value is not a SHA-256 of 64 hexadecimal digits; until it is, this key is disabled"
    if is_literal:
        findings.error("wrong-value", message, *route)
    else:
        findings.warn("unset-secret", message, *route)
    return ""
