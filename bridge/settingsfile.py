"""Every word that the settings file, ``restbridge.yaml``, may say.

What a person would type has an option of ``restbridge serve``, too, and what is typed counts.
"""

import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from bridge.address import Address
from bridge.spec import Duration, Name, Scope, SecretText, Size, Words

OPERATE_SCOPE: Final = "restbridge:operate"
"""What a caller needs for all that the bridge tells those who run it."""
METRICS_SCOPE: Final = "restbridge:metrics"
"""What is enough for the metrics alone."""

OWN_SCOPES: Final = "restbridge:"
"""How the bridge's own scopes begin."""

_LIFETIME: Final = re.compile(r"([0-9]{1,9})(m|h|d)")
_SECONDS: Final = {"m": 60, "h": 3600, "d": 86400}
_MAX_LIFETIME_SECONDS: Final = 366 * 86400
_HOST_NAME: Final = "[A-Za-z0-9._-]{1,253}"
_VIEW_NAME: Final = "[A-Za-z0-9_-]{1,64}"


def _address(value: object) -> object:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise ValueError("expected a port such as 8000, or host:port")  # noqa: TRY004 - pydantic's way
    return Address.parse(text)


def _moment(value: object) -> object:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None:
        raise ValueError("expected a date such as 2027-01-31, or a time such as 2027-01-31T18:00:00Z")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _lifetime(value: object) -> object:
    match = _LIFETIME.fullmatch(value) if isinstance(value, str) else None
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0
    if not 0 < seconds <= _MAX_LIFETIME_SECONDS:
        raise ValueError("expected a time such as 30m, 24h or 7d, at most 366d")
    return seconds


def is_past(moment: float | None) -> bool:
    """Whether it has come, in seconds since 1970; what has no end never has."""
    return moment is not None and moment <= time.time()


def _view_name(name: str) -> str:
    if not re.fullmatch(_VIEW_NAME, name):
        raise ValueError("expected a name of letters, digits, _ and -, at most 64: it stands in a URL")
    return name


def host_name(name: str) -> str:
    """A name in lower case; raises ``ValueError`` for what is none."""
    if not re.fullmatch(_HOST_NAME, name):
        raise ValueError("expected the name of a host, without port and scheme")
    return name.lower()


def _poll(seconds: float) -> float:
    if seconds < 0.1:
        raise ValueError("expected at least 100ms")
    return seconds


Moment: TypeAlias = Annotated[
    float,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "examples": ["2027-01-31", "2027-01-31T18:00:00Z"]}),
]
"""Written as RFC 3339 says, or as a date, which is its first moment in UTC; held in seconds since 1970."""

Lifetime: TypeAlias = Annotated[
    float,
    BeforeValidator(_lifetime),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,9}(m|h|d)$", "examples": ["24h"]}),
]
"""Written as 30m, 24h, 7d; held in seconds."""

ViewName: TypeAlias = Annotated[
    str,
    AfterValidator(_view_name),
    WithJsonSchema({"type": "string", "pattern": f"^{_VIEW_NAME}$"}),
]

HostName: TypeAlias = Annotated[
    str,
    AfterValidator(host_name),
    WithJsonSchema({"type": "string", "pattern": f"^{_HOST_NAME}$", "examples": ["tools.example.com"]}),
]

Algorithm: TypeAlias = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
"""How tokens are signed (RFC 7518, RFC 8037): with a key that only the issuer has."""

LogFormat: TypeAlias = Literal["text", "json"]

At: TypeAlias = Annotated[
    Address,
    BeforeValidator(_address),
    WithJsonSchema({"type": ["integer", "string"], "examples": [8000, "0.0.0.0:8000"]}),
]


class ApiKey(Words):
    """A key that a caller may show, of which only the digest is kept; ``restbridge key new`` makes both."""

    name: Name = Field(description="Who holds it: the name of the caller in the log.")
    sha256: SecretText = Field(
        repr=False, description="SHA-256 of the key in hexadecimal; or ${env:NAME}, ${file:/path} of it."
    )
    scopes: tuple[Scope, ...] = Field(
        default=(),
        strict=False,
        description="What its holder may do: tools name the scopes that they ask for.",
    )
    expires: Moment | None = Field(default=None, description="From when on it counts no more.")


class Issuer(Words):
    """An authorization server whose tokens (JWT, RFC 9068) callers may show."""

    issuer: str = Field(min_length=1, description="Its name, exactly as tokens have it under iss.")
    jwks: str = Field(
        min_length=1, description="Where its keys are (RFC 7517): an https address, or a file's path."
    )
    audience: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="A token must be for one of these (aud). Default: what resource says.",
    )
    algorithms: tuple[Algorithm, ...] = Field(
        default=("RS256", "PS256", "ES256", "EdDSA"),
        strict=False,
        min_length=1,
        description="How tokens may be signed. Default: RS256, PS256, ES256, EdDSA.",
    )
    leeway: Duration = Field(default=30.0, description="How far clocks may differ. Default 30s.")
    name: str = Field(default="sub", min_length=1, description="The claim that names the caller.")
    scopes: str | None = Field(
        default=None,
        min_length=1,
        description="The claim that says what the caller may do. Default: scope, else scp.",
    )
    grants: tuple[str, ...] | None = Field(
        default=None,
        strict=False,
        description="Patterns of the scopes that its tokens may give. Default: all but restbridge:*.",
    )
    max_lifetime: Lifetime = Field(
        default=86400.0, description="The longest time for which its tokens may be valid. Default 24h."
    )

    def may_grant(self, scope: str) -> bool:
        """Whether its tokens may give a scope. One of the bridge's own takes a pattern that names it as such."""
        is_own = scope.startswith(OWN_SCOPES)
        if self.grants is None:
            return not is_own
        return any(
            matches(pattern, scope) and (not is_own or pattern.startswith(OWN_SCOPES))
            for pattern in self.grants
        )


class Access(Words):
    """Who may call over HTTP; nobody is asked where this is left out. It is read again on change."""

    api_keys: tuple[ApiKey, ...] | None = Field(
        default=None, strict=False, description="Keys, shown as Authorization: Bearer KEY."
    )
    jwt: tuple[Issuer, ...] | None = Field(
        default=None, strict=False, description="Authorization servers whose tokens are shown likewise."
    )
    resource: str | None = Field(
        default=None,
        min_length=1,
        description="The address at which clients reach the endpoint, such as https://tools.example.com/mcp.",
    )
    scopes_supported: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Patterns of the tools' scopes that clients without a token are told to ask for. Default: none.",
    )
    step_up: Literal["hide", "challenge"] = Field(
        default="hide",
        description="What a call gets whose token lacks scopes of its tool: hide: unknown tool; challenge: which scopes.",
    )


class View(Words):
    """Some of the tools, for agents that need no others; ``*`` in a pattern stands for any characters.

    A tool is in it by its name or by one of its tags, unless ``without`` leaves it out.
    """

    tools: tuple[str, ...] = Field(default=(), strict=False, description="Names, such as get_*.")
    tags: tuple[str, ...] = Field(default=(), strict=False, description="Tags that tools have.")
    without: tuple[str, ...] = Field(
        default=(), strict=False, description="Names of those that are not in it."
    )

    def shows(self, name: str, tags: Iterable[str]) -> bool:
        """Whether a tool is in it."""
        is_in = _is_one(name, self.tools) or any(_is_one(tag, self.tags) for tag in tags)
        return is_in and not _is_one(name, self.without)


def _is_one(text: str, patterns: Iterable[str]) -> bool:
    return any(matches(pattern, text) for pattern in patterns)


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern of a view stands for a name or a tag."""
    return fnmatchcase(text, pattern)


class Bounds(Words):
    """How much may be used at once; None bounds nothing."""

    calls: int | None = Field(default=None, ge=1, description="Calls that run at a time.")
    rate: int | None = Field(
        default=None, ge=1, description="Requests in a minute, of every kind; a sixth of them at once."
    )
    results: Size | None = Field(default=None, description="Bytes of results that were not read yet.")
    sessions: int | None = Field(
        default=None, ge=1, description="Sessions of clients of 2025-11-25 and before."
    )
    streams: int | None = Field(default=None, ge=1, description="Streams on which clients hear of changes.")


class PerCaller(Bounds):
    """For each caller. The defaults leave room for others, and apply where callers have names (``access``)."""

    calls: int | None = Field(default=64, ge=1, description="Calls that run at a time. Default 64.")
    results: Size | None = Field(
        default=32 * 1024**2, description="Bytes of results that were not read yet. Default 32MiB."
    )
    sessions: int | None = Field(
        default=100, ge=1, description="Sessions of clients of 2025-11-25 and before. Default 100."
    )
    streams: int | None = Field(
        default=100, ge=1, description="Streams on which clients hear of changes. Default 100."
    )

    @property
    def written(self) -> Bounds:
        """Without the defaults: for callers without a name, who are all one."""
        return Bounds(**{name: getattr(self, name) for name in self.model_fields_set})


class InAll(Bounds):
    """The same for all callers together."""

    calls: int | None = Field(default=512, ge=1, description="Calls that run at a time. Default 512.")
    results: Size | None = Field(
        default=256 * 1024**2, description="Bytes of results that were not read yet. Default 256MiB."
    )
    sessions: int | None = Field(
        default=1000, ge=1, description="Sessions of clients of 2025-11-25 and before. Default 1000."
    )
    streams: int | None = Field(
        default=2000, ge=1, description="Streams on which clients hear of changes. Default 2000."
    )


class Limits(Words):
    """What callers may take of the bridge over HTTP; each worker counts by itself."""

    per_caller: PerCaller = Field(default=PerCaller(), description="For each caller.")
    in_all: InAll = Field(default=InAll(), description="For all together.")
    body: Size = Field(default=4 * 1024**2, description="Bytes of a request's body. Default 4MiB.")


class Audit(Words):
    """Where calls that may change something are recorded."""

    file: str = Field(min_length=1, description="The file; lines of JSON are appended to it.")
    required: bool = Field(
        default=False, description="Do not make such a call if its first line cannot be written."
    )


def _audit_file(value: object) -> object:
    return {"file": value} if isinstance(value, str) else value


AuditOrFile: TypeAlias = Annotated[
    Audit, BeforeValidator(_audit_file, json_schema_input_type=Audit | Annotated[str, Field(min_length=1)])
]


class Http(Words):
    """Serve HTTP, at /mcp, instead of stdio."""

    listen: At = Field(description="[HOST:]PORT; only this machine can reach it where no host is given.")
    workers: int = Field(default=1, ge=1, le=64, description="Processes that answer.")
    stateless: bool = Field(
        default=False, description="Keep no sessions, so that any replica can answer any request."
    )
    host_names: tuple[HostName, ...] = Field(
        default=(),
        strict=False,
        description="Names, beside its own, that clients may call the server by, in Host and Origin.",
    )
    insecure: bool = Field(
        default=False, description="Listen where others can reach it, although anybody may call."
    )


class Log(Words):
    """What is logged to stderr, and how."""

    format: LogFormat = Field(default="text", description="text for people; json: an object on each line.")


class SettingsFile(Words):
    """How restbridge serves: the file that --config names. Paths are seen from its folder."""

    tools: tuple[str, ...] = Field(
        default=(), strict=False, description="Directories of tool files. Default: tools.d"
    )
    upstreams: str | None = Field(default=None, description="Take upstream files from there alone.")
    strict: bool = Field(default=False, description="Do not start while a file has errors.")
    on_invalid: Literal["keep", "withdraw"] = Field(
        default="keep", description="What a broken edit does to its tool."
    )
    poll: Annotated[Duration, AfterValidator(_poll)] = Field(
        default=2.0, description="Look at all files this often. Default 2s."
    )
    grace: Duration = Field(
        default=5.0, description="What calls in flight have to end when the server stops. Default 5s."
    )
    express: bool = Field(default=True, description="Answer plain calls past the MCP SDK.")
    read_only: bool = Field(default=False, description="Serve only tools of GET, HEAD and OPTIONS.")
    log: Log = Field(default=Log(), description="The log, on stderr.")
    audit: AuditOrFile | None = Field(
        default=None,
        description="A file to which calls that may change something, and reloads, are appended as lines of JSON.",
    )
    http: Http | None = Field(default=None, description="Serve HTTP instead of stdio.")
    access: Access | None = Field(default=None, description="Who may call over HTTP.")
    limits: Limits = Field(default=Limits(), description="What callers may take of the bridge over HTTP.")
    owners: dict[str, str] = Field(
        default={},
        description="Names of tools, as a pattern of views → the folder whose files alone may have them: "
        "a folder in a tools directory, or one of these.",
    )
    views: dict[ViewName, View] = Field(
        default={}, description="Some of the tools under a name: over HTTP at /mcp/NAME, else by --view NAME."
    )
