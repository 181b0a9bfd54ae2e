"""``name=value`` pairs of a query or a form: OpenAPI 3.1's styles, and RFC 6570's ``{?name*}``, which is form."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from bridge.codec import quote
from bridge.diagnostics import Findings, did_you_mean
from bridge.errors import InvalidCall
from bridge.exchange import name_key
from bridge.spec import Json
from bridge.tool.request.nodes import (
    ABSENT,
    Constant,
    Node,
    Whole,
    check_words,
    compile_structure,
    described,
    inner,
    is_nested,
    is_object,
    names,
)
from bridge.tool.request.percent import encode, encode_form, is_plain
from bridge.tool.request.placeholders import SCALARS, may_be, nested_argument, to_text
from bridge.tool.schema.arguments import Arguments
from bridge.tool.schema.violations import excerpt

Style: TypeAlias = Literal["form", "spaceDelimited", "pipeDelimited", "deepObject"]
Escape: TypeAlias = Callable[[str, str], str]
"""From an argument's name and a text to what may stand in a pair."""

_DELIMITERS: Final = {"form": ",", "spaceDelimited": "%20", "pipeDelimited": "%7C"}


class Claims:
    """Names of parameters in one request: those that come with a call may not repeat another one.

    ``taken`` are the names that the tool file writes. ``reserved`` are keys (``name_key``) of those that no call may set.
    """

    __slots__ = ("_claimed", "_reserved", "_taken")

    def __init__(self, taken: Collection[str], reserved: Collection[str] = ()) -> None:
        self._taken = taken
        self._reserved = reserved
        self._claimed: set[str] = set()

    def claim(self, argument: str, name: str) -> None:
        is_reserved = self._reserved and name_key(name) in self._reserved
        if is_reserved or name in self._taken or name in self._claimed:
            message = f"argument {argument} would set a parameter that is already sent or reserved; take that member out"
            raise InvalidCall("unsafe-argument", message)
        self._claimed.add(name)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A name, and how arrays and objects are written under it."""

    name: str
    style: Style = "form"
    explode: bool = True
    encoded: str = field(init=False)

    def __post_init__(self) -> None:
        encoded = self.name if is_plain(self.name) else encode_form(quote(self.name), self.name)
        object.__setattr__(self, "encoded", encoded)

    def write(self, argument: str, value: Json, claims: Claims, escape: Escape = encode) -> list[str]:
        """The pairs, percent-encoded; none for null, for nulls inside, and for what is then empty."""
        if isinstance(value, str):
            return [f"{self.encoded}={escape(argument, value)}"]
        if value is None:
            return []
        if isinstance(value, dict):
            members = {
                key: escape(argument, to_text(argument, member))
                for key, member in value.items()
                if member is not None
            }
            return self._write_object(argument, members, claims, escape)
        if isinstance(value, list):
            items = [escape(argument, to_text(argument, item)) for item in value if item is not None]
            return self._write_array(items)
        return [f"{self.encoded}={escape(argument, to_text(argument, value))}"]

    def _write_array(self, items: list[str]) -> list[str]:
        if self.explode:
            return [f"{self.encoded}={item}" for item in items]
        return [f"{self.encoded}={_DELIMITERS[self.style].join(items)}"] if items else []

    def _write_object(
        self, argument: str, members: dict[str, str], claims: Claims, escape: Escape
    ) -> list[str]:
        deep = self.style == "deepObject"
        if not deep and not self.explode:
            return self._write_array(
                [text for key, member in members.items() for text in (escape(argument, key), member)]
            )
        names = {key: f"{self.name}[{key}]" if deep else key for key in members}
        for name in names.values():
            claims.claim(argument, name)
        return [f"{escape(argument, names[key])}={member}" for key, member in members.items()]


@dataclass(frozen=True, slots=True)
class Entry:
    """One parameter and the structure that makes its value; ``argument`` is for messages."""

    parameter: Parameter
    node: Node
    argument: str

    def write(self, values: Mapping[str, Json], claims: Claims, escape: Escape = encode) -> list[str]:
        value = self.node.build(values)
        return self.parameter.write(self.argument, value, claims, escape) if value is not ABSENT else []


def write_unnamed(members: Mapping[str, Json], claims: Claims, escape: Escape = encode) -> Iterator[str]:
    """Pairs under names that come with the call: plain values and lists of them."""
    for name, value in members.items():
        argument = quote(name)
        escape(argument, name)
        if isinstance(value, dict):
            raise nested_argument(argument)
        claims.claim(argument, name)
        yield from Parameter(name).write(argument, value, claims, escape)


def compile_entry(
    name: str, value: Json, arguments: Arguments, findings: Findings, *route: str | int
) -> Entry:
    """One key of ``request.query``: a scalar, a list of them, or ``{value, style, explode}``."""
    style = explode = None
    if isinstance(value, dict):
        _check_style(value, findings, *route)
        style, explode = value.get("style"), value.get("explode")
        if "value" not in value:
            return Entry(Parameter(name), Constant(None), name)
        value, route = value["value"], (*route, "value")
    node = compile_structure(value, arguments, findings, *route)
    _check_shape(node, style, arguments, findings, *route)
    if explode is None:
        explode = style in (None, "form")
    return Entry(Parameter(name, style or "form", explode), node, ", ".join(sorted(names(node))) or name)


def check_argument(
    name: str, style: str | None, arguments: Arguments, findings: Findings, *route: str | int
) -> None:
    """Whether an argument's type can be written in a style; None is a parameter without one."""
    if style is None and may_be(arguments, name, "object"):
        message = (
            f"argument {name} may be an object, which needs a style in a query; give it another type, "
            f'or write {{value: "{{{name}}}", style: deepObject}} in request.query'
        )
        findings.error("no-style", message, *route)
    if style == "deepObject" and may_be(arguments, name, *SCALARS, "array"):
        message = (
            f"deepObject writes objects, and argument {name} may be something else; give it type: object"
        )
        findings.error("wrong-value", message, *route)


def _check_style(written: dict[str, Json], findings: Findings, *route: str | int) -> None:
    check_words(written, ("value", "style", "explode"), findings, *route)
    style, explode = written.get("style", "form"), written.get("explode", False)
    if style not in get_args(Style):
        hint = did_you_mean(style, get_args(Style)) if isinstance(style, str) else ""
        message = f"found {excerpt(style)}, expected one of {', '.join(get_args(Style))}{hint}"
        findings.error("wrong-value", message, *route, "style")
    if not isinstance(explode, bool):
        findings.error("wrong-value", f"found {excerpt(explode)}, expected true or false", *route, "explode")
    elif explode and style in ("spaceDelimited", "pipeDelimited"):
        message = f"{style} writes one pair, and OpenAPI does not explode it; take explode out, or use form"
        findings.error("wrong-value", message, *route, "explode")


def _check_shape(
    node: Node, style: str | None, arguments: Arguments, findings: Findings, *route: str | int
) -> None:
    """What is known, before any call, of whether the value can be written in its style."""
    match node:
        case Constant(None):
            findings.error("wrong-value", "null is never sent; write a value, or take the key out", *route)
            return
        case Whole(name):
            check_argument(name, style, arguments, findings, *route)
            return
    object_like = is_object(node, arguments)
    if object_like and style is None:
        findings.error(
            "no-style", "an object needs a style in a query; add style: deepObject or form", *route
        )
    if not object_like and style == "deepObject":
        message = "deepObject writes objects; write an object here, or take the style out"
        findings.error("wrong-value", message, *route)
    for key, each in inner(node):
        if is_nested(each, arguments):
            message = f"{described(each)}, and a query carries none inside another; flatten it"
            findings.error("nested-value", message, *route, key)
