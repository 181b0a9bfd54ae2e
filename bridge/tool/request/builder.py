"""Arguments become an HTTP request: whatever can be decided before a call is decided at load."""

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
from bridge.tool.request.body import Body, compile_body, compile_leftovers
from bridge.tool.request.headers import METHOD_PARAMETER, REPLACES_METHOD, Field, compile_fields, place
from bridge.tool.request.media import check_content_type
from bridge.tool.request.nodes import Whole
from bridge.tool.request.placeholders import BUILTINS, CLAIM, foreign_in_url, is_builtin
from bridge.tool.request.query import Claims, Entry, Parameter, check_argument, compile_entry, write_unnamed
from bridge.tool.request.url_template import Expression, Template
from bridge.tool.schema.arguments import Arguments
from bridge.tool.schema.violations import pointer

MAX_URL: Final = 16 * 1024
"""Bytes of a URL; common servers refuse half of that."""

_NONE: Final[Mapping[str, Json]] = {}
_BODY: Final = ("request", "body")
_PROPERTIES: Final = ("inputSchema", "properties")
_RESERVED: Final = "the query parameter {name} is where the upstream's auth puts its key; choose another"
_UNNAMED: Final = "arguments that inputSchema lets pass without naming them"
_PATH: Final = re.compile(r"^[a-z]+://[^/]*")
_QUERY: Final = re.compile(r"\?|\{[?&]")
_ASKED: Final = re.compile(r"\{[^{}]*?(\$caller(?:\.[A-Za-z0-9_.-]+)?)[^{}]*\}")
"""What a request asks of the caller, in braces."""
_BLINDING: Final = ("bad-template", "bad-secret", "unknown-argument", "body-not-allowed")
"""After these it is not known which arguments are left over."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where arguments go together: if one of them is absent, none of them goes there."""

    label: str
    names: frozenset[str]
    nullable: bool = False

    def is_used(self, values: Mapping[str, Json]) -> bool:
        if self.nullable:
            return self.names <= values.keys()
        return all(values.get(name) not in (None, [], {}) for name in self.names)


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """What makes the request of each call; ``asked`` is what of the caller goes into it, as ``$caller.email``."""

    method: str
    _base_url: str
    _path: str
    _template: Template
    _entries: tuple[Entry, ...]
    _taken: frozenset[str]
    _reserved: frozenset[str]
    _headers: tuple[Header, ...]
    _fields: tuple[Field, ...]
    _cookies: tuple[Field, ...]
    _body: Body | None
    _properties: Collection[str]
    _is_open: bool
    _has_builtins: bool
    asked: tuple[str, ...]
    _left: tuple[str, ...]
    _is_written: bool

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
        """The template and the warnings; raises ``InvalidSpec`` with every finding; routes begin at the tool file's root.

        ``base_url`` is canonical, ``spec.url`` begins with ``/`` and stands ``url_offset`` characters
        into the file's text. ``reserved`` holds where the auth puts its key, as ``headers.place`` writes it.
        """
        parts = _Parts(spec, arguments, reserved, url_offset)
        parts.findings.raise_errors()
        template = cls(
            method=spec.method,
            _base_url=base_url,
            _path=_PATH.sub("", base_url) + _QUERY.split(spec.url)[0],
            _template=parts.template,
            _entries=tuple(parts.entries),
            _taken=parts.query_names,
            _reserved=frozenset(each[6:] for each in reserved if each.startswith("query ")),
            _headers=_constant(parts.headers, accept),
            _fields=tuple(field for field in parts.headers if not field.text.constant),
            _cookies=parts.cookies,
            _body=parts.body,
            _properties=arguments.properties,
            _is_open=arguments.open,
            _has_builtins=any(name in _written(spec) for name in BUILTINS),
            asked=tuple(sorted(set(_ASKED.findall(_written(spec))))),
            _left=parts.left,
            _is_written=parts.is_written,
        )
        return template, tuple(parts.findings)

    def build(self, values: Mapping[str, Json], known: Mapping[str, Json] = _NONE) -> Request:
        """The request for arguments that ``Arguments.check`` let through; raises nothing but ``InvalidCall``.

        ``known`` is what builtins stand for, such as ``$caller``; ``$uuid`` and ``$now`` are made here if they are
        needed and not given.
        """
        extra = self._extra(values)
        if self._has_builtins:
            self._check_asked(known)
            values = {**values, **_fresh(), **known}
        url = self._url(values, extra)
        headers = self._headers
        if self._fields or self._cookies:
            headers += self._written(values)
        built = self._body.build(values, extra) if self._body else None
        if built is None:
            return Request(self.method, url, headers, None, self._path)
        content, content_type = built
        return Request(self.method, url, (*headers, ("Content-Type", content_type)), content, self._path)

    def _check_asked(self, known: Mapping[str, Json]) -> None:
        """All of the caller that is asked for must be there: leaving it out could show one's data to another."""
        for name in self.asked:
            value = known.get(name)
            if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
                what = (
                    "who calls" if name == "$caller" else f"the claim {name.removeprefix(CLAIM)} of who calls"
                )
                message = (
                    f"This tool needs to know {what}, and does not. Tell the user, who may have to log in."
                )
                raise InvalidCall("unknown-caller", message)

    def placement(self, values: Mapping[str, Json]) -> dict[str, tuple[str, ...]]:
        """Where each argument goes, as ``path``, ``query created[gte]`` or ``body /customer/id``.

        Those that the schema names come first, in its order; what is not sent goes nowhere.
        """
        places = _places(
            self._template,
            self._entries,
            (*self._fields, *self._cookies),
            self._body,
            self._left,
            is_written=self._is_written,
        )
        used = [place for place in places if place.is_used(values)]
        placed = {
            name: tuple(place.label for place in used if name in place.names) for name in self._properties
        }
        leftover = "body (named nowhere)" if self.method in BODY_METHODS else "query (named nowhere)"
        return placed | dict.fromkeys(self._extra(values), (leftover,))

    def _extra(self, values: Mapping[str, Json]) -> Mapping[str, Json]:
        """Arguments that the schema lets pass without naming them."""
        if not self._is_open:
            return _NONE
        return {name: value for name, value in values.items() if name not in self._properties}

    def _url(self, values: Mapping[str, Json], extra: Mapping[str, Json]) -> str:
        url = self._base_url + self._template.write_path(values)
        if extra or self._entries or self._template.has_query:
            url += self._query(values, extra)
        if len(url) > MAX_URL:
            message = (
                f"the URL would have {len(url)} bytes, and {MAX_URL} can be sent; pass shorter arguments"
            )
            raise InvalidCall("url-too-long", message)
        return url

    def _query(self, values: Mapping[str, Json], extra: Mapping[str, Json]) -> str:
        claims = Claims(self._taken, self._reserved)
        pairs = self._template.write_query(values, claims)
        for entry in self._entries:
            pairs += entry.write(values, claims)
        if extra and self.method not in BODY_METHODS:
            pairs += write_unnamed(extra, claims)
        return f"?{'&'.join(pairs)}" if pairs else ""

    def _written(self, values: Mapping[str, Json]) -> tuple[Header, ...]:
        """The headers that depend on the call, and the cookies as one header (RFC 6265 5.4)."""
        headers = [
            (field.name, value) for field in self._fields if (value := field.write(values)) is not None
        ]
        cookies = [
            f"{field.name}={value}" for field in self._cookies if (value := field.write(values)) is not None
        ]
        return (*headers, ("Cookie", "; ".join(cookies))) if cookies else tuple(headers)


class _Parts:
    """The parts of a request as they are compiled, and what was found on the way."""

    def __init__(
        self, spec: RequestSpec, arguments: Arguments, reserved: frozenset[str], url_offset: int
    ) -> None:
        self.findings = Findings()
        self._spec = spec
        self._arguments = arguments
        self._reserved = reserved
        self.template = self._template(url_offset)
        self.entries = [self._entry(name, value) for name, value in spec.query.items()]
        self.headers = compile_fields(spec.headers, arguments, reserved, self.findings, "request", "headers")
        self.cookies = compile_fields(
            spec.cookies, arguments, reserved, self.findings, "request", "cookies", is_cookie=True
        )
        self._content_type = "application/json"
        with self.findings.at("request", "contentType"):
            check_content_type(spec.content_type)
            self._content_type = spec.content_type
        self.is_written = "body" in spec.model_fields_set
        self.body = self._written_body() if self.is_written else None
        self.left: tuple[str, ...] = ()
        if not any(
            finding.code in _BLINDING or finding.route[:2] == _BODY for finding in self.findings.errors
        ):
            places = _places(
                self.template,
                self.entries,
                (*self.headers, *self.cookies),
                self.body,
                (),
                is_written=self.is_written,
            )
            named = {name for place in places for name in place.names}
            self.left = tuple(name for name in arguments.properties if name not in named)
            self._place_leftovers()

    @property
    def query_names(self) -> frozenset[str]:
        return frozenset(self.template.query_offsets) | {entry.parameter.name for entry in self.entries}

    def _template(self, url_offset: int) -> Template:
        found = Findings()
        template = found.attempt(lambda: Template.parse(self._spec.url)) or Template((), (), ())
        with found.at():
            template.check(self._arguments)
        found.extend(foreign_in_url(self._spec.url, self._arguments))
        for name, offset in template.query_offsets.items():
            if place("query", name) in self._reserved:
                found.error("reserved-name", _reserved(name), offset=offset)
        for finding in found:
            shifted = replace(finding, offset=(finding.offset or 0) + url_offset)
            self.findings.add(shifted.under("request", "url"))
        return template

    def _entry(self, name: str, value: Json) -> Entry:
        route = ("request", "query", name)
        if name in self.template.query_offsets:
            message = f"the url writes the query parameter {name} already; keep one of the two"
            self.findings.error("duplicate-parameter", message, *route, at_key=True)
        if place("query", name) in self._reserved:
            self.findings.error("reserved-name", _reserved(name), *route, at_key=True)
        return compile_entry(name, value, self._arguments, self.findings, *route)

    def _written_body(self) -> Body | None:
        route = _BODY
        if self._spec.method in SAFE_METHODS:
            message = f"{self._spec.method} has no body; write request.query, or choose another method"
            self.findings.error("body-not-allowed", message, *route, at_key=True)
            return None
        return compile_body(self._spec.body, self._content_type, self._arguments, self.findings, *route)

    def _place_leftovers(self) -> None:
        """Arguments that the file names nowhere: into the query or the body, by the method."""
        left, findings = self.left, self.findings
        if self.is_written:
            if left:
                advice = f"write {_braced(left)} where needed, or take out the argument or the body"
                self._never_sent(left, f"; {advice}", "body")
            if self._arguments.open:
                self._never_sent((), "; set additionalProperties: false, or take the body out", "body")
        elif self._spec.method not in BODY_METHODS:
            self.entries += [self._leftover_entry(name) for name in left]
        elif left or self._arguments.open:
            self.body = compile_leftovers(left, self._content_type, self._arguments, findings, *_PROPERTIES)
            if self.body is None:
                advice = (
                    f"write {_braced(left)} into request.body" if left else "set additionalProperties: false"
                )
                self._never_sent(left, f", as {self._content_type} has no names; {advice}", "contentType")

    def _leftover_entry(self, name: str) -> Entry:
        if name in self.query_names:
            message = (
                f"argument {name} is named nowhere, and the query parameter {name} is taken; "
                f"write {{{name}}} where it belongs"
            )
            self.findings.error("duplicate-parameter", message, *_PROPERTIES, name, at_key=True)
        if place("query", name) in self._reserved:
            self.findings.error("reserved-name", _reserved(name), *_PROPERTIES, name, at_key=True)
        check_argument(name, None, self._arguments, self.findings, *_PROPERTIES, name)
        return Entry(Parameter(name), Whole(name), name)

    def _never_sent(self, names: tuple[str, ...], rest: str, key: str) -> None:
        what = _braced(names) if names else _UNNAMED
        self.findings.error("never-sent", f"{what} would never be sent{rest}", "request", key, at_key=True)


def _reserved(name: str) -> str:
    """Why a tool may not set a query parameter."""
    is_method = name_key(name) == name_key(METHOD_PARAMETER)
    return (REPLACES_METHOD if is_method else _RESERVED).format(name=name)


def body_names(body: Json) -> Collection[str]:
    """The names at the top of a body as it is written."""
    return body.keys() if isinstance(body, dict) else ()


def _fresh() -> dict[str, str]:
    """A random UUID (RFC 9562 5.4) and the time in UTC, to the second (RFC 3339)."""
    return {"$uuid": str(uuid.uuid4()), "$now": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


def _braced(names: tuple[str, ...]) -> str:
    words = [f"{{{name}}}" for name in names]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _constant(fields: tuple[Field, ...], accept: str | None) -> tuple[Header, ...]:
    """The headers that are the same in every call; the file's Accept stands in for the one given, if any."""
    has_own = any(field.name.lower() == "accept" for field in fields)
    given = () if accept is None or has_own else (("Accept", accept),)
    return (*given, *((field.name, field.text.sample) for field in fields if field.text.constant))


def _written(spec: RequestSpec) -> str:
    return str((spec.url, spec.query, spec.headers, spec.cookies, spec.body))


def _places(
    template: Template,
    entries: Iterable[Entry],
    fields: Iterable[Field],
    body: Body | None,
    left: Collection[str],
    *,
    is_written: bool,
) -> Iterator[Place]:
    """``left`` are the arguments that are named nowhere; ``is_written`` is whether the body names its own."""
    yield from _url_places(template)
    for entry in entries:
        kind = "query (named nowhere)" if entry.argument in left else f"query {entry.parameter.name}"
        for _, names, _ in entry.node.leaves():
            yield Place(kind, names)
    for each in fields:
        yield Place(f"{'cookie' if each.is_cookie else 'header'} {each.name}", each.text.names)
    for route, names, nullable in body.leaves() if body else ():
        label = f"body {pointer(route)}".rstrip() if is_written else "body (named nowhere)"
        yield Place(label, names, nullable)


def _url_places(template: Template) -> Iterator[Place]:
    for part in template.path:
        if isinstance(part, Expression):
            for variable in part.variables:
                yield Place("path", frozenset({variable.name}))
    for pair in template.pairs:
        names = frozenset(variable.name for variable in pair.variables)
        yield Place(f"query {pair.name}", frozenset(name for name in names if not is_builtin(name)))
    for variable, _ in template.parameters:
        yield Place(f"query {variable.name}", frozenset({variable.name}))
