"""The settings: one model for the settings file ``restbridge.yaml``, the options of ``restbridge serve``, and workers.

A field is a key of the file, and its description is the text of the reference and of ``--help``. With ``Option``, an option
overrides the key. A worker process gets the result as JSON, in the form of the file.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import PydanticKnownError

from bridge.address import Address
from bridge.spec import Duration, Name, Scope, SecretText, Size, SpecModel
from bridge.view import View, matches

OPERATE_SCOPE: Final = "restbridge:operate"
"""The scope for all admin endpoints."""
METRICS_SCOPE: Final = "restbridge:metrics"
"""The scope that is enough for ``/metrics``."""

OWN_SCOPES: Final = "restbridge:"
"""The prefix of the bridge's own scopes."""

MAX_WORKERS: Final = 64

# [0-9], not \d, which also matches digits of other scripts.
_LIFETIME: Final = re.compile(r"([0-9]{1,9})(m|h|d)")
_SECONDS: Final = {"m": 60, "h": 3600, "d": 86400}
_MAX_LIFETIME_SECONDS: Final = 366 * 86400
_HOST_NAME: Final = "[A-Za-z0-9._-]{1,253}"
_VIEW_NAME: Final = "[A-Za-z0-9_-]{1,64}"


def _address(value: object) -> Address:
    if isinstance(value, Address):
        return value
    # YAML reads 8000 as an int. To Python True is one, too, but "listen: true" is an error.
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise ValueError("expected a port such as 8000, or host:port")  # noqa: TRY004 - pydantic's way
    return Address.parse(text)


def _worker_count(value: object) -> object:
    if isinstance(value, str) and value.isascii() and value.isdecimal():  # from an option
        value = int(value[:9])
    if value != "auto" and not (type(value) is int and 1 <= value <= MAX_WORKERS):
        raise ValueError(f"expected a number from 1 to {MAX_WORKERS}, or auto")
    return value


def _moment(value: object) -> object:
    # fromisoformat takes most of ISO 8601, also 2027-W05. A time without a zone is in UTC.
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


def _view_name(name: str) -> str:
    if not re.fullmatch(_VIEW_NAME, name):
        raise ValueError("expected a name of letters, digits, _ and -, at most 64: it stands in a URL")
    return name


def _host_name(name: str) -> str:
    if not re.fullmatch(_HOST_NAME, name):
        raise ValueError("expected the name of a host, without port and scheme")
    return name.lower()


def _poll(seconds: float) -> float:
    if seconds < 0.1:
        raise ValueError("expected at least 100ms")
    return seconds


def _duration_or_zero(value: object, duration: ValidatorFunctionWrapHandler) -> object:
    # Every other duration must be positive.
    return 0.0 if value in ("0ms", "0s", "0m") else duration(value)


def _path(value: object, info: ValidationInfo) -> Path:
    """A path in a settings file is relative to the folder of the file, which is the context."""
    if not isinstance(value, str | Path):
        raise PydanticKnownError("string_type")
    # Without a context the value is from an option or a worker's JSON: relative to the working directory.
    return (info.context or Path()) / value  # an absolute value replaces what is before /


def _not_empty(value: object) -> object:
    if value == "":  # as a path it would be the folder of the settings file
        raise PydanticKnownError("string_too_short", {"min_length": 1})
    return value


Moment: TypeAlias = Annotated[
    float,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "examples": ["2027-01-31", "2027-01-31T18:00:00Z"]}),
]
"""Written as in RFC 3339, or as a date (midnight UTC); held in seconds since 1970."""

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
    AfterValidator(_host_name),
    WithJsonSchema({"type": "string", "pattern": f"^{_HOST_NAME}$", "examples": ["tools.example.com"]}),
]

Algorithm: TypeAlias = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
"""How tokens are signed (RFC 7518, RFC 8037): with a key that only the issuer has."""

WorkerCount: TypeAlias = Annotated[
    int | Literal["auto"],
    BeforeValidator(_worker_count),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 64}, {"const": "auto"}]}),
]

LogFormat: TypeAlias = Literal["text", "json"]

At: TypeAlias = Annotated[
    Address,
    BeforeValidator(_address),
    PlainSerializer(str),
    WithJsonSchema({"type": ["integer", "string"], "examples": [8000, "0.0.0.0:8000"]}),
]

FilePath: TypeAlias = Annotated[
    Path, BeforeValidator(_path), PlainSerializer(str), WithJsonSchema({"type": "string"})
]
"""A text, held as a path. pydantic's own type for a path refuses names that are not UTF-8."""

PemFile: TypeAlias = Annotated[
    FilePath, BeforeValidator(_not_empty), WithJsonSchema({"type": "string", "minLength": 1})
]

# Decimal: str(0.00001) is "1e-05", which is no duration.
Seconds: TypeAlias = Annotated[Duration, PlainSerializer(lambda seconds: f"{Decimal(seconds):f}s")]
"""A duration that is also written, exactly."""


@dataclass(frozen=True, slots=True)
class Option:
    """Marks a key that an option of ``restbridge serve`` overrides. The help is the description of the key.

    ``value`` names what follows the option. ``seconds`` is the range of a duration, which the option takes in seconds.
    ``variable`` is an environment variable that sets the option.
    """

    name: str
    value: str | None = None
    seconds: tuple[float, float] | None = None
    variable: str | None = None


class ApiKey(SpecModel):
    """An API key of a caller. Only its digest is stored; ``restbridge key new`` creates both."""

    name: Name = Field(description="Name of the caller, as in the log.")
    sha256: SecretText = Field(
        repr=False,
        description="SHA-256 of the key in hexadecimal, or a reference to it: ${env:NAME}, ${file:/path}.",
    )
    scopes: tuple[Scope, ...] = Field(
        default=(),
        strict=False,
        description="Scopes of the caller. A tool with scopes needs all of them.",
    )
    expires: Moment | None = Field(default=None, description="When the key expires. Default: never.")


class Issuer(SpecModel):
    """An authorization server whose access tokens (JWT, RFC 9068) are accepted."""

    issuer: str = Field(min_length=1, description="The issuer, exactly as in the claim iss of its tokens.")
    jwks: str = Field(
        min_length=1, description="Its key set (RFC 7517): an https URL, or the path of a file."
    )
    audience: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Accepted audiences (aud). Default: the value of resource.",
    )
    algorithms: tuple[Algorithm, ...] = Field(
        default=("RS256", "PS256", "ES256", "EdDSA"),
        strict=False,
        min_length=1,
        description="Accepted signature algorithms. Default: RS256, PS256, ES256, EdDSA.",
    )
    leeway: Duration = Field(default=30.0, description="Accepted clock difference. Default 30s.")
    name: str = Field(default="sub", min_length=1, description="The claim that names the caller.")
    scopes: str | None = Field(
        default=None,
        min_length=1,
        description="The claim with the scopes. Default: scope, or scp if that is absent.",
    )
    grants: tuple[str, ...] | None = Field(
        default=None,
        strict=False,
        description="Patterns of the scopes that its tokens may grant. Default: all but restbridge:*.",
    )
    max_lifetime: Lifetime = Field(
        default=86400.0, description="Longest accepted lifetime of a token. Default 24h."
    )

    def may_grant(self, scope: str) -> bool:
        """Whether its tokens may grant a scope. The bridge's own scopes need a pattern that begins with their prefix."""
        # So the pattern * grants no scope of the bridge itself, such as restbridge:operate.
        is_own = scope.startswith(OWN_SCOPES)
        if self.grants is None:
            return not is_own
        return any(
            matches(pattern, scope) and (not is_own or pattern.startswith(OWN_SCOPES))
            for pattern in self.grants
        )


class AcceptedClient(SpecModel):
    """Clients that are known by their certificate."""

    name: str = Field(
        min_length=1,
        description="Pattern of the names: of the first URI, else DNS name, else common name of a certificate.",
    )
    scopes: tuple[Scope, ...] = Field(
        default=(),
        strict=False,
        description="Scopes of these callers. With several matching entries, those of all of them.",
    )


def _accepted_clients(value: object) -> object:
    return {True: [{"name": "*"}], False: None}[value] if isinstance(value, bool) else value


class Access(SpecModel):
    """Who may call over HTTP. Without this key, callers are not authenticated. It is reloaded on change."""

    api_keys: tuple[ApiKey, ...] | None = Field(
        default=None, strict=False, description="API keys, sent as Authorization: Bearer KEY."
    )
    jwt: tuple[Issuer, ...] | None = Field(
        default=None, strict=False, description="Authorization servers whose tokens are accepted."
    )
    certificates: Annotated[
        tuple[AcceptedClient, ...] | None,
        BeforeValidator(_accepted_clients, json_schema_input_type=bool | tuple[AcceptedClient, ...] | None),
    ] = Field(
        default=None,
        strict=False,
        description="Clients whose certificate (http.tls.clientCaFile) names the caller. true: all, without scopes.",
    )
    resource: str | None = Field(
        default=None,
        min_length=1,
        description="The URL of the endpoint for clients, such as https://tools.example.com/mcp.",
    )
    scopes_supported: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Patterns of the scopes that clients without a token are told to request. Default: none.",
    )
    step_up: Literal["hide", "challenge"] = Field(
        default="hide",
        description="The answer to a call whose token lacks a scope. hide: unknown tool; challenge: the missing scopes.",
    )


class Bounds(SpecModel):
    """Limits of use; None is no limit."""

    calls: int | None = Field(default=None, ge=1, description="Calls at a time.")
    rate: int | None = Field(
        default=None,
        ge=1,
        description="Requests per minute, of every kind. A sixth of them may come at once.",
    )
    results: Size | None = Field(default=None, description="Bytes of results that clients have not read yet.")
    sessions: int | None = Field(
        default=None, ge=1, description="No effect: sessions are no longer kept. Remove it."
    )
    streams: int | None = Field(default=None, ge=1, description="Streams for notifications.")


class PerCallerLimits(Bounds):
    """Limits of each caller. The defaults apply if callers are authenticated (``access``), and leave room for others."""

    calls: int | None = Field(default=64, ge=1, description="Calls at a time. Default 64.")
    results: Size | None = Field(
        default=32 * 1024**2, description="Bytes of results that clients have not read yet. Default 32MiB."
    )
    streams: int | None = Field(default=100, ge=1, description="Streams for notifications. Default 100.")

    @property
    def written(self) -> Bounds:
        """Without the defaults: for callers without a name, who count as one caller."""
        # model_fields_set, not values: a limit that is written may equal its default.
        return Bounds(**{name: getattr(self, name) for name in self.model_fields_set})


class TotalLimits(Bounds):
    """Limits of all callers together."""

    calls: int | None = Field(default=512, ge=1, description="Calls at a time. Default 512.")
    results: Size | None = Field(
        default=256 * 1024**2, description="Bytes of results that clients have not read yet. Default 256MiB."
    )
    streams: int | None = Field(default=2000, ge=1, description="Streams for notifications. Default 2000.")


class Limits(SpecModel):
    """Limits of callers over HTTP. Workers divide ``total`` among them; each counts ``perCaller`` for itself."""

    per_caller: PerCallerLimits = Field(default=PerCallerLimits(), description="For each caller.")
    total: TotalLimits = Field(default=TotalLimits(), description="For all callers together.")
    body: Size = Field(default=4 * 1024**2, description="Bytes of a request body. Default 4MiB.")

    def divided(self, processes: int) -> "Limits":
        """The limits of one of so many processes: its part of each limit in ``total``, rounded up."""
        parts = {key: limit and -(-limit // processes) for key, limit in self.total}
        return self.model_copy(update={"total": TotalLimits.model_validate(parts)})


class Audit(SpecModel):
    """Where calls that may change something are recorded."""

    file: Annotated[
        FilePath,
        BeforeValidator(_not_empty),
        WithJsonSchema({"type": "string", "minLength": 1}),
        Option("--audit", "FILE"),
    ] = Field(
        description="Append JSON lines to this file for each call that may change something, and each reload."
    )
    required: Annotated[bool, Option("--audit-required")] = Field(
        default=False,
        description="Refuse a call that may change something if its first line cannot be written.",
    )


def _audit_file(value: object) -> object:
    return {"file": value} if isinstance(value, str) else value


class ServerTls(SpecModel):
    """Serve HTTPS. The files are read again when they change."""

    cert_file: Annotated[PemFile, Option("--tls-cert", "FILE")] = Field(
        description="PEM file of the server's certificate, followed by those of its intermediate authorities: serve HTTPS.",
    )
    key_file: Annotated[PemFile | None, Option("--tls-key", "FILE")] = Field(
        default=None, description="PEM file of its key, without a passphrase, if it is not in certFile."
    )
    client_ca_file: Annotated[PemFile | None, Option("--tls-client-ca", "FILE")] = Field(
        default=None,
        description="PEM file of certificate authorities: every client needs a certificate of one of them (mutual TLS).",
    )


class Http(SpecModel):
    """Serve HTTP, at /mcp, instead of stdio."""

    listen: Annotated[At, Option("--http", "[HOST:]PORT")] = Field(
        description="[HOST:]PORT to serve HTTP on, at /mcp, instead of stdio. Without a host, only this machine can reach it; port 0 is any free one.",
    )
    tls: ServerTls | None = Field(default=None, description="Serve HTTPS instead of HTTP.")
    workers: Annotated[WorkerCount, Option("--workers", "N|auto", variable="RESTBRIDGE_WORKERS")] = Field(
        default=1,
        description="Processes that serve, 1 to 64. auto: one for each processor that may be used, 8 at most. Default 1.",
    )
    host_names: Annotated[tuple[HostName, ...], Option("--host-name", "NAME")] = Field(
        default=(),
        strict=False,
        description="Further host names that clients may use in Host and Origin.",
    )
    stateless: Annotated[bool, Option("--stateless")] = Field(
        default=False, description="No effect: any worker and replica can answer any request. Remove it."
    )
    insecure: Annotated[bool, Option("--insecure")] = Field(
        default=False,
        description="Allow an address that others can reach without access control: anyone can call.",
    )


class Log(SpecModel):
    """What is logged to stderr, and how."""

    format: Annotated[LogFormat, Option("--log-format")] = Field(
        default="text",
        description="Format of the log on stderr: text (default), or a JSON object on each line.",
    )


_TOOLS: Final = (Path("tools.d"),)


class SettingsFile(SpecModel):
    """The settings file, named with --config. Paths are relative to its folder."""

    # An empty list counts as left out: without a directory there would be nothing to serve.
    tools: Annotated[
        tuple[FilePath, ...], BeforeValidator(lambda value: _TOOLS if value == [] else value)
    ] = Field(
        default=_TOOLS,
        strict=False,
        validate_default=True,  # so that the default, too, is relative to the folder of the settings file
        description="Directories of tool files. Default: tools.d",
    )
    upstreams: FilePath | None = Field(
        default=None, description="Only directory in which upstream files are accepted."
    )
    http: Http | None = Field(default=None, description="Serve HTTP instead of stdio.")
    read_only: Annotated[bool, Option("--read-only")] = Field(
        default=False, description="Serve only tools of GET, HEAD and OPTIONS."
    )
    log: Log = Field(default=Log(), description="The log, on stderr.")
    audit: Annotated[
        Audit | None,
        BeforeValidator(
            _audit_file, json_schema_input_type=Audit | Annotated[str, Field(min_length=1)] | None
        ),
    ] = Field(
        default=None,
        description="A file that gets a JSON line for each reload, and for each call that may change something.",
    )
    strict: Annotated[bool, Option("--strict")] = Field(
        default=False, description="Do not start while a file has errors."
    )
    on_invalid: Annotated[Literal["keep", "withdraw"], Option("--on-invalid")] = Field(
        default="keep",
        description="After an edit with errors: keep the last good version (default), or withdraw the tool.",
    )
    poll: Annotated[Seconds, AfterValidator(_poll), Option("--poll", "SECONDS", seconds=(0.1, 3600))] = Field(
        default=2.0,
        description="Interval at which all files are checked, for changes that caused no event. Default 2s.",
    )
    grace: Annotated[
        Seconds, WrapValidator(_duration_or_zero), Option("--grace", "SECONDS", seconds=(0, 3600))
    ] = Field(default=5.0, description="Time for calls in flight when the server stops. Default 5s.")
    fast_path: Annotated[bool, Option("--fast-path", variable="RESTBRIDGE_FAST_PATH")] = Field(
        default=True,
        description="Answer simple calls on a fast path, without the MCP SDK (default): the same answers, several times faster.",
    )
    access: Access | None = Field(default=None, description="Who may call over HTTP.")
    limits: Limits = Field(default=Limits(), description="Limits of callers over HTTP.")
    owners: dict[str, str] = Field(
        default={},
        description="Pattern of tool names → the only folder whose files may use them: a tools directory, or a folder in one.",
    )
    views: dict[ViewName, View] = Field(
        default={}, description="Named selections of tools: at /mcp/NAME over HTTP, or with --view NAME."
    )


class Settings(SettingsFile):
    """The settings of one process: those of the file ``config``, overridden by options.

    ``view`` is the only view that is served. ``access`` stands for the file's: its credentials are read from the file.
    """

    config: FilePath | None = None
    view: str | None = None

    @property
    def has_access_control(self) -> bool:
        """Whether callers over HTTP are authenticated."""
        return self.access is not None

    @property
    def offered(self) -> Mapping[str, View]:
        """The views that have their own path: none if ``view`` is set."""
        return {} if self.view else self.views

    def to_json(self) -> str:
        """One line for a worker process, without credentials."""
        # A worker reads credentials from the file itself. The key access stays: callers must authenticate.
        # Unset keys are left out, so that PerCallerLimits.written is the same in the worker.
        without = {"access": {"api_keys", "jwt", "certificates"}}
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude=without))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads what ``to_json`` returns."""
        # Not model_validate_json: it refuses lone surrogates, by which paths hold bytes that are not UTF-8.
        return cls.model_validate(json.loads(text))
