"""What happened, for any ear. A room that has something to tell takes an ``emit: Ear``."""

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias


class CallStarted(NamedTuple):
    """The first request of a call that may change something is about to be sent; retries do not repeat this.

    ``call`` is unique among all calls, and ``CallFinished`` repeats it. A listener that the call depends on may
    raise ``NotSent``: then nothing is sent. The other fields are those of ``CallFinished``.
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
"""Outcomes of calls that were refused before anything was done for them."""


class CallFinished(NamedTuple):
    """One tools/call. ``outcome`` is ``ok``, an error code, ``cancelled``, ``stopped``, ``withdrawn`` or ``fault``; seconds of wall time.

    Of a tool that is not served it is ``unknown-tool``, and there is no upstream and no method.

    ``empty``: the projection found nothing but null. ``caller`` is a name, where callers are asked for it,
    and ``issuer`` who gave it, if that is not the bridge. ``request`` is the id that the client gave it, fit for
    a log. ``read`` and ``answered`` are the bytes of the reply and of what was made of it. ``trace`` is the id of
    the trace that it belongs to, if there are any. ``call`` is that of its ``CallStarted``, if there was one.
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
    """A request goes out once more; ``attempt`` counts from 1, ``reason`` is an error code."""

    upstream: str
    attempt: int
    reason: str
    wait: float


class TokenAsked(NamedTuple):
    """An authorization server was asked for a token; ``outcome`` is ``ok`` or an error code, seconds of wall time.

    ``error`` and ``said`` are why it gave none, in its own words (RFC 6749 5.2).
    """

    upstream: str
    outcome: str
    seconds: float
    error: str = ""
    said: str = ""


class CircuitChanged(NamedTuple):
    """An upstream is left alone from now on, after so many ``failures``, or no more."""

    upstream: str
    is_open: bool
    failures: int


class RequestRefused(NamedTuple):
    """A client's HTTP request was turned away with this status, before any tool heard of it."""

    status: int


class KeysChanged(NamedTuple):
    """Who may call is another: names of keys, and issuers of tokens; ``counting`` keys and ``issuers`` are left."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    expired: tuple[str, ...]
    counting: int
    issuers: int


class AuditWritten(NamedTuple):
    """A line of the audit file was lost for this ``failure``; or, with None, the first one after that was written."""

    failure: str | None


class SnapshotReplaced(NamedTuple):
    """A reload ended. Names of tools; ``broken`` are places, as ``path:line:column``.

    ``visible``: a client's list would differ. ``rerouted``: a tool no longer sends to where it sent.
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
    | TokenAsked
    | CircuitChanged
    | RequestRefused
    | KeysChanged
    | AuditWritten
    | SnapshotReplaced
)
Ear: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The ear that hears nothing."""
