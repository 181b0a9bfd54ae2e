"""The keys of tool files and upstream files, as pydantic models.

The models are the reference for names, types, bounds and defaults. Editors show their descriptions
through ``schemas/``. Checks that need more than one key are in ``tool/compiler``.
"""

import re
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

Json: TypeAlias = Any
"""Any JSON value."""

Scalar: TypeAlias = bool | int | float | str
Method: TypeAlias = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""RFC 9110 9.2.1."""
IDEMPOTENT_METHODS: Final = SAFE_METHODS | {"PUT", "DELETE"}
"""RFC 9110 9.2.2."""


def may_change(method: str) -> bool:
    """Whether the method is unsafe: a request may change something (RFC 9110 9.2.1)."""
    return method not in SAFE_METHODS


# Not DELETE: the content of its request has no defined meaning (RFC 9110 9.3.5).
BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})
"""Methods that send unplaced arguments in the body."""

# With ^ and $: JSON Schemas show it too, and their patterns match anywhere in a text.
NAME_PATTERN: Final = r"^[A-Za-z0-9_.-]{1,128}$"
"""MCP tool names (SEP-986)."""

# [0-9], as \d is also a digit of other scripts.
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
# Bounded: int() refuses more than 4300 digits, in words that mean nothing to an operator.
_SIZE = re.compile(r"([0-9]{1,20})(B|kB|KiB|MB|MiB)?")
_BYTES = {None: 1, "B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2}
_STATUS = re.compile(r"([1-5][0-9][0-9])(?:-([1-5][0-9][0-9]))?|([1-5])xx")


def _duration(value: object) -> object:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a duration such as 30s, 500ms or 2m")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if not 0 < seconds <= 3600:
        raise ValueError("expected a duration between 1ms and 60m")
    return seconds


def _size(value: object) -> object:
    # In YAML, 100 is an int. To Python, true is one too.
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("expected a size such as 100kB, 2MiB or a number of bytes")
    size = int(match[1]) * _BYTES[match[2]]
    if not 0 < size <= 256 * 1024**2:
        raise ValueError("expected a size between 1B and 256MiB")
    return size


def _status_range(value: object) -> object:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _STATUS.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("expected a status such as 404, 2xx or 200-299")
    if match[3]:
        return (int(match[3]) * 100, int(match[3]) * 100 + 99)
    low, high = int(match[1]), int(match[2] or match[1])
    if low > high:
        raise ValueError(f"the range {text} is empty; write {high}-{low}")
    return (low, high)


def _scope(value: str) -> str:
    if not re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]+", value):
        raise ValueError("expected a scope without blanks, quotes and backslashes, such as orders:read")
    return value


def _status_key(key: str) -> str:
    if key != "default" and not re.fullmatch(r"[1-5][0-9][0-9]|[45]xx", key):
        raise ValueError("expected a status such as 404, or 4xx, 5xx or default")
    return key


Duration: TypeAlias = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m)$", "examples": ["30s"]}),
]
"""Written as 30s, 500ms, 2m; stored in seconds."""

Size: TypeAlias = Annotated[
    int,
    BeforeValidator(_size),
    WithJsonSchema(
        {
            "type": ["integer", "string"],
            "minimum": 1,
            "pattern": "^[0-9]+(B|kB|KiB|MB|MiB)?$",
            "examples": ["100kB"],
        }
    ),
]
"""Written as 100kB or 2MiB; stored in bytes."""

StatusRange: TypeAlias = Annotated[
    tuple[int, int],
    BeforeValidator(_status_range),
    WithJsonSchema(
        {
            "type": ["integer", "string"],
            "minimum": 100,
            "maximum": 599,
            "pattern": "^[1-5]([0-9][0-9](-[1-5][0-9][0-9])?|xx)$",
            "examples": ["2xx"],
        }
    ),
]
"""Written as 404, 2xx or 200-299; stored as the lowest and the highest status."""

StatusKey: TypeAlias = Annotated[
    str,
    AfterValidator(_status_key),
    WithJsonSchema({"type": "string", "pattern": "^([1-5][0-9][0-9]|[45]xx|default)$"}),
]
Name: TypeAlias = Annotated[str, Field(pattern=NAME_PATTERN)]
Scope: TypeAlias = Annotated[
    str,
    AfterValidator(_scope),
    WithJsonSchema({"type": "string", "pattern": r"^[\x21\x23-\x5b\x5d-\x7e]+$"}),
]
"""A scope-token (RFC 6749 3.3)."""


class SpecModel(BaseModel):
    """A mapping of known keys; ``later`` are planned keys, which are refused for now."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,  # "5" is no number. Tuples have strict=False, as YAML gives lists.
        alias_generator=to_camel,
        hide_input_in_errors=True,  # an input may be a secret
        defer_build=True,  # most models are only validated as a part of another one, or not at all
    )
    later: ClassVar[frozenset[str]] = frozenset()


class Timeout(SpecModel):
    """Time limits of a call: it includes the queue, connecting, retries and reading."""

    total: Duration = Field(default=30.0, description="For the whole call. Default 30s.")
    connect: Duration = Field(default=5.0, description="For one connection attempt. Default 5s.")


class Retries(SpecModel):
    """Retries of requests that the API did not execute, or that are idempotent."""

    max: int = Field(default=2, ge=0, le=10, description="Attempts after the first. Default 2; 0 for none.")
    statuses: tuple[Literal[429, 502, 503, 504], ...] = Field(
        default=(429, 502, 503, 504),
        strict=False,
        description="Statuses that are retried, for safe methods and idempotent tools.",
    )


class Limits(SpecModel):
    """Concurrency limit of an upstream; further calls wait in the queue."""

    later = frozenset({"rate"})

    concurrency: int = Field(default=32, ge=1, le=1000, description="Maximum concurrent calls. Default 32.")
    queue: Duration = Field(default=5.0, description="How long a call may wait in the queue. Default 5s.")


class Circuit(SpecModel):
    """Circuit breaker: after repeated failures no call is sent for a while."""

    failures: int = Field(
        default=5, ge=1, le=1000, description="Consecutive failures that open it. Default 5."
    )
    open_for: Duration = Field(default=10.0, description="How long it stays open. Default 10s.")


def _total(value: object) -> object:
    """``timeout: 30s`` is short for ``timeout: {total: 30s}``."""
    return {"total": value} if isinstance(value, str) else value


TimeoutOrTotal: TypeAlias = Annotated[
    Timeout,
    BeforeValidator(_total, json_schema_input_type=Timeout | Duration),
]


class QueryStyle(SpecModel):
    """How an array or object is written into the query, with the keys of OpenAPI."""

    value: Json = Field(description='What to send: "{argument}", or a constant.')
    style: Literal["form", "spaceDelimited", "pipeDelimited", "deepObject"] = Field(
        default="form", description="OpenAPI's style of the parameter. Default form."
    )
    explode: bool | None = Field(
        default=None,
        description="One pair for each item. Default true for form, otherwise false, as in OpenAPI.",
    )


class RequestSpec(SpecModel):
    """The HTTP request that a call becomes."""

    method: Method = Field(description="The HTTP method.")
    url: str = Field(
        min_length=1,
        max_length=4096,
        description="RFC 6570 template: {id}, {+path}, {/part*}, {?q,limit}, {&more}. Begins with / and is "
        "appended to the upstream's baseUrl; absolute where the tool names no upstream.",
    )
    query: dict[str, Json] = Field(
        default={},
        description='Query parameters: name → "{argument}", a constant, a list, or {value, style, explode}.',
    )
    headers: dict[str, Scalar] = Field(
        default={}, description="Request headers: name → text with {argument}."
    )
    cookies: dict[str, Scalar] = Field(default={}, description="Cookies: name → text with {argument}.")
    body: Json = Field(
        default=None,
        description='The body as a structure; "{argument}" as a whole value keeps its JSON type.',
    )
    content_type: str = Field(
        default="application/json",
        description="application/json or +json (structure), application/x-www-form-urlencoded, "
        "multipart/form-data, or any other type (text, or {value, encoding: base64}).",
    )


Invisible: TypeAlias = Literal["show", "strip", "pass"]


class ResponseSpec(SpecModel):
    """Which part of the reply the model gets, and in which form."""

    jmespath: str | None = Field(
        default=None, min_length=1, max_length=4096, description="JMESPath projection of the JSON reply."
    )
    from_: Literal["body", "reply"] = Field(
        default="body",
        alias="from",
        description="Input of the projection: the body, or {status, headers, body}.",
    )
    content: Literal["auto", "json", "text", "image", "audio", "resource", "blocks"] = Field(
        default="auto", description="How the reply is given to the model. Default: by its Content-Type."
    )
    valid_status: tuple[StatusRange, ...] = Field(
        default=((200, 299),),
        strict=False,
        min_length=1,
        description="Statuses that count as success: 404, 2xx, 200-299. Default 2xx.",
    )
    max_bytes: Size = Field(
        default=100_000,
        description="Maximum size of the result text; a list is cut after a whole item. Default 100kB.",
    )
    invisible: Invisible = Field(
        default="show",
        description="Invisible characters, such as U+200B: show escapes them as \\u200b, strip removes them, "
        "pass keeps them. Default show.",
    )


class ErrorSpec(SpecModel):
    """The error text for the model if the upstream answers with a status."""

    message: str | None = Field(
        default=None,
        min_length=1,
        description="A sentence for the model: what happened, what to do. Default: a standard sentence.",
    )
    jmespath: str | None = Field(
        default=None,
        min_length=1,
        max_length=4096,
        description="JMESPath of the part of the upstream's error body that is added.",
    )
    upstream: bool = Field(
        default=True,
        description="Whether the upstream's message is added, cut to 500 characters. Default true.",
    )


def _message(value: object) -> object:
    """``404: TEXT`` is short for ``404: {message: TEXT}``."""
    return {"message": value} if isinstance(value, str) else value


ErrorOrMessage: TypeAlias = Annotated[
    ErrorSpec, BeforeValidator(_message, json_schema_input_type=ErrorSpec | str)
]


class Annotations(SpecModel):
    """MCP tool annotations; hints left out are derived from the method."""

    title: str | None = Field(default=None, description="A title for people.")
    read_only_hint: bool | None = Field(
        default=None, description="Changes nothing. Derived: GET, HEAD, OPTIONS."
    )
    destructive_hint: bool | None = Field(
        default=None, description="May destroy or overwrite. Derived: POST, PUT, PATCH, DELETE."
    )
    idempotent_hint: bool | None = Field(
        default=None, description="A second call changes nothing more. Derived: PUT, DELETE, safe methods."
    )
    open_world_hint: bool | None = Field(
        default=None, description="Interacts with external systems. Derived: true."
    )


class Icon(SpecModel):
    """An icon that clients may show (MCP)."""

    src: str = Field(pattern=r"^(https://|data:image/)", description="An https: or data: URI.")
    mime_type: str | None = Field(default=None, description="Its media type.")
    sizes: tuple[str, ...] | None = Field(default=None, strict=False, description="Such as 48x48, or any.")
    theme: Literal["light", "dark"] | None = Field(
        default=None, description="Background that it is designed for."
    )


class ToolSpec(SpecModel):
    """One MCP tool over one REST endpoint: the file NAME.yaml."""

    later = frozenset({"pagination", "cache", "confirm", "tests"})

    name: Name | None = Field(
        default=None, description="MCP tool name. Default: the file's name without .yaml."
    )
    title: str | None = Field(default=None, description="A title for people.")
    description: str = Field(
        min_length=1, description="What the tool does and when to use it; the model selects tools by it."
    )
    annotations: Annotations = Field(
        default=Annotations(), description="MCP hints; missing ones are derived."
    )
    icons: tuple[Icon, ...] | None = Field(default=None, strict=False, description="Icons for clients.")
    meta: dict[str, Json] | None = Field(
        default=None, alias="_meta", description="MCP _meta, sent unchanged."
    )
    upstream: str | None = Field(
        default=None, description="NAME of the NAME.upstream.yaml that the tool uses."
    )
    input_schema: dict[str, Json] = Field(
        default={}, description="JSON Schema (2020-12) of the arguments. Default: no arguments."
    )
    output_schema: dict[str, Json] | None = Field(
        default=None,
        description="JSON Schema of the result; every result is checked and sent as structuredContent.",
    )
    request: RequestSpec = Field(description="The HTTP request that a call becomes.")
    response: ResponseSpec = Field(
        default=ResponseSpec(), description="Which part of the reply the model gets."
    )
    errors: dict[StatusKey, ErrorOrMessage] = Field(
        default={},
        description="404, 4xx, 5xx or default → a sentence for the model, or {message, jmespath, upstream}.",
    )
    timeout: TimeoutOrTotal | None = Field(
        default=None, description="Overrides the upstream's: 30s, or {total, connect}."
    )
    retries: Retries | None = Field(default=None, description="Overrides the upstream's, key by key.")
    max_bytes: Size | None = Field(
        default=None, description="Overrides the upstream's: maximum size of the reply."
    )
    limits: Limits | None = Field(default=None, description="Applies in addition to the upstream's.")
    idempotent: bool | None = Field(
        default=None,
        description="A second call changes nothing more: allows retries, sets the hint. "
        "Default: true for PUT and DELETE (RFC 9110), otherwise false.",
    )
    tags: tuple[str, ...] = Field(default=(), strict=False, description="Labels to group tools by.")
    scopes: tuple[Scope, ...] = Field(
        default=(),
        strict=False,
        description="Scopes that a caller over HTTP needs to see and call it, all of them. Default: none.",
    )
    aliases: tuple[Name, ...] = Field(
        default=(), strict=False, description="Old names that can still be called, but are not listed."
    )
    deprecated: str | None = Field(
        default=None,
        min_length=1,
        description="A sentence that is put before the description: what to use instead.",
    )
    enabled: bool = Field(default=True, description="false removes the tool from the list.")


SecretText: TypeAlias = Annotated[str, Field(min_length=1)]
"""A text in which ${env:NAME} and ${file:/path} are replaced by secrets; declare it with ``repr=False``."""


class BearerAuth(SpecModel):
    """RFC 6750: ``Authorization: Bearer …``."""

    type: Literal["http"] = Field(description="An HTTP authentication scheme.")
    scheme: Literal["bearer"] = Field(description="bearer or basic.")
    credentials: SecretText = Field(repr=False, description="The token, usually ${env:NAME}.")


class BasicAuth(SpecModel):
    """RFC 7617: user name and password."""

    type: Literal["http"] = Field(description="An HTTP authentication scheme.")
    scheme: Literal["basic"] = Field(description="bearer or basic.")
    username: SecretText = Field(repr=False, description="The user name; no colon.")
    password: SecretText = Field(repr=False, description="The password, usually ${env:NAME}.")


class ApiKeyAuth(SpecModel):
    """A key in a header, a query parameter or a cookie."""

    type: Literal["apiKey"] = Field(description="A key in a header, the query or a cookie.")
    in_: Literal["header", "query", "cookie"] = Field(alias="in", description="Where the key goes.")
    name: str = Field(min_length=1, description="Name of the header, parameter or cookie.")
    value: SecretText = Field(repr=False, description="The key, usually ${env:NAME}.")


class OAuth2(SpecModel):
    """An access token from an authorization server (RFC 6749), sent as a bearer token (RFC 6750)."""

    type: Literal["oauth2"] = Field(description="An access token from an authorization server.")
    token_url: str = Field(min_length=1, description="The server's token endpoint.")
    client_id: SecretText = Field(repr=False, description="The bridge's client id.")
    client_secret: SecretText | None = Field(
        default=None, repr=False, description="The client secret, usually ${env:NAME}."
    )
    client_authentication: Literal["client_secret_basic", "client_secret_post"] = Field(
        default="client_secret_basic",
        description="How both are sent: in the Authorization header or in the form (RFC 8414). Default: the header.",
    )
    scopes: tuple[Scope, ...] = Field(
        default=(), strict=False, description="Requested scopes. Default: the server's default scopes."
    )
    audience: str | None = Field(
        default=None, min_length=1, description="Name of the API that the token is for (RFC 8693)."
    )
    resource: str | None = Field(
        default=None, min_length=1, description="URI of the API that the token is for (RFC 8707)."
    )


class ClientCredentialsAuth(OAuth2):
    """RFC 6749 4.4: one token of the bridge for all calls."""

    flow: Literal["clientCredentials"] = Field(
        description="clientCredentials for one token of the bridge; tokenExchange for a token of each caller."
    )


class TokenExchangeAuth(OAuth2):
    """RFC 8693: exchanges each caller's token for another one, to call the API on behalf of the caller."""

    flow: Literal["tokenExchange"] = Field(
        description="tokenExchange for a token of each caller; clientCredentials for one token of the bridge."
    )
    subject_token_type: str = Field(
        default="urn:ietf:params:oauth:token-type:access_token",
        min_length=1,
        description="Type of the caller's token (RFC 8693 3). Default: access token.",
    )
    requested_token_type: str | None = Field(
        default=None, min_length=1, description="Type of the requested token. Default: the server's default."
    )


class NoAuth(SpecModel):
    """The API needs no credentials. It is written explicitly, so that auth cannot be forgotten."""

    type: Literal["none"] = Field(description="No credentials are sent.")


# With discriminators pydantic reports the errors of the kind that is meant, not those of all kinds.
HttpAuth: TypeAlias = Annotated[BearerAuth | BasicAuth, Field(discriminator="scheme")]
TokenAuth: TypeAlias = Annotated[ClientCredentialsAuth | TokenExchangeAuth, Field(discriminator="flow")]
Auth: TypeAlias = Annotated[HttpAuth | ApiKeyAuth | TokenAuth | NoAuth, Field(discriminator="type")]


class Tls(SpecModel):
    """How the upstream's certificate is verified, and the client certificate."""

    ca_file: str | None = Field(
        default=None, description="PEM file of the trusted certificate authorities. Default: the system's."
    )
    cert_file: str | None = Field(
        default=None, description="PEM file of the client certificate (mutual TLS)."
    )
    key_file: str | None = Field(default=None, description="PEM file of its key, if it is not in certFile.")
    verify: bool = Field(default=True, description="false accepts any certificate: only for tests.")


class Maximum(SpecModel):
    """Maxima for tool files. A tool file may always use the upstream file's own value."""

    timeout: Duration = Field(default=600.0, description="Maximum of timeout. Default 10m.")
    max_bytes: Size = Field(default=8 * 1024**2, description="Maximum of maxBytes. Default 8MiB.")
    result_bytes: Size = Field(
        default=8 * 1024**2,
        ge=100_000,
        description="Maximum of response.maxBytes. Default 8MiB; at least 100kB, the default of tools.",
    )
    retries: int = Field(default=10, ge=0, le=10, description="Maximum of retries.max. Default 10.")


class UpstreamSpec(SpecModel):
    """One API that tools call: the file NAME.upstream.yaml."""

    later = frozenset({"cache"})

    base_url: str = Field(
        min_length=1, description="Scheme, host and path prefix; tools cannot call anything else."
    )
    auth: Auth = Field(description="Required: how calls authenticate; {type: none} for no credentials.")
    headers: dict[str, Scalar] = Field(default={}, repr=False, description="Sent with every call.")
    forward_headers: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Headers of the caller's request that are forwarded (HTTP only).",
    )
    overridable: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Names from headers and forwardHeaders that a tool file may override.",
    )
    scopes: tuple[Scope, ...] = Field(
        default=(),
        strict=False,
        description="Scopes that a caller over HTTP needs to see and call its tools, in addition to each tool's.",
    )
    max: Maximum = Field(default=Maximum(), description="Maxima for tool files.")
    timeout: TimeoutOrTotal = Field(default=Timeout(), description="30s, or {total, connect}.")
    retries: Retries = Field(
        default=Retries(), description="Retries of requests that the API did not execute."
    )
    limits: Limits = Field(default=Limits(), description="Concurrency limit.")
    circuit: Circuit | None = Field(default=None, description="Circuit breaker. Default: none.")
    max_bytes: Size = Field(
        default=2 * 1024**2, description="Maximum size of a reply, both compressed and decoded. Default 2MiB."
    )
    tls: Tls = Field(default=Tls(), description="TLS certificates.")
    proxy: str | None = Field(
        default=None,
        repr=False,
        description="http://[user:password@]host:port. Default: HTTP(S)_PROXY and NO_PROXY.",
    )
    addresses: Literal["any"] = Field(
        default="any",
        description="any: all but link-local and cloud metadata addresses, which are always refused.",
    )
