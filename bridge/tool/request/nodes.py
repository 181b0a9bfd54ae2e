"""JSON values with placeholders, such as ``request.body``: at load a tree of nodes, from which each call builds its value.

| Written | Node | Built for ``{"x": 1}`` | Built without ``x`` |
|---|---|---|---|
| ``a`` | ``ConstantNode`` | ``"a"`` | ``"a"`` |
| ``"{x}"`` | ``ArgumentNode`` | ``1``: the argument keeps its JSON type | ``ABSENT`` |
| ``"a{x}"`` | ``TextNode`` | ``"a1"`` | ``ABSENT`` |
| ``{k: "{x}", l: a}`` | ``ObjectNode`` | ``{"k": 1, "l": "a"}`` | ``{"l": "a"}`` |
| ``["{x}", a]`` | ``ListNode`` | ``[1, "a"]`` | ``["a"]`` |

An object or list leaves out absent members, and is never absent itself.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from bridge.codec import quote
from bridge.diagnostics import Findings, Route, nearest
from bridge.spec import Json
from bridge.tool.request.placeholders import (
    Text,
    foreign_placeholder,
    may_be,
    misplaced_secrets,
    unknown_placeholders,
)
from bridge.tool.schema.arguments import Arguments


class _Absent:
    __slots__ = ()


ABSENT: Final = _Absent()
"""What a node builds if an argument is absent. A null is not absent: ``ArgumentNode`` sends it."""


class Leaf(NamedTuple):
    """A value in the tree that is built from arguments: it is sent only if all of ``names`` have a value.

    ``route`` leads to it from the node that was asked, ``nullable`` is whether it is sent as null, too.
    """

    route: Route
    names: frozenset[str]
    nullable: bool = False

    def under(self, step: str | int) -> "Leaf":
        return self._replace(route=(step, *self.route))


class Node(Protocol):
    """One value of the tree."""

    def build(self, values: Mapping[str, Json]) -> Json:
        """The value for the arguments and builtins of a call, or ``ABSENT``."""
        ...

    def leaves(self) -> Iterator[Leaf]:
        """Every value below the node, or the node itself, that is built from arguments."""
        ...


@dataclass(frozen=True, slots=True)
class ConstantNode:
    value: Json

    def build(self, _: Mapping[str, Json]) -> Json:
        return self.value

    def leaves(self) -> Iterator[Leaf]:
        return iter(())


@dataclass(frozen=True, slots=True)
class ArgumentNode:
    """An argument with its JSON type."""

    name: str

    def build(self, values: Mapping[str, Json]) -> Json:
        return values.get(self.name, ABSENT)

    def leaves(self) -> Iterator[Leaf]:
        yield Leaf((), frozenset({self.name}), nullable=True)


@dataclass(frozen=True, slots=True)
class TextNode:
    """A text with arguments in it."""

    text: Text

    def build(self, values: Mapping[str, Json]) -> Json:
        rendered = self.text.render(values)
        return ABSENT if rendered is None else rendered

    def leaves(self) -> Iterator[Leaf]:
        yield Leaf((), self.text.names)


@dataclass(frozen=True, slots=True)
class ObjectNode:
    members: tuple[tuple[str, Node], ...]

    def build(self, values: Mapping[str, Json]) -> Json:
        built = {}
        for key, node in self.members:
            value = node.build(values)
            if value is not ABSENT:
                built[key] = value
        return built

    def leaves(self) -> Iterator[Leaf]:
        for key, node in self.members:
            yield from (leaf.under(key) for leaf in node.leaves())


@dataclass(frozen=True, slots=True)
class ListNode:
    items: tuple[Node, ...]

    def build(self, values: Mapping[str, Json]) -> Json:
        return [value for node in self.items if (value := node.build(values)) is not ABSENT]

    def leaves(self) -> Iterator[Leaf]:
        for index, node in enumerate(self.items):
            yield from (leaf.under(index) for leaf in node.leaves())


def compile_node(value: Json, arguments: Arguments, findings: Findings, *route: str | int) -> Node:
    """The node for ``value``; errors go to ``findings`` under ``route``."""
    match value:
        case str():
            return _compile_text(value, arguments, findings, *route)
        case dict():
            members = {
                key: compile_node(member, arguments, findings, *route, key) for key, member in value.items()
            }
            return _fold_constant(ObjectNode(tuple(members.items())), members.values())
        case list():
            items = [
                compile_node(member, arguments, findings, *route, index) for index, member in enumerate(value)
            ]
            return _fold_constant(ListNode(tuple(items)), items)
    return ConstantNode(value)


def _compile_text(value: str, arguments: Arguments, findings: Findings, *route: str | int) -> Node:
    """The node for one text: a constant, a single argument with its type, or a text with placeholders."""
    findings.extend(misplaced_secrets(value), *route)
    findings.extend(foreign_placeholder(value, arguments), *route)
    text = Text.parse(value)
    if text.is_constant:
        # Rendered, as {{name}} stands for {name}.
        return ConstantNode(text.render({}))
    if text.whole_argument is not None:
        findings.extend(unknown_placeholders(text.placeholders, arguments), *route)
        return ArgumentNode(text.whole_argument)
    with findings.at(*route):
        text.check(arguments)
    return TextNode(text)


def _fold_constant(node: Node, members: Iterable[Node]) -> Node:
    """The node, or its constant value, if all of its ``members`` are constant."""
    return ConstantNode(node.build({})) if all(isinstance(each, ConstantNode) for each in members) else node


def argument_names(node: Node) -> frozenset[str]:
    """The arguments of a node and of all nodes below it."""
    return frozenset(name for leaf in node.leaves() for name in leaf.names)


def may_be_array_or_object(node: Node, arguments: Arguments) -> bool:
    """Whether a call can build an array or object from the node."""
    match node:
        case ArgumentNode(name):
            return may_be(arguments, name, "array", "object")
        case ConstantNode(value):
            return isinstance(value, dict | list)
    return isinstance(node, ObjectNode | ListNode)


def children(node: Node) -> Iterable[tuple[str | int, Node]]:
    """The direct children of an array or object, with their keys."""
    match node:
        case ObjectNode(members):
            return members
        case ListNode(items):
            return enumerate(items)
        case ConstantNode(dict() as value):
            return [(key, ConstantNode(each)) for key, each in value.items()]
        case ConstantNode(list() as value):
            return enumerate(map(ConstantNode, value))
    return ()


def may_be_object(node: Node, arguments: Arguments) -> bool:
    """Whether a call can build an object from the node."""
    match node:
        case ArgumentNode(name):
            return may_be(arguments, name, "object")
        case ConstantNode(value):
            return isinstance(value, dict)
    return isinstance(node, ObjectNode)


def check_flat(
    node: Node,
    arguments: Arguments,
    findings: Findings,
    *route: str | int,
    advice: str = "send application/json",
) -> None:
    """Report a value that a form cannot contain; ``advice`` is another way to send it."""
    if isinstance(node, ArgumentNode) and may_be_object(node, arguments):
        found = f"argument {node.name} may be an object"
    elif may_be_object(node, arguments):
        found = "found an object"
    elif any(may_be_array_or_object(each, arguments) for _, each in children(node)):
        found = "found an array or object in a list"
    else:
        return
    message = f"{found}, but a form carries only scalars and lists of scalars; flatten it, or {advice}"
    findings.error("nested-value", message, *route)


def found_array_or_object(node: Node) -> str:
    """The start of a message about a node for which ``may_be_array_or_object`` is true."""
    if isinstance(node, ArgumentNode):
        return f"argument {node.name} may be an array or object"
    return "found an array or object"


def check_keys(
    written: dict[str, Json], known: tuple[str, ...], findings: Findings, *route: str | int
) -> None:
    """Check the keys of a mapping that says how a value is sent, such as ``{value: "{x}", encoding: base64}``.

    ``value`` is required. ``known`` are all keys, for messages in this order.
    """
    expected = f"{', '.join(known[:-1])} or {known[-1]}"
    similar = {key: nearest(key, known) for key in written if key not in known}
    if len(similar) == len(written) and not any(similar.values()):
        # The mapping is the value itself: {gte: "{x}"} in place of {value: {gte: "{x}"}, style: deepObject}.
        findings.error("missing-key", f"expected the keys {expected}; move this under the key value", *route)
        return
    for key, near in similar.items():
        advice = f"did you mean {near}?" if near else f"expected {expected}"
        findings.error("unknown-key", f"unknown key {quote(key)}; {advice}", *route, key, at_key=True)
    if "value" not in written and "value" not in similar.values():
        message = 'the key value is missing; add it with what to send, such as "{argument}"'
        findings.error("missing-key", message, *route)
