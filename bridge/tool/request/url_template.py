"""URL templates: RFC 6570 without ``#``, ``.`` and ``;``, and with a path that arguments cannot leave.

A template is a path and a query. In the path an expression must have a value (``{id}``, ``{+path}``),
or takes its slash along (``{/part*}``). The query is pairs as written, then ``{?q,limit*}`` or ``{&q}``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from sys import intern
from typing import Final, TypeAlias
from urllib.parse import quote, unquote

from bridge.codec import quote as shown
from bridge.diagnostics import Findings
from bridge.errors import InvalidCall
from bridge.spec import Json
from bridge.tool.request.percent import encode, encode_path, encode_segment, leads_elsewhere
from bridge.tool.request.placeholders import NAME, Placeholder, secrets_in, to_text, unknown
from bridge.tool.request.query import Claims, Escape, Parameter
from bridge.tool.schema.arguments import Arguments

_TOKEN: Final = re.compile(r"\{(?P<expression>[^{}]*)\}|(?P<literal>[^{}]+)|[{}]")
_VARIABLE: Final = re.compile(rf"(?P<name>{NAME})(?::(?P<prefix>[1-9][0-9]{{0,3}})|(?P<explode>\*))?\Z")
_WRONG: Final = re.compile(r"[\x00-\x20\x7f\"#<>\\^`|\ud800-\udfff]|%(?![0-9A-Fa-f]{2})")
_LITERAL: Final = "%/:?@!$&'()*+,="
"""RFC 3986 pchar, / and ?; the rest is encoded. In a query ``;`` is too: some servers end a parameter there, as at ``&``."""
_ENCODED_CONTROL: Final = re.compile(r"%(?:[01][0-9A-Fa-f]|7[Ff])")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_~./-]*")
_ABSOLUTE: Final = re.compile(r"[A-Za-z]+://")
_SEGMENT: Final = re.compile(r"[^/?{}]+")
_OPERATORS: Final = "+/?&"
_REFUSED: Final = {
    "#": "a fragment is never sent; write {{{0}}}",
    ".": "labels are not supported; write .{{{0}}}",
    ";": "path parameters are not supported; write ;{0}={{{0}}}",
    **dict.fromkeys("=,!@|", "RFC 6570 reserves this operator; write {{{0}}}"),
}
_SIGNS: Final = frozenset({*_OPERATORS, *_REFUSED})


@dataclass(frozen=True, slots=True)
class Variable:
    """One name in an expression; ``prefix`` is how many characters are kept (RFC 6570 2.4.1).

    ``offset`` is that of the name, but of the brace in ``{name}``.
    """

    name: str
    explode: bool
    prefix: int | None
    offset: int

    def value(self, values: Mapping[str, Json]) -> Json:
        """The value, cut to its prefix; None where there is nothing to write."""
        value = values.get(self.name)
        if value is None or value in ([], {}):
            return None
        return value if self.prefix is None else to_text(self.name, value)[: self.prefix]

    def pieces(self, values: Mapping[str, Json], escape: Escape) -> list[str]:
        """The value as RFC 6570 3.2.1 lists it: several pieces only if it is exploded."""
        value = self.value(values)
        if value is None:
            return []
        if isinstance(value, dict):
            members = [
                (escape(self.name, key), escape(self.name, to_text(self.name, member)))
                for key, member in value.items()
                if member is not None
            ]
            pieces = [f"{key}={member}" for key, member in members] if self.explode else [*chain(*members)]
        elif isinstance(value, list):
            pieces = [escape(self.name, to_text(self.name, item)) for item in value if item is not None]
        else:
            return [escape(self.name, to_text(self.name, value))]
        return pieces if self.explode or not pieces else [",".join(pieces)]


@dataclass(frozen=True, slots=True)
class Expression:
    """``operator`` is empty, ``+`` or ``/``; those of the query are taken apart into parameters."""

    operator: str
    variables: tuple[Variable, ...]
    plain: str | None = field(init=False)
    """The name in ``{name}``, which is nearly every expression, and takes a short way."""

    def __post_init__(self) -> None:
        match self.operator, self.variables:
            case "", (Variable(name=name, prefix=None),):
                object.__setattr__(self, "plain", name)
            case _:
                object.__setattr__(self, "plain", None)

    def in_path(self, values: Mapping[str, Json]) -> str:
        if self.plain is not None and isinstance(value := values.get(self.plain), str):
            return encode_segment(self.plain, value)
        escape = encode_path if self.operator == "+" else encode_segment
        pieces: list[str] = []
        for variable in self.variables:
            added = variable.pieces(values, escape)
            if not added and self.operator != "/":
                message = (
                    f"argument {variable.name} is missing or empty, and the path needs it; give it a value"
                )
                raise InvalidCall("unsafe-argument", message)
            pieces += added
        return "".join([f"/{piece}" for piece in pieces]) if self.operator == "/" else ",".join(pieces)

    def in_query(self, values: Mapping[str, Json]) -> str | None:
        escape = _encode_but_slashes if self.operator == "+" else encode
        pieces = [variable.pieces(values, escape) for variable in self.variables]
        return ",".join(chain(*pieces)) if all(pieces) else None


Part: TypeAlias = str | Expression


@dataclass(frozen=True, slots=True)
class Pair:
    """``name=value`` as written after the ``?``; ``name`` is decoded, ``offset`` is where it begins."""

    name: str
    parts: tuple[Part, ...]
    first: bool
    offset: int

    def write(self, values: Mapping[str, Json]) -> str | None:
        """The pair; None if one of its arguments is absent."""
        written = [part if isinstance(part, str) else part.in_query(values) for part in self.parts]
        return None if None in written else "".join(filter(None, written))

    @property
    def variables(self) -> tuple[Variable, ...]:
        return _variables(self.parts)

    @property
    def value(self) -> str:
        """What stands after the ``=``, as a text of ``request.query`` would have it."""
        texts = [unquote(p) if isinstance(p, str) else f"{{{p.variables[0].name}}}" for p in self.parts]
        return "".join(texts).partition("=")[2]


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template; ``parameters`` are the variables of ``{?q,limit*}`` and ``{&q}``."""

    path: tuple[Part, ...]
    pairs: tuple[Pair, ...]
    parameters: tuple[tuple[Variable, Parameter], ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Raises ``InvalidSpec`` with every finding, each with its offset into ``text``."""
        parser = _Parser(text)
        parser.findings.raise_errors()
        return parser.template()

    @property
    def variables(self) -> tuple[Variable, ...]:
        return (
            *_variables(self.path),
            *chain(*(pair.variables for pair in self.pairs)),
            *(variable for variable, _ in self.parameters),
        )

    @property
    def has_query(self) -> bool:
        return bool(self.pairs or self.parameters)

    @property
    def names(self) -> frozenset[str]:
        """The arguments in it, without builtins."""
        return frozenset(each.name for each in self.variables if not each.name.startswith("$"))

    @property
    def query_offsets(self) -> dict[str, int]:
        """The query parameters that it writes, but for the members of an exploded object; and where."""
        offsets = {pair.name: pair.offset for pair in self.pairs}
        return {variable.name: variable.offset for variable, _ in self.parameters} | offsets

    def expand(self, values: Mapping[str, Json]) -> str:
        """The whole text; raises ``InvalidCall`` for what cannot stand where it would go."""
        query = "&".join(self.write_query(values, Claims(frozenset(self.query_offsets))))
        return self.write_path(values) + (f"?{query}" if query else "")

    def write_path(self, values: Mapping[str, Json]) -> str:
        path = "".join([part if isinstance(part, str) else part.in_path(values) for part in self.path])
        if leads_elsewhere(path):
            message = "the arguments in the path together would lead elsewhere; pass plain values"
            raise InvalidCall("unsafe-argument", message)
        return path

    def write_query(self, values: Mapping[str, Json], claims: Claims) -> list[str]:
        pairs = [written for pair in self.pairs if (written := pair.write(values)) is not None]
        for variable, parameter in self.parameters:
            pairs += parameter.write(variable.name, variable.value(values), claims)
        return pairs

    def check(self, arguments: Arguments) -> None:
        """Raise ``InvalidSpec`` for names that are no arguments, optional ones that leave a gap, and doubles."""
        findings = Findings()
        placeholders = [Placeholder(each.name, each.offset) for each in self.variables]
        findings.extend(unknown(placeholders, arguments, escapable=False))
        for before, part, after in zip(("", *self.path), self.path, (*self.path[1:], "/"), strict=False):
            if isinstance(part, Expression) and part.operator != "/":
                is_segment = part.plain is not None and _are_slashes(before, after)
                _check_path_variables(part.variables, arguments, findings, is_segment=is_segment)
            if isinstance(part, Expression):
                _check_defaults(part, arguments, findings)
        for pair in self.pairs:
            _check_pair(pair, arguments, findings)
        seen = {pair.name for pair in self.pairs}
        for variable, _ in self.parameters:
            if variable.name in seen:
                message = f"the query parameter {variable.name} is written twice; take one out"
                findings.error("duplicate-parameter", message, offset=variable.offset)
            seen.add(variable.name)
        findings.raise_errors()


def _variables(parts: tuple[Part, ...]) -> tuple[Variable, ...]:
    return tuple(chain(*(part.variables for part in parts if isinstance(part, Expression))))


def _encode_but_slashes(argument: str, text: str) -> str:
    return "/".join([encode(argument, piece) for piece in text.split("/")])


def _is_optional(name: str, arguments: Arguments) -> bool:
    return name in arguments.properties and name not in arguments.required and name not in arguments.defaults


def _are_slashes(before: Part, after: Part) -> bool:
    return isinstance(before, str) and isinstance(after, str) and before[-1:] == "/" == after[0]


def _check_path_variables(
    variables: tuple[Variable, ...], arguments: Arguments, findings: Findings, *, is_segment: bool
) -> None:
    for variable in variables:
        if _is_optional(variable.name, arguments):
            advice = "add it to required, or give it a default"
            if is_segment:
                advice = (
                    "add it to required, give it a default, "
                    f"or write {{/{variable.name}}} without the slash before it"
                )
            message = f"{{{variable.name}}} may be absent, and the path needs it; {advice}"
            findings.error("optional-in-path", message, offset=variable.offset)


def _check_defaults(part: Expression, arguments: Arguments, findings: Findings) -> None:
    """Defaults that stand in the path alone must be able to."""
    if not arguments.defaults.keys() >= {variable.name for variable in part.variables}:
        return
    try:
        part.in_path(arguments.defaults)
    except InvalidCall as problem:
        why = str(problem).partition(";")[0]
        message = f"the default fails in every call: {why}; change it, or require the argument"
        findings.error("bad-default", message, offset=part.variables[0].offset)


def _check_pair(pair: Pair, arguments: Arguments, findings: Findings) -> None:
    for variable in pair.variables:
        if not _is_optional(variable.name, arguments):
            continue
        if pair.name == variable.name:
            advice = f"write {{{'?' if pair.first else '&'}{variable.name}}} in place of the pair"
        else:
            advice = f'write it under request.query as {pair.name}: "{pair.value}"'
        message = f"{{{variable.name}}} may be absent, which would leave {pair.name}= behind; {advice}"
        findings.error("optional-in-query", message, offset=variable.offset)


class _Parser:
    """Takes a template apart from left to right: path, then pairs, then parameters."""

    def __init__(self, text: str) -> None:
        self.findings = Findings()
        self._path: list[Part] = []
        self._pairs: list[tuple[int, list[Part]]] = []
        self._parameters: list[tuple[Variable, Parameter]] = []
        self._told: set[str] = set()  # signs that are wrong are wrong wherever they stand again
        self.findings.extend(secrets_in(text))
        if self.findings.errors:
            return
        for match in _TOKEN.finditer(text):
            if match["literal"]:
                self._literal(match["literal"], match.start())
            elif match["expression"] is not None:
                self._expression(match["expression"], match.start())
            elif "{" not in self._told:
                self._told.add("{")
                message = "this brace has no partner; an argument is {name}, the sign itself %7B or %7D"
                if text.startswith("{{", match.start()):
                    message = (
                        "an argument stands in one pair of braces here; write {name}, or %7B for the sign"
                    )
                self._error(message, match.start())
        self._check_path(text)
        self._check_pairs()

    def template(self) -> Template:
        pairs = [
            Pair(_pair_name(parts), tuple(parts), first=index == 0, offset=offset + 1)
            for index, (offset, parts) in enumerate(self._pairs)
        ]
        return Template(tuple(self._path), tuple(pairs), tuple(self._parameters))

    def _error(self, message: str, offset: int) -> None:
        self.findings.error("bad-template", message, offset=offset)

    def _literal(self, text: str, offset: int) -> None:
        for wrong in _WRONG.finditer(text):
            if wrong[0] in self._told:
                continue
            self._told.add(wrong[0])
            encoded = quote(wrong[0], safe="", errors="replace")
            what = f"{shown(wrong[0])} cannot stand in a URL; write {encoded} for the character"
            if wrong[0] == "#":
                what = f"a fragment is never sent; write {encoded} for the character"
            elif wrong[0] == "<":
                self._told.add(">")
                what = "an argument is {name}, the sign itself %3C"
            self._error(what, offset + wrong.start())
        if self._parameters:
            self._error("nothing may follow {?…} but {&…}; write constants first, as in ?x=1{&q}", offset)
        elif self._pairs:
            self._add_to_pairs(text, offset)
        else:
            path, mark, query = text.partition("?")
            self._path += [_encoded(path, ";")] if path else []
            if mark:
                self._pairs.append((offset + len(path), []))
                self._add_to_pairs(query, offset + len(path) + 1)

    def _add_to_pairs(self, text: str, offset: int) -> None:
        for index, piece in enumerate(text.split("&")):
            if index:
                self._pairs.append((offset - 1, []))
            self._pairs[-1][1].extend([_encoded(piece)] if piece else [])
            offset += len(piece) + 1

    def _expression(self, body: str, offset: int) -> None:
        operator, names = (body[0], body[1:]) if body[:1] in _SIGNS else ("", body)
        if operator in _REFUSED:
            name = names if _VARIABLE.match(names) else "name"
            self._error(f"{{{operator}{name}}}: {_REFUSED[operator].format(name)}", offset)
            return
        variables = tuple(filter(None, self._variables(operator, names, offset)))
        expression = Expression(operator, variables)
        if operator in ("?", "&"):
            self._add_parameters(operator, variables, offset)
        elif self._parameters:
            self._error("nothing may follow {?…} but {&…}; write the path before it", offset)
        elif not self._pairs:
            self._path.append(expression)
        elif operator == "/":
            self._error("{/…} belongs into the path; in the query write name={name}", offset)
        else:
            self._pairs[-1][1].append(expression)

    def _variables(self, operator: str, names: str, offset: int) -> Iterator[Variable | None]:
        if not operator and "," not in names:
            yield self._variable(names, offset)
            return
        offset += 1 + len(operator)
        for name in names.split(","):
            yield self._variable(name, offset)
            offset += len(name) + 1

    def _variable(self, text: str, offset: int) -> Variable | None:
        match = _VARIABLE.match(text)
        if match is None:
            self._error(
                f"{shown(text)} is no argument's name; write {{name}}, {{name*}} or {{name:3}}", offset
            )
            return None
        prefix = int(match["prefix"]) if match["prefix"] else None
        return Variable(intern(match["name"]), bool(match["explode"]), prefix, offset)

    def _add_parameters(self, operator: str, variables: tuple[Variable, ...], offset: int) -> None:
        expected = "&" if self._pairs or self._parameters else "?"
        if operator != expected:
            names = ",".join(variable.name for variable in variables)
            when = "there is no ? before it" if expected == "?" else "the query has begun before it"
            self._error(f"{when}; write {{{expected}{names}}}", offset)
        for variable in variables:
            if variable.name.startswith("$"):
                message = f"a builtin is no parameter's name; write name={{{variable.name}}}"
                self._error(message, variable.offset)
            self._parameters.append((variable, Parameter(variable.name, "form", variable.explode)))

    def _check_path(self, text: str) -> None:
        if _ABSOLUTE.match(text):
            self._error("url is appended to the upstream's baseUrl; begin with /, or take upstream out", 0)
        elif text.startswith("//"):
            self._error("// would begin a host, which no url names; write one /", 0)
        elif not text.startswith("/"):
            self._error("a path begins with / and a constant or {name} after it; put the / there", 0)
        path = "".join(
            [part if isinstance(part, str) else "/x" if part.operator == "/" else "x" for part in self._path]
        )
        if control := _ENCODED_CONTROL.search(text.partition("?")[0]):
            message = "the path has an encoded control character, where some servers cut it; take it out"
            self._error(message, control.start())
        elif leads_elsewhere(path):
            dotted = (part.start() for part in _SEGMENT.finditer(text) if leads_elsewhere(f"/{part[0]}"))
            message = "the path has a . or .. segment, plain or encoded; write where it leads"
            self._error(message, next(dotted, 0))

    def _check_pairs(self) -> None:
        for offset, parts in self._pairs:
            name, mark, _ = parts[0].partition("=") if parts and isinstance(parts[0], str) else ("", "", "")
            if not mark and any(isinstance(part, Expression) for part in parts):
                self._error("a parameter's name cannot hold an argument; write name={name}", offset + 1)
            elif not name:
                self._error("a query parameter without a name; write name=value or take it out", offset)


def _encoded(literal: str, kept: str = "") -> str:
    return literal if _PLAIN.fullmatch(literal) else quote(literal, safe=_LITERAL + kept, errors="replace")


def _pair_name(parts: list[Part]) -> str:
    return unquote(str(parts[0]).partition("=")[0])
