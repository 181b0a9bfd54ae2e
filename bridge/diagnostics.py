"""What is wrong with a file, and where.

A check knows a *route* (the keys and indices that lead to a value) and raises or collects
``Finding``s. Only ``toolfiles/document`` knows lines: it turns a finding into a ``Diagnostic``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Final, Literal, TypeVar

_T = TypeVar("_T")

Route = tuple[str | int, ...]
Severity = Literal["error", "warning"]

CODES: Final[Mapping[str, str]] = {
    "array-without-items": "A warning: an array in a schema says nothing of its items.",
    "bad-argument-name": "An argument's name is empty, too long, or cannot be written as a placeholder.",
    "bad-default": "A default does not fit its own schema, or cannot stand in the path.",
    "bad-name": "A name holds characters that it cannot hold: of a tool, upstream, header, cookie or part.",
    "bad-pattern": "A pattern is no regular expression, or needs look-around or back-references.",
    "bad-projection": "A JMESPath expression cannot be parsed, or could never be applied.",
    "bad-proxy": "A proxy is not of the form http://[user:password@]host:port, or has an address that is never contacted.",
    "bad-secret": "A ${…} is malformed, or its value cannot stand where it goes.",
    "bad-template": "A URL template breaks its grammar, or its path has a dot segment.",
    "bad-url": "An address is not http or https, could be read in two ways, or is never contacted.",
    "bare-literal": "A warning: true, false or null without backticks is a field's name in JMESPath.",
    "body-not-allowed": "A GET, HEAD or OPTIONS has a body.",
    "combined-schema": "A warning: anyOf, oneOf or allOf at the top, where some clients drop the tool.",
    "content-conflict": "Two keys want the reply in different forms.",
    "contradicting-hint": "A warning: an annotation says something else than the method or another key.",
    "control-character": "An invisible or misleading character: control, bidirectional, tag, zero width, half a surrogate pair.",
    "costly-pattern": "A pattern takes too much memory, or can check only short texts in time.",
    "dotted-name": "A warning: a tool's name with a dot, which some clients refuse.",
    "duplicate-header": "The same header or cookie is written twice.",
    "duplicate-key": "The same key stands twice in one mapping.",
    "duplicate-name": "A tool's name or alias is claimed or held by another file.",
    "duplicate-parameter": "The same query parameter is written twice.",
    "duplicate-upstream": "An upstream's name is that of another file, too.",
    "empty-file": "There is nothing in the file.",
    "external-ref": "A schema refers to something outside itself; nothing is ever fetched.",
    "flow-comma": "A text in { } ended at a comma, so that its rest became a key.",
    "foreign-name": "A tool's name or alias that the settings file keeps for the files of another folder.",
    "foreign-placeholder": "An argument as other tools write it: :name, ${name} or {{name}}; here it is {name}.",
    "idle-access": "A warning: a key, a scope or an issuer of the settings file is there in vain, or nobody can call.",
    "idle-default": "A warning: a default that is not under properties, and never filled in.",
    "idle-view": "A warning: a view of the settings file names what is not there, or no tool is in it.",
    "invalid-schema": "A JSON Schema breaks the rules of its dialect.",
    "key-not-text": "A key is a list or a mapping.",
    "long-description": "A warning: a description past 1024 characters, where some clients cut.",
    "long-name": "A warning: a tool's name past 64 characters, which some clients refuse.",
    "lost-secret": "A warning: a file that a ${file:…} or tls names is gone; its last content serves on.",
    "mcp-header": "An x-mcp-header for which clients would drop the tool.",
    "merge-key": "A YAML merge key.",
    "misplaced-upstream": "An upstream file, or a tool without upstream, outside the directory given by --upstreams.",
    "missing-key": "A key that is needed is not there.",
    "nested-value": "An array or object stands where only plain values fit.",
    "never-sent": "An argument is named nowhere, and nothing takes what is left over.",
    "no-style": "An object goes into the query, and no style says how.",
    "no-value": "A key of the format stands there without a value.",
    "not-a-file": "What lies there is no regular file.",
    "not-a-mapping": "The file is not `key: value` lines.",
    "not-an-object": "inputSchema is not of type object.",
    "not-json": "A number that JSON cannot say: infinite, NaN, too large.",
    "not-supported": "A key or word that is planned, and refused until then.",
    "not-text": "An argument inside a text may be an array or an object.",
    "not-utf8": "The file is not UTF-8.",
    "open-address": "A warning: others could call, and are not asked who they are; serve refuses it.",
    "optional-in-path": "An argument in the path may be absent.",
    "optional-in-query": "An argument in ?name={argument} may be absent.",
    "outside-folder": "A link leads to a folder outside the directory.",
    "quoted-body": "A warning: a JSON body is one text in quotes, and would be sent as one.",
    "quoted-identifier": "A warning: double quotes name a field in JMESPath, where a text was probably meant.",
    "rename": "A warning: the file's name ends with .yml, which is not read.",
    "reserved-name": "A header, cookie or parameter that no tool may set.",
    "schema-id": "A schema has an $id, which would move what its references lead to.",
    "schema-too-large": "A schema has too many parts, or is nested too deep.",
    "several-documents": "A second YAML document begins.",
    "too-deep": "The file is nested too deep, or lies too many folders down.",
    "too-large": "The file is too large.",
    "too-many-aliases": "The file has too many YAML aliases.",
    "too-many-files": "The directory holds too many files and folders.",
    "too-many-problems": "More is wrong with the file than is reported; a warning where the rest are warnings.",
    "too-many-values": "The file holds too many values, counting what its aliases stand for.",
    "unclear-caller": "A warning: callers cannot be told apart, or have no token, and a tool sends who calls.",
    "unknown-alias": "A YAML alias names no anchor before it.",
    "unknown-argument": "A placeholder names no argument.",
    "unknown-dialect": "A $schema that is not known, or not at the root.",
    "unknown-key": "A key that the format does not have.",
    "unknown-keyword": "A warning: a schema keyword that does nothing.",
    "unknown-upstream": "A tool names an upstream that has no file.",
    "unquoted-placeholder": "An unquoted {argument}, which YAML reads as a mapping.",
    "unreadable": "The file or directory cannot be read.",
    "unresolved-ref": "A reference in a schema leads nowhere.",
    "unset-secret": "A variable or file that a ${…} names is not there.",
    "unused-owner": "A warning: an owner of the settings file names tools or a folder that are not there.",
    "unusual-argument-name": "A warning: an argument's name that some models' APIs refuse.",
    "wrong-type": "A value of another type than the key takes.",
    "wrong-value": "A value that the key does not take.",
    "yaml-directive": "A YAML directive.",
    "yaml-syntax": "The file is not YAML.",
    "yaml-tag": "A YAML tag.",
}
"""What can be wrong with a file. The codes are stable: programs may rely on them."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; line and column count from 1, the column in characters."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong at a route; the message says what was found, what was expected, what to do.

    ``offset`` counts characters into the text at the route, where the message speaks of a part of
    it. ``at_key`` points at the key rather than at its value.
    """

    code: str
    message: str
    route: Route = ()
    severity: Severity = "error"
    offset: int | None = None
    at_key: bool = False

    def under(self, *route: str | int) -> "Finding":
        """The same finding, seen from further out: ``route`` leads to where its own begins."""
        return replace(self, route=(*route, *self.route))


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """A finding in its file. ``source`` is the line of text, None where it may not be shown."""

    path: str
    mark: Mark
    severity: Severity
    message: str
    code: str
    source: str | None = None

    def __str__(self) -> str:
        """As compilers print it: ``path:line:col: error: message [code]``."""
        where = f"{self.path}:{self.mark.line}:{self.mark.column}"
        return f"{where}: {self.severity}: {self.message} [{self.code}]"


def first_errors(diagnostics: Iterable[Diagnostic]) -> tuple[str, ...]:
    """The place of the first error in each broken file, as ``path:line:column``."""
    firsts: dict[str, Diagnostic] = {}
    for diagnostic in diagnostics:
        if diagnostic.severity == "error":
            firsts.setdefault(diagnostic.path, diagnostic)
    return tuple(f"{path}:{first.mark.line}:{first.mark.column}" for path, first in firsts.items())


class InvalidSpec(Exception):
    """A file, or a part of it, cannot be used; holds one finding or more."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__("; ".join(finding.message for finding in findings))
        self.findings = findings


def invalid(code: str, message: str, *route: str | int, offset: int | None = None) -> InvalidSpec:
    """The exception with one error, for a check of one value to raise."""
    return InvalidSpec(Finding(code, message, route, offset=offset))


_FEW: Final = 20
"""Findings for which a near word is searched; of one file no more are reported."""
_LONGEST: Final = 200
"""Characters of a word that are compared with others."""


class Findings:
    """Collects what a row of checks finds, so that one run reports everything."""

    def __init__(self) -> None:
        self._all: list[Finding] = []

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._all)

    def add(self, finding: Finding) -> None:
        self._all.append(finding)

    def extend(self, findings: Iterable[Finding], *route: str | int) -> None:
        """Add findings whose own routes start at ``route``."""
        self._all += [finding.under(*route) for finding in findings]

    def error(
        self, code: str, message: str, *route: str | int, offset: int | None = None, at_key: bool = False
    ) -> None:
        self.add(Finding(code, message, route, "error", offset, at_key))

    def warn(
        self, code: str, message: str, *route: str | int, offset: int | None = None, at_key: bool = False
    ) -> None:
        self.add(Finding(code, message, route, "warning", offset, at_key))

    def at(self, *route: str | int, at_key: bool = True) -> "_Collecting":
        """Collect an ``InvalidSpec`` raised inside; its findings' routes start at ``route``.

        Without ``at_key`` what is wrong with a name is wrong with a value there.
        """
        return _Collecting(self, route, at_key=at_key)

    def attempt(self, compile_: Callable[[], _T], *route: str | int) -> _T | None:
        """What ``compile_`` answers; None if it raised, and then its findings are collected."""
        try:
            return compile_()
        except InvalidSpec as problem:
            self.extend(problem.findings, *route)
            return None

    @property
    def are_few(self) -> bool:
        """Whether the next finding is worth the search for a near word."""
        return len(self._all) < _FEW

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self._all if f.severity == "error")

    def raise_errors(self) -> None:
        """Raise all findings (warnings too) as one ``InvalidSpec`` if one of them is an error."""
        if self.errors:
            raise InvalidSpec(*self._all)


class _Collecting:
    """A context; there are many in each load, and one made of a generator costs thrice as much."""

    __slots__ = ("_at_key", "_findings", "_route")

    def __init__(self, findings: Findings, route: Route, *, at_key: bool) -> None:
        self._at_key = at_key
        self._findings = findings
        self._route = route

    def __enter__(self) -> None:
        """Nothing is needed before."""

    def __exit__(self, _: object, problem: BaseException | None, _traceback: object) -> bool:
        if not isinstance(problem, InvalidSpec):
            return False
        found = problem.findings
        if not self._at_key:
            found = tuple(replace(finding, at_key=False) for finding in found)
        self._findings.extend(found, *self._route)
        return True


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like it, in whatever case, if one is."""
    by_lower = {each.lower(): each for each in known if len(each) <= _LONGEST}
    near = get_close_matches(word[:_LONGEST].lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[near[0]] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` for the nearest known word, or nothing."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""
