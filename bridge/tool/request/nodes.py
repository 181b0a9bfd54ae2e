"""JSON structures with placeholders in them: ``"{x}"`` keeps its type, what is absent vanishes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from bridge.codec import quote
from bridge.diagnostics import Findings, Route, did_you_mean
from bridge.spec import Json
from bridge.tool.request.placeholders import Text, foreign, may_be, secrets_in, unknown
from bridge.tool.schema.arguments import Arguments


class _Absent:
    __slots__ = ()


ABSENT: Final = _Absent()
"""What a node builds when its arguments were not given; null is not absent."""

Leaf: TypeAlias = tuple[Route, frozenset[str], bool]
"""A place, the arguments that it needs, and whether null counts as given there."""


class Node(Protocol):
    """A part of a structure."""

    def build(self, values: Mapping[str, Json]) -> Json: ...

    def leaves(self) -> Iterator[Leaf]:
        """Where arguments stand; routes are relative to the node."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    value: Json

    def build(self, _: Mapping[str, Json]) -> Json:
        return self.value

    def leaves(self) -> Iterator[Leaf]:
        return iter(())


@dataclass(frozen=True, slots=True)
class Whole:
    """An argument with its JSON type."""

    name: str

    def build(self, values: Mapping[str, Json]) -> Json:
        return values.get(self.name, ABSENT)

    def leaves(self) -> Iterator[Leaf]:
        yield (), frozenset({self.name}), True


@dataclass(frozen=True, slots=True)
class Written:
    """A text with arguments in it."""

    text: Text

    def build(self, values: Mapping[str, Json]) -> Json:
        rendered = self.text.render(values)
        return ABSENT if rendered is None else rendered

    def leaves(self) -> Iterator[Leaf]:
        yield (), self.text.names, False


@dataclass(frozen=True, slots=True)
class Members:
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
            for route, names, nullable in node.leaves():
                yield (key, *route), names, nullable


@dataclass(frozen=True, slots=True)
class Items:
    items: tuple[Node, ...]

    def build(self, values: Mapping[str, Json]) -> Json:
        return [value for node in self.items if (value := node.build(values)) is not ABSENT]

    def leaves(self) -> Iterator[Leaf]:
        for index, node in enumerate(self.items):
            for route, names, nullable in node.leaves():
                yield (index, *route), names, nullable


def compile_structure(value: Json, arguments: Arguments, findings: Findings, *route: str | int) -> Node:
    """``value`` with its texts parsed; what is wrong in it goes to ``findings``, under ``route``."""
    match value:
        case str():
            return compile_text(value, arguments, findings, *route)
        case dict():
            members = {
                key: compile_structure(inner, arguments, findings, *route, key)
                for key, inner in value.items()
            }
            return _folded(Members(tuple(members.items())), members.values())
        case list():
            items = [
                compile_structure(inner, arguments, findings, *route, index)
                for index, inner in enumerate(value)
            ]
            return _folded(Items(tuple(items)), items)
    return Constant(value)


def compile_text(value: str, arguments: Arguments, findings: Findings, *route: str | int) -> Node:
    """The node of one text: constant, one argument with its type, or a text with arguments in it."""
    findings.extend(secrets_in(value), *route)
    findings.extend(foreign(value, arguments), *route)
    text = Text.parse(value)
    if text.constant:
        return Constant(text.render({}))
    if text.whole is not None:
        findings.extend(unknown(text.placeholders, arguments), *route)
        return Whole(text.whole)
    with findings.at(*route):
        text.check(arguments)
    return Written(text)


def _folded(node: Node, inner: Iterable[Node]) -> Node:
    """The node, or the constant that it always builds."""
    return Constant(node.build({})) if all(isinstance(each, Constant) for each in inner) else node


def names(node: Node) -> frozenset[str]:
    """The arguments in a node."""
    return frozenset(name for _, needed, _ in node.leaves() for name in needed)


def is_nested(node: Node, arguments: Arguments) -> bool:
    """Whether the node is, or may be in some call, an array or object."""
    match node:
        case Whole(name):
            return may_be(arguments, name, "array", "object")
        case Constant(value):
            return isinstance(value, dict | list)
    return isinstance(node, Members | Items)


def inner(node: Node) -> Iterable[tuple[str | int, Node]]:
    """The nodes of an array or object, one step in."""
    match node:
        case Members(members):
            return members
        case Items(items):
            return enumerate(items)
        case Constant(dict() as value):
            return [(key, Constant(each)) for key, each in value.items()]
        case Constant(list() as value):
            return enumerate(map(Constant, value))
    return ()


def is_object(node: Node, arguments: Arguments) -> bool:
    """Whether the node is, or may be in some call, an object."""
    match node:
        case Whole(name):
            return may_be(arguments, name, "object")
        case Constant(value):
            return isinstance(value, dict)
    return isinstance(node, Members)


def check_flat(
    node: Node,
    arguments: Arguments,
    findings: Findings,
    *route: str | int,
    advice: str = "send application/json",
) -> None:
    """For forms: a plain value, or a list of plain ones; ``advice`` is how else it can be sent."""
    if is_object(node, arguments) or any(is_nested(each, arguments) for _, each in inner(node)):
        found = f"argument {node.name} may be an object" if isinstance(node, Whole) else "found an object"
        message = f"{found}, and a form carries plain values and lists of them; flatten it, or {advice}"
        findings.error("nested-value", message, *route)


def described(node: Node) -> str:
    """An array or object that may not stand where it does."""
    if isinstance(node, Whole):
        return f"argument {node.name} may be an array or object"
    return "found an array or object"


def check_words(
    written: dict[str, Json], known: tuple[str, ...], findings: Findings, *route: str | int
) -> None:
    """The keys of a mapping that says how a value is sent; ``value`` is the first of them, and needed."""
    words = f"{', '.join(known[:-1])} or {known[-1]}"
    if written.keys().isdisjoint(known) and not any(did_you_mean(word, known) for word in written):
        findings.error("missing-key", f"expected the keys {words}; put what is here under value", *route)
        return
    hints = {word: did_you_mean(word, known) for word in written if word not in known}
    for word, hint in hints.items():
        message = f"unknown key {quote(word)}{hint or f'; expected {words}'}"
        findings.error("unknown-key", message, *route, word, at_key=True)
    if "value" not in written and not any(hint.endswith(" value?") for hint in hints.values()):
        message = 'the key value is missing; add it with what to send, such as "{argument}"'
        findings.error("missing-key", message, *route)
