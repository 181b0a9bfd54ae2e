"""multipart/form-data bodies (RFC 7578)."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from bridge.codec import quote
from bridge.diagnostics import Findings
from bridge.errors import InvalidCall
from bridge.spec import Json
from bridge.tool.quoting import excerpt
from bridge.tool.request.media import (
    MULTIPART,
    check_base64,
    check_content_type,
    is_json,
    write_bytes,
    write_json,
)
from bridge.tool.request.nodes import (
    ABSENT,
    ArgumentNode,
    ConstantNode,
    Leaf,
    Node,
    argument_names,
    check_flat,
    check_keys,
    compile_node,
)
from bridge.tool.request.placeholders import Text, misplaced_secrets, to_utf8
from bridge.tool.schema.arguments import Arguments

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_AS_JSON: Final = "write {value: …, contentType: application/json} in request.body"
_QUOTED: Final = str.maketrans({'"': "%22", "\\": "%5C"})  # as browsers write names (WHATWG HTML 4.10.21.8)


@dataclass(frozen=True, slots=True)
class Part:
    """One named part. An array becomes several parts with the same name.

    ``argument`` are the names of its arguments, for messages.
    """

    name: str
    node: Node
    argument: str
    filename: Text | None = None
    content_type: str | None = None
    is_base64: bool = False

    def build(self, values: Mapping[str, Json]) -> Iterator[bytes]:
        value = self.node.build(values)
        as_json = is_json(self.content_type or "")
        # In JSON, a list is a single part.
        for item in value if isinstance(value, list) and not as_json else [value]:
            if item is None or item is ABSENT:
                continue
            if as_json:
                content = write_json(item)
            else:
                content = write_bytes(self.argument, item, is_base64=self.is_base64)
            yield self._head(values) + content

    def _head(self, values: Mapping[str, Json]) -> bytes:
        head = f'Content-Disposition: form-data; name="{_quoted(self.argument, self.name)}"'
        content_type = self.content_type
        filename = self.filename.render(values) if self.filename else None
        if filename is not None:
            head += f'; filename="{_quoted(self.argument, filename)}"'
            # Without a type, the part would count as text/plain (RFC 7578 4.4).
            content_type = content_type or "application/octet-stream"
        if content_type is not None:
            head += f"\r\nContent-Type: {content_type}"
        return to_utf8(self.argument, f"{head}\r\n\r\n")

    def leaves(self) -> Iterator[Leaf]:
        for leaf in self.node.leaves():
            # A null makes no part.
            yield leaf.under(self.name)._replace(nullable=False)
        if self.filename is not None and not self.filename.is_constant:
            yield Leaf((self.name, "filename"), self.filename.names)


@dataclass(frozen=True, slots=True)
class MultipartBody:
    """Parts in the order of the file, then those of undeclared arguments."""

    parts: tuple[Part, ...]

    def build(self, values: Mapping[str, Json], undeclared: Mapping[str, Json]) -> tuple[bytes, str]:
        written = [content for part in self.parts for content in part.build(values)]
        for name, value in undeclared.items():
            written += Part(name, ConstantNode(value), quote(name)).build(values)
        # The boundary is a digest of all parts, so no part can contain it and end early.
        boundary = sha256(b"\0".join(written)).hexdigest()[:32]
        lines = [f"--{boundary}\r\n".encode() + part + b"\r\n" for part in written]
        return b"".join([*lines, f"--{boundary}--\r\n".encode()]), f"{MULTIPART}; boundary={boundary}"

    def leaves(self) -> Iterator[Leaf]:
        for part in self.parts:
            yield from part.leaves()


def compile_multipart(
    written: Json, arguments: Arguments, findings: Findings, *route: str | int
) -> MultipartBody:
    """The body for a mapping: name → text, list, or ``{value, filename, contentType, encoding}``."""
    if not isinstance(written, dict):
        message = "expected multipart as a mapping of names to parts; write {name: part}"
        findings.error("wrong-value", message, *route)
        return MultipartBody(())
    parts = [_compile_part(name, part, arguments, findings, *route, name) for name, part in written.items()]
    return MultipartBody(tuple(parts))


def compile_unplaced(
    names: tuple[str, ...], arguments: Arguments, findings: Findings, *route: str | int
) -> MultipartBody:
    """A part for each argument that the file does not place."""
    for name in names:
        check_flat(ArgumentNode(name), arguments, findings, *route, name, advice=_AS_JSON)
    return MultipartBody(tuple(Part(name, ArgumentNode(name), name) for name in names))


def _compile_part(
    name: str, written: Json, arguments: Arguments, findings: Findings, *route: str | int
) -> Part:
    spec = written if isinstance(written, dict) else {"value": written}
    check_keys(spec, ("value", "filename", "contentType", "encoding"), findings, *route)
    inside = (*route, "value") if isinstance(written, dict) else route
    content_type = _optional_text(spec, "contentType", findings, *route)
    if content_type is not None:
        with findings.at(*route, "contentType"):
            check_content_type(content_type)
    filename = _filename(spec, arguments, findings, *route)
    node = compile_node(spec.get("value", ""), arguments, findings, *inside)
    if not is_json(content_type or ""):
        check_flat(node, arguments, findings, *inside, advice=_AS_JSON)
    check_base64(spec, node, findings, *route)
    if _CONTROL.search(name):
        findings.error(
            "bad-name", "a part name cannot contain control characters; take them out", *route, at_key=True
        )
    named = sorted({*argument_names(node), *(filename.names if filename else ())})
    return Part(name, node, ", ".join(named) or name, filename, content_type, "encoding" in spec)


def _filename(
    spec: dict[str, Json], arguments: Arguments, findings: Findings, *route: str | int
) -> Text | None:
    written = _optional_text(spec, "filename", findings, *route)
    if written is None:
        return None
    findings.extend(misplaced_secrets(written), *route, "filename")
    text = Text.parse(written)
    with findings.at(*route, "filename"):
        text.check(arguments)
    return text


def _optional_text(spec: dict[str, Json], key: str, findings: Findings, *route: str | int) -> str | None:
    text = spec.get(key)
    if text is None or isinstance(text, str):
        return text
    findings.error("wrong-value", f"found {excerpt(text)}, expected a text", *route, key)
    return None


def _quoted(argument: str, text: str) -> str:
    if _CONTROL.search(text):
        message = f"the name of a part would contain a control character; take it out of {argument}"
        raise InvalidCall("unsafe-argument", message)
    return text.translate(_QUOTED)
