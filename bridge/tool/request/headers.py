"""Header and cookie fields: which names a file may set, and which texts may stand in them."""

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
from bridge.tool.request.placeholders import Text, foreign, secrets_in, to_text
from bridge.tool.schema.arguments import Arguments

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")  # RFC 9110 5.6.2
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_WIDE: Final = re.compile(r"[^\x00-\xff]")
_NO_COOKIE: Final = re.compile(r'[\s;,"\\]')  # RFC 6265 4.1.1
_REFUSED: Final = {
    "host": "it follows from the address",
    "authorization": "credentials stand under auth in the upstream file, as apiKey if the scheme is neither bearer nor basic",
    "cookie": "cookies stand under request.cookies in tool files",
    "content-type": "it stands as request.contentType in tool files",
    "content-length": "it follows from the body",
    "expect": "a call waits for no 100 (Continue)",
    **dict.fromkeys(
        ("transfer-encoding", "connection", "te", "trailer", "upgrade", "keep-alive"),
        "it belongs to the connection, not to the request",
    ),
}


METHOD_HEADERS: Final = frozenset({"x-http-method-override", "x-http-method", "x-method-override"})
"""Headers by which frameworks take another method than the request's."""
METHOD_PARAMETER: Final = "_method"
"""The parameter of a query or a form, or the key of a JSON body, by which they do."""
REPLACES_METHOD: Final = "{name} would replace the method; write the method that is meant as request.method"

_PATH_HEADERS: Final = frozenset({"x-original-url", "x-original-uri", "x-rewrite-url"})
_PROXY_HEADERS: Final = _PATH_HEADERS | {
    "forwarded",
    "x-host",
    "x-original-host",
    "x-original-method",
    "x-real-ip",
}
"""Headers next to ``X-Forwarded-…`` by which proxies tell an API the path, host, method or client of a request."""

_KEPT: Final = {
    "authorization": "what callers show to the bridge is for the bridge alone, and auth is how calls authenticate",
    "cookie": "what callers show to the bridge is for the bridge alone",
    "mcp-session-id": "whoever knows a session's id could take part in it",
    "content-encoding": "it is for what has the body to say",
    "range": "the reply would be a part",
    **dict.fromkeys(METHOD_HEADERS, "the method is for the tool to say"),
    **dict.fromkeys(_PATH_HEADERS, "the path is for the tool to say"),
    "x-original-method": "the method is for the tool to say",
    "accept": "what the reply may be is for the tool to say",
    "accept-encoding": "it is for the bridge to read the reply",
}
"""Why these of a caller's headers go no further, beside those that no file may set."""


@dataclass(frozen=True, slots=True)
class Field:
    """A header or a cookie, and the text that makes its value."""

    name: str
    text: Text
    is_cookie: bool = False

    def write(self, values: Mapping[str, Json]) -> str | None:
        """The value, fit to be sent; None if an argument is absent. Raises ``InvalidCall``."""
        value = self.text.render(values)
        if value is None or self.text.constant:
            return value
        problem, _ = _problem(value, is_cookie=self.is_cookie)
        if not problem:
            return value
        arguments = ", ".join(sorted(self.text.names))
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise not_unicode(arguments)
        where = f"the {'cookie' if self.is_cookie else 'header'} {self.name}"
        what = f"argument {arguments}" if arguments else "what is known of who calls"
        raise InvalidCall("unsafe-argument", f"{what} cannot stand in {where}: the value {problem}")


def place(kind: str, name: str) -> str:
    """Where a header, query parameter or cookie goes, as ``header x-key``; equal for names that some server reads as one."""
    return f"{kind} {name_key(name)}"


def is_of_proxies(name: str) -> bool:
    """Whether an API may take another path, host, method or client from this header than those of the request."""
    key = name_key(name)
    return key.startswith("x-forwarded-") or key in _PROXY_HEADERS


def check_forwarded(name: str, reserved: frozenset[str]) -> None:
    """Raise ``InvalidSpec`` for a name of which nothing that a caller sends may go on to an API."""
    if "*" in name:
        raise _wrong_name("bad-name", "* stands for nothing; name each header")
    why = _KEPT.get(name_key(name))
    if why:
        raise _wrong_name("reserved-name", f"{name} cannot be sent on: {why}; take it out")
    check_header(name, "", reserved)


def check_header(name: str, value: str, reserved: frozenset[str], *, credentials: bool = False) -> None:
    """Raise ``InvalidSpec`` for a name that no file may set, or a value that cannot stand in a header.

    ``reserved`` holds what the auth sets, or would replace the method, as ``place`` writes it; ``credentials`` is for the auth
    itself, which alone may set Authorization. No message holds the value.
    """
    key = name_key(name)
    why = "a proxy is set in the upstream file" if key.startswith("proxy-") else _REFUSED.get(key)
    if why and not (credentials and key == "authorization"):
        advice = "name another" if credentials else "take it out"
        raise _wrong_name("reserved-name", f"{name} cannot be set here: {why}; {advice}")
    _check_field(name, value, is_reserved=place("header", name) in reserved, is_cookie=False)


def check_cookie(name: str, value: str, reserved: frozenset[str]) -> None:
    """As ``check_header``, for the name and value of a cookie."""
    _check_field(name, value, is_reserved=place("cookie", name) in reserved, is_cookie=True)


def compile_fields(
    written: Mapping[str, Scalar],
    arguments: Arguments,
    reserved: frozenset[str],
    findings: Findings,
    *route: str | int,
    is_cookie: bool = False,
) -> tuple[Field, ...]:
    """The fields of ``request.headers`` or ``request.cookies``."""
    check = check_cookie if is_cookie else check_header
    fields: dict[str, Field] = {}
    for name, value in written.items():
        written_text = to_text(name, value)
        findings.extend(secrets_in(written_text), *route, name)
        findings.extend(foreign(written_text, arguments), *route, name)
        text = Text.parse(written_text)
        with findings.at(*route, name):
            text.check(arguments)
        with findings.at(*route, name):
            check(name, text.sample, reserved)
        key = name if is_cookie else name_key(name)
        if key in fields:
            message = f"{name} stands here as {fields[key].name} already; keep one"
            findings.error("duplicate-header", message, *route, name, at_key=True)
        fields[key] = Field(name, text, is_cookie)
    return tuple(fields.values())


def forwarded(names: Iterable[str], headers: RawHeaders, own: Iterable[Header]) -> Iterator[Header]:
    """Those of a caller's headers that have these names, but for what a request has of its ``own``.

    Raises ``InvalidCall``.
    """
    taken = {name_key(name) for name, _ in own}
    sent: dict[str, list[str]] = {}
    for raw, content in headers:
        sent.setdefault(raw.decode("latin-1"), []).append(content.decode("latin-1"))
    for name in names:
        lower = name.lower()
        if lower in sent and (key := name_key(name)) not in taken:
            taken.add(key)
            value = ", ".join(sent[lower]).strip()  # RFC 9110 5.3
            problem, _ = _problem(value, is_cookie=False)
            if problem:
                raise InvalidCall(
                    "unsafe-argument", f"the header {name} of this request cannot be sent on: it {problem}"
                )
            yield name, value


def _check_field(name: str, value: str, *, is_reserved: bool, is_cookie: bool) -> None:
    if not _TOKEN.match(name):
        kind = "cookie" if is_cookie else "header"
        raise _wrong_name("bad-name", f"{quote(name)} is no {kind} name; write letters, digits and hyphens")
    if is_reserved:
        message = f"{name} is where the upstream's auth puts its key; take it out"
        if name_key(name) in METHOD_HEADERS:
            message = REPLACES_METHOD.format(name=name)
        raise _wrong_name("reserved-name", message)
    problem, offset = _problem(value, is_cookie=is_cookie)
    if problem:
        raise invalid("wrong-value", f"the value {problem}", offset=offset)


def _wrong_name(code: str, message: str) -> InvalidSpec:
    return InvalidSpec(Finding(code, message, at_key=True))


def _problem(value: str, *, is_cookie: bool) -> tuple[str, int]:
    """What keeps a value out of a field, with what to do, and where; RFC 9110 5.5, RFC 6265 4.1.1."""
    if value.isascii() and value.isprintable() and not is_cookie and value == value.strip():
        return "", 0
    if found := _CONTROL.search(value):
        return "holds a line break, tab or other control character; take it out", found.start()
    if is_cookie and (found := _NO_COOKIE.search(value)):
        return 'holds a blank or one of ; , " \\; encode it', found.start()
    if value != value.strip():
        return "begins or ends with a blank; take it off", 0 if value[0].isspace() else len(value.rstrip())
    if found := _WIDE.search(value):
        return "holds a character outside Latin-1; write it in ASCII", found.start()
    return "", 0
