"""Headers and cookies: names that a file may set, and values that are valid in them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from bridge.codec import quote
from bridge.diagnostics import Finding, Findings, InvalidSpec, invalid
from bridge.errors import InvalidCall
from bridge.exchange import Header, RawHeaders, name_key
from bridge.spec import Json, Scalar
from bridge.tool.request.percent import not_unicode
from bridge.tool.request.placeholders import Text, foreign_placeholder, misplaced_secrets, to_text
from bridge.tool.schema.arguments import Arguments

# \Z, as $ also matches before a line break at the end.
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")  # RFC 9110 5.6.2
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NOT_LATIN_1: Final = re.compile(r"[^\x00-\xff]")
_NOT_IN_COOKIE: Final = re.compile(r'[\s;,"\\]')  # RFC 6265 4.1.1
_RESERVED_NAMES: Final = {
    "host": "it is derived from the address",
    "authorization": "credentials belong under auth in the upstream file, as apiKey if the scheme is neither bearer nor basic",
    "cookie": "cookies belong under request.cookies in tool files",
    "content-type": "tool files set it as request.contentType",
    "content-length": "it is derived from the body",
    "expect": "calls do not wait for 100 (Continue)",
    **dict.fromkeys(
        ("transfer-encoding", "connection", "te", "trailer", "upgrade", "keep-alive"),
        "it belongs to the connection, not to the request",
    ),
}


METHOD_HEADERS: Final = frozenset({"x-http-method-override", "x-http-method", "x-method-override"})
"""Headers that override the request's method in many frameworks."""
METHOD_PARAMETER: Final = "_method"
"""The query parameter, form field or JSON key with the same effect."""
REPLACES_METHOD: Final = "{name} would override the method; set request.method"

_PATH_HEADERS: Final = frozenset(
    {"x-original-url", "x-original-uri", "x-rewrite-url", "x-envoy-original-path", "x-http-path-override"}
)
_PROXY_HEADERS: Final = _PATH_HEADERS | {
    "cf-connecting-ip",
    "fastly-client-ip",
    "forwarded",
    "true-client-ip",
    "x-azure-clientip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-forwarded",
    "x-host",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-method",
    "x-real-ip",
}
"""Headers like ``X-Forwarded-…``: proxies put the path, host, method or client of a request into them."""

_NOT_FORWARDED: Final = {
    "authorization": "a caller's credentials are for the bridge only, and auth authenticates calls to the API",
    "cookie": "a caller's credentials are for the bridge only",
    "mcp-session-id": "anyone who knows a session id could use the session",
    "content-encoding": "it describes the body",
    "range": "the reply would be partial",
    **dict.fromkeys(METHOD_HEADERS, "the tool sets the method"),
    **dict.fromkeys(_PATH_HEADERS, "the tool sets the path"),
    "x-original-method": "the tool sets the method",
    "accept": "the tool sets which replies it accepts",
    "accept-encoding": "the bridge chooses how the reply is encoded",
}
"""Caller's headers that are never forwarded, with the reason, in addition to ``_RESERVED_NAMES``."""


@dataclass(frozen=True, slots=True)
class FieldTemplate:
    """A header or cookie whose value is a text with placeholders."""

    name: str
    text: Text
    is_cookie: bool = False

    def write(self, values: Mapping[str, Json]) -> str | None:
        """The value; None if an argument is absent. Raises ``InvalidCall`` for an invalid value."""
        value = self.text.render(values)
        # A constant was checked at load.
        if value is None or self.text.is_constant:
            return value
        problem, _ = _value_problem(value, is_cookie=self.is_cookie)
        if not problem:
            return value
        arguments = ", ".join(sorted(self.text.names))
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise not_unicode(arguments)
        where = f"the {'cookie' if self.is_cookie else 'header'} {self.name}"
        what = f"argument {arguments}" if arguments else "the caller's identity"
        raise InvalidCall("unsafe-argument", f"{what} cannot be sent in {where}: the value {problem}")


def location_key(kind: str, name: str) -> str:
    """Key of a header, query parameter or cookie, such as ``header x-key``; equal for names that a server may treat as equal."""
    return f"{kind} {name_key(name)}"


def is_proxy_header(name: str) -> bool:
    """Whether this header may override the path, host, method or client of a request."""
    key = name_key(name)
    return key.startswith("x-forwarded-") or key in _PROXY_HEADERS


def check_forwarded(name: str, reserved: frozenset[str]) -> None:
    """Raise ``InvalidSpec`` for a name that ``forwardHeaders`` must not contain."""
    if "*" in name:
        raise _wrong_name("bad-name", "* is not a wildcard; name each header")
    reason = _NOT_FORWARDED.get(name_key(name))
    if reason:
        raise _wrong_name("reserved-name", f"{name} cannot be forwarded: {reason}; take it out")
    check_header(name, "", reserved)


def check_header(name: str, value: str, reserved: frozenset[str], *, credentials: bool = False) -> None:
    """Raise ``InvalidSpec`` for a reserved name or an invalid value. No message contains the value.

    ``reserved`` holds the ``location_key`` of what the auth sets and of what would override the method.
    ``credentials`` is true for the auth itself; only the auth may set Authorization.
    """
    _require_token(name, "header")  # first: the other messages show the name as it is
    key = name_key(name)
    reason = "a proxy is set in the upstream file" if key.startswith("proxy-") else _RESERVED_NAMES.get(key)
    if reason and not (credentials and key == "authorization"):
        advice = "name another" if credentials else "take it out"
        raise _wrong_name("reserved-name", f"{name} cannot be set here: {reason}; {advice}")
    _check_field(name, value, is_reserved=location_key("header", name) in reserved, is_cookie=False)


def check_cookie(name: str, value: str, reserved: frozenset[str]) -> None:
    """Like ``check_header``, for a cookie."""
    _require_token(name, "cookie")
    _check_field(name, value, is_reserved=location_key("cookie", name) in reserved, is_cookie=True)


def compile_fields(
    written: Mapping[str, Scalar],
    arguments: Arguments,
    reserved: frozenset[str],
    findings: Findings,
    *route: str | int,
    is_cookie: bool = False,
) -> tuple[FieldTemplate, ...]:
    """The templates of ``request.headers`` or ``request.cookies``."""
    check = check_cookie if is_cookie else check_header
    fields: dict[str, FieldTemplate] = {}
    for name, value in written.items():
        written_text = to_text(name, value)
        findings.extend(misplaced_secrets(written_text), *route, name)
        findings.extend(foreign_placeholder(written_text, arguments), *route, name)
        text = Text.parse(written_text)
        # A context ends at its first error, so each check has its own.
        with findings.at(*route, name):
            text.check(arguments)
        with findings.at(*route, name):
            # As written, so that offsets are right. Braces and names are valid in any value.
            check(name, written_text, reserved)
        # Names of cookies are case-sensitive.
        key = name if is_cookie else name_key(name)
        if key in fields:
            message = f"{name} is already set here as {fields[key].name}; keep one"
            findings.error("duplicate-header", message, *route, name, at_key=True)
        fields[key] = FieldTemplate(name, text, is_cookie)
    return tuple(fields.values())


def forwarded_headers(names: Iterable[str], headers: RawHeaders, own: Iterable[Header]) -> Iterator[Header]:
    """The caller's headers with these names, without those that the request sets itself (``own``).

    Raises ``InvalidCall`` for an invalid value.
    """
    taken = {name_key(name) for name, _ in own}
    sent: dict[str, list[str]] = {}
    for raw, content in headers:
        # Latin-1 has a character for every byte.
        sent.setdefault(raw.decode("latin-1"), []).append(content.decode("latin-1"))
    for name in names:
        lower = name.lower()
        if lower in sent and (key := name_key(name)) not in taken:
            # So that X-A and X_A are not both forwarded: some servers read them as one.
            taken.add(key)
            value = ", ".join(sent[lower]).strip()  # RFC 9110 5.3
            problem, _ = _value_problem(value, is_cookie=False)
            if problem:
                raise InvalidCall(
                    "unsafe-argument", f"the header {name} of this request cannot be forwarded: it {problem}"
                )
            yield name, value


def _check_field(name: str, value: str, *, is_reserved: bool, is_cookie: bool) -> None:
    if is_reserved:
        if name_key(name) in METHOD_HEADERS:
            message = REPLACES_METHOD.format(name=name)
        else:
            message = f"{name} is set by the upstream's auth; take it out"
        raise _wrong_name("reserved-name", message)
    problem, offset = _value_problem(value, is_cookie=is_cookie)
    if problem:
        raise invalid("wrong-value", f"the value {problem}", offset=offset)


def _require_token(name: str, kind: str) -> None:
    if not _TOKEN.match(name):
        raise _wrong_name(
            "bad-name", f"{quote(name)} is not a {kind} name; write letters, digits and hyphens"
        )


def _wrong_name(code: str, message: str) -> InvalidSpec:
    return InvalidSpec(Finding(code, message, at_key=True))


def _value_problem(value: str, *, is_cookie: bool) -> tuple[str, int]:
    """What is wrong with a value and what to do, and its offset; empty if valid (RFC 9110 5.5, RFC 6265 4.1.1)."""
    if value.isascii() and value.isprintable() and not is_cookie and value == value.strip():
        return "", 0
    # Before the blanks, as a line break at the end is one of them.
    if found := _CONTROL.search(value):
        return "holds a line break, tab or other control character; take it out", found.start()
    if is_cookie and (found := _NOT_IN_COOKIE.search(value)):
        return 'holds a blank or one of ; , " \\; encode it', found.start()
    if value != value.strip():
        return "begins or ends with a blank; take it off", 0 if value[0].isspace() else len(value.rstrip())
    if found := _NOT_LATIN_1.search(value):
        return "holds a character outside Latin-1; write it in ASCII", found.start()
    return "", 0
