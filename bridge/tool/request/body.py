"""Request bodies. The content type decides what ``request.body`` means.

| Content type | ``request.body`` | Class |
|---|---|---|
| JSON | any value with placeholders | ``_JsonBody`` |
| ``application/x-www-form-urlencoded`` | a mapping of scalars and lists, or one argument that is an object | ``_FormBody`` |
| ``multipart/form-data`` | a mapping of parts | ``multipart.MultipartBody`` |
| any other | one text, or base64 of bytes | ``_TextBody`` |

Without ``request.body``, the unplaced arguments (see ``builder``) become the members of a JSON body, the fields of a
form or the parts of a multipart body.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from bridge.diagnostics import Findings
from bridge.spec import Json
from bridge.tool.request import multipart
from bridge.tool.request.media import (
    FORM,
    MULTIPART,
    check_base64,
    is_json,
    media_type,
    write_bytes,
    write_json,
)
from bridge.tool.request.nodes import (
    ABSENT,
    ArgumentNode,
    ConstantNode,
    Leaf,
    Node,
    ObjectNode,
    argument_names,
    check_flat,
    check_keys,
    children,
    compile_node,
    found_array_or_object,
    may_be_array_or_object,
)
from bridge.tool.request.percent import encode_form
from bridge.tool.request.placeholders import SCALARS, may_be
from bridge.tool.request.query import ClaimedNames, Entry, Parameter, write_undeclared
from bridge.tool.schema.arguments import Arguments

Content: TypeAlias = tuple[bytes, str]
"""A body and its Content-Type."""
_JSON_TEXT: Final = re.compile(r'\s*(?:\{\s*"|\[)')
"""How a JSON object or array begins. A placeholder, ``{name}``, does not match."""


class Body(Protocol):
    """A compiled body."""

    def build(self, values: Mapping[str, Json], undeclared: Mapping[str, Json]) -> Content | None:
        """The body; None if an argument that the whole body needs is absent. Raises ``InvalidCall``.

        ``undeclared`` are arguments outside ``properties``. There are none with an explicit ``request.body``.
        """
        ...

    def leaves(self) -> Iterator[Leaf]:
        """The values in the body that are built from arguments."""
        ...


def compile_body(
    value: Json, content_type: str, arguments: Arguments, findings: Findings, *route: str | int
) -> Body:
    """The body for ``request.body``."""
    kind = media_type(content_type)
    if kind == MULTIPART:
        return multipart.compile_multipart(value, arguments, findings, *route)
    if kind == FORM:
        node = compile_node(value, arguments, findings, *route)
        return _compile_form(node, content_type, arguments, findings, *route)
    if is_json(content_type):
        # Such as body: '{"name": "{name}"}' in YAML.
        if isinstance(value, str) and _JSON_TEXT.match(value):
            message = (
                "this body is a string and would be sent as a JSON string; take off the quotes around it"
            )
            findings.warn("quoted-body", message, *route)
        return _JsonBody(compile_node(value, arguments, findings, *route), content_type)
    return _compile_text(value, content_type, arguments, findings, *route)


def compile_unplaced(
    unplaced: tuple[str, ...], content_type: str, arguments: Arguments, findings: Findings, *route: str | int
) -> Body | None:
    """The body for arguments that the tool file does not name; None for a text, which has no named members."""
    kind = media_type(content_type)
    if kind == MULTIPART:
        return multipart.compile_unplaced(unplaced, arguments, findings, *route)
    node = ObjectNode(tuple((name, ArgumentNode(name)) for name in unplaced))
    if kind == FORM:
        return _compile_form(node, content_type, arguments, findings, *route)
    return _JsonBody(node, content_type) if is_json(content_type) else None


@dataclass(frozen=True, slots=True)
class _JsonBody:
    node: Node
    content_type: str

    def build(self, values: Mapping[str, Json], undeclared: Mapping[str, Json]) -> Content | None:
        value = self.node.build(values)
        if value is ABSENT:
            return None
        # With undeclared arguments there is no request.body, so the value is an object.
        return write_json({**value, **undeclared} if undeclared else value), self.content_type

    def leaves(self) -> Iterator[Leaf]:
        return self.node.leaves()


@dataclass(frozen=True, slots=True)
class _FormBody:
    """A form: either ``entries``, or the members of ``whole_argument``, which is an object."""

    entries: tuple[Entry, ...]
    whole_argument: str | None
    content_type: str

    def build(self, values: Mapping[str, Json], undeclared: Mapping[str, Json]) -> Content | None:
        members = undeclared
        if self.whole_argument is not None:
            argument = values.get(self.whole_argument)
            if argument is None:
                return None
            # Nothing is undeclared here: there is a request.body.
            members = argument
        # Nothing is taken: entries are not objects, and undeclared arguments are not named like an entry.
        claims = ClaimedNames(taken=())
        pairs: list[str] = []
        for entry in self.entries:
            pairs += entry.write(values, claims, encode_form)
        pairs += write_undeclared(members, claims, encode_form)
        return "&".join(pairs).encode(), self.content_type

    def leaves(self) -> Iterator[Leaf]:
        if self.whole_argument is not None:
            yield Leaf((), frozenset({self.whole_argument}))
        for entry in self.entries:
            for leaf in entry.node.leaves():
                # A form has no null: the pair is left out.
                yield leaf.under(entry.parameter.name)._replace(nullable=False)


@dataclass(frozen=True, slots=True)
class _TextBody:
    """A text, or bytes that are written in base64. ``argument`` are the names of its arguments, for messages."""

    node: Node
    argument: str
    is_base64: bool
    content_type: str

    def build(self, values: Mapping[str, Json], _: Mapping[str, Json]) -> Content | None:
        value = self.node.build(values)
        if value is ABSENT or value is None:
            return None
        return write_bytes(self.argument, value, is_base64=self.is_base64), self.content_type

    def leaves(self) -> Iterator[Leaf]:
        for leaf in self.node.leaves():
            yield leaf._replace(nullable=False)


def _compile_form(
    node: Node, content_type: str, arguments: Arguments, findings: Findings, *route: str | int
) -> _FormBody:
    match node:
        case ArgumentNode(name):
            if may_be(arguments, name, "array", *SCALARS):
                message = f"a form needs an object, but argument {name} may be of another type; give it type: object"
                findings.error("wrong-value", message, *route)
            return _FormBody((), name, content_type)
        case ObjectNode() | ConstantNode(dict()):
            entries = []
            for key, each in children(node):
                check_flat(each, arguments, findings, *route, key)
                entries.append(Entry(Parameter(str(key)), each))
            return _FormBody(tuple(entries), None, content_type)
    findings.error("wrong-value", "expected a form as a mapping; write {name: value}", *route)
    return _FormBody((), None, content_type)


def _compile_text(
    written: Json, content_type: str, arguments: Arguments, findings: Findings, *route: str | int
) -> _TextBody:
    """The body for a text, or for ``{value, encoding: base64}``."""
    spec = written if isinstance(written, dict) else {"value": written}
    inside = (*route, "value") if isinstance(written, dict) else route
    check_keys(spec, ("value", "encoding"), findings, *route)
    node = compile_node(spec.get("value", ""), arguments, findings, *inside)
    if may_be_array_or_object(node, arguments):
        advice = "give it another type" if isinstance(node, ArgumentNode) else "write a text"
        message = f"{found_array_or_object(node)}, but {content_type} is sent as a single text; {advice}, or send application/json"
        findings.error("nested-value", message, *inside)
    check_base64(spec, node, findings, *route)
    return _TextBody(node, ", ".join(sorted(argument_names(node))), "encoding" in spec, content_type)
