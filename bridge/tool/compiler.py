"""A spec becomes a tool: everything that can be known before a call is decided here."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from bridge.address import is_in_the_open
from bridge.codec import encode, quote
from bridge.diagnostics import Finding, Findings, InvalidSpec, Route, invalid
from bridge.exchange import name_key
from bridge.secrets import Sources, Upstream, resolve
from bridge.spec import (
    IDEMPOTENT_METHODS,
    SAFE_METHODS,
    ApiKeyAuth,
    Auth,
    BasicAuth,
    Json,
    NoAuth,
    OAuth2,
    ToolSpec,
    UpstreamSpec,
    Words,
)
from bridge.tool.projection.projection import Projection
from bridge.tool.request import base_url as baseurl
from bridge.tool.request.builder import RequestTemplate, body_names
from bridge.tool.request.headers import (
    METHOD_HEADERS,
    METHOD_PARAMETER,
    check_cookie,
    check_forwarded,
    check_header,
    is_of_proxies,
    place,
)
from bridge.tool.schema.arguments import Arguments, OutputSchema

_W = TypeVar("_W", bound=Words)
_Address = TypeVar("_Address")

_ACCEPT: Final = {
    "auto": "application/json, */*;q=0.5",
    "json": "application/json, */*;q=0.5",
    "blocks": "application/json, */*;q=0.5",
    "text": "text/plain, text/*;q=0.9, */*;q=0.5",
    "image": "image/*, */*;q=0.5",
    "audio": "audio/*, */*;q=0.5",
    "resource": "*/*",
}


_CHANGING_METHODS: Final = frozenset({"PUT", "PATCH", "DELETE"})
"""A POST may be a search; these change something (RFC 9110 9.3, RFC 5789)."""

_TOKEN_BYTES: Final = 64 * 1024
"""What an authorization server may answer."""

_REPLACES_METHOD: Final = frozenset(
    {place("query", METHOD_PARAMETER), *(place("header", name) for name in METHOD_HEADERS)}
)
"""What would make another request of one that is safe, or may be repeated, by its method; as ``_reserved``."""

_SHARED: Final = WeakValueDictionary[bytes, Arguments]()
"""What tools take, by a digest of the schema as JSON: many take the same, or nothing."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool, ready to call.

    ``upstream.spec`` already holds the tool's own timeout, retries and maxBytes. ``definition`` is
    what tools/list sends, as JSON. ``read_only`` is the effective hint, which no PUT, PATCH or DELETE has;
    ``repeatable`` allows a second attempt after the first was sent. ``is_plain``: its results hold but what we make ourselves,
    and no argument is mirrored into a header. ``scopes`` are what a caller needs, by its file and its upstream's.
    """

    name: str
    spec: ToolSpec
    upstream: Upstream
    definition: dict[str, Json]
    arguments: Arguments
    request: RequestTemplate
    projection: Projection | None
    output: OutputSchema | None
    error_projections: dict[str, Projection]
    scopes: tuple[str, ...]
    read_only: bool
    repeatable: bool
    is_plain: bool


def compile_upstream(name: str, spec: UpstreamSpec, sources: Sources) -> Upstream:
    """The upstream with its secrets resolved and its address canonical; raises ``InvalidSpec``."""
    upstream = resolve(name, spec, sources)
    findings = Findings()
    auth, base_url, token_url = upstream.spec.auth, "", ""
    with findings.at("baseUrl"):
        base_url = _read(baseurl.canonical, spec.base_url, upstream.spec.base_url)
    if isinstance(spec.auth, OAuth2) and isinstance(auth, OAuth2):
        with findings.at("auth", "tokenUrl"):
            token_url, end = _read(baseurl.endpoint, spec.auth.token_url, auth.token_url)
            auth = auth.model_copy(update={"token_url": token_url + end})
            if is_in_the_open(token_url):
                raise invalid(
                    "bad-url", "over http anybody on the way could read secrets and tokens; use https"
                )
    _check_headers(upstream.spec, findings)
    _check_auth(upstream.spec.auth, findings)
    if upstream.spec.tls.key_file and not upstream.spec.tls.cert_file:
        message = "the key certFile is missing, and keyFile belongs to it; add it"
        findings.error("missing-key", message, "tls")
    findings.raise_errors()
    tokens = _tokens(token_url, upstream, spec, sources) if token_url else None
    update = {"base_url": base_url, "auth": auth}
    return replace(upstream, spec=upstream.spec.model_copy(update=update), tokens=tokens)


def _tokens(url: str, upstream: Upstream, spec: UpstreamSpec, sources: Sources) -> Upstream:
    """Where the tokens for calls to an upstream are got: with the same certificates, by the proxy for that address."""
    words = {"base_url": url, "auth": NoAuth(type="none"), "headers": {}, "max_bytes": _TOKEN_BYTES}
    name = f"{upstream.name}/tokens"  # as no file can be named
    tokens = resolve(name, spec.model_copy(update=words), sources)
    secrets = tuple(dict.fromkeys(upstream.secrets + tokens.secrets))  # its proxy may be another one
    return replace(tokens, secrets=secrets, role="authorization")


def _read(how: Callable[[str], _Address], written: str, resolved: str) -> _Address:
    """An address; an offset into a resolved text would be none into the written one."""
    try:
        return how(resolved)
    except InvalidSpec as problem:
        if written == resolved:
            raise
        raise InvalidSpec(*(replace(f, offset=None) for f in problem.findings)) from problem


def _check_headers(spec: UpstreamSpec, findings: Findings) -> None:
    names: dict[str, str] = {}
    for name, value in spec.headers.items():
        with findings.at("headers", name):
            check_header(name, str(value), _reserved(spec) | _REPLACES_METHOD)
        first = names.setdefault(name_key(name), name)
        if first != name:
            message = f"{name} stands here as {first} already; keep one"
            findings.error("duplicate-header", message, "headers", name, at_key=True)
    for index, name in enumerate(spec.forward_headers):
        with findings.at("forwardHeaders", index, at_key=False):
            check_forwarded(name, _reserved(spec))
        if (key := name_key(name)) in names:
            message = f"{name} stands here as {names[key]} already; keep one"
            findings.error("duplicate-header", message, "forwardHeaders", index)
        names[key] = name
    for index, name in enumerate(spec.overridable):
        if name_key(name) not in names:
            message = f"{quote(name)} is not in headers or forwardHeaders; add it there, or take it out"
            findings.error("wrong-value", message, "overridable", index)


def _check_auth(auth: Auth, findings: Findings) -> None:
    """What the credentials go into; they themselves were looked at when they were resolved."""
    match auth:
        case BasicAuth(username=username) if ":" in username:
            message = "the user name holds a colon, which basic authentication cannot carry; use another name"
            findings.error("wrong-value", message, "auth", "username")
        case ApiKeyAuth(in_="header", name=name):
            with findings.at("auth", "name", at_key=False):
                check_header(name, "", _REPLACES_METHOD, credentials=True)
        case ApiKeyAuth(in_="cookie", name=name):
            with findings.at("auth", "name", at_key=False):
                check_cookie(name, "", frozenset())


def compile_tool(
    stem: str, spec: ToolSpec, upstream: Upstream | None, sources: Sources
) -> tuple[Tool, tuple[Finding, ...]]:
    """The tool and its warnings; ``stem`` is its name where the spec gives none.

    ``upstream`` is the one that the spec names, None where it names none; then ``sources`` says by which
    proxy the tool sends. Raises ``InvalidSpec`` with every finding, warnings included.
    """
    name = spec.name or stem
    findings = Findings()
    _check_words(name, spec, findings)
    projections = _projections(spec, findings)
    output = findings.attempt(lambda: _output(spec, findings), "outputSchema")
    schema = encode(spec.input_schema)
    arguments = findings.attempt(lambda: _arguments(spec.input_schema, schema, findings), "inputSchema")
    destination = findings.attempt(lambda: _destination(spec, upstream, sources))
    request = None
    if destination:
        _check_bounds(spec, destination[0].spec, findings)
        _check_overridden(spec, destination[0], findings)
    if arguments and destination:
        request = findings.attempt(lambda: _request(destination, spec, arguments, findings))
    if arguments:
        _check_placeholders(spec, arguments, findings)
    findings.raise_errors()
    assert arguments
    assert destination
    assert request
    _check_hints(spec, findings)
    annotations = _annotations(spec)
    tool = Tool(
        name=name,
        spec=spec,
        upstream=_overridden(destination[0], spec),
        definition=_definition(name, spec, annotations, arguments, output),
        arguments=arguments,
        request=request,
        projection=projections.pop("", None),
        output=output,
        error_projections=projections,
        scopes=tuple(dict.fromkeys((*destination[0].spec.scopes, *spec.scopes))),
        read_only=annotations["readOnlyHint"] and _effective_method(spec) not in _CHANGING_METHODS,
        repeatable=_repeatable(spec),
        is_plain=spec.response.content != "blocks" and b'"x-mcp-header"' not in schema,
    )
    return tool, tuple(findings)


def _check_words(name: str, spec: ToolSpec, findings: Findings) -> None:
    """Keys that are right alone and wrong together."""
    if name in spec.aliases:
        route = ("aliases", spec.aliases.index(name))
        findings.error("duplicate-name", f"{name} is the tool's own name; take the alias out", *route)
    response = spec.response
    content = response.content
    if spec.output_schema is not None and content not in ("auto", "json"):
        message = f"a tool with an outputSchema answers JSON, not {content}; take one of the two out"
        findings.error("content-conflict", message, "response", "content")
    elif content in ("image", "audio", "resource") and (response.jmespath or response.from_ == "reply"):
        other = "jmespath" if response.jmespath else "from: reply"
        message = f"{other} answers JSON, and {content} is the body's bytes; take one of the two out"
        findings.error("content-conflict", message, "response", "content")


def _check_placeholders(spec: ToolSpec, arguments: Arguments, findings: Findings) -> None:
    """Arguments in texts that are not made of arguments."""
    texts: list[tuple[str | None, str, Route]] = [
        (spec.response.jmespath, "a projection sees the reply alone", ("response", "jmespath"))
    ]
    for key, error in spec.errors.items():
        texts.append((error.message, "this text is given as it is", ("errors", key)))
    for text, why, route in texts:
        for name in arguments.properties:
            if text and (offset := text.find(f"{{{name}}}")) >= 0:
                message = f"{why}; take {{{name}}} out"
                findings.warn("foreign-placeholder", message, *route, offset=offset)


def _projections(spec: ToolSpec, findings: Findings) -> dict[str, Projection]:
    """The compiled expressions: of the response under ``""``, of each error under its status."""
    written: dict[str, tuple[str | None, Route]] = {
        "": (spec.response.jmespath, ("response", "jmespath")),
        **{key: (error.jmespath, ("errors", key, "jmespath")) for key, error in spec.errors.items()},
    }
    compiled: dict[str, Projection] = {}
    for key, (expression, route) in written.items():
        if expression is None:
            continue
        with findings.at(*route):
            compiled[key] = Projection.compile(expression)
            findings.extend(compiled[key].warnings, *route)
    return compiled


def _output(spec: ToolSpec, findings: Findings) -> OutputSchema | None:
    if spec.output_schema is None:
        return None
    output, warnings = OutputSchema.compile(spec.output_schema)
    findings.extend(warnings, "outputSchema")
    return output


def _arguments(schema: dict[str, Json], written: bytes, findings: Findings) -> Arguments:
    """Those of an equal schema, if a tool has them and there is nothing to say of it."""
    key = blake2b(written, digest_size=16).digest()
    arguments = _SHARED.get(key)
    if arguments is None:
        arguments, warnings = Arguments.compile(schema)
        findings.extend(warnings, "inputSchema")
        if not warnings:
            _SHARED[key] = arguments
    return arguments


def _destination(spec: ToolSpec, upstream: Upstream | None, sources: Sources) -> tuple[Upstream, str]:
    """Where the tool sends: an upstream, and the URL template that is appended to its ``baseUrl``.

    A tool that names no upstream gets one of its own, without credentials, for the origin of its URL.
    """
    if upstream is not None:
        return upstream, spec.request.url
    try:
        base_url, url = baseurl.split(spec.request.url)
        words = UpstreamSpec.model_validate({"baseUrl": base_url, "auth": {"type": "none"}})
        return resolve(base_url, words, sources), url
    except InvalidSpec as problem:
        raise InvalidSpec(*(replace(f, route=("request", "url")) for f in problem.findings)) from problem


def _request(
    destination: tuple[Upstream, str], spec: ToolSpec, arguments: Arguments, findings: Findings
) -> RequestTemplate:
    upstream, url = destination
    is_fixed = spec.request.method in IDEMPOTENT_METHODS
    request, warnings = RequestTemplate.compile(
        spec.request if url == spec.request.url else spec.request.model_copy(update={"url": url}),
        base_url=upstream.spec.base_url,
        arguments=arguments,
        reserved=_reserved(upstream.spec) | (_REPLACES_METHOD if is_fixed else frozenset()),
        accept=None if "accept" in map(str.lower, upstream.spec.headers) else _ACCEPT[spec.response.content],
        url_offset=len(spec.request.url) - len(url),
    )
    findings.extend(warnings)
    return request


def _reserved(spec: UpstreamSpec) -> frozenset[str]:
    """The place that the credentials take, as ``place`` writes it."""
    return frozenset({place(spec.auth.in_, spec.auth.name)} if isinstance(spec.auth, ApiKeyAuth) else ())


def _check_bounds(spec: ToolSpec, upstream: UpstreamSpec, findings: Findings) -> None:
    """What a tool asks for against the most that its upstream allows, or has itself."""
    most, timeout = upstream.max, spec.timeout or upstream.timeout
    longest = max(most.timeout, upstream.timeout.total)
    retries = spec.retries.max if spec.retries else 0
    asked: list[tuple[str, float, float, Callable[[float], str], Route]] = [
        ("timeout", timeout.total, longest, "{:g}s".format, ("timeout", "total")),
        ("timeout", timeout.connect, longest, "{:g}s".format, ("timeout", "connect")),
        ("maxBytes", spec.max_bytes or 0, max(most.max_bytes, upstream.max_bytes), _size, ("maxBytes",)),
        ("resultBytes", spec.response.max_bytes, most.result_bytes, _size, ("response", "maxBytes")),
        ("retries", retries, max(most.retries, upstream.retries.max), "{:g}".format, ("retries", "max")),
    ]
    owner = "the upstream file" if spec.upstream else "the file of an upstream that the tool names"
    for key, found, limit, written, route in asked:
        if found > limit:
            message = f"found {written(found)}, expected at most {written(limit)}; lower it, or raise max.{key} in {owner}"
            findings.error("wrong-value", message, *route)


def _size(size: float) -> str:
    """As a file would say it."""
    for unit, factor in (("MiB", 1024**2), ("KiB", 1024), ("kB", 1000)):
        if size % factor == 0:
            return f"{size / factor:g}{unit}"
    return f"{size:.0f}B"


def _check_overridden(spec: ToolSpec, upstream: Upstream, findings: Findings) -> None:
    """Headers of a tool that only its upstream file may set, unless that file names them under ``overridable``."""
    words = upstream.spec
    theirs = {name_key(name) for name in (*words.headers, *words.forward_headers)}
    given = {name_key(name) for name in words.overridable}
    for name in spec.request.headers:
        key = name_key(name)
        if key not in given and (key in theirs or is_of_proxies(name)):
            message = (
                f"the upstream {upstream.name} sets {name}; take it out here, or add it to overridable there"
            )
            if key not in theirs:
                message = (
                    f"{name} may choose another path, host, method or client than the request has; "
                    "take it out, or set it in the upstream file"
                )
            findings.error("reserved-name", message, "request", "headers", name, at_key=True)


def _overridden(upstream: Upstream, spec: ToolSpec) -> Upstream:
    """The upstream with what the tool says of timeout, retries and maxBytes put over it, key by key."""
    update: dict[str, object] = {}
    if spec.timeout is not None:
        update["timeout"] = _over(upstream.spec.timeout, spec.timeout)
    if spec.retries is not None:
        update["retries"] = _over(upstream.spec.retries, spec.retries)
    if spec.max_bytes is not None:
        update["max_bytes"] = spec.max_bytes
    return replace(upstream, spec=upstream.spec.model_copy(update=update)) if update else upstream


def _over(defaults: _W, words: _W) -> _W:
    return defaults.model_copy(update={key: getattr(words, key) for key in words.model_fields_set})


def _repeatable(spec: ToolSpec) -> bool:
    """Whether a second attempt is allowed after the first was sent (RFC 9110 9.2.2)."""
    if spec.request.method in SAFE_METHODS or _is_idempotent(spec):
        return True
    return any(name.lower() == "idempotency-key" for name in spec.request.headers)


def _is_idempotent(spec: ToolSpec) -> bool:
    if spec.idempotent is None:
        return spec.request.method in IDEMPOTENT_METHODS
    return spec.idempotent


def _effective_method(spec: ToolSpec) -> str:
    """The method that the API carries out: a POST or PATCH may name another one."""
    request = spec.request
    named = [value for name, value in request.headers.items() if name_key(name) in METHOD_HEADERS]
    named += [
        words[METHOD_PARAMETER]
        for words in (request.query, request.body)
        if METHOD_PARAMETER in body_names(words)
    ]
    return str(named[0]).upper() if named else request.method


def _check_hints(spec: ToolSpec, findings: Findings) -> None:
    """Hints that say something else than the method, or than each other."""
    hints, method = spec.annotations, _effective_method(spec)
    is_safe = method in SAFE_METHODS if hints.read_only_hint is None else hints.read_only_hint
    wrong: list[tuple[bool, str, str]] = [
        (
            hints.read_only_hint is True and method in _CHANGING_METHODS,
            "readOnlyHint",
            f"readOnlyHint is true, but {method} changes something; take the hint out",
        ),
        (
            hints.destructive_hint is True and is_safe,
            "destructiveHint",
            "destructiveHint is true, but the tool is read-only; write readOnlyHint: false, too",
        ),
        (
            hints.destructive_hint is False and method == "DELETE",
            "destructiveHint",
            "destructiveHint is false, but DELETE destroys something; take the hint out",
        ),
        (
            hints.idempotent_hint is False and _is_idempotent(spec),
            "idempotentHint",
            "idempotentHint is false, but the tool is idempotent; write idempotent: false, or take the hint out",
        ),
        (
            hints.idempotent_hint is True and spec.idempotent is False,
            "idempotentHint",
            "idempotentHint is true, but idempotent is false; take one of the two out",
        ),
    ]
    for is_wrong, hint, message in wrong:
        if is_wrong:
            findings.warn("contradicting-hint", message, "annotations", hint)


def _annotations(spec: ToolSpec) -> dict[str, Json]:
    """MCP's annotations, every hint explicit; what the operator wrote comes before what is derived."""
    safe = spec.request.method in SAFE_METHODS
    derived = {
        "readOnlyHint": safe,
        "destructiveHint": not safe,
        "idempotentHint": _is_idempotent(spec),
        "openWorldHint": True,
    }
    return derived | spec.annotations.model_dump(by_alias=True, exclude_none=True)


def _definition(
    name: str,
    spec: ToolSpec,
    annotations: dict[str, Json],
    arguments: Arguments,
    output: OutputSchema | None,
) -> dict[str, Json]:
    """The tool as tools/list shows it (MCP 2026-07-28, Tool)."""
    description = f"{spec.deprecated} {spec.description}" if spec.deprecated else spec.description
    written: dict[str, Json] = {
        "name": name,
        "title": spec.title,
        "description": description,
        "inputSchema": arguments.schema,
        "outputSchema": output.schema if output else None,
        "annotations": annotations,
        "icons": [icon.model_dump(by_alias=True, exclude_none=True) for icon in spec.icons or ()] or None,
        "_meta": spec.meta,
    }
    return {key: value for key, value in written.items() if value is not None}
