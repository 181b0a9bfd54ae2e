"""URL templates in the syntax of RFC 6570, and their expansion. No argument can cause a path traversal.

A template has a path and a query. The query begins with literal pairs, which may contain expressions. Form
expressions may follow:

| Expression | Where | Expands to |
|---|---|---|
| ``{id}`` | path, value of a pair | the value, percent-encoded; a list is joined with commas |
| ``{+file}`` | path, value of a pair | the same, but slashes stay slashes |
| ``{/part}``, ``{/part*}`` | path | a slash and the value, or each item of the list after a slash |
| ``{?q,limit}``, ``{&page*}`` | end of the query | ``q=…&limit=…``; an absent value gives no parameter |

The path needs a value for ``{id}`` and ``{+file}``. ``{/part}`` brings its own slash, so its argument may be absent.
A pair is left out if a value in it is absent. The operators ``#``, ``.`` and ``;`` are not supported.

``url_template_parser`` makes a ``UrlTemplate`` of a text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeAlias
from urllib.parse import unquote

from bridge.diagnostics import Findings
from bridge.errors import InvalidCall
from bridge.spec import Json
from bridge.tool.request.percent import encode, encode_path, encode_segment, has_path_traversal
from bridge.tool.request.placeholders import Placeholder, to_text, unknown_placeholders
from bridge.tool.request.query import ClaimedNames, Escape, Parameter
from bridge.tool.schema.arguments import Arguments


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of an expression; ``prefix`` is its maximum length in characters (RFC 6570 2.4.1).

    ``offset`` is where findings about it point: to its name, or to the brace of a plain ``{name}``.
    """

    name: str
    explode: bool
    prefix: int | None
    offset: int

    def value(self, values: Mapping[str, Json]) -> Json:
        """The value, cut to its prefix; None if it is null, absent or empty (RFC 6570 2.3)."""
        value = values.get(self.name)
        if value is None or value in ([], {}):
            return None
        return value if self.prefix is None else to_text(self.name, value)[: self.prefix]

    def pieces(self, values: Mapping[str, Json], escape: Escape) -> list[str]:
        """The encoded value (RFC 6570 3.2.1): no piece if it is empty, several only if it is exploded.

        With ``explode``, ``["a", "b"]`` gives ``a`` and ``b``, otherwise ``a,b``. Likewise ``{"k": "v"}`` gives
        ``k=v``, otherwise ``k,v``.
        """
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
    """An expression of the path or of a pair; ``operator`` is empty, ``+`` or ``/``."""

    operator: str
    variables: tuple[Variable, ...]
    simple_name: str | None = field(init=False)
    """The name if the expression is ``{name}``. This is the most common case, so it has a fast path."""

    def __post_init__(self) -> None:
        is_simple = not self.operator and len(self.variables) == 1 and self.variables[0].prefix is None
        # Derived once, and past ``frozen``: with slots there is no cached_property.
        object.__setattr__(self, "simple_name", self.variables[0].name if is_simple else None)

    def expand_in_path(self, values: Mapping[str, Json]) -> str:
        """Raises ``InvalidCall`` for a missing value, and for one that the path cannot contain."""
        if self.simple_name is not None and isinstance(value := values.get(self.simple_name), str):
            return encode_segment(self.simple_name, value)
        escape = encode_path if self.operator == "+" else encode_segment
        pieces: list[str] = []
        for variable in self.variables:
            added = variable.pieces(values, escape)
            if not added and self.operator != "/":
                message = (
                    f"argument {variable.name} is missing or empty, but the path needs it; give it a value"
                )
                raise InvalidCall("unsafe-argument", message)
            pieces += added
        return "".join([f"/{piece}" for piece in pieces]) if self.operator == "/" else ",".join(pieces)

    def expand_in_query(self, values: Mapping[str, Json]) -> str | None:
        """None if a variable has no value: it is absent, null, or an empty array or object."""
        escape = _encode_except_slashes if self.operator == "+" else encode
        pieces = [variable.pieces(values, escape) for variable in self.variables]
        return ",".join(chain(*pieces)) if all(pieces) else None


Part: TypeAlias = str | Expression


@dataclass(frozen=True, slots=True)
class Pair:
    """A literal ``name=value`` of the query; ``name`` is decoded, ``offset`` is where the pair starts."""

    name: str
    parts: tuple[Part, ...]
    is_first: bool
    offset: int

    def write(self, values: Mapping[str, Json]) -> str | None:
        """The encoded pair; None if one of its arguments is absent."""
        written = [part if isinstance(part, str) else part.expand_in_query(values) for part in self.parts]
        # No part is None in the second case: filter tells mypy.
        return None if None in written else "".join(filter(None, written))

    @property
    def variables(self) -> tuple[Variable, ...]:
        return _variables(self.parts)

    @property
    def value(self) -> str:
        """The part after the ``=``, as it would be written in ``request.query``: ``is:{q}`` for ``search=is%3A{q}``."""
        texts = [unquote(p) if isinstance(p, str) else f"{{{p.variables[0].name}}}" for p in self.parts]
        return "".join(texts).partition("=")[2]


@dataclass(frozen=True, slots=True)
class UrlTemplate:
    """A parsed template. ``form_parameters`` are the variables of ``{?q,limit*}`` and ``{&q}``."""

    path: tuple[Part, ...] = ()
    pairs: tuple[Pair, ...] = ()
    form_parameters: tuple[tuple[Variable, Parameter], ...] = ()

    @property
    def variables(self) -> tuple[Variable, ...]:
        return (
            *_variables(self.path),
            *chain(*(pair.variables for pair in self.pairs)),
            *(variable for variable, _ in self.form_parameters),
        )

    @property
    def has_query(self) -> bool:
        return bool(self.pairs or self.form_parameters)

    @property
    def query_offsets(self) -> dict[str, int]:
        """Query parameter name → offset. The members of an exploded object are not known before a call."""
        offsets = {pair.name: pair.offset for pair in self.pairs}
        return {variable.name: variable.offset for variable, _ in self.form_parameters} | offsets

    def write_path(self, values: Mapping[str, Json]) -> str:
        """The encoded path; raises ``InvalidCall`` for a missing value or a path traversal."""
        # Values that are harmless alone, %2 and e, are together an encoded dot: {a}{b} becomes %252e.
        path = "".join([part if isinstance(part, str) else part.expand_in_path(values) for part in self.path])
        if has_path_traversal(path):
            message = "the arguments together would change the path; pass plain values"
            raise InvalidCall("unsafe-argument", message)
        return path

    def write_query(self, values: Mapping[str, Json], claims: ClaimedNames) -> list[str]:
        """The encoded pairs; raises ``InvalidCall``."""
        pairs = [written for pair in self.pairs if (written := pair.write(values)) is not None]
        for variable, parameter in self.form_parameters:
            pairs += parameter.write(variable.name, variable.value(values), claims)
        return pairs

    def check(self, arguments: Arguments) -> None:
        """Raise ``InvalidSpec`` for unknown arguments, for optional ones that need a value, and for duplicates."""
        findings = Findings()
        placeholders = [Placeholder(each.name, each.offset) for each in self.variables]
        findings.extend(unknown_placeholders(placeholders, arguments, escapable=False))
        for index, part in enumerate(self.path):
            if isinstance(part, Expression):
                if part.operator != "/":
                    is_segment = self._is_whole_segment(index, part)
                    _check_path_variables(part.variables, arguments, findings, is_segment=is_segment)
                _check_defaults(part, arguments, findings)
        for pair in self.pairs:
            _check_pair(pair, arguments, findings)
        self._check_names(findings)
        findings.raise_errors()

    def _is_whole_segment(self, index: int, expression: Expression) -> bool:
        """Whether ``{/name}`` could replace the expression: it is ``{name}`` between slashes, or at the end."""
        before = self.path[index - 1]  # the parser requires a constant first, so this is never the last part
        after = self.path[index + 1] if index + 1 < len(self.path) else "/"
        return (
            expression.simple_name is not None
            and isinstance(before, str)
            and isinstance(after, str)
            and before.endswith("/")
            and after.startswith("/")
        )

    def _check_names(self, findings: Findings) -> None:
        seen = {pair.name for pair in self.pairs}
        for variable, _ in self.form_parameters:
            if variable.name in seen:
                message = f"the query parameter {variable.name} is written twice; take one out"
                findings.error("duplicate-parameter", message, offset=variable.offset)
            seen.add(variable.name)


def _variables(parts: tuple[Part, ...]) -> tuple[Variable, ...]:
    return tuple(chain(*(part.variables for part in parts if isinstance(part, Expression))))


def _encode_except_slashes(argument: str, text: str) -> str:
    return "/".join([encode(argument, piece) for piece in text.split("/")])


def _is_optional(name: str, arguments: Arguments) -> bool:
    return name in arguments.properties and name not in arguments.required and name not in arguments.defaults


def _check_path_variables(
    variables: tuple[Variable, ...], arguments: Arguments, findings: Findings, *, is_segment: bool
) -> None:
    for variable in variables:
        if not _is_optional(variable.name, arguments):
            continue
        if is_segment:
            optional = f"{{/{variable.name}}}"
            advice = f"add it to required, give it a default, or write {optional} without the slash before it"
        else:
            advice = "add it to required, or give it a default"
        message = f"{{{variable.name}}} may be absent, but the path needs it; {advice}"
        findings.error("optional-in-path", message, offset=variable.offset)


def _check_defaults(part: Expression, arguments: Arguments, findings: Findings) -> None:
    """Report a default that the path cannot contain, such as ``..``.

    An expression is expanded as a whole, so this is possible only if all its variables have defaults.
    """
    if not arguments.defaults.keys() >= {variable.name for variable in part.variables}:
        return
    try:
        part.expand_in_path(arguments.defaults)
    except InvalidCall as problem:
        why = str(problem).partition(";")[0]  # without the advice, which is for callers
        message = f"the default fails in every call: {why}; change it, or require the argument"
        findings.error("bad-default", message, offset=part.variables[0].offset)


def _check_pair(pair: Pair, arguments: Arguments, findings: Findings) -> None:
    for variable in pair.variables:
        if not _is_optional(variable.name, arguments):
            continue
        if pair.name == variable.name:
            advice = f"write {{{'?' if pair.is_first else '&'}{variable.name}}} in place of the pair"
        else:
            advice = f'write it under request.query as {pair.name}: "{pair.value}"'
        message = f"{{{variable.name}}} may be absent, which would leave {pair.name}= behind; {advice}"
        findings.error("optional-in-query", message, offset=variable.offset)
