"""Logs a line for each event."""

import logging
from typing import Final, assert_never

from bridge.codec import log_safe, quote
from bridge.diagnostics import Diagnostic, as_json
from bridge.events import (
    NOT_MADE,
    AuditWritten,
    CallFinished,
    CallStarted,
    CircuitChanged,
    Event,
    HandshakeRefused,
    KeysChanged,
    RequestRefused,
    RequestRetried,
    SnapshotReplaced,
    TokenRequested,
)
from bridge.telemetry import log_output
from bridge.telemetry.log_throttle import LogThrottle
from bridge.wording import MAX_QUOTED_CHARACTERS

_log: Final = logging.getLogger(__name__)

_MAX_NAMES: Final = 3
"""Tools, and places of errors, in the line of a reload. One deleted upstream can break thousands."""

_LEVELS: Final = {"error": logging.ERROR, "warning": logging.WARNING}


def log_event(event: Event) -> None:
    """Log the event as one line, never with arguments or results."""
    match event:
        case CallFinished():
            log_output.event("call", _call(event))
        case RequestRetried(upstream, attempt, reason, wait):
            waited = round(wait * 1000)
            log_output.event(
                "retry", {"upstream": upstream, "attempt": attempt, "reason": reason, "wait_ms": waited}
            )
        case TokenRequested():
            is_expected = event.outcome in ("ok", "cancelled")
            log_output.event("token", _token(event), logging.INFO if is_expected else logging.WARNING)
        case CircuitChanged(upstream, is_open, failures):
            state, level = ("open", logging.WARNING) if is_open else ("closed", logging.INFO)
            log_output.event("circuit", {"upstream": upstream, "state": state, "failures": failures}, level)
        case KeysChanged():
            # A caller whose key expired, or all of them, will be refused from now on.
            is_closed = not (event.valid_keys or event.issuers or event.certificates)
            level = logging.WARNING if event.expired or is_closed else logging.INFO
            _log.log(level, "%s", _keys_line(event), extra={"fields": {"event": "keys", **event._asdict()}})
        case RequestRefused() | HandshakeRefused():
            pass  # too many for a line each; RejectionLog logs some of them
        case CallStarted() | AuditWritten():
            pass  # the end of the call has a line; the audit logs its own failures, at a bounded rate
        case SnapshotReplaced():
            _log.info(_reload_line(event), extra={"fields": _reload(event)})
        case _:
            assert_never(event)


class EventLog:
    """``log_event`` for a server. Refused calls of one caller are summed up: at most one line a second.

    Reloads are left to ``app/reload_log``, which logs them together with the problems that they find.
    """

    def __init__(self) -> None:
        self._not_made = LogThrottle(_log_not_made)

    def on_event(self, event: Event) -> None:
        if isinstance(event, CallFinished) and event.outcome in NOT_MADE:
            # The tool is not part of the kind: one caller can invent any number of unknown names.
            self._not_made.add((event.issuer, event.caller, event.outcome), event)
        elif not isinstance(event, SnapshotReplaced):
            log_event(event)

    def flush(self) -> None:
        """Log now the lines that are held back."""
        self._not_made.flush()


def _log_not_made(event: CallFinished, calls: int) -> None:
    """``calls`` is the number of calls that the line stands for, ``event`` is the last of them."""
    log_output.event("call", _call(event) | ({"calls": calls} if calls > 1 else {}))


def log_diagnostic(diagnostic: Diagnostic) -> None:
    """Log the diagnostic at the level of its severity."""
    fields = {"event": "diagnostic", **as_json(diagnostic)}
    _log.log(_LEVELS[diagnostic.severity], "%s", diagnostic, extra={"fields": fields})


def _call(event: CallFinished) -> dict[str, str | int]:
    fields: dict[str, str | int] = {"tool": event.tool}
    if event.caller:
        fields["caller"] = log_safe(event.caller)
    if event.issuer:
        fields["issuer"] = log_safe(event.issuer)
    if event.upstream:
        fields["upstream"] = event.upstream
    fields["outcome"] = event.outcome
    if event.status:
        fields["status"] = event.status
    if event.empty:
        fields["empty"] = "true"
    fields["ms"] = round(event.seconds * 1000)
    if event.request is not None:
        fields["id"] = event.request
    if event.trace:
        fields["trace"] = event.trace
    return fields


def _token(event: TokenRequested) -> dict[str, str | int]:
    fields: dict[str, str | int] = {"upstream": event.upstream, "outcome": event.outcome}
    if event.error:
        fields["error"] = log_safe(event.error)
    if event.error_description:
        fields["error_description"] = quote(event.error_description, MAX_QUOTED_CHARACTERS)
    fields["ms"] = round(event.seconds * 1000)
    return fields


def _reload(event: SnapshotReplaced) -> dict[str, str | int]:
    counts = {key: len(getattr(event, key)) for key in ("added", "changed", "removed", "broken")}
    return {"event": "reload", **counts, "ms": round(event.seconds * 1000)}


def _reload_line(event: SnapshotReplaced) -> str:
    groups = {"+": event.added, "~": event.changed, "-": event.removed, "!": event.broken}
    counts = " ".join(f"{sign}{len(names)}" for sign, names in groups.items())
    named = " ".join(sign + ", ".join(_few(names)) for sign, names in groups.items() if names)
    return f"reload: {counts} in {event.seconds * 1000:.0f} ms{named and f' ({named})'}"


def _keys_line(event: KeysChanged) -> str:
    groups = {"+": event.added, "~": event.changed, "-": event.removed, "expired: ": event.expired}
    named = " ".join(sign + ", ".join(names) for sign, names in groups.items() if names)
    return f"keys: {event.valid_keys} valid{named and f' ({named})'}"


def _few(names: tuple[str, ...]) -> list[str]:
    more = len(names) - _MAX_NAMES
    return [*names[:_MAX_NAMES], *([f"{more} more"] if more > 0 else [])]
