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
    Constant,
    Leaf,
    Node,
    Whole,
    check_flat,
    check_words,
    compile_structure,
    names,
)
from bridge.tool.request.placeholders import Text, secrets_in, to_utf8
from bridge.tool.schema.arguments import Arguments
from bridge.tool.schema.violations import excerpt

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_AS_JSON: Final = "write {value: …, contentType: application/json} in request.body"
_QUOTED: Final = str.maketrans({'"': "%22", "\\": "%5C"})  # as browsers write names (WHATWG HTML 4.10.21.8)


@dataclass(frozen=True, slots=True)
class Part:
    """One name; an array is sent as several parts of that name. ``arguments`` is for messages."""

    name: str
    node: Node
    arguments: str
    filename: Text | None = None
    content_type: str | None = None
    is_base64: bool = False

    def build(self, values: Mapping[str, Json]) -> Iterator[bytes]:
        value = self.node.build(values)
        as_json = is_json(self.content_type or "")
        for item in value if isinstance(value, list) and not as_json else [value]:
            if item is None or item is ABSENT:
                continue
            if as_json:
                content = write_json(item)
            else:
                content = write_bytes(self.arguments, item, is_base64=self.is_base64)
            yield self._head(values) + content

    def _head(self, values: Mapping[str, Json]) -> bytes:
        head = f'Content-Disposition: form-data; name="{_quoted(self.arguments, self.name)}"'
        content_type = self.content_type
        filename = self.filename.render(values) if self.filename else None
        if filename is not None:
            head += f'; filename="{_quoted(self.arguments, filename)}"'
            content_type = content_type or "application/octet-stream"
        if content_type is not None:
            head += f"\r\nContent-Type: {content_type}"
        return to_utf8(self.arguments, f"{head}\r\n\r\n")

    def leaves(self) -> Iterator[Leaf]:
        for route, needed, _ in self.node.leaves():
            yield (self.name, *route), needed, False
        if self.filename is not None and not self.filename.constant:
            yield (self.name, "filename"), self.filename.names, False


@dataclass(frozen=True, slots=True)
class MultipartBody:
    """Parts in the order of the file, then those of arguments that no schema names."""

    parts: tuple[Part, ...]

    def build(self, values: Mapping[str, Json], extra: Mapping[str, Json]) -> tuple[bytes, str]:
        written = [content for part in self.parts for content in part.build(values)]
        for name, value in extra.items():
            written += Part(name, Constant(value), quote(name)).build(values)
        # No part can hold a digest of all parts, so none is ended early.
        boundary = sha256(b"\0".join(written)).hexdigest()[:32]
        lines = [f"--{boundary}\r\n".encode() + part + b"\r\n" for part in written]
        return b"".join([*lines, f"--{boundary}--\r\n".encode()]), f"{MULTIPART}; boundary={boundary}"

    def leaves(self) -> Iterator[Leaf]:
        for part in self.parts:
            yield from part.leaves()


def compile_multipart(
    written: Json, arguments: Arguments, findings: Findings, *route: str | int
) -> MultipartBody:
    """The parts of a mapping: name → text, list, or ``{value, filename, contentType, encoding}``."""
    if not isinstance(written, dict):
        message = "expected multipart as a mapping of names to parts; write {name: part}"
        findings.error("wrong-value", message, *route)
        return MultipartBody(())
    parts = [_compile_part(name, part, arguments, findings, *route, name) for name, part in written.items()]
    return MultipartBody(tuple(parts))


def compile_leftovers(
    names: tuple[str, ...], arguments: Arguments, findings: Findings, *route: str | int
) -> MultipartBody:
    """A part for each argument that the file names nowhere."""
    for name in names:
        check_flat(Whole(name), arguments, findings, *route, name, advice=_AS_JSON)
    return MultipartBody(tuple(Part(name, Whole(name), name) for name in names))


def _compile_part(
    name: str, written: Json, arguments: Arguments, findings: Findings, *route: str | int
) -> Part:
    words = written if isinstance(written, dict) else {"value": written}
    check_words(words, ("value", "filename", "contentType", "encoding"), findings, *route)
    inside = (*route, "value") if words is written else route
    content_type = _word(words, "contentType", findings, *route)
    if content_type is not None:
        with findings.at(*route, "contentType"):
            check_content_type(content_type)
    filename = _filename(words, arguments, findings, *route)
    node = compile_structure(words.get("value", ""), arguments, findings, *inside)
    if not is_json(content_type or ""):
        check_flat(node, arguments, findings, *inside, advice=_AS_JSON)
    check_base64(words, node, findings, *route)
    if _CONTROL.search(name):
        findings.error(
            "bad-name", "a part's name holds no control characters; take them out", *route, at_key=True
        )
    named = sorted({*names(node), *(filename.names if filename else ())})
    return Part(name, node, ", ".join(named) or name, filename, content_type, "encoding" in words)


def _filename(
    words: dict[str, Json], arguments: Arguments, findings: Findings, *route: str | int
) -> Text | None:
    written = _word(words, "filename", findings, *route)
    if written is None:
        return None
    findings.extend(secrets_in(written), *route, "filename")
    text = Text.parse(written)
    with findings.at(*route, "filename"):
        text.check(arguments)
    return text


def _word(words: dict[str, Json], key: str, findings: Findings, *route: str | int) -> str | None:
    word = words.get(key)
    if word is None or isinstance(word, str):
        return word
    findings.error("wrong-value", f"found {excerpt(word)}, expected a text", *route, key)
    return None


def _quoted(arguments: str, text: str) -> str:
    if _CONTROL.search(text):
        message = f"the name of a part would hold a control character; take it out of {arguments}"
        raise InvalidCall("unsafe-argument", message)
    return text.translate(_QUOTED)
