"""What commands tell: mistakes in files, and a line in the log for each call and reload."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TextIO, assert_never

import click

from bridge.codec import quote
from bridge.diagnostics import Diagnostic
from bridge.events import (
    NOT_MADE,
    AuditWritten,
    CallFinished,
    CallStarted,
    CircuitChanged,
    Event,
    KeysChanged,
    RequestRefused,
    RequestRetried,
    SnapshotReplaced,
    TokenAsked,
)
from bridge.settingsfile import View
from bridge.telemetry import log_output as logs
from bridge.telemetry.log_throttle import Gatherer
from bridge.toolfiles.loaded import Loaded

Format = Literal["text", "json", "github"]

NO_SESSIONS: Final = "clients of 2025-11-25 and before have no sessions, and are not told of changes"

_log: Final = logging.getLogger("bridge")
_NAMED: Final = 3
"""Tools, and places of broken files, that a reload's line names: one deleted upstream can break thousands."""

LOGGED: Final = 100
"""Problems of files that the log lists after one reload, and files whose last good version serves on."""

LISTED: Final = 1000
"""Problems of files that ``/-/status`` lists."""

SAID: Final = 300
"""Characters of what others say that a line has at most."""

_LEVELS: Final = {"error": logging.ERROR, "warning": logging.WARNING}
_COLOUR: Final = {"error": "red", "warning": "yellow"}
_GITHUB: Final = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_GITHUB_PROPERTY: Final = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A", ":": "%3A", ",": "%2C"})


def mistakes(diagnostics: Iterable[Diagnostic], format_: Literal["text", "github"], out: TextIO) -> None:
    """Print one line for each diagnostic; on a terminal its line of source, too, and a caret."""
    for diagnostic in diagnostics:
        if format_ == "github":
            print(_annotation(diagnostic), file=out)
        elif _is_terminal(out):
            print(_with_source(diagnostic), file=out)
        else:
            print(diagnostic, file=out)


def as_json(diagnostic: Diagnostic) -> dict[str, str | int]:
    """The diagnostic for programs; line and column count from 1."""
    return {
        "path": diagnostic.path,
        "line": diagnostic.mark.line,
        "column": diagnostic.mark.column,
        "severity": diagnostic.severity,
        "code": diagnostic.code,
        "message": diagnostic.message,
    }


def listed(diagnostics: Sequence[Diagnostic]) -> dict[str, Any]:
    """At most ``LISTED`` problems for programs, and how many there are beyond these."""
    return {
        "problems": [as_json(diagnostic) for diagnostic in diagnostics[:LISTED]],
        "problemsNotListed": max(len(diagnostics) - LISTED, 0),
    }


def body(content: bytes) -> str:
    """A body as its text, or how long it is."""
    text = content.decode(errors="replace")
    return text if text.encode() == content else f"[{len(content)} bytes]"


def count(number: int, noun: str) -> str:
    """``1 tool``, ``2 tools``, ``no tools``."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def ear(event: Event) -> None:
    """Write what happened as one line in the log, never with arguments or what was answered."""
    match event:
        case CallFinished():
            logs.event("call", _call(event))
        case RequestRetried(upstream, attempt, reason, wait):
            waited = round(wait * 1000)
            logs.event(
                "retry", {"upstream": upstream, "attempt": attempt, "reason": reason, "wait_ms": waited}
            )
        case TokenAsked():
            is_well = event.outcome in ("ok", "cancelled")
            logs.event("token", _token(event), logging.INFO if is_well else logging.WARNING)
        case CircuitChanged(upstream, is_open, failures):
            state, level = ("open", logging.WARNING) if is_open else ("closed", logging.INFO)
            logs.event("circuit", {"upstream": upstream, "state": state, "failures": failures}, level)
        case KeysChanged():
            level = (
                logging.WARNING if event.expired or not (event.counting or event.issuers) else logging.INFO
            )
            _log.log(level, "%s", _keys_line(event), extra={"fields": {"event": "keys", **event._asdict()}})
        case RequestRefused():
            pass  # too many for a line each: who refuses them tells of some
        case CallStarted() | AuditWritten():
            pass  # the end of the call has a line; the audit logs its own failures, at a bounded rate
        case SnapshotReplaced():
            _log.info(_reload_line(event), extra={"fields": _reload(event)})
        case _:
            assert_never(event)


class EventLog:
    """``ear`` for a process that serves: calls of one caller that are not made are gathered, a line a second at most."""

    def __init__(self) -> None:
        self._not_made = Gatherer(_log_not_made)

    def hear(self, event: Event) -> None:
        if isinstance(event, CallFinished) and event.outcome in NOT_MADE:
            self._not_made.add((event.issuer, event.caller, event.outcome), event)
        else:
            ear(event)

    def flush(self) -> None:
        """Log now what would be logged later."""
        self._not_made.flush()


def _log_not_made(event: CallFinished, calls: int) -> None:
    """``calls`` is how many the line stands for; of them, ``event`` is the last."""
    logs.event("call", _call(event) | ({"calls": calls} if calls > 1 else {}))


def logged(diagnostic: Diagnostic) -> None:
    """Write it in the log."""
    fields = {"event": "diagnostic", **as_json(diagnostic)}
    _log.log(_LEVELS[diagnostic.severity], "%s", diagnostic, extra={"fields": fields})


class Told:
    """Tells of reloads in the log: what is wrong once, not again after each; nothing at all if ``silent``.

    After one reload it lists at most ``LOGGED`` problems, and says how many it leaves out.

    Of ``views``, by their names, it tells which come to be empty.
    """

    def __init__(self, views: Mapping[str, View], *, silent: bool = False) -> None:
        self._views = views
        self.silent = silent
        self._told: frozenset[Diagnostic] = frozenset()
        self._empty: frozenset[str] = frozenset()

    def tell(self, event: SnapshotReplaced, loaded: Loaded) -> None:
        """A reload that came to ``loaded``."""
        if self.silent:
            return
        ear(event)
        diagnostics = loaded.diagnostics
        new = [diagnostic for diagnostic in diagnostics if diagnostic not in self._told]
        for diagnostic in new[:LOGGED]:
            logged(diagnostic)
        if left_out := new[LOGGED:]:
            _log.warning("%d more problems are not logged; restbridge check prints them", len(left_out))
        kept = [file.place for file in loaded.kept if not self._told.issuperset(file.diagnostics)]
        for place in kept[:LOGGED]:
            _log.info("%s: its last good version serves on", place.shown)
        if kept_too := kept[LOGGED:]:
            _log.info("%d more files: their last good versions serve on", len(kept_too))
        self._told = frozenset(diagnostics)
        tools = loaded.snapshot.tools
        empty = [
            name
            for name, view in self._views.items()
            if not any(view.shows(tool.name, tool.spec.tags) for tool in tools)
        ]
        for name in empty:
            if name not in self._empty:
                _log.warning("view %s: no tool is in it", name)
        self._empty = frozenset(empty)


def _call(event: CallFinished) -> dict[str, str | int]:
    fields: dict[str, str | int] = {"tool": event.tool}
    if event.caller:
        fields["caller"] = logs.fit(event.caller)
    if event.issuer:
        fields["issuer"] = logs.fit(event.issuer)
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


def _token(event: TokenAsked) -> dict[str, str | int]:
    fields: dict[str, str | int] = {"upstream": event.upstream, "outcome": event.outcome}
    if event.error:
        fields["error"] = logs.fit(event.error)
    if event.said:
        fields["said"] = quote(event.said, SAID)
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
    return f"keys: {event.counting} count{named and f' ({named})'}"


def _few(names: tuple[str, ...]) -> list[str]:
    more = len(names) - _NAMED
    return [*names[:_NAMED], *([f"{more} more"] if more > 0 else [])]


def _is_terminal(out: TextIO) -> bool:
    """Whether people read it as it comes (https://no-color.org turns colour off)."""
    return out.isatty() and not os.environ.get("NO_COLOR")


def _with_source(diagnostic: Diagnostic) -> str:
    colour = _COLOUR[diagnostic.severity]
    where = click.style(f"{diagnostic.path}:{diagnostic.mark.line}:{diagnostic.mark.column}", bold=True)
    severity = click.style(diagnostic.severity, fg=colour, bold=True)
    line = f"{where}: {severity}: {diagnostic.message} [{diagnostic.code}]"
    if diagnostic.source is None:
        return line
    source = "".join(c if c.isprintable() else " " for c in diagnostic.source)
    caret = " " * (diagnostic.mark.column - 1) + click.style("^", fg=colour, bold=True)
    return f"{line}\n  {source}\n  {caret}"


def _annotation(diagnostic: Diagnostic) -> str:
    """A workflow command, as GitHub Actions reads it from a job's output."""
    properties = {
        "file": diagnostic.path,
        "line": diagnostic.mark.line,
        "col": diagnostic.mark.column,
        "title": diagnostic.code,
    }
    written = ",".join(f"{key}={str(value).translate(_GITHUB_PROPERTY)}" for key, value in properties.items())
    return f"::{diagnostic.severity} {written}::{diagnostic.message.translate(_GITHUB)}"
