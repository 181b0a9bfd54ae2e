"""Texts with placeholders: ``{name}``, ``{$uuid}``, ``{$now}``, ``{$caller}``; ``{{name}}`` is the text ``{name}``.

Every other brace is itself, so that GraphQL and PromQL can be written as they are.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote as percent_encoded

from bridge.codec import NotJson, encode, quote
from bridge.diagnostics import Finding, InvalidSpec, Severity, nearest
from bridge.errors import InvalidCall
from bridge.spec import Json
from bridge.tool.request.percent import not_unicode
from bridge.tool.schema.arguments import Arguments

BUILTINS: Final = ("$uuid", "$now", "$caller")
"""What stands in the values of every call beside its arguments; no argument is named so."""
CLAIM: Final = "$caller."
"""So begin those that a caller's token says."""

SCALARS: Final = ("string", "integer", "number", "boolean")
"""JSON types that have a text."""

NAME: Final = r"\$?[0-9]*[A-Za-z_][A-Za-z0-9_.-]*"
"""Names that can stand in braces; not plain numbers, which are counts in regular expressions."""

_HINTS: Final = 20
"""Placeholders of one text for which a near word is searched."""
_SEARCHED: Final = 100
"""Arguments among which it is searched."""
_SECRET: Final = re.compile(r"\$\{(?:env|file):")
_FOREIGN: Final = re.compile(
    rf"\$\{{({NAME})\}}|\{{\{{({NAME})\}}\}}|:({NAME})|<({NAME})>|%({NAME})%|\$([A-Za-z_]\w*)"
)
_FOREIGN_IN_URL: Final = re.compile(
    rf"(?<=/)(?P<whole>:(?P<colon>{NAME})|\[(?P<bracket>{NAME})\])(?=[/?]|\Z)|\$\{{(?P<inner>{NAME})\}}"
)
_PLACEHOLDER: Final = re.compile(rf"\{{\{{(?P<literal>{NAME})\}}\}}|\{{(?P<name>{NAME})\}}")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """``name`` in braces; ``offset`` is that of the brace. Builtins begin with ``$``."""

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
        return cls((*parts, rest) if rest or not parts else tuple(parts))

    @property
    def placeholders(self) -> tuple[Placeholder, ...]:
        return tuple(part for part in self.parts if isinstance(part, Placeholder))

    @property
    def names(self) -> frozenset[str]:
        """The arguments in it, without builtins."""
        return frozenset(part.name for part in self.placeholders if not is_builtin(part.name))

    @property
    def whole(self) -> str | None:
        """The argument's name if the text is nothing but ``{name}``."""
        match self.parts:
            case (Placeholder(name=name),) if not is_builtin(name):
                return name
        return None

    @property
    def constant(self) -> bool:
        return not self.placeholders

    @property
    def sample(self) -> str:
        """The text with letters for placeholders, as long as those are: what is known of it before a call."""
        return "".join(part if isinstance(part, str) else "x" * (len(part.name) + 2) for part in self.parts)

    def render(self, values: Mapping[str, Json]) -> str | None:
        """The text with its values put in; None if one of them is absent or null."""
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
        """Raise ``InvalidSpec`` for each placeholder that names no argument, or one that has no text."""
        findings = list(unknown(self.placeholders, arguments))
        findings += [
            Finding(
                "not-text",
                f"argument {part.name} may be an array or object, which has no text; "
                "give it another type in inputSchema, such as string",
                offset=part.offset,
            )
            for part in self.placeholders
            if may_be(arguments, part.name, "array", "object")
        ]
        if findings:
            raise InvalidSpec(*findings)


def is_builtin(name: str) -> bool:
    return name in BUILTINS or name.startswith(CLAIM)


def secrets_in(text: str) -> Iterator[Finding]:
    """A finding for each ``${env:…}`` and ``${file:…}``, which would be sent as it is written."""
    for match in _SECRET.finditer(text):
        message = "${env:…} and ${file:…} are read in upstream files alone; move this there"
        yield Finding("bad-secret", message, offset=match.start())


def foreign(text: str, arguments: Arguments) -> Iterator[Finding]:
    """A warning if a whole text is an argument as other tools write it: it would be sent as it is."""
    match = _FOREIGN.fullmatch(text)
    name = match and next(filter(None, match.groups()))
    if name in arguments.properties:
        message = f"{quote(text)} is not how an argument is written; write {{{name}}}"
        yield Finding("foreign-placeholder", message, severity="warning")


def foreign_in_url(url: str, arguments: Arguments) -> Iterator[Finding]:
    """A finding for each ``/:name``, ``/[name]`` and ``${name}``; the first two are errors if there is such an argument."""
    for match in _FOREIGN_IN_URL.finditer(url):
        if name := match["colon"] or match["bracket"]:
            text = percent_encoded(match["whole"], safe="")
            message = f"{match['whole']} is sent as it is; write {{{name}}}, or {text} for the text itself"
            severity: Severity = "error" if name in arguments.properties else "warning"
        else:
            name = match["inner"]
            message = f"the $ is sent, too; write {{{name}}} without it, or %24 for the sign"
            severity = "error"
        yield Finding("foreign-placeholder", message, severity=severity, offset=match.start())


def unknown(
    placeholders: Iterable[Placeholder], arguments: Arguments, *, escapable: bool = True
) -> Iterable[Finding]:
    """A finding for each that is neither argument nor builtin; ``escapable`` where ``{{name}}`` is text.

    Only the first ones get a near word: a search for thousands would take minutes.
    """
    hints = _HINTS
    for part in placeholders:
        builtin = part.name.startswith("$")
        known = BUILTINS if builtin else tuple(arguments.properties)
        if part.name in known or is_builtin(part.name):
            continue
        searched = known[:_SEARCHED] if hints > 0 else ()
        hints -= 1
        near = nearest(part.name, searched) or nearest(part.name.rpartition(".")[2], searched)
        if near:
            advice = f"did you mean {{{near}}}?"
        else:
            advice = "there are {$uuid}, {$now} and {$caller}" if builtin else "declare it in inputSchema"
            advice += f", or write {{{{{part.name}}}}} for the text itself" if escapable else ""
        what = "builtin" if builtin else "argument"
        yield Finding("unknown-argument", f"{{{part.name}}} names no {what}; {advice}", offset=part.offset)


def may_be(arguments: Arguments, name: str, *types: str) -> bool:
    """Whether the schema lets an argument be of one of these JSON types; builtins are strings."""
    return name in arguments.properties and not arguments.types(name).isdisjoint(types)


def to_text(name: str, value: Json) -> str:
    """A scalar as it is written in a URL, header or text; a whole number never has a fraction.

    Raises ``InvalidCall`` for arrays, objects and null, and for numbers that JSON cannot say.
    """
    if isinstance(value, str):
        return value
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
    """The refusal of an array or object where a text must stand."""
    message = f"argument {name} holds an array, object or null where only text can stand; pass plain values"
    return InvalidCall("nested-argument", message)


def to_utf8(name: str, text: str) -> bytes:
    """Raises ``InvalidCall`` for a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError as problem:
        raise not_unicode(name) from problem
