"""Parses one file: its bytes become a spec, or diagnostics with line and column."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeAlias, TypeVar

from bridge.diagnostics import CODES, Diagnostic, Finding, InvalidSpec, Mark
from bridge.spec import Json, ToolSpec, UpstreamSpec
from bridge.toolfiles.check.validation import PRIVATE, validate_tool, validate_upstream
from bridge.toolfiles.place import Content, OutsideBytes, Place
from bridge.toolfiles.text.document import MAX_PROBLEMS, Document
from bridge.wording import count

_S = TypeVar("_S", ToolSpec, UpstreamSpec)

_TRUNCATED: Final = "too-many-problems"

Diagnostics: TypeAlias = tuple[Diagnostic, ...]
"""Errors and warnings of a file, sorted by line and column."""


@dataclass(frozen=True, slots=True)
class ParsedFile(Generic[_S]):
    """A parsed file; ``spec`` is None if there are errors."""

    content: Content
    spec: _S | None
    diagnostics: Diagnostics
    is_disabled: bool = False


def parse_tool_file(place: Place, content: Content) -> ParsedFile[ToolSpec]:
    return _parse(place, content, validate_tool)


def parse_upstream_file(place: Place, content: Content) -> ParsedFile[UpstreamSpec]:
    return _parse(place, content, validate_upstream)


def locate(
    place: Place, parsed: ParsedFile[ToolSpec] | ParsedFile[UpstreamSpec], *findings: Finding
) -> Diagnostics:
    """Findings as diagnostics; none if the file could not be read."""
    if not findings or isinstance(parsed.content, Finding):
        return ()
    return reportable(parsed.content, map(_document(place, parsed.content).locate, findings))


def at_top(place: Place, finding: Finding) -> Diagnostic:
    """The diagnostic for a file or a folder that could not be read."""
    return Diagnostic(place.shown, Mark(1, 1), finding.severity, finding.message, finding.code)


def _parse(
    place: Place,
    content: Content,
    validate: Callable[[str, Mapping[str, Json]], tuple[_S, tuple[Finding, ...]]],
) -> ParsedFile[_S]:
    if isinstance(content, Finding):
        return ParsedFile(content, None, (at_top(place, content),))
    document = _document(place, content)
    # Of a broken file, too, if it could be read up to that key: its last good version is then not served.
    is_disabled = document.value.get("enabled") is False
    if document.problems:
        return ParsedFile(content, None, reportable(content, document.problems), is_disabled)
    spec = None
    try:
        spec, findings = validate(place.stem, document.value)
    except InvalidSpec as problem:
        findings = problem.findings
    return ParsedFile(content, spec, reportable(content, map(document.locate, findings)), is_disabled)


def _document(place: Place, content: bytes) -> Document:
    return Document.parse(content, place.shown, PRIVATE if place.is_upstream else frozenset())


def reportable(content: bytes, diagnostics: Iterable[Diagnostic]) -> Diagnostics:
    """The diagnostics to report: sorted, at most ``MAX_PROBLEMS`` plus one that counts the others.

    If there are too many, errors go before warnings. For a file outside its directory no message quotes the file.
    """
    ordered = _truncated(sorted(diagnostics, key=_mark))
    if isinstance(content, OutsideBytes):
        ordered = [_unquoted(diagnostic) for diagnostic in ordered]
    return tuple(ordered)


def _truncated(ordered: list[Diagnostic]) -> list[Diagnostic]:
    # The document may have stopped reading at its own limit: then this diagnostic is there already.
    if len(ordered) <= MAX_PROBLEMS or any(each.code == _TRUNCATED for each in ordered):
        return ordered
    by_severity = sorted(ordered, key=lambda each: each.severity)  # "error" sorts before "warning"
    reported, others = by_severity[:MAX_PROBLEMS], by_severity[MAX_PROBLEMS:]
    message = f"found {count(len(others), 'more problem')} in this file; fix those above first"
    return [*sorted(reported, key=_mark), replace(others[0], message=message, code=_TRUNCATED, source=None)]


def _mark(diagnostic: Diagnostic) -> tuple[int, int]:
    return diagnostic.mark.line, diagnostic.mark.column


def _unquoted(diagnostic: Diagnostic) -> Diagnostic:
    """The diagnostic with the meaning of its code as the message. A link may lead to a secret, so nothing is quoted."""
    meaning = CODES[diagnostic.code].removeprefix("A warning: ").removesuffix(".")
    message = f"{meaning[0].lower()}{meaning[1:]}; this link leads to a file that may hold secrets, so nothing is quoted"
    return replace(diagnostic, message=message, source=None)
