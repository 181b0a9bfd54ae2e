"""Compiles specs to tools and upstreams, and checks all that can be checked before a call."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from bridge.address import is_plaintext_remote
from bridge.codec import encode, quote
from bridge.diagnostics import Finding, Findings, InvalidSpec, Route, invalid
from bridge.exchange import name_key
from bridge.resolved_upstream import Upstream
from bridge.secrets import Sources, resolve
from bridge.spec import (
    IDEMPOTENT_METHODS,
    SAFE_METHODS,
    ApiKeyAuth,
    Auth,
    BasicAuth,
    Json,
    NoAuth,
    OAuth2,
    SpecModel,
    ToolSpec,
    UpstreamSpec,
)
from bridge.tool.projection.projection import Projection
from bridge.tool.request.base_url import canonical_base_url, canonical_endpoint, split_url
from bridge.tool.request.builder import RequestTemplate, body_names
from bridge.tool.request.headers import (
    METHOD_HEADERS,
    METHOD_PARAMETER,
    check_cookie,
    check_forwarded,
    check_header,
    is_proxy_header,
    location_key,
)
from bridge.tool.schema.arguments import Arguments, OutputSchema

_Spec = TypeVar("_Spec", bound=SpecModel)
_Address = TypeVar("_Address")

_ACCEPT: Final = {
    # */*: without it, a server that has only another type may answer 406 (RFC 9110 15.5.7).
    "auto": "application/json, */*;q=0.5",
    "json": "application/json, */*;q=0.5",
    "blocks": "application/json, */*;q=0.5",
    "text": "text/plain, text/*;q=0.9, */*;q=0.5",
    "image": "image/*, */*;q=0.5",
    "audio": "audio/*, */*;q=0.5",
    "resource": "*/*",
}


_CHANGING_METHODS: Final = frozenset({"PUT", "PATCH", "DELETE"})
"""A POST may be a search, but these methods change something (RFC 9110 9.3, RFC 5789)."""

_MAX_TOKEN_RESPONSE_BYTES: Final = 64 * 1024  # it is one small object (RFC 6749 5.1)

_METHOD_OVERRIDES: Final = frozenset(
    {location_key("query", METHOD_PARAMETER), *(location_key("header", name) for name in METHOD_HEADERS)}
)
"""The headers and the parameter with which servers replace a request's method; written as in ``_reserved``."""

# Weak, so that a reload drops the schemas that no tool has. A digest, as a schema may be large.
_COMPILED_ARGUMENTS: Final = WeakValueDictionary[bytes, Arguments]()
"""By a digest of the schema as JSON. They are shared, as many tools take the same arguments, or none."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool, ready to call.

    - ``upstream.spec`` includes the tool's own timeout, retries and maxBytes.
    - ``definition`` is what tools/list sends, as JSON. ``fingerprint`` is a hash of it, the same in every process.
    - ``scopes`` are those that a caller needs: the tool's own and those of its upstream.
    - ``read_only`` is the effective hint. It is False for PUT, PATCH and DELETE.
    - ``repeatable`` allows a second attempt after the first was sent.
    - ``is_plain`` allows the fast path: the API writes no content blocks, and no argument is mirrored into a header.
    """

    name: str
    spec: ToolSpec
    upstream: Upstream
    definition: dict[str, Json]
    fingerprint: int
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
    """The upstream with resolved secrets and canonical URLs; raises ``InvalidSpec``."""
    upstream = resolve(name, spec, sources)
    findings = Findings()
    auth, base_url, token_url = upstream.spec.auth, "", ""
    with findings.at("baseUrl"):
        base_url = _canonical(canonical_base_url, spec.base_url, upstream.spec.base_url)
    if isinstance(spec.auth, OAuth2) and isinstance(auth, OAuth2):
        with findings.at("auth", "tokenUrl"):
            token_url, end = _canonical(canonical_endpoint, spec.auth.token_url, auth.token_url)
            auth = auth.model_copy(update={"token_url": token_url + end})
            if is_plaintext_remote(token_url):
                raise invalid("bad-url", "http would expose secrets and tokens on the network; use https")
    _check_headers(upstream.spec, findings)
    _check_auth(upstream.spec.auth, findings)
    if upstream.spec.tls.key_file and not upstream.spec.tls.cert_file:
        message = "found keyFile without certFile; add certFile"
        findings.error("missing-key", message, "tls")
    findings.raise_errors()
    tokens = _token_upstream(token_url, upstream, spec, sources) if token_url else None
    update = {"base_url": base_url, "auth": auth, **_lowered_defaults(spec)}
    return replace(upstream, spec=upstream.spec.model_copy(update=update), tokens=tokens)


def _lowered_defaults(spec: UpstreamSpec) -> dict[str, object]:
    """The defaults of an upstream, lowered to its own ``max``. Values written in the file are kept."""
    limits = spec.max
    timeout = _lowered(spec.timeout, total=limits.timeout, connect=limits.timeout)
    lowered: dict[str, object] = {"timeout": timeout, "retries": _lowered(spec.retries, max=limits.retries)}
    if "max_bytes" not in spec.model_fields_set:
        lowered["max_bytes"] = min(spec.max_bytes, limits.max_bytes)
    return lowered


def _lowered(spec: _Spec, **limits: float) -> _Spec:
    """``spec`` with its default values lowered to ``limits``."""
    defaults = {name: getattr(spec, name) for name in limits.keys() - spec.model_fields_set}
    return spec.model_copy(update={name: min(value, limits[name]) for name, value in defaults.items()})


def _token_upstream(url: str, upstream: Upstream, spec: UpstreamSpec, sources: Sources) -> Upstream:
    """The authorization server as an upstream of its own: with the same certificates, and the proxy for its URL."""
    update = {
        "base_url": url,
        "auth": NoAuth(type="none"),
        "headers": {},
        "max_bytes": _MAX_TOKEN_RESPONSE_BYTES,
    }
    name = f"{upstream.name}/tokens"  # no file can have this name
    tokens = resolve(name, spec.model_copy(update=update), sources)
    secrets = tuple(dict.fromkeys(upstream.secrets + tokens.secrets))  # its proxy can have other secrets
    return replace(tokens, secrets=secrets, role="authorization")


def _canonical(parse: Callable[[str], _Address], written: str, resolved: str) -> _Address:
    """``parse(resolved)``. If variables were resolved, findings lose their offset: it is wrong for ``written``."""
    try:
        return parse(resolved)
    except InvalidSpec as problem:
        if written == resolved:
            raise
        raise InvalidSpec(*(replace(each, offset=None) for each in problem.findings)) from problem


def _check_headers(spec: UpstreamSpec, findings: Findings) -> None:
    names: dict[str, str] = {}
    for name, value in spec.headers.items():
        with findings.at("headers", name):
            # These are sent with each tool, also with those whose method must stay.
            check_header(name, str(value), _reserved(spec) | _METHOD_OVERRIDES)
        first = names.setdefault(name_key(name), name)
        if first != name:
            message = f"{name} is already set here as {first}; keep one"
            findings.error("duplicate-header", message, "headers", name, at_key=True)
    for index, name in enumerate(spec.forward_headers):
        with findings.at("forwardHeaders", index, at_key=False):
            check_forwarded(name, _reserved(spec))
        if (key := name_key(name)) in names:
            message = f"{name} is already set here as {names[key]}; keep one"
            findings.error("duplicate-header", message, "forwardHeaders", index)
        names[key] = name
    for index, name in enumerate(spec.overridable):
        if name_key(name) not in names:
            message = f"{quote(name)} is not in headers or forwardHeaders; add it there, or remove it"
            findings.error("wrong-value", message, "overridable", index)


def _check_auth(auth: Auth, findings: Findings) -> None:
    """Check where the credentials are sent. The credentials were checked when they were resolved."""
    match auth:
        case BasicAuth(username=username) if ":" in username:
            message = (
                "the user name contains a colon, which basic authentication does not allow; use another name"
            )
            findings.error("wrong-value", message, "auth", "username")
        case ApiKeyAuth(in_="header", name=name):
            with findings.at("auth", "name", at_key=False):
                check_header(name, "", _METHOD_OVERRIDES, credentials=True)
        case ApiKeyAuth(in_="cookie", name=name):
            with findings.at("auth", "name", at_key=False):
                check_cookie(name, "", frozenset())


def compile_tool(
    stem: str, spec: ToolSpec, upstream: Upstream | None, sources: Sources
) -> tuple[Tool, tuple[Finding, ...]]:
    """The tool and its warnings; ``stem`` is its name if the spec has none.

    ``upstream`` is the one that the spec names, or None. Without an upstream, ``sources`` holds the proxy settings.
    Raises ``InvalidSpec`` with all findings, including warnings.
    """
    name = spec.name or stem
    findings = Findings()
    # Each part is checked even if another one is wrong, so that one run reports all mistakes.
    _check_keys(name, spec, findings)
    projections = _projections(spec, findings)
    output = findings.attempt(lambda: _output_schema(spec, findings), "outputSchema")
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
    # Each is None only after an error, and raise_errors has raised all errors.
    assert arguments
    assert destination
    assert request
    _check_hints(spec, findings)
    annotations = _annotations(spec)
    definition = _definition(name, spec, annotations, arguments, output)
    tool = Tool(
        name=name,
        spec=spec,
        upstream=_overridden(destination[0], spec),
        definition=definition,
        fingerprint=int.from_bytes(blake2b(encode(definition), digest_size=8).digest()),
        arguments=arguments,
        request=request,
        projection=projections.pop("", None),
        output=output,
        error_projections=projections,
        scopes=tuple(dict.fromkeys((*destination[0].spec.scopes, *spec.scopes))),
        read_only=annotations["readOnlyHint"] and _effective_method(spec) not in _CHANGING_METHODS,
        repeatable=_repeatable(spec),
        # The text may also be in a description. Such a tool only misses the fast path.
        is_plain=spec.response.content != "blocks" and b'"x-mcp-header"' not in schema,
    )
    return tool, tuple(findings)


def _check_keys(name: str, spec: ToolSpec, findings: Findings) -> None:
    """Check keys that are valid by themselves, but not together."""
    if name in spec.aliases:
        route = ("aliases", spec.aliases.index(name))
        findings.error("duplicate-name", f"{name} is the tool's own name; remove the alias", *route)
    response = spec.response
    content = response.content
    if spec.output_schema is not None and content not in ("auto", "json"):
        message = f"a tool with an outputSchema returns JSON, not {content}; remove one of the two"
        findings.error("content-conflict", message, "response", "content")
    elif content in ("image", "audio", "resource") and (response.jmespath or response.from_ == "reply"):
        other = "jmespath" if response.jmespath else "from: reply"
        message = f"{other} returns JSON, but {content} returns the bytes of the body; remove one of the two"
        findings.error("content-conflict", message, "response", "content")


def _check_placeholders(spec: ToolSpec, arguments: Arguments, findings: Findings) -> None:
    """Warn of {argument} in texts that are not templates."""
    texts: list[tuple[str | None, str, Route]] = [
        (
            spec.response.jmespath,
            "a projection reads only the reply, not the arguments",
            ("response", "jmespath"),
        )
    ]
    for key, error in spec.errors.items():
        texts.append((error.message, "this text is not a template", ("errors", key)))
    for text, reason, route in texts:
        for name in arguments.properties:
            if text and (offset := text.find(f"{{{name}}}")) >= 0:
                message = f"{reason}; remove {{{name}}}"
                findings.warn("foreign-placeholder", message, *route, offset=offset)


def _projections(spec: ToolSpec, findings: Findings) -> dict[str, Projection]:
    """The compiled expressions: ``""`` is the key of the response, the status that of an error."""
    expressions: dict[str, tuple[str | None, Route]] = {
        "": (spec.response.jmespath, ("response", "jmespath")),
        **{key: (error.jmespath, ("errors", key, "jmespath")) for key, error in spec.errors.items()},
    }
    compiled: dict[str, Projection] = {}
    for key, (expression, route) in expressions.items():
        if expression is None:
            continue
        with findings.at(*route):
            compiled[key] = Projection.compile(expression)
            findings.extend(compiled[key].warnings, *route)
    return compiled


def _output_schema(spec: ToolSpec, findings: Findings) -> OutputSchema | None:
    if spec.output_schema is None:
        return None
    output, warnings = OutputSchema.compile(spec.output_schema)
    findings.extend(warnings, "outputSchema")
    return output


def _arguments(schema: dict[str, Json], encoded: bytes, findings: Findings) -> Arguments:
    """The compiled ``schema``; shared with other tools if it has no warnings."""
    key = blake2b(encoded, digest_size=16).digest()
    arguments = _COMPILED_ARGUMENTS.get(key)
    if arguments is None:
        arguments, warnings = Arguments.compile(schema)
        findings.extend(warnings, "inputSchema")
        # The file of each tool must get the warnings, and they are found only while compiling.
        if not warnings:
            _COMPILED_ARGUMENTS[key] = arguments
    return arguments


def _destination(spec: ToolSpec, upstream: Upstream | None, sources: Sources) -> tuple[Upstream, str]:
    """The upstream of a tool, and the URL template that is appended to its ``baseUrl``.

    If the spec names no upstream, the tool gets its own, for the origin of its URL, without credentials.
    """
    if upstream is not None:
        return upstream, spec.request.url
    try:
        base_url, url = split_url(spec.request.url)
        own_spec = UpstreamSpec.model_validate({"baseUrl": base_url, "auth": {"type": "none"}})
        return resolve(base_url, own_spec, sources), url
    except InvalidSpec as problem:
        # They have no route, or one into an upstream file, which this tool does not have.
        findings = (replace(each, route=("request", "url")) for each in problem.findings)
        raise InvalidSpec(*findings) from problem


def _request(
    destination: tuple[Upstream, str], spec: ToolSpec, arguments: Arguments, findings: Findings
) -> RequestTemplate:
    upstream, url = destination
    # Retries and the read-only hint trust these methods, so the API must not execute another one.
    is_fixed = spec.request.method in IDEMPOTENT_METHODS
    request, warnings = RequestTemplate.compile(
        spec.request if url == spec.request.url else spec.request.model_copy(update={"url": url}),
        base_url=upstream.spec.base_url,
        arguments=arguments,
        reserved=_reserved(upstream.spec) | (_METHOD_OVERRIDES if is_fixed else frozenset()),
        accept=None if "accept" in map(str.lower, upstream.spec.headers) else _ACCEPT[spec.response.content],
        url_offset=len(spec.request.url) - len(url),
    )
    findings.extend(warnings)
    return request


def _reserved(spec: UpstreamSpec) -> frozenset[str]:
    """The header, cookie or parameter of the credentials, as ``location_key`` writes it."""
    return frozenset(
        {location_key(spec.auth.in_, spec.auth.name)} if isinstance(spec.auth, ApiKeyAuth) else ()
    )


def _check_bounds(spec: ToolSpec, upstream: UpstreamSpec, findings: Findings) -> None:
    """Check the limits that a tool sets: at most those in ``max`` of its upstream, or the upstream's own."""
    limits, timeout = upstream.max, spec.timeout or upstream.timeout
    max_timeout = max(limits.timeout, upstream.timeout.total)
    # The author did not write the default, so it is no mistake.
    connect = timeout.connect if "connect" in timeout.model_fields_set else 0
    retries = spec.retries.max if spec.retries else 0
    requested: list[tuple[str, float, float, Callable[[float], str], Route]] = [
        ("timeout", timeout.total, max_timeout, "{:g}s".format, ("timeout", "total")),
        ("timeout", connect, max_timeout, "{:g}s".format, ("timeout", "connect")),
        ("maxBytes", spec.max_bytes or 0, max(limits.max_bytes, upstream.max_bytes), _size, ("maxBytes",)),
        ("resultBytes", spec.response.max_bytes, limits.result_bytes, _size, ("response", "maxBytes")),
        ("retries", retries, max(limits.retries, upstream.retries.max), "{:g}".format, ("retries", "max")),
    ]
    owner = "the upstream file" if spec.upstream else "the file of an upstream that the tool names"
    for key, found, limit, format_value, route in requested:
        if found > limit:
            message = f"found {format_value(found)}, expected at most {format_value(limit)}; lower it, or raise max.{key} in {owner}"
            findings.error("wrong-value", message, *route)


def _size(size: float) -> str:
    """A number of bytes as in a tool file, such as ``64KiB``."""
    for unit, factor in (("MiB", 1024**2), ("KiB", 1024), ("kB", 1000)):
        if size % factor == 0:
            return f"{size / factor:g}{unit}"
    return f"{size:.0f}B"


def _check_overridden(spec: ToolSpec, upstream: Upstream, findings: Findings) -> None:
    """Check that a tool sets no headers of its upstream file, unless this lists them in ``overridable``."""
    upstream_spec = upstream.spec
    of_upstream = {name_key(name) for name in (*upstream_spec.headers, *upstream_spec.forward_headers)}
    overridable = {name_key(name) for name in upstream_spec.overridable}
    for name in spec.request.headers:
        key = name_key(name)
        if key not in overridable and (key in of_upstream or is_proxy_header(name)):
            message = (
                f"the upstream {upstream.name} sets {name}; remove it here, or add it to overridable there"
            )
            if key not in of_upstream:
                message = (
                    f"{name} could replace the path, host, method or client of the request; "
                    "remove it, or set it in the upstream file"
                )
            findings.error("reserved-name", message, "request", "headers", name, at_key=True)


def _overridden(upstream: Upstream, spec: ToolSpec) -> Upstream:
    """The upstream with the tool's own timeout, retries and maxBytes, merged key by key."""
    update: dict[str, object] = {}
    if spec.timeout is not None:
        update["timeout"] = _merged(upstream.spec.timeout, spec.timeout)
    if spec.retries is not None:
        update["retries"] = _merged(upstream.spec.retries, spec.retries)
    if spec.max_bytes is not None:
        update["max_bytes"] = spec.max_bytes
    return replace(upstream, spec=upstream.spec.model_copy(update=update)) if update else upstream


def _merged(defaults: _Spec, own: _Spec) -> _Spec:
    return defaults.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})


def _repeatable(spec: ToolSpec) -> bool:
    """Whether a second attempt is allowed after the first was sent (RFC 9110 9.2.2)."""
    if spec.request.method in SAFE_METHODS or _is_idempotent(spec):
        return True
    # The API recognizes a repeated request by it (draft-ietf-httpapi-idempotency-key-header).
    return any(name.lower() == "idempotency-key" for name in spec.request.headers)


def _is_idempotent(spec: ToolSpec) -> bool:
    if spec.idempotent is None:
        return spec.request.method in IDEMPOTENT_METHODS
    return spec.idempotent


def _effective_method(spec: ToolSpec) -> str:
    """The method that the API executes: a POST or PATCH may override it by a header or a parameter."""
    request = spec.request
    overrides = [value for name, value in request.headers.items() if name_key(name) in METHOD_HEADERS]
    overrides += [
        parameters[METHOD_PARAMETER]
        for parameters in (request.query, request.body)
        if METHOD_PARAMETER in body_names(parameters)
    ]
    return str(overrides[0]).upper() if overrides else request.method


def _check_hints(spec: ToolSpec, findings: Findings) -> None:
    """Warn of hints that contradict the method, or each other."""
    hints, method = spec.annotations, _effective_method(spec)
    is_safe = method in SAFE_METHODS if hints.read_only_hint is None else hints.read_only_hint
    wrong: list[tuple[bool, str, str]] = [
        (
            hints.read_only_hint is True and method in _CHANGING_METHODS,
            "readOnlyHint",
            f"readOnlyHint is true, but {method} changes something; remove the hint",
        ),
        (
            # MCP gives destructiveHint a meaning only for tools that are not read-only.
            hints.destructive_hint is True and is_safe,
            "destructiveHint",
            "destructiveHint is true, but the tool is read-only; write readOnlyHint: false, too",
        ),
        (
            hints.destructive_hint is False and method == "DELETE",
            "destructiveHint",
            "destructiveHint is false, but DELETE destroys something; remove the hint",
        ),
        (
            hints.idempotent_hint is False and _is_idempotent(spec),
            "idempotentHint",
            "idempotentHint is false, but the tool is idempotent; write idempotent: false, or remove the hint",
        ),
        (
            hints.idempotent_hint is True and spec.idempotent is False,
            "idempotentHint",
            "idempotentHint is true, but idempotent is false; remove one of the two",
        ),
    ]
    for is_wrong, hint, message in wrong:
        if is_wrong:
            findings.warn("contradicting-hint", message, "annotations", hint)


def _annotations(spec: ToolSpec) -> dict[str, Json]:
    """MCP's annotations with every hint. Hints from the file win over those derived from the method."""
    is_safe = spec.request.method in SAFE_METHODS
    derived = {
        "readOnlyHint": is_safe,
        "destructiveHint": not is_safe,
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
    """The tool in the result of tools/list (MCP 2026-07-28, Tool)."""
    description = f"{spec.deprecated} {spec.description}" if spec.deprecated else spec.description
    definition: dict[str, Json] = {
        "name": name,
        "title": spec.title,
        "description": description,
        "inputSchema": arguments.schema,
        "outputSchema": output.schema if output else None,
        "annotations": annotations,
        "icons": [icon.model_dump(by_alias=True, exclude_none=True) for icon in spec.icons or ()] or None,
        "_meta": spec.meta,
    }
    # MCP has no null for an optional member.
    return {key: value for key, value in definition.items() if value is not None}
