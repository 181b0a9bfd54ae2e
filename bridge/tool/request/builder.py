"""Builds the HTTP request of a call from its arguments. All checks that need no arguments happen at load.

Where an argument goes:

- Placed: the file names it in the URL, the query, a header, a cookie or the body.
- Unplaced: ``properties`` declares it, but the file does not name it. It goes into the query, or into the
  body for POST, PUT and PATCH. With an explicit ``request.body`` an unplaced argument is an error.
- Undeclared: the schema allows it by ``additionalProperties``. It goes where unplaced arguments go.
"""

import re
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Self

from bridge.diagnostics import Finding, Findings
from bridge.errors import InvalidCall
from bridge.exchange import Header, Request, name_key
from bridge.spec import BODY_METHODS, SAFE_METHODS, Json, RequestSpec
from bridge.tool.quoting import pointer
from bridge.tool.request.body import Body, compile_body, compile_unplaced
from bridge.tool.request.headers import (
    METHOD_PARAMETER,
    REPLACES_METHOD,
    FieldTemplate,
    compile_fields,
    location_key,
)
from bridge.tool.request.media import check_content_type
from bridge.tool.request.nodes import ArgumentNode
from bridge.tool.request.placeholders import (
    BUILTINS,
    CALLER_CLAIM_PREFIX,
    Text,
    foreign_placeholders_in_url,
    is_builtin,
)
from bridge.tool.request.query import (
    ClaimedNames,
    Entry,
    Parameter,
    check_argument,
    compile_entry,
    write_undeclared,
)
from bridge.tool.request.url_template import Expression, UrlTemplate
from bridge.tool.request.url_template_parser import parse_url_template
from bridge.tool.schema.arguments import Arguments

MAX_URL_BYTES: Final = 16 * 1024
"""Longest URL that is sent; common servers refuse half of that."""

_NONE: Final[Mapping[str, Json]] = {}
_BODY: Final = ("request", "body")
_PROPERTIES: Final = ("inputSchema", "properties")
_RESERVED: Final = "the query parameter {name} is set by the upstream's auth; choose another"
_UNDECLARED: Final = "arguments that inputSchema allows but does not declare"
_PATH: Final = re.compile(r"^[a-z]+://[^/]*")  # scheme, host and port
_QUERY: Final = re.compile(r"\?|\{[?&]")
_CODES_THAT_HIDE_PLACES: Final = ("bad-template", "bad-secret", "unknown-argument", "body-not-allowed")
"""After these errors it is unknown which arguments are unplaced."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A place in the request that needs all of ``names``; ``nullable`` if it accepts null."""

    label: str
    names: frozenset[str]
    nullable: bool = False

    def is_used(self, values: Mapping[str, Json]) -> bool:
        if self.nullable:
            return self.names <= values.keys()
        # Outside of JSON bodies, empty arrays and objects are left out like null.
        return all(values.get(name) not in (None, [], {}) for name in self.names)


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """A compiled ``request``. ``caller_placeholders`` are the caller's values in it, such as ``$caller.email``."""

    method: str
    _base_url: str
    _path: str
    _template: UrlTemplate
    _entries: tuple[Entry, ...]
    _query_names: frozenset[str]
    _reserved_query_names: frozenset[str]
    _headers: tuple[Header, ...]
    _fields: tuple[FieldTemplate, ...]
    _cookies: tuple[FieldTemplate, ...]
    _body: Body | None
    _properties: Collection[str]
    _allows_undeclared: bool
    _has_builtins: bool
    caller_placeholders: tuple[str, ...]
    _unplaced: tuple[str, ...]
    _has_explicit_body: bool

    @classmethod
    def compile(
        cls,
        spec: RequestSpec,
        *,
        base_url: str,
        arguments: Arguments,
        reserved: frozenset[str],
        accept: str | None,
        url_offset: int = 0,
    ) -> tuple[Self, tuple[Finding, ...]]:
        """The template and its warnings; raises ``InvalidSpec`` with all findings.

        Routes start at the root of the tool file. ``base_url`` is canonical. ``spec.url`` begins with ``/``;
        ``url_offset`` is where it starts in the file's ``url``. ``reserved`` holds the
        ``headers.location_key`` of all that the auth sets.
        """
        parts = _CompiledParts(spec, arguments, reserved, url_offset)
        parts.findings.raise_errors()
        template = cls(
            method=spec.method,
            _base_url=base_url,
            _path=_PATH.sub("", base_url) + _QUERY.split(spec.url)[0],
            _template=parts.template,
            _entries=tuple(parts.entries),
            _query_names=parts.query_names,
            _reserved_query_names=frozenset(
                each.removeprefix("query ") for each in reserved if each.startswith("query ")
            ),
            _headers=_constant_headers(parts.headers, accept),
            _fields=tuple(field for field in parts.headers if not field.text.is_constant),
            _cookies=parts.cookies,
            _body=parts.body,
            _properties=arguments.properties,
            _allows_undeclared=arguments.is_open,
            # By the text, which may find too many of them, but misses none.
            _has_builtins=any(name in _all_text(spec) for name in BUILTINS),
            caller_placeholders=_caller_placeholders(spec, parts.template),
            _unplaced=parts.unplaced,
            _has_explicit_body=parts.has_explicit_body,
        )
        return template, tuple(parts.findings)

    def build(self, values: Mapping[str, Json], builtins: Mapping[str, Json] = _NONE) -> Request:
        """The request for arguments that ``Arguments.check`` accepted; raises only ``InvalidCall``.

        ``builtins`` are values such as ``$caller``. ``$uuid`` and ``$now`` are generated if they are missing.
        """
        # Before the builtins are added, which are sent only where the file names them.
        undeclared = self._undeclared(values)
        if self._has_builtins:
            self._check_caller_values(builtins)
            # Builtins come last: an undeclared argument may also be called $caller.
            values = {**values, **_generated_builtins(), **builtins}
        url = self._url(values, undeclared)
        headers = self._headers
        if self._fields or self._cookies:
            headers += self._call_headers(values)
        built = self._body.build(values, undeclared) if self._body else None
        if built is None:
            return Request(self.method, url, headers, None, self._path)
        content, content_type = built
        return Request(self.method, url, (*headers, ("Content-Type", content_type)), content, self._path)

    def _check_caller_values(self, builtins: Mapping[str, Json]) -> None:
        """Raise ``InvalidCall`` if a value of the caller is unknown: without it the API could return data of others."""
        for name in self.caller_placeholders:
            value = builtins.get(name)
            if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
                what = (
                    "the caller's identity"
                    if name == "$caller"
                    else f"the claim {name.removeprefix(CALLER_CLAIM_PREFIX)} of the caller"
                )
                message = f"This tool needs {what}, which is unknown. Tell the user, who may have to log in."
                raise InvalidCall("unknown-caller", message)

    def placement(self, values: Mapping[str, Json]) -> dict[str, tuple[str, ...]]:
        """Argument → its places, such as ``path``, ``query created[gte]`` or ``body /customer/id``.

        Declared arguments come first, in the order of the schema. An argument that is not sent has no places.
        """
        destinations = _destinations(
            self._template,
            self._entries,
            (*self._fields, *self._cookies),
            self._body,
            self._unplaced,
            has_explicit_body=self._has_explicit_body,
        )
        used = [destination for destination in destinations if destination.is_used(values)]
        placed = {
            name: tuple(destination.label for destination in used if name in destination.names)
            for name in self._properties
        }
        label = "body (by default)" if self.method in BODY_METHODS else "query (by default)"
        return placed | dict.fromkeys(self._undeclared(values), (label,))

    def _undeclared(self, values: Mapping[str, Json]) -> Mapping[str, Json]:
        """Arguments that ``additionalProperties`` allows."""
        if not self._allows_undeclared:
            return _NONE
        return {name: value for name, value in values.items() if name not in self._properties}

    def _url(self, values: Mapping[str, Json], undeclared: Mapping[str, Json]) -> str:
        url = self._base_url + self._template.write_path(values)
        if undeclared or self._entries or self._template.has_query:
            url += self._query(values, undeclared)
        if len(url) > MAX_URL_BYTES:
            message = (
                f"the URL would have {len(url)} bytes, the limit is {MAX_URL_BYTES}; pass shorter arguments"
            )
            raise InvalidCall("url-too-long", message)
        return url

    def _query(self, values: Mapping[str, Json], undeclared: Mapping[str, Json]) -> str:
        # One for all parts, so that no two of them set the same parameter.
        claims = ClaimedNames(self._query_names, self._reserved_query_names)
        pairs = self._template.write_query(values, claims)
        for entry in self._entries:
            pairs += entry.write(values, claims)
        if undeclared and self.method not in BODY_METHODS:
            pairs += write_undeclared(undeclared, claims)
        return f"?{'&'.join(pairs)}" if pairs else ""

    def _call_headers(self, values: Mapping[str, Json]) -> tuple[Header, ...]:
        """The headers that depend on the call, and the cookies as one header (RFC 6265 5.4)."""
        headers = [
            (field.name, value) for field in self._fields if (value := field.write(values)) is not None
        ]
        cookies = [
            f"{field.name}={value}" for field in self._cookies if (value := field.write(values)) is not None
        ]
        return (*headers, ("Cookie", "; ".join(cookies))) if cookies else tuple(headers)


class _CompiledParts:
    """The compiled parts of a request, and the findings."""

    def __init__(
        self, spec: RequestSpec, arguments: Arguments, reserved: frozenset[str], url_offset: int
    ) -> None:
        self.findings = Findings()
        self._spec = spec
        self._arguments = arguments
        self._reserved = reserved
        # Before the entries, which must not repeat its parameters.
        self.template = self._template(url_offset)
        self.entries = [self._entry(name, value) for name, value in spec.query.items()]
        self.headers = compile_fields(spec.headers, arguments, reserved, self.findings, "request", "headers")
        self.cookies = compile_fields(
            spec.cookies, arguments, reserved, self.findings, "request", "cookies", is_cookie=True
        )
        # Also if contentType is invalid, so that the body is checked nevertheless.
        self._content_type = "application/json"
        with self.findings.at("request", "contentType"):
            check_content_type(spec.content_type)
            self._content_type = spec.content_type
        self.has_explicit_body = "body" in spec.model_fields_set
        self.body = self._compile_body() if self.has_explicit_body else None
        self.unplaced: tuple[str, ...] = ()
        if not any(
            finding.code in _CODES_THAT_HIDE_PLACES or finding.route[:2] == _BODY
            for finding in self.findings.errors
        ):
            destinations = _destinations(
                self.template,
                self.entries,
                (*self.headers, *self.cookies),
                self.body,
                (),
                has_explicit_body=self.has_explicit_body,
            )
            named = {name for destination in destinations for name in destination.names}
            self.unplaced = tuple(name for name in arguments.properties if name not in named)
            self._place_unplaced()

    @property
    def query_names(self) -> frozenset[str]:
        return frozenset(self.template.query_offsets) | {entry.parameter.name for entry in self.entries}

    def _template(self, url_offset: int) -> UrlTemplate:
        found = Findings()
        template = found.attempt(lambda: parse_url_template(self._spec.url)) or UrlTemplate()
        with found.at():
            template.check(self._arguments)
        found.extend(foreign_placeholders_in_url(self._spec.url, self._arguments))
        for name, offset in template.query_offsets.items():
            if location_key("query", name) in self._reserved:
                found.error("reserved-name", _reserved_message(name), offset=offset)
        for finding in found:
            # The url of the file may be absolute, while ``spec.url`` begins with its path.
            shifted = replace(finding, offset=(finding.offset or 0) + url_offset)
            self.findings.add(shifted.under("request", "url"))
        return template

    def _entry(self, name: str, value: Json) -> Entry:
        route = ("request", "query", name)
        if name in self.template.query_offsets:
            message = f"the url already sets the query parameter {name}; keep one of the two"
            self.findings.error("duplicate-parameter", message, *route, at_key=True)
        if location_key("query", name) in self._reserved:
            self.findings.error("reserved-name", _reserved_message(name), *route, at_key=True)
        return compile_entry(name, value, self._arguments, self.findings, *route)

    def _compile_body(self) -> Body | None:
        route = _BODY
        if self._spec.method in SAFE_METHODS:
            message = f"{self._spec.method} has no body; write request.query, or choose another method"
            self.findings.error("body-not-allowed", message, *route, at_key=True)
            return None
        return compile_body(self._spec.body, self._content_type, self._arguments, self.findings, *route)

    def _place_unplaced(self) -> None:
        """Put unplaced arguments into the query or the body, depending on the method."""
        unplaced, findings = self.unplaced, self.findings
        if self.has_explicit_body:
            if unplaced:
                advice = f"write {_join_names(unplaced)} where needed, or take out the argument or the body"
                self._report_never_sent(unplaced, f"; {advice}", "body")
            if self._arguments.is_open:
                self._report_never_sent((), "; set additionalProperties: false, or take the body out", "body")
        elif self._spec.method not in BODY_METHODS:
            self.entries += [self._unplaced_entry(name) for name in unplaced]
        # A POST without arguments has no body.
        elif unplaced or self._arguments.is_open:
            self.body = compile_unplaced(
                unplaced, self._content_type, self._arguments, findings, *_PROPERTIES
            )
            if self.body is None:
                advice = (
                    f"write {_join_names(unplaced)} into request.body"
                    if unplaced
                    else "set additionalProperties: false"
                )
                self._report_never_sent(
                    unplaced, f", because {self._content_type} has no field names; {advice}", "contentType"
                )

    def _unplaced_entry(self, name: str) -> Entry:
        if name in self.query_names:
            message = (
                f"argument {name} is not placed in the request, and the query parameter {name} is already set; "
                f"write {{{name}}} where it belongs"
            )
            self.findings.error("duplicate-parameter", message, *_PROPERTIES, name, at_key=True)
        if location_key("query", name) in self._reserved:
            self.findings.error("reserved-name", _reserved_message(name), *_PROPERTIES, name, at_key=True)
        check_argument(name, None, self._arguments, self.findings, *_PROPERTIES, name)
        return Entry(Parameter(name), ArgumentNode(name))

    def _report_never_sent(self, names: tuple[str, ...], rest: str, key: str) -> None:
        what = _join_names(names) if names else _UNDECLARED
        self.findings.error("never-sent", f"{what} would never be sent{rest}", "request", key, at_key=True)


def _reserved_message(name: str) -> str:
    """Why a tool may not set a query parameter."""
    is_method = name_key(name) == name_key(METHOD_PARAMETER)
    return (REPLACES_METHOD if is_method else _RESERVED).format(name=name)


def body_names(body: Json) -> Collection[str]:
    """The top-level names of a body in the file."""
    return body.keys() if isinstance(body, dict) else ()


def _generated_builtins() -> dict[str, str]:
    """A random UUID (RFC 9562 5.4) and the time in UTC, to the second (RFC 3339)."""
    return {"$uuid": str(uuid.uuid4()), "$now": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


def _join_names(names: tuple[str, ...]) -> str:
    braced = [f"{{{name}}}" for name in names]
    return " and ".join(filter(None, [", ".join(braced[:-1]), braced[-1]]))


def _constant_headers(fields: tuple[FieldTemplate, ...], accept: str | None) -> tuple[Header, ...]:
    """The headers that are the same in every call; an Accept header of the file replaces ``accept``."""
    has_own = any(field.name.lower() == "accept" for field in fields)
    given = () if accept is None or has_own else (("Accept", accept),)
    constants = [(field.name, field.write({}) or "") for field in fields if field.text.is_constant]
    return (*given, *constants)


def _all_text(spec: RequestSpec) -> str:
    return str((spec.url, spec.query, spec.headers, spec.cookies, spec.body))


def _caller_placeholders(spec: RequestSpec, template: UrlTemplate) -> tuple[str, ...]:
    """The builtins with the caller's identity or claims that a request is built from."""
    # One text is enough: the marks of str() around each value are no part of a placeholder.
    texts = Text.parse(str((spec.query, spec.headers, spec.cookies, spec.body)))
    names = {each.name for each in template.variables} | {each.name for each in texts.placeholders}
    return tuple(sorted(n for n in names if n == "$caller" or n.startswith(CALLER_CLAIM_PREFIX)))


def _destinations(
    template: UrlTemplate,
    entries: Iterable[Entry],
    fields: Iterable[FieldTemplate],
    body: Body | None,
    unplaced: Collection[str],
    *,
    has_explicit_body: bool,
) -> Iterator[Destination]:
    """All destinations; ``has_explicit_body``: whether the file has ``request.body``."""
    yield from _url_destinations(template)
    for entry in entries:
        kind = "query (by default)" if entry.argument in unplaced else f"query {entry.parameter.name}"
        for leaf in entry.node.leaves():
            yield Destination(kind, leaf.names)
    for each in fields:
        yield Destination(f"{'cookie' if each.is_cookie else 'header'} {each.name}", each.text.names)
    for leaf in body.leaves() if body else ():
        label = f"body {pointer(leaf.route)}".rstrip() if has_explicit_body else "body (by default)"
        yield Destination(label, leaf.names, leaf.nullable)


def _url_destinations(template: UrlTemplate) -> Iterator[Destination]:
    for part in template.path:
        if isinstance(part, Expression):
            for variable in part.variables:
                yield Destination("path", frozenset({variable.name}))
    for pair in template.pairs:
        names = frozenset(variable.name for variable in pair.variables)
        yield Destination(f"query {pair.name}", frozenset(name for name in names if not is_builtin(name)))
    for variable, _ in template.form_parameters:
        yield Destination(f"query {variable.name}", frozenset({variable.name}))
