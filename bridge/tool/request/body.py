"""The body of a request: JSON, a form, multipart, or text and bytes, as its content type says."""

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
    Constant,
    Leaf,
    Members,
    Node,
    Whole,
    check_flat,
    check_words,
    compile_structure,
    described,
    inner,
    is_nested,
    names,
)
from bridge.tool.request.percent import encode_form
from bridge.tool.request.placeholders import SCALARS, may_be
from bridge.tool.request.query import Claims, Entry, Parameter, write_unnamed
from bridge.tool.schema.arguments import Arguments

Content: TypeAlias = tuple[bytes, str]
"""A body and its Content-Type."""
_JSON_TEXT: Final = re.compile(r'\s*(?:\{\s*"|\[)')


class Body(Protocol):
    """What makes the body of each call."""

    def build(self, values: Mapping[str, Json], extra: Mapping[str, Json]) -> Content | None:
        """The body, None where its arguments are absent; ``extra`` are arguments that no schema names."""
        ...

    def leaves(self) -> Iterator[Leaf]:
        """Where arguments stand in it."""
        ...


def compile_body(
    value: Json, content_type: str, arguments: Arguments, findings: Findings, *route: str | int
) -> Body:
    """The body that the file writes out."""
    kind = media_type(content_type)
    if kind == MULTIPART:
        return multipart.compile_multipart(value, arguments, findings, *route)
    if kind == FORM:
        node = compile_structure(value, arguments, findings, *route)
        return _compile_form(node, content_type, arguments, findings, *route)
    if is_json(content_type):
        if isinstance(value, str) and _JSON_TEXT.match(value):
            message = "this body is one text, and would be sent as a JSON text; take off the quotes around it"
            findings.warn("quoted-body", message, *route)
        return _JsonBody(compile_structure(value, arguments, findings, *route), content_type)
    return _compile_text(value, content_type, arguments, findings, *route)


def compile_leftovers(
    left: tuple[str, ...], content_type: str, arguments: Arguments, findings: Findings, *route: str | int
) -> Body | None:
    """The body of arguments that the file names nowhere; None for a type that has no names."""
    kind = media_type(content_type)
    if kind == MULTIPART:
        return multipart.compile_leftovers(left, arguments, findings, *route)
    node = Members(tuple((name, Whole(name)) for name in left))
    if kind == FORM:
        return _compile_form(node, content_type, arguments, findings, *route)
    return _JsonBody(node, content_type) if is_json(content_type) else None


@dataclass(frozen=True, slots=True)
class _JsonBody:
    node: Node
    content_type: str

    def build(self, values: Mapping[str, Json], extra: Mapping[str, Json]) -> Content | None:
        value = self.node.build(values)
        if value is ABSENT:
            return None
        return write_json({**value, **extra} if extra else value), self.content_type

    def leaves(self) -> Iterator[Leaf]:
        return self.node.leaves()


@dataclass(frozen=True, slots=True)
class _FormBody:
    """A form of entries and of the members of one argument, ``whole``; a file writes one of the two."""

    entries: tuple[Entry, ...]
    whole: str | None
    content_type: str

    def build(self, values: Mapping[str, Json], extra: Mapping[str, Json]) -> Content | None:
        if self.whole is not None:
            members: dict[str, Json] | None = values.get(self.whole)
            if members is None:
                return None
            extra = members
        claims = Claims(frozenset())
        pairs: list[str] = []
        for entry in self.entries:
            pairs += entry.write(values, claims, encode_form)
        pairs += write_unnamed(extra, claims, encode_form)
        return "&".join(pairs).encode(), self.content_type

    def leaves(self) -> Iterator[Leaf]:
        if self.whole is not None:
            yield (), frozenset({self.whole}), False
        for entry in self.entries:
            for route, needed, _ in entry.node.leaves():
                yield (entry.parameter.name, *route), needed, False


@dataclass(frozen=True, slots=True)
class _TextBody:
    node: Node
    arguments: str
    is_base64: bool
    content_type: str

    def build(self, values: Mapping[str, Json], _: Mapping[str, Json]) -> Content | None:
        value = self.node.build(values)
        if value is ABSENT or value is None:
            return None
        return write_bytes(self.arguments, value, is_base64=self.is_base64), self.content_type

    def leaves(self) -> Iterator[Leaf]:
        for route, needed, _ in self.node.leaves():
            yield route, needed, False


def _compile_form(
    node: Node, content_type: str, arguments: Arguments, findings: Findings, *route: str | int
) -> _FormBody:
    match node:
        case Whole(name):
            if may_be(arguments, name, "array", *SCALARS):
                message = (
                    f"a form is an object, and argument {name} may be something else; give it type: object"
                )
                findings.error("wrong-value", message, *route)
            return _FormBody((), name, content_type)
        case Members() | Constant(dict()):
            entries = []
            for key, each in inner(node):
                check_flat(each, arguments, findings, *route, key)
                name = str(key)
                entries.append(Entry(Parameter(name), each, ", ".join(sorted(names(each))) or name))
            return _FormBody(tuple(entries), None, content_type)
    findings.error("wrong-value", "expected a form as a mapping; write {name: value}", *route)
    return _FormBody((), None, content_type)


def _compile_text(
    written: Json, content_type: str, arguments: Arguments, findings: Findings, *route: str | int
) -> _TextBody:
    """A text, or ``{value, encoding: base64}``."""
    words = written if isinstance(written, dict) else {"value": written}
    inside = (*route, "value") if words is written else route
    check_words(words, ("value", "encoding"), findings, *route)
    node = compile_structure(words.get("value", ""), arguments, findings, *inside)
    if is_nested(node, arguments):
        advice = "give it another type" if isinstance(node, Whole) else "write a text"
        message = (
            f"{described(node)}, and {content_type} is sent as one text; {advice}, or send application/json"
        )
        findings.error("nested-value", message, *inside)
    check_base64(words, node, findings, *route)
    return _TextBody(node, ", ".join(sorted(names(node))), "encoding" in words, content_type)
