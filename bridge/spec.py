"""Every word that a tool file or an upstream file may say.

These models are the reference: names, types, bounds and defaults, and the descriptions that editors
show through ``schemas/``. Checks that need more than one key are in ``tool/compiler``.
"""

import re
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

Json: TypeAlias = Any
"""Whatever JSON can say."""

Scalar: TypeAlias = bool | int | float | str
Method: TypeAlias = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""RFC 9110 9.2.1."""
IDEMPOTENT_METHODS: Final = SAFE_METHODS | {"PUT", "DELETE"}
"""RFC 9110 9.2.2."""


def may_change(method: str) -> bool:
    """Whether a request with this method may change something (RFC 9110 9.2.1)."""
    return method not in SAFE_METHODS


BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})
"""Methods whose leftover arguments go into the body."""

NAME_PATTERN: Final = r"^[A-Za-z0-9_.-]{1,128}$"
"""MCP tool names (SEP-986)."""

_DURATION = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(ms|s|m)$")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
_SIZE = re.compile(r"^([0-9]+)(B|kB|KiB|MB|MiB)?$")
_BYTES = {None: 1, "B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2}
_STATUS = re.compile(r"^([1-5][0-9][0-9])(?:-([1-5][0-9][0-9]))?$|^([1-5])xx$")


def _duration(value: object) -> object:
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a duration such as 30s, 500ms or 2m")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if not 0 < seconds <= 3600:
        raise ValueError("expected a duration between 1ms and 60m")
    return seconds


def _size(value: object) -> object:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _SIZE.match(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("expected a size such as 100kB, 2MiB or a number of bytes")
    size = int(match[1]) * _BYTES[match[2]]
    if not 0 < size <= 256 * 1024**2:
        raise ValueError("expected a size between 1B and 256MiB")
    return size


def _status_range(value: object) -> object:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _STATUS.match(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("expected a status such as 404, 2xx or 200-299")
    if match[3]:
        return (int(match[3]) * 100, int(match[3]) * 100 + 99)
    low, high = int(match[1]), int(match[2] or match[1])
    if low > high:
        raise ValueError(f"the range {text} is empty; write {high}-{low}")
    return (low, high)


def _scope(value: str) -> str:
    if not re.match(r"^[\x21\x23-\x5b\x5d-\x7e]+\Z", value):
        raise ValueError("expected a scope without blanks, quotes and backslashes, such as orders:read")
    return value


def _status_key(key: str) -> str:
    if key != "default" and not re.match(r"^([1-5][0-9][0-9]|[45]xx)$", key):
        raise ValueError("expected a status such as 404, or 4xx, 5xx or default")
    return key


Duration: TypeAlias = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m)$", "examples": ["30s"]}),
]
"""Written as 30s, 500ms, 2m; held in seconds."""

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
"""Written as 100kB or 2MiB; held in bytes."""

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
"""Written as 404, 2xx or 200-299; held as the lowest and the highest status."""

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


class Words(BaseModel):
    """A mapping of known keys; ``later`` names those that are planned and refused until then."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        hide_input_in_errors=True,
    )
    later: ClassVar[frozenset[str]] = frozenset()


# --- defaults and policies, in both kinds of file ---


class Timeout(Words):
    """One deadline for the whole call: waiting for a slot, connecting, retries, reading."""

    total: Duration = Field(default=30.0, description="For the whole call. Default 30s.")
    connect: Duration = Field(default=5.0, description="For one connection attempt. Default 5s.")


class Retries(Words):
    """Repeat what failed before it was done, or what may be done twice."""

    max: int = Field(default=2, ge=0, le=10, description="Attempts after the first. Default 2; 0 for none.")
    statuses: tuple[Literal[429, 502, 503, 504], ...] = Field(
        default=(429, 502, 503, 504),
        strict=False,
        description="Statuses worth another attempt, for safe methods and idempotent tools.",
    )


class Limits(Words):
    """What the upstream can bear; calls beyond it wait, within ``queue``."""

    later = frozenset({"rate"})

    concurrency: int = Field(default=32, ge=1, le=1000, description="Calls at a time. Default 32.")
    queue: Duration = Field(default=5.0, description="How long a call waits for its turn. Default 5s.")


class Circuit(Words):
    """An API that fails again and again is left alone for a while."""

    failures: int = Field(default=5, ge=1, le=1000, description="Calls in a row that fail first. Default 5.")
    open_for: Duration = Field(default=10.0, description="How long no call is made then. Default 10s.")


def _total(value: object) -> object:
    return {"total": value} if isinstance(value, str) else value


TimeoutOrTotal: TypeAlias = Annotated[
    Timeout,
    BeforeValidator(_total, json_schema_input_type=Timeout | Duration),
]


# --- one tool ---


class QueryStyle(Words):
    """How an array or object argument is written into the query, in OpenAPI's words."""

    value: Json = Field(description='What to send: "{argument}", or a constant.')
    style: Literal["form", "spaceDelimited", "pipeDelimited", "deepObject"] = Field(
        default="form", description="OpenAPI's style of the parameter. Default form."
    )
    explode: bool | None = Field(
        default=None, description="One pair for each item. Default true for form, else false, as in OpenAPI."
    )


class RequestSpec(Words):
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
        description='The body as a structure; "{argument}" alone keeps its JSON type, and may be the whole body.',
    )
    content_type: str = Field(
        default="application/json",
        description="application/json or +json (structure), application/x-www-form-urlencoded, "
        "multipart/form-data, or any other type (text, or {value, encoding: base64}).",
    )


Invisible: TypeAlias = Literal["show", "strip", "pass"]


class ResponseSpec(Words):
    """What of the reply the model gets."""

    jmespath: str | None = Field(
        default=None, min_length=1, max_length=4096, description="JMESPath projection of the JSON reply."
    )
    from_: Literal["body", "reply"] = Field(
        default="body",
        alias="from",
        description="What the projection sees: the body, or {status, headers, body}.",
    )
    content: Literal["auto", "json", "text", "image", "audio", "resource", "blocks"] = Field(
        default="auto", description="How the reply is given to the model. Default: by its Content-Type."
    )
    valid_status: tuple[StatusRange, ...] = Field(
        default=((200, 299),),
        strict=False,
        min_length=1,
        description="Statuses that are a success: 404, 2xx, 200-299. Default 2xx.",
    )
    max_bytes: Size = Field(
        default=100_000,
        description="Bound of the result text; whole items of a list are kept. Default 100kB.",
    )
    invisible: Invisible = Field(
        default="show",
        description="What becomes of invisible characters, such as U+200B: show writes \\u200b, strip takes them out, "
        "pass leaves them. Default show.",
    )


class ErrorSpec(Words):
    """What the model reads when the upstream answers with a status."""

    message: str | None = Field(
        default=None,
        min_length=1,
        description="A sentence for the model: what happened, what to do. Default: one of the bridge's own.",
    )
    jmespath: str | None = Field(
        default=None,
        min_length=1,
        max_length=4096,
        description="Which part of the upstream's error body is added.",
    )
    upstream: bool = Field(
        default=True, description="Whether the upstream's own message is added, bounded. Default true."
    )


def _message(value: object) -> object:
    return {"message": value} if isinstance(value, str) else value


ErrorOrMessage: TypeAlias = Annotated[
    ErrorSpec, BeforeValidator(_message, json_schema_input_type=ErrorSpec | str)
]


class Annotations(Words):
    """MCP tool annotations; hints left out are derived from the method."""

    title: str | None = Field(default=None, description="A title for people.")
    read_only_hint: bool | None = Field(
        default=None, description="Changes nothing. Derived: GET, HEAD, OPTIONS."
    )
    destructive_hint: bool | None = Field(
        default=None, description="May destroy or overwrite. Derived: POST, PUT, PATCH, DELETE."
    )
    idempotent_hint: bool | None = Field(
        default=None, description="Calling twice is as calling once. Derived: PUT, DELETE, safe methods."
    )
    open_world_hint: bool | None = Field(default=None, description="Meets the outside world. Derived: true.")


class Icon(Words):
    """An icon that clients may show (MCP)."""

    src: str = Field(pattern=r"^(https://|data:image/)", description="An https: or data: URI.")
    mime_type: str | None = Field(default=None, description="Its media type.")
    sizes: tuple[str, ...] | None = Field(default=None, strict=False, description="Such as 48x48, or any.")
    theme: Literal["light", "dark"] | None = Field(default=None, description="For which background.")


class ToolSpec(Words):
    """One MCP tool over one REST endpoint: the file NAME.yaml."""

    later = frozenset({"pagination", "cache", "confirm", "tests"})

    name: Name | None = Field(
        default=None, description="MCP tool name. Default: the file's name without .yaml."
    )
    title: str | None = Field(default=None, description="A title for people.")
    description: str = Field(
        min_length=1, description="What the tool does and when to use it; the model chooses by it."
    )
    annotations: Annotations = Field(default=Annotations(), description="MCP hints; derived where left out.")
    icons: tuple[Icon, ...] | None = Field(default=None, strict=False, description="Icons for clients.")
    meta: dict[str, Json] | None = Field(default=None, alias="_meta", description="MCP _meta, passed on.")
    upstream: str | None = Field(default=None, description="Which NAME.upstream.yaml the url is appended to.")
    input_schema: dict[str, Json] = Field(
        default={}, description="JSON Schema (2020-12) of the arguments. Default: none are taken."
    )
    output_schema: dict[str, Json] | None = Field(
        default=None,
        description="JSON Schema of the result; every result is checked and sent as structuredContent.",
    )
    request: RequestSpec = Field(description="The HTTP request that a call becomes.")
    response: ResponseSpec = Field(default=ResponseSpec(), description="What of the reply the model gets.")
    errors: dict[StatusKey, ErrorOrMessage] = Field(
        default={},
        description="404, 4xx, 5xx or default → a sentence for the model, or {message, jmespath, upstream}.",
    )
    timeout: TimeoutOrTotal | None = Field(
        default=None, description="Over the upstream's: 30s, or {total, connect}."
    )
    retries: Retries | None = Field(default=None, description="Over the upstream's, key by key.")
    max_bytes: Size | None = Field(
        default=None, description="Over the upstream's: bound of the reply as read."
    )
    limits: Limits | None = Field(default=None, description="On top of the upstream's.")
    idempotent: bool | None = Field(
        default=None,
        description="Calling twice does what calling once does: allows retries, sets the hint. "
        "Default: true for PUT and DELETE (RFC 9110), else false.",
    )
    tags: tuple[str, ...] = Field(default=(), strict=False, description="Words to group tools by.")
    scopes: tuple[Scope, ...] = Field(
        default=(),
        strict=False,
        description="What a caller over HTTP needs, all of them, to see and call it. Default: nothing.",
    )
    aliases: tuple[Name, ...] = Field(
        default=(), strict=False, description="Old names that still answer, but are not listed."
    )
    deprecated: str | None = Field(
        default=None, min_length=1, description="A sentence put before the description: what to use instead."
    )
    enabled: bool = Field(default=True, description="false withdraws the tool.")


# --- one upstream ---

SecretText: TypeAlias = Annotated[str, Field(min_length=1)]
"""A text in which ${env:NAME} and ${file:/path} stand for secrets; declared with ``repr=False``."""


class BearerAuth(Words):
    """RFC 6750: ``Authorization: Bearer …``."""

    type: Literal["http"] = Field(description="An HTTP authentication scheme.")
    scheme: Literal["bearer"] = Field(description="bearer or basic.")
    credentials: SecretText = Field(repr=False, description="The token, usually ${env:NAME}.")


class BasicAuth(Words):
    """RFC 7617: user name and password."""

    type: Literal["http"] = Field(description="An HTTP authentication scheme.")
    scheme: Literal["basic"] = Field(description="bearer or basic.")
    username: SecretText = Field(repr=False, description="The user name; no colon.")
    password: SecretText = Field(repr=False, description="The password, usually ${env:NAME}.")


class ApiKeyAuth(Words):
    """A key in a header, a query parameter or a cookie."""

    type: Literal["apiKey"] = Field(description="A key in a header, the query or a cookie.")
    in_: Literal["header", "query", "cookie"] = Field(alias="in", description="Where the key goes.")
    name: str = Field(min_length=1, description="Name of the header, parameter or cookie.")
    value: SecretText = Field(repr=False, description="The key, usually ${env:NAME}.")


class OAuth2(Words):
    """A token that an authorization server gives to the bridge (RFC 6749), sent as RFC 6750 says."""

    type: Literal["oauth2"] = Field(description="A token of an authorization server.")
    token_url: str = Field(min_length=1, description="The server's token endpoint.")
    client_id: SecretText = Field(repr=False, description="As whom the server knows the bridge.")
    client_secret: SecretText | None = Field(
        default=None, repr=False, description="What shows that, usually ${env:NAME}."
    )
    client_authentication: Literal["client_secret_basic", "client_secret_post"] = Field(
        default="client_secret_basic",
        description="Whether the server reads both in a header or in the form (RFC 8414). Default: a header.",
    )
    scopes: tuple[Scope, ...] = Field(
        default=(), strict=False, description="What is asked for. Default: what the server gives anyway."
    )
    audience: str | None = Field(
        default=None, min_length=1, description="Whom the token is for, by a name (RFC 8693)."
    )
    resource: str | None = Field(
        default=None, min_length=1, description="Whom the token is for, by an address (RFC 8707)."
    )


class ClientCredentialsAuth(OAuth2):
    """RFC 6749 4.4: one token, the bridge's own, for all calls."""

    flow: Literal["clientCredentials"] = Field(
        description="clientCredentials, or tokenExchange for a token of each caller."
    )


class TokenExchangeAuth(OAuth2):
    """RFC 8693: for each caller's token another one, to call the API in the caller's name."""

    flow: Literal["tokenExchange"] = Field(description="tokenExchange, or clientCredentials for one of all.")
    subject_token_type: str = Field(
        default="urn:ietf:params:oauth:token-type:access_token",
        min_length=1,
        description="What callers' tokens are to the server. Default: access tokens.",
    )
    requested_token_type: str | None = Field(
        default=None, min_length=1, description="What is asked for. Default: what the server gives anyway."
    )


class NoAuth(Words):
    """The API takes calls from anybody; written out, so that it cannot be forgotten."""

    type: Literal["none"] = Field(description="No credentials are sent.")


HttpAuth: TypeAlias = Annotated[BearerAuth | BasicAuth, Field(discriminator="scheme")]
TokenAuth: TypeAlias = Annotated[ClientCredentialsAuth | TokenExchangeAuth, Field(discriminator="flow")]
Auth: TypeAlias = Annotated[HttpAuth | ApiKeyAuth | TokenAuth | NoAuth, Field(discriminator="type")]


class Tls(Words):
    """How the upstream's certificate is checked, and which one we show."""

    ca_file: str | None = Field(
        default=None, description="PEM file of the authorities to trust instead of the system's."
    )
    cert_file: str | None = Field(default=None, description="PEM file of our certificate (mutual TLS).")
    key_file: str | None = Field(default=None, description="PEM file of its key, if it is not in certFile.")
    verify: bool = Field(default=True, description="false accepts any certificate: for tests alone.")


class Maximum(Words):
    """The most that a tool file may ask for; it may always ask for what the upstream file itself has."""

    timeout: Duration = Field(default=600.0, description="Of timeout. Default 10m.")
    max_bytes: Size = Field(default=64 * 1024**2, description="Of maxBytes. Default 64MiB.")
    result_bytes: Size = Field(
        default=16 * 1024**2,
        ge=100_000,
        description="Of response.maxBytes. Default 16MiB; at least 100kB, which tools have by default.",
    )
    retries: int = Field(default=10, ge=0, le=10, description="Of retries.max. Default 10.")


class UpstreamSpec(Words):
    """One API that tools call: the file NAME.upstream.yaml."""

    later = frozenset({"cache"})

    base_url: str = Field(min_length=1, description="Scheme, host and path prefix; no tool can leave it.")
    auth: Auth = Field(description="Required: how calls authenticate; {type: none} where they do not.")
    headers: dict[str, Scalar] = Field(default={}, repr=False, description="Sent with every call.")
    forward_headers: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Headers of the caller's own request that are sent on, where it has them (HTTP alone).",
    )
    overridable: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Those of headers and forwardHeaders that a tool file may set, too; its value is sent then.",
    )
    scopes: tuple[Scope, ...] = Field(
        default=(),
        strict=False,
        description="What a caller over HTTP needs to see and call its tools, next to what each tool asks for.",
    )
    max: Maximum = Field(default=Maximum(), description="The most that tool files may ask for.")
    timeout: TimeoutOrTotal = Field(default=Timeout(), description="30s, or {total, connect}.")
    retries: Retries = Field(default=Retries(), description="Repeat what failed before it was done.")
    limits: Limits = Field(default=Limits(), description="What the API can bear.")
    circuit: Circuit | None = Field(
        default=None, description="Leave an API alone that fails again and again. Default: never."
    )
    max_bytes: Size = Field(
        default=2 * 1024**2, description="Bound of a reply as read, wire and decoded. Default 2MiB."
    )
    tls: Tls = Field(default=Tls(), description="Certificates.")
    proxy: str | None = Field(
        default=None,
        repr=False,
        description="http://[user:password@]host:port. Default: HTTP(S)_PROXY and NO_PROXY.",
    )
    addresses: Literal["any"] = Field(
        default="any",
        description="any: all but link-local and cloud metadata addresses, which are always refused.",
    )
