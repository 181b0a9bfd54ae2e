"""What the bytes of one file say: a spec, or what is wrong, each at its line and column."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeAlias, TypeVar

from bridge.diagnostics import CODES, Diagnostic, Finding, InvalidSpec, Mark
from bridge.spec import Json, ToolSpec, UpstreamSpec
from bridge.toolfiles.check.validation import PRIVATE, validate_tool, validate_upstream
from bridge.toolfiles.text.document import MAX_PROBLEMS, Document
from bridge.toolfiles.watch.scan import Content, OutsideBytes, Place

_S = TypeVar("_S", ToolSpec, UpstreamSpec)

_MORE: Final = "too-many-problems"

Told: TypeAlias = tuple[Diagnostic, ...]
"""What is wrong with a file, in order of line and column."""


@dataclass(frozen=True, slots=True)
class Words(Generic[_S]):
    """What a file says; no spec where something is wrong with that."""

    content: Content
    spec: _S | None
    diagnostics: Told
    disabled: bool = False


def tool_words(place: Place, content: Content) -> Words[ToolSpec]:
    return _words(place, content, validate_tool)


def upstream_words(place: Place, content: Content) -> Words[UpstreamSpec]:
    return _words(place, content, validate_upstream)


def locate(place: Place, words: Words[ToolSpec] | Words[UpstreamSpec], *findings: Finding) -> Told:
    """Findings about a file's words, at their places; none of a file that could not be read."""
    if not findings or isinstance(words.content, Finding):
        return ()
    return told(words.content, map(_document(place, words.content).locate, findings))


def at_top(place: Place, finding: Finding) -> Diagnostic:
    """A finding about a file or a folder that could not be read."""
    return Diagnostic(place.shown, Mark(1, 1), finding.severity, finding.message, finding.code)


def _words(
    place: Place,
    content: Content,
    validate: Callable[[str, Mapping[str, Json]], tuple[_S, tuple[Finding, ...]]],
) -> Words[_S]:
    if isinstance(content, Finding):
        return Words(content, None, (at_top(place, content),))
    document = _document(place, content)
    disabled = document.value.get("enabled") is False
    if document.problems:
        return Words(content, None, told(content, document.problems), disabled)
    spec = None
    try:
        spec, findings = validate(place.stem, document.value)
    except InvalidSpec as problem:
        findings = problem.findings
    return Words(content, spec, told(content, map(document.locate, findings)), disabled)


def _document(place: Place, content: bytes) -> Document:
    return Document.parse(content, place.shown, PRIVATE if place.is_upstream else frozenset())


def told(content: bytes, diagnostics: Iterable[Diagnostic]) -> Told:
    """In order; of a file outside its directory they say what is wrong and where, and quote nothing.

    Of more than ``MAX_PROBLEMS``, errors stay first, and the last one says how many more there are.
    """
    ordered = _first(sorted(diagnostics, key=_mark))
    if isinstance(content, OutsideBytes):
        ordered = [_unquoted(diagnostic) for diagnostic in ordered]
    return tuple(ordered)


def _first(ordered: list[Diagnostic]) -> list[Diagnostic]:
    if len(ordered) <= MAX_PROBLEMS or any(each.code == _MORE for each in ordered):
        return ordered
    by_weight = sorted(ordered, key=lambda each: each.severity)  # "error" sorts before "warning"
    first, rest = by_weight[:MAX_PROBLEMS], by_weight[MAX_PROBLEMS:]
    message = f"problems of this file that are not listed: {len(rest)}; fix the others first"
    return [*sorted(first, key=_mark), replace(rest[0], message=message, code=_MORE, source=None)]


def _mark(diagnostic: Diagnostic) -> tuple[int, int]:
    return diagnostic.mark.line, diagnostic.mark.column


def _unquoted(diagnostic: Diagnostic) -> Diagnostic:
    """With the meaning of its code in place of its message: a link may lead to any secret."""
    meaning = CODES[diagnostic.code].removeprefix("A warning: ").removesuffix(".")
    message = f"{meaning[0].lower()}{meaning[1:]}; this link leads to a file that may hold secrets, so nothing is quoted"
    return replace(diagnostic, message=message, source=None)
