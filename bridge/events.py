"""The events that log, metrics, audit and traces are made of. Code that emits events takes an ``emit: Listener``."""

from collections.abc import Callable
from typing import Final, Literal, NamedTuple, TypeAlias


class CallStarted(NamedTuple):
    """The first request of a call that may change something is about to be sent. Retries do not emit it again.

    ``call`` is unique, and links it to its ``CallFinished``. A listener may raise ``NotSent``: then nothing is sent. The
    other fields are those of ``CallFinished``.
    """

    tool: str
    method: str
    upstream: str
    call: str
    caller: str | None = None
    request: str | None = None
    issuer: str | None = None
    trace: str | None = None


NOT_MADE: Final = frozenset({"not-permitted", "too-many-calls", "unknown-tool"})
"""Outcomes of calls that were refused before any work was done."""


class CallFinished(NamedTuple):
    """One tools/call has ended.

    | Field | Meaning |
    |---|---|
    | ``outcome`` | ``ok``, a code of ``CODES``, ``cancelled``, ``stopped``, ``withdrawn`` (the key was revoked) or ``fault`` |
    | ``seconds`` | wall time |
    | ``upstream``, ``method`` | None if the outcome is ``unknown-tool`` |
    | ``status`` | HTTP status of the last reply |
    | ``empty`` | whether the projection found nothing but null |
    | ``caller``, ``issuer`` | name of the caller, None without access control; issuer of its token |
    | ``request`` | id of the client's request, safe to log |
    | ``read``, ``answered`` | bytes of the reply, and of the result |
    | ``trace`` | trace id, None if tracing is off |
    | ``call`` | links it to its ``CallStarted``, None if there was none |
    """

    tool: str
    outcome: str
    seconds: float
    upstream: str | None
    status: int | None = None
    empty: bool = False
    caller: str | None = None
    request: str | None = None
    issuer: str | None = None
    method: str | None = None
    read: int = 0
    answered: int = 0
    trace: str | None = None
    call: str | None = None


class RequestRetried(NamedTuple):
    """A request will be sent again after ``wait`` seconds. ``attempt`` counts from 1, ``reason`` is an error code."""

    upstream: str
    attempt: int
    reason: str
    wait: float


class TokenRequested(NamedTuple):
    """A token request to an authorization server has ended. ``outcome`` is ``ok`` or an error code.

    ``error`` and ``error_description`` are those of its error response (RFC 6749 5.2).
    """

    upstream: str
    outcome: str
    seconds: float
    error: str = ""
    error_description: str = ""


class CircuitChanged(NamedTuple):
    """The circuit breaker of an upstream has opened, after so many ``failures``, or closed."""

    upstream: str
    is_open: bool
    failures: int


class RequestRefused(NamedTuple):
    """A client's HTTP request was refused with this status, before MCP handled it."""

    status: int


class HandshakeRefused(NamedTuple):
    """The TLS handshake of a client failed. ``client`` is its IP address."""

    client: str


class KeysChanged(NamedTuple):
    """API keys, issuers or entries of certificates were added, changed or removed, or keys have expired. Fields hold their names.

    ``valid_keys`` is how many keys are valid now, ``issuers`` how many issuers are accepted, ``certificates`` how many
    entries of certificates there are.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    expired: tuple[str, ...]
    valid_keys: int
    issuers: int
    certificates: int = 0


class AuditWritten(NamedTuple):
    """A line of the audit file was lost because of ``failure``. None: the first line after that was written."""

    failure: str | None


class SnapshotReplaced(NamedTuple):
    """A reload has ended. Fields hold names of tools; ``broken`` holds ``path:line:column`` of errors.

    ``visible``: the answer to tools/list has changed. ``rerouted``: a tool was removed or has another upstream.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    broken: tuple[str, ...]
    visible: bool
    rerouted: bool
    seconds: float


Event: TypeAlias = (
    CallStarted
    | CallFinished
    | RequestRetried
    | TokenRequested
    | CircuitChanged
    | RequestRefused
    | HandshakeRefused
    | KeysChanged
    | AuditWritten
    | SnapshotReplaced
)
Listener: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener that does nothing."""


# Here because access control counts them and telemetry shows them: neither imports the other.
QuotaKind: TypeAlias = Literal["calls", "results", "streams"]
"""What quotas limit and gauges show; ``results`` are in bytes, the others are counts."""
