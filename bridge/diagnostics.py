"""What is wrong with a file, and where.

A check knows a *route* (the keys and indices that lead to a value) and raises or collects
``Finding``s. Only ``toolfiles/document`` knows lines: it turns a finding into a ``Diagnostic``.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal, TypeVar

_T = TypeVar("_T")

Route = tuple[str | int, ...]
Severity = Literal["error", "warning"]


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


class InvalidSpec(Exception):  # noqa: N818 - the name says what is the case, as errors here do
    """A file, or a part of it, cannot be used; holds one finding or more."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__("; ".join(finding.message for finding in findings))
        self.findings = findings


def invalid(code: str, message: str, *route: str | int, offset: int | None = None) -> InvalidSpec:
    """The exception with one error, for a check of one value to raise."""
    return InvalidSpec(Finding(code, message, route, offset=offset))


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

    @contextmanager
    def at(self, *route: str | int) -> Iterator[None]:
        """Collect an ``InvalidSpec`` raised inside; its findings' routes start at ``route``."""
        try:
            yield
        except InvalidSpec as problem:
            self.extend(problem.findings, *route)

    def attempt(self, compile_: Callable[[], _T], *route: str | int) -> _T | None:
        """What ``compile_`` answers; None if it raised, and then its findings are collected."""
        with self.at(*route):
            return compile_()
        return None

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self._all if f.severity == "error")

    def raise_errors(self) -> None:
        """Raise all findings (warnings too) as one ``InvalidSpec`` if one of them is an error."""
        if self.errors:
            raise InvalidSpec(*self._all)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` for the nearest known word, in whatever case, or nothing."""
    by_lower = {each.lower(): each for each in known}
    near = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""
