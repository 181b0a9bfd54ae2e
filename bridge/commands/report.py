"""What commands tell: mistakes in files, and a line in the log for each call and reload."""

import logging
import os
from collections.abc import Iterable
from typing import Final, Literal, TextIO, assert_never

import click

from bridge.diagnostics import Diagnostic
from bridge.events import CallFinished, Event, RequestRetried, SnapshotReplaced

Format = Literal["text", "json", "github"]

_log: Final = logging.getLogger("bridge")
_PLACES: Final = 3
"""Broken files that a reload's line names: one deleted upstream can break thousands."""

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


def count(number: int, noun: str) -> str:
    """``1 tool``, ``2 tools``, ``no tools``."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def ear(event: Event) -> None:
    """Write what happened as one line in the log, never with arguments or what was answered."""
    match event:
        case CallFinished():
            status = "" if event.status is None else f" status={event.status}"
            empty = " empty=true" if event.empty else ""
            milliseconds = event.seconds * 1000
            _log.info(
                "call tool=%s outcome=%s%s%s ms=%.0f", event.tool, event.outcome, status, empty, milliseconds
            )
        case RequestRetried():
            _log.info(
                "retry upstream=%s attempt=%d reason=%s wait_ms=%.0f",
                event.upstream,
                event.attempt,
                event.reason,
                event.wait * 1000,
            )
        case SnapshotReplaced():
            _log.info(_reload_line(event))
        case _:
            assert_never(event)


def _reload_line(event: SnapshotReplaced) -> str:
    counts = f"+{len(event.added)} ~{len(event.changed)} -{len(event.removed)} !{len(event.broken)}"
    more = len(event.broken) - _PLACES
    places = [*event.broken[:_PLACES], *([f"{more} more"] if more > 0 else [])]
    where = f" ({', '.join(places)})" if places else ""
    return f"reload: {counts} in {event.seconds * 1000:.0f} ms{where}"


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
