"""Texts with placeholders, which each call replaces by values.

| Written | Meaning |
|---|---|
| ``{name}`` | the argument ``name`` |
| ``{$uuid}``, ``{$now}``, ``{$caller}``, ``{$caller.email}`` | a builtin: a value that the bridge provides |
| ``{{name}}`` | the text ``{name}`` |
| all other braces | themselves, so that GraphQL and PromQL need no escapes |
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote as percent_encode

from bridge.codec import NotJson, encode, quote
from bridge.diagnostics import Finding, InvalidSpec, Severity, nearest
from bridge.errors import InvalidCall
from bridge.spec import Json
from bridge.tool.request.percent import not_unicode
from bridge.tool.schema.arguments import Arguments

BUILTINS: Final = ("$uuid", "$now", "$caller")
"""Values that every call has in addition to its arguments; no argument has such a name."""
CALLER_CLAIM_PREFIX: Final = "$caller."
"""Prefix of the builtins that hold a claim of the caller's token, such as ``$caller.email``."""

SCALARS: Final = ("string", "integer", "number", "boolean")
"""JSON types that can be written as text."""

NAME: Final = r"\$?[0-9]*[A-Za-z_][A-Za-z0-9_.-]*"
"""A name in braces. A number is not a name: ``[a-z]{3}`` is a regular expression."""

_MAX_HINTS: Final = 20
"""Placeholders of one text that get a "did you mean" hint: to search for thousands would take minutes."""
_MAX_SEARCHED_NAMES: Final = 100
"""Arguments that are compared for such a hint."""
_SECRET: Final = re.compile(r"\$\{(?:env|file):")
_FOREIGN: Final = re.compile(
    rf"\$\{{({NAME})\}}|\{{\{{({NAME})\}}\}}|:({NAME})|<({NAME})>|%({NAME})%|\$([A-Za-z_]\w*)"
)
"""An argument as other programs write it: ``${x}``, ``{{x}}``, ``:x``, ``<x>``, ``%x%``, ``$x``."""
_FOREIGN_IN_URL: Final = re.compile(
    # A whole segment such as /:id or /[id], but not /a:id. Anywhere: ${id}.
    rf"(?<=/)(?P<whole>:(?P<colon>{NAME})|\[(?P<bracket>{NAME})\])(?=[/?]|\Z)|\$\{{(?P<inner>{NAME})\}}"
)
# The literal comes first: otherwise {{name}} would be {name} between two braces.
_PLACEHOLDER: Final = re.compile(rf"\{{\{{(?P<literal>{NAME})\}}\}}|\{{(?P<name>{NAME})\}}")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A ``{name}`` in a text; ``offset`` is where its brace is. Names of builtins start with ``$``."""

    name: str
    offset: int


@dataclass(frozen=True, slots=True)
class Text:
    """Literal parts and placeholders, in order."""

    parts: tuple[str | Placeholder, ...]

    @classmethod
    def parse(cls, text: str) -> "Text":
        parts: list[str | Placeholder] = []
        end = 0
        for match in _PLACEHOLDER.finditer(text):
            literal = text[end : match.start()]
            if match["literal"]:
                literal += f"{{{match['literal']}}}"
            parts += [literal] if literal else []
            parts += [Placeholder(match["name"], match.start())] if match["name"] else []
            end = match.end()
        rest = text[end:]
        return cls((*parts, rest) if rest else tuple(parts))

    @property
    def placeholders(self) -> tuple[Placeholder, ...]:
        return tuple(part for part in self.parts if isinstance(part, Placeholder))

    @property
    def names(self) -> frozenset[str]:
        """The names of its arguments, without builtins."""
        return frozenset(part.name for part in self.placeholders if not is_builtin(part.name))

    @property
    def whole_argument(self) -> str | None:
        """The argument's name if the text is nothing but ``{name}``."""
        match self.parts:
            case (Placeholder(name=name),) if not is_builtin(name):
                return name
        return None

    @property
    def is_constant(self) -> bool:
        return not self.placeholders

    def render(self, values: Mapping[str, Json]) -> str | None:
        """The text with its values; None if one of them is absent or null."""
        rendered = []
        for part in self.parts:
            if isinstance(part, str):
                rendered.append(part)
                continue
            value = values.get(part.name)
            if value is None:
                return None
            rendered.append(to_text(part.name, value))
        return "".join(rendered)

    def check(self, arguments: Arguments) -> None:
        """Raise ``InvalidSpec`` for unknown arguments and for those that may be arrays or objects."""
        findings = list(unknown_placeholders(self.placeholders, arguments))
        findings += [
            Finding(
                "not-text",
                f"argument {part.name} may be an array or object, which cannot be written as text; "
                "give it another type in inputSchema, such as string",
                offset=part.offset,
            )
            for part in self.placeholders
            if may_be(arguments, part.name, "array", "object")
        ]
        if findings:
            raise InvalidSpec(*findings)


def is_builtin(name: str) -> bool:
    return name in BUILTINS or name.startswith(CALLER_CLAIM_PREFIX)


def misplaced_secrets(text: str) -> Iterator[Finding]:
    """A finding for each ``${env:…}`` and ``${file:…}``: a tool file would send it unresolved."""
    for match in _SECRET.finditer(text):
        message = "${env:…} and ${file:…} are read only in upstream files; move this there"
        yield Finding("bad-secret", message, offset=match.start())


def foreign_placeholder(text: str, arguments: Arguments) -> Iterator[Finding]:
    """A warning if a whole text is an argument as other programs write it: it would be sent literally."""
    # Inside a longer text, $x and :x are common and meant as they are.
    match = _FOREIGN.fullmatch(text)
    name = match and next(filter(None, match.groups()))
    if name in arguments.properties:
        message = f"{quote(text)} is not how an argument is written; write {{{name}}}"
        yield Finding("foreign-placeholder", message, severity="warning")


def foreign_placeholders_in_url(url: str, arguments: Arguments) -> Iterator[Finding]:
    """A finding for each ``/:name``, ``/[name]`` and ``${name}``.

    The first two are errors if such an argument exists, otherwise warnings.
    """
    for match in _FOREIGN_IN_URL.finditer(url):
        if name := match["colon"] or match["bracket"]:
            text = percent_encode(match["whole"], safe="")
            message = f"{match['whole']} is sent as it is; write {{{name}}}, or {text} for the text itself"
            severity: Severity = "error" if name in arguments.properties else "warning"
        else:
            name = match["inner"]
            message = f"the $ would be sent; write {{{name}}} without it, or %24 for the character"
            severity = "error"
        yield Finding("foreign-placeholder", message, severity=severity, offset=match.start())


def unknown_placeholders(
    placeholders: Iterable[Placeholder], arguments: Arguments, *, escapable: bool = True
) -> Iterator[Finding]:
    """A finding for each placeholder that is neither an argument nor a builtin.

    ``escapable``: whether the syntax has ``{{name}}`` for the literal text.
    """
    unknown = [each for each in placeholders if not _is_known(each.name, arguments)]
    for number, placeholder in enumerate(unknown, 1):
        name = placeholder.name
        known: Sequence[str]
        if name.startswith("$"):
            known, what, fix = BUILTINS, "builtin", "there are {$uuid}, {$now} and {$caller}"
        else:
            known, what, fix = tuple(arguments.properties), "argument", "declare it in inputSchema"
        if escapable:
            fix += f", or write {{{{{name}}}}} for the text itself"
        near = _nearest_name(name, known) if number <= _MAX_HINTS else None
        advice = f"did you mean {{{near}}}?" if near else fix
        message = f"{{{name}}} names no {what}; {advice}"
        yield Finding("unknown-argument", message, offset=placeholder.offset)


def _is_known(name: str, arguments: Arguments) -> bool:
    return is_builtin(name) if name.startswith("$") else name in arguments.properties


def _nearest_name(name: str, known: Sequence[str]) -> str | None:
    """The most similar known name, also for the last part of a dotted name: ``user_id`` for ``args.user_id``."""
    searched = known[:_MAX_SEARCHED_NAMES]
    return nearest(name, searched) or nearest(name.rpartition(".")[2], searched)


def may_be(arguments: Arguments, name: str, *types: str) -> bool:
    """Whether the schema allows one of these JSON types for an argument; False for builtins, which are strings."""
    return name in arguments.properties and not arguments.types(name).isdisjoint(types)


def to_text(name: str, value: Json) -> str:
    """A scalar as text for a URL, header or body; a whole number has no fraction (``3.0`` gives ``3``).

    Raises ``InvalidCall`` for arrays, objects, null, NaN, infinities and numbers that are too long.
    """
    if isinstance(value, str):
        return value
    # Larger floats are not exact, and 1e+22 would become 23 digits.
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if not isinstance(value, (bool, int, float)):
        raise nested_argument(name)
    try:
        return encode(value).decode()
    except NotJson as problem:
        message = f"argument {name} holds a number that cannot be written; pass a finite, shorter one"
        raise InvalidCall("unwritable-value", message) from problem


def nested_argument(name: str) -> InvalidCall:
    """The error for an array, object or null where a scalar is required."""
    message = (
        f"argument {name} holds an array, object or null where only a scalar is allowed; pass plain values"
    )
    return InvalidCall("nested-argument", message)


def to_utf8(name: str, text: str) -> bytes:
    """Raises ``InvalidCall`` for a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError as problem:
        raise not_unicode(name) from problem
