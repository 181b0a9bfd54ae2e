"""Errors and warnings about a file.

A check knows the *route* to a value: the keys and indices that lead to it. It raises or collects ``Finding``s.
Only ``toolfiles/text/document`` knows lines: it turns a finding into a ``Diagnostic``.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Final, Literal, TypeVar

_T = TypeVar("_T")

Route = tuple[str | int, ...]
Severity = Literal["error", "warning"]

CODES: Final[Mapping[str, str]] = {
    "array-without-items": "A warning: an array in a schema has no items. Some clients reject it.",
    "bad-argument-name": "An argument's name is empty, too long, or cannot be written as a placeholder.",
    "bad-default": "A default does not match its own schema, or is not allowed in the path.",
    "bad-name": "The name of a tool, upstream, header, cookie or part has a character that is not allowed.",
    "bad-pattern": "A pattern is not a regular expression, or needs look-around or back-references.",
    "bad-projection": "A JMESPath expression cannot be parsed, or could never be applied.",
    "bad-proxy": "A proxy is not written as http://[user:password@]host:port, or has an address that is never contacted.",
    "bad-secret": "A ${…} is malformed, or its value is not allowed where it is used.",
    "bad-template": "A URL template has a syntax error, or its path has a dot segment.",
    "bad-url": "An address is not http or https, is ambiguous, or is never contacted.",
    "bare-literal": "A warning: in JMESPath, true, false or null without backticks is the name of a field.",
    "body-not-allowed": "A GET, HEAD or OPTIONS request has a body.",
    "combined-schema": "A warning: anyOf, oneOf or allOf at the root of a schema. Some clients drop the tool.",
    "content-conflict": "Two keys ask for the reply in different forms.",
    "contradicting-hint": "A warning: an annotation contradicts the method or another key.",
    "control-character": "An invisible or misleading character: control, bidirectional, tag, zero width, half a surrogate pair.",
    "costly-pattern": "A pattern takes too much memory, or can check only short texts in time.",
    "dotted-name": "A warning: the name of a tool has a dot. Some clients refuse it.",
    "duplicate-header": "The same header or cookie is written twice.",
    "duplicate-key": "A key appears twice in one mapping.",
    "duplicate-name": "The name or an alias of a tool is used twice.",
    "duplicate-parameter": "The same query parameter is written twice.",
    "duplicate-upstream": "Two upstream files have the same name.",
    "empty-file": "The file is empty.",
    "external-ref": "A schema refers to something outside of itself. Nothing is ever fetched.",
    "flow-comma": "A text in { } has a comma, so the part after it became a key.",
    "foreign-name": "The name or an alias of a tool is reserved for another folder, by owners in the settings file.",
    "foreign-placeholder": "An argument is written as in other tools: :name, ${name} or {{name}}. Here it is {name}.",
    "ineffective-default": "A warning: a default is not under properties, so it is never filled in.",
    "invalid-schema": "A JSON Schema is not valid in its dialect.",
    "key-not-text": "A key is missing, or is a list or a mapping.",
    "long-description": "A warning: a description is longer than 1024 characters. Some clients cut it.",
    "long-name": "A warning: the name of a tool is longer than 64 characters. Some clients refuse it.",
    "lost-secret": "A warning: a file that a ${file:…} or tls names is gone. Its last content is still used.",
    "mcp-header": "An x-mcp-header is not valid. Clients would drop the tool.",
    "merge-key": "The file has a YAML merge key (<<).",
    "misplaced-upstream": "An upstream file outside the directory given by --upstreams.",
    "missing-key": "A required key is missing.",
    "nested-value": "An array or object stands where only plain values are allowed.",
    "never-sent": "An argument is never sent: the request does not use it.",
    "no-style": "An object goes into the query, and has no style.",
    "no-value": "A key has no value.",
    "not-a-file": "This is not a regular file.",
    "not-a-mapping": "The file does not consist of keys and values.",
    "not-an-object": "inputSchema is not of type object.",
    "not-json": "A number is not possible in JSON: infinite, NaN, or too large.",
    "not-supported": "A key or value is planned, and refused until then.",
    "not-text": "An argument inside a text may be an array or an object.",
    "not-utf8": "The file is not UTF-8.",
    "open-address": "A warning: others can reach the address, and no key is asked for. serve refuses it.",
    "optional-in-path": "An argument in the path may be absent.",
    "optional-in-query": "An argument in ?name={argument} may be absent.",
    "outside-folder": "A link leads to a folder outside the directory.",
    "quoted-body": "A warning: a JSON body is one text in quotes. It would be sent as a text.",
    "quoted-identifier": "A warning: in JMESPath, double quotes name a field. A text was probably meant.",
    "rename": "A warning: the name of the file is not read, such as NAME.yml.",
    "reserved-name": "A header, cookie or parameter cannot be set by a tool.",
    "schema-id": "A schema has an $id, which would change what its references mean.",
    "schema-too-large": "A schema has too many parts, or is nested too deeply.",
    "several-documents": "The file has more than one YAML document.",
    "too-deep": "The file is nested too deeply, or lies too many folders down.",
    "too-large": "The file is too large.",
    "too-many-aliases": "The file has too many YAML aliases.",
    "too-many-files": "The directory holds too many files and folders.",
    "too-many-problems": "The file has more problems than are reported. A warning if the others are warnings.",
    "too-many-values": "The file holds too many values, counting what its aliases stand for.",
    "unclear-caller": "A warning: a tool sends who calls, but callers have no token or cannot be told apart.",
    "unknown-alias": "A YAML alias has no anchor before it.",
    "unknown-argument": "A placeholder names no argument.",
    "unknown-dialect": "A $schema is unknown, or not at the root.",
    "unknown-key": "The format has no such key.",
    "unknown-keyword": "A warning: a schema keyword has no effect.",
    "unknown-upstream": "A tool names an upstream that has no file.",
    "unquoted-placeholder": "An {argument} is not in quotes, so YAML reads it as a mapping.",
    "unreadable": "The file or directory cannot be read.",
    "unresolved-ref": "A reference in a schema does not point to a schema.",
    "unset-secret": "A variable that a ${…} names is not set, or a file that it names is missing.",
    "unusable-certificate": "A file of http.tls cannot be used. serve does not start, or keeps the last good certificate.",
    "unused-credential": "A warning: a key, scope or issuer of the settings file has no effect, or nobody can call.",
    "unused-owner": "A warning: an entry of owners names tools or a folder that do not exist.",
    "unused-setting": "A warning: a setting has no effect any longer.",
    "unused-view": "A warning: a view has no tools, or names something that does not exist.",
    "unusual-argument-name": "A warning: the name of an argument is refused by some APIs of models.",
    "wrong-type": "A value has another type than its key allows.",
    "wrong-value": "A key does not allow this value.",
    "yaml-directive": "The file has a YAML directive.",
    "yaml-syntax": "The file is not valid YAML.",
    "yaml-tag": "The file has a YAML tag.",
}
"""The meaning of each code. Codes are stable: programs may rely on them."""
RENAMED: Final[Mapping[str, str]] = {
    "idle-access": "unused-credential",
    "idle-default": "ineffective-default",
    "idle-view": "unused-view",
}
"""Codes that have another name now."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A position in a file; line and column count from 1, the column in characters."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One error or warning about the value at ``route``; the message says "found X, expected Y; do Z".

    ``offset`` counts characters into the text at the route, if the message is about a part of it.
    ``at_key`` points at the key instead of its value.
    """

    code: str
    message: str
    route: Route = ()
    severity: Severity = "error"
    offset: int | None = None
    at_key: bool = False

    def under(self, *route: str | int) -> "Finding":
        """The same finding with ``route`` put before its own route."""
        return replace(self, route=(*route, *self.route))


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """A finding with its position, and only printable characters in its message.

    ``source`` is the line of text, or None if it may hold a secret.
    """

    path: str
    mark: Mark
    severity: Severity
    message: str
    code: str
    source: str | None = None

    def __post_init__(self) -> None:
        # A message may quote a key of the file. A line break in it would start another line of the report.
        object.__setattr__(self, "message", printable(self.message))

    def __str__(self) -> str:
        """Formatted as compilers do: ``path:line:col: error: message [code]``."""
        where = f"{self.path}:{self.mark.line}:{self.mark.column}"
        return f"{where}: {self.severity}: {self.message} [{self.code}]"


def printable(text: str) -> str:
    """The text, with characters that are not printable escaped as in JSON."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def first_errors(diagnostics: Iterable[Diagnostic]) -> tuple[str, ...]:
    """The first error of each file that has errors, as ``path:line:column``."""
    firsts: dict[str, Diagnostic] = {}
    for diagnostic in diagnostics:
        if diagnostic.severity == "error":
            firsts.setdefault(diagnostic.path, diagnostic)
    return tuple(f"{path}:{first.mark.line}:{first.mark.column}" for path, first in firsts.items())


class InvalidSpec(Exception):
    """A file, or a part of it, cannot be used. It holds at least one finding."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__("; ".join(finding.message for finding in findings))
        self.findings = findings


def invalid(code: str, message: str, *route: str | int, offset: int | None = None) -> InvalidSpec:
    """The exception for one error, to be raised by the check of a single value."""
    return InvalidSpec(Finding(code, message, route, offset=offset))


_MAX_SUGGESTIONS: Final = 20
"""Later findings of a file are not reported, so a search for a similar word would cost time for nothing."""
_MAX_COMPARED_CHARACTERS: Final = 200


class Findings:
    """Collects the findings of several checks, so that one run reports all of them."""

    def __init__(self) -> None:
        self._all: list[Finding] = []

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._all)

    def add(self, finding: Finding) -> None:
        self._all.append(finding)

    def extend(self, findings: Iterable[Finding], *route: str | int) -> None:
        """Add findings whose routes are relative to ``route``."""
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
        """A context that collects an ``InvalidSpec`` raised inside, with routes relative to ``route``.

        Without ``at_key``, findings about a key point at a value: the checked name is a value in this file.
        """
        return _Collecting(self, route, at_key=at_key)

    def attempt(self, compile_: Callable[[], _T], *route: str | int) -> _T | None:
        """The result of ``compile_``; None if it raised ``InvalidSpec``, whose findings are collected."""
        try:
            return compile_()
        except InvalidSpec as problem:
            self.extend(problem.findings, *route)
            return None

    @property
    def can_suggest(self) -> bool:
        """Whether the search for a similar word pays off for the next finding."""
        return len(self._all) < _MAX_SUGGESTIONS

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self._all if f.severity == "error")

    def raise_errors(self) -> None:
        """If there is an error, raise all findings, warnings included, as one ``InvalidSpec``."""
        if self.errors:  # warnings alone go on with the spec
            raise InvalidSpec(*self._all)


class _Collecting:
    """A class, because each load uses many of these contexts and one from a generator takes three times as long."""

    __slots__ = ("_at_key", "_findings", "_route")

    def __init__(self, findings: Findings, route: Route, *, at_key: bool) -> None:
        self._at_key = at_key
        self._findings = findings
        self._route = route

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _: object, problem: BaseException | None, _traceback: object) -> bool:
        if not isinstance(problem, InvalidSpec):
            return False
        found = problem.findings  # the check knew only the value; the file's route goes before its routes
        if not self._at_key:
            found = tuple(replace(finding, at_key=False) for finding in found)
        self._findings.extend(found, *self._route)
        return True


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The most similar known word, ignoring case; None if none is similar."""
    # difflib takes quadratic time for two long words.
    by_lower = {each.lower(): each for each in known if len(each) <= _MAX_COMPARED_CHARACTERS}
    near = get_close_matches(word[:_MAX_COMPARED_CHARACTERS].lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[near[0]] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` with the most similar known word, or an empty text."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def as_json(diagnostic: Diagnostic) -> dict[str, str | int]:
    """The diagnostic as a JSON object; line and column count from 1."""
    return {
        "path": diagnostic.path,
        "line": diagnostic.mark.line,
        "column": diagnostic.mark.column,
        "severity": diagnostic.severity,
        "code": diagnostic.code,
        "message": diagnostic.message,
    }
