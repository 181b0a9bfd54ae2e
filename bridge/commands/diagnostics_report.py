"""Prints diagnostics for people, for GitHub Actions, and the bodies of requests and replies."""

import os
from collections.abc import Iterable
from typing import Final, Literal, TextIO

import click

from bridge.diagnostics import Diagnostic

Format = Literal["text", "json", "github"]


_COLOUR: Final = {"error": "red", "warning": "yellow"}
# As in escapeData and escapeProperty of @actions/core: properties also end at a comma, the list at a colon. Paths and
# messages are printable, so they have no line breaks to escape.
_GITHUB: Final = str.maketrans({"%": "%25"})
_GITHUB_PROPERTY: Final = str.maketrans({"%": "%25", ":": "%3A", ",": "%2C"})


def write(diagnostics: Iterable[Diagnostic], format_: Literal["text", "github"], out: TextIO) -> None:
    """Print one line for each diagnostic. A terminal also gets the line of source with a caret."""
    for diagnostic in diagnostics:
        if format_ == "github":
            print(_annotation(diagnostic), file=out)
        elif _is_terminal(out):
            print(_with_source(diagnostic), file=out)
        else:
            print(diagnostic, file=out)


def body(content: bytes) -> str:
    """The text of a body, or its length if it is not UTF-8."""
    text = content.decode(errors="replace")
    return text if text.encode() == content else f"[{len(content)} bytes]"


def _is_terminal(out: TextIO) -> bool:
    """Whether ``out`` is a terminal, and colour is not turned off (https://no-color.org)."""
    return out.isatty() and not os.environ.get("NO_COLOR")


def _with_source(diagnostic: Diagnostic) -> str:
    colour = _COLOUR[diagnostic.severity]
    where = click.style(f"{diagnostic.path}:{diagnostic.mark.line}:{diagnostic.mark.column}", bold=True)
    severity = click.style(diagnostic.severity, fg=colour, bold=True)
    line = f"{where}: {severity}: {diagnostic.message} [{diagnostic.code}]"
    if diagnostic.source is None:
        return line
    # One blank for each character that is not printable, such as a tab: the caret stays below its column.
    source = "".join(c if c.isprintable() else " " for c in diagnostic.source)
    caret = " " * (diagnostic.mark.column - 1) + click.style("^", fg=colour, bold=True)
    return f"{line}\n  {source}\n  {caret}"


def _annotation(diagnostic: Diagnostic) -> str:
    """A workflow command of GitHub Actions."""
    properties = {
        "file": diagnostic.path,
        "line": diagnostic.mark.line,
        "col": diagnostic.mark.column,
        "title": diagnostic.code,
    }
    written = ",".join(f"{key}={str(value).translate(_GITHUB_PROPERTY)}" for key, value in properties.items())
    return f"::{diagnostic.severity} {written}::{diagnostic.message.translate(_GITHUB)}"
