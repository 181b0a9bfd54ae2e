"""``name=value`` pairs of a query or form, in the styles of OpenAPI 3.1.

The parameter ``p`` is written as follows:

| style | explode | ``[1, 2]`` | ``{"a": 1, "b": 2}`` |
|---|---|---|---|
| form | true | ``p=1&p=2`` | ``a=1&b=2`` |
| form | false | ``p=1,2`` | ``p=a,1,b,2`` |
| spaceDelimited | false | ``p=1%202`` | ``p=a%201%20b%202`` |
| pipeDelimited | false | ``p=1%7C2`` | ``p=a%7C1%7Cb%7C2`` |
| deepObject | | | ``p%5Ba%5D=1&p%5Bb%5D=2`` |

In a URL template (RFC 6570), ``{?p*}`` is style form with explode, and ``{?p}`` is style form without it.
An exploded object takes parameter names from the call: ``ClaimedNames`` refuses those that are already sent.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from bridge.codec import quote
from bridge.diagnostics import Findings, did_you_mean
from bridge.errors import InvalidCall
from bridge.exchange import name_key
from bridge.spec import Json
from bridge.tool.quoting import excerpt
from bridge.tool.request.nodes import (
    ABSENT,
    ArgumentNode,
    ConstantNode,
    Node,
    argument_names,
    check_keys,
    children,
    compile_node,
    found_array_or_object,
    may_be_array_or_object,
    may_be_object,
)
from bridge.tool.request.percent import encode, encode_form, is_unreserved
from bridge.tool.request.placeholders import SCALARS, may_be, nested_argument, to_text
from bridge.tool.schema.arguments import Arguments

Style: TypeAlias = Literal["form", "spaceDelimited", "pipeDelimited", "deepObject"]
Escape: TypeAlias = Callable[[str, str], str]
"""Takes an argument's name and a text, returns the text percent-encoded."""

_DELIMITERS: Final = {"form": ",", "spaceDelimited": "%20", "pipeDelimited": "%7C"}


class ClaimedNames:
    """The parameter names of one request that come from arguments. None of them may repeat another name.

    For example, with ``?role=user{&filter*}`` in the file, the argument ``filter`` may not be ``{"role": "admin"}``.
    ``taken`` are the names in the tool file. ``reserved`` are keys (``name_key``) of names that no call may set.
    """

    __slots__ = ("_claimed", "_reserved", "_taken")

    def __init__(self, taken: Collection[str], reserved: Collection[str] = ()) -> None:
        self._taken = taken
        self._reserved = reserved
        self._claimed: set[str] = set()

    def claim(self, argument: str, name: str) -> None:
        """Raise ``InvalidCall`` if the name is taken, reserved or already claimed."""
        is_reserved = self._reserved and name_key(name) in self._reserved
        if is_reserved or name in self._taken or name in self._claimed:
            message = f"argument {argument} would set a parameter that is already sent or reserved; take that member out"
            raise InvalidCall("unsafe-argument", message)
        self._claimed.add(name)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter name, and the style of its arrays and objects."""

    name: str
    style: Style = "form"
    explode: bool = True
    encoded: str = field(init=False)

    def __post_init__(self) -> None:
        encoded = self.name if is_unreserved(self.name) else encode_form(quote(self.name), self.name)
        # Derived once, and past ``frozen``: with slots there is no cached_property.
        object.__setattr__(self, "encoded", encoded)

    def write(self, argument: str, value: Json, claims: ClaimedNames, escape: Escape = encode) -> list[str]:
        """The percent-encoded pairs. Null, an empty array and an empty object give none; nulls inside are left out.

        Raises ``InvalidCall``, also for nested arrays and objects.
        """
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
        self, argument: str, members: dict[str, str], claims: ClaimedNames, escape: Escape
    ) -> list[str]:
        is_deep = self.style == "deepObject"
        if not is_deep and not self.explode:
            return self._write_array(
                [text for key, member in members.items() for text in (escape(argument, key), member)]
            )
        pairs = []
        for key, member in members.items():
            name = f"{self.name}[{key}]" if is_deep else key
            claims.claim(argument, name)
            pairs.append(f"{escape(argument, name)}={member}")
        return pairs


@dataclass(frozen=True, slots=True)
class Entry:
    """One parameter and its value. ``argument`` are the names of its arguments, for messages."""

    parameter: Parameter
    node: Node
    argument: str = field(init=False)

    def __post_init__(self) -> None:
        names = ", ".join(sorted(argument_names(self.node)))
        object.__setattr__(self, "argument", names or self.parameter.name)

    def write(self, values: Mapping[str, Json], claims: ClaimedNames, escape: Escape = encode) -> list[str]:
        value = self.node.build(values)
        return self.parameter.write(self.argument, value, claims, escape) if value is not ABSENT else []


def write_undeclared(
    members: Mapping[str, Json], claims: ClaimedNames, escape: Escape = encode
) -> Iterator[str]:
    """The pairs of undeclared arguments; raises ``InvalidCall`` for objects and nested arrays."""
    for name, value in members.items():
        argument = quote(name)
        escape(argument, name)  # raises for a control character in the name, which Parameter accepts
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
            # ``check_keys`` has reported that there is no value. The entry only holds the name.
            return Entry(Parameter(name), ConstantNode(None))
        value, route = value["value"], (*route, "value")
    node = compile_node(value, arguments, findings, *route)
    _check_shape(node, style, arguments, findings, *route)
    if explode is None:
        # The default of OpenAPI 3.1 (Parameter Object, explode).
        explode = style in (None, "form")
    return Entry(Parameter(name, style or "form", explode), node)


def check_argument(
    name: str, style: str | None, arguments: Arguments, findings: Findings, *route: str | int
) -> None:
    """Report an argument whose type the style cannot express. ``style`` is None if the file does not set it."""
    if style is None and may_be(arguments, name, "object"):
        message = (
            f"argument {name} may be an object, which needs a style in a query; give it another type, "
            f'or write {{value: "{{{name}}}", style: deepObject}} in request.query'
        )
        findings.error("no-style", message, *route)
    if style == "deepObject" and may_be(arguments, name, *SCALARS, "array"):
        message = (
            f"deepObject needs an object, but argument {name} may be of another type; give it type: object"
        )
        findings.error("wrong-value", message, *route)


def _check_style(written: dict[str, Json], findings: Findings, *route: str | int) -> None:
    check_keys(written, ("value", "style", "explode"), findings, *route)
    style, explode = written.get("style", "form"), written.get("explode", False)
    if style not in get_args(Style):
        hint = did_you_mean(style, get_args(Style)) if isinstance(style, str) else ""
        message = f"found {excerpt(style)}, expected one of {', '.join(get_args(Style))}{hint}"
        findings.error("wrong-value", message, *route, "style")
    if not isinstance(explode, bool):
        findings.error("wrong-value", f"found {excerpt(explode)}, expected true or false", *route, "explode")
    elif explode and style in ("spaceDelimited", "pipeDelimited"):
        message = f"{style} writes one pair, which OpenAPI cannot explode; take out explode, or use form"
        findings.error("wrong-value", message, *route, "explode")


def _check_shape(
    node: Node, style: str | None, arguments: Arguments, findings: Findings, *route: str | int
) -> None:
    """Report a value that its style cannot express, as far as the schema shows it."""
    match node:
        case ConstantNode(None):
            findings.error("wrong-value", "null is never sent; write a value, or take the key out", *route)
            return
        case ArgumentNode(name):
            check_argument(name, style, arguments, findings, *route)
            return
    is_object = may_be_object(node, arguments)
    if is_object and style is None:
        message = "an object needs a style in a query; add style: deepObject or form"
        findings.error("no-style", message, *route)
    if not is_object and style == "deepObject":
        message = "deepObject needs an object; write an object here, or take out the style"
        findings.error("wrong-value", message, *route)
    for key, each in children(node):
        if may_be_array_or_object(each, arguments):
            message = f"{found_array_or_object(each)}, but a query cannot nest them; flatten it"
            findings.error("nested-value", message, *route, key)
