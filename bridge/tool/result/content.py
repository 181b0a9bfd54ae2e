"""Converts a reply into the result of a tool call: MCP content blocks as plain JSON."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final, Literal

from bridge import codec
from bridge.errors import UnusableReply
from bridge.exchange import Reply
from bridge.redaction import NO_SECRETS, Redactor
from bridge.spec import Json, ResponseSpec
from bridge.tool.projection.projection import MAX_STEPS, Projection, Unfinished
from bridge.tool.result import blocks, bounds

ContentKind = Literal["json", "text", "image", "audio", "resource", "blocks"]

_TEXT_SUBTYPES: Final = """
    ecmascript graphql javascript json-seq jsonl ndjson sql toml x-javascript x-jsonl x-ndjson x-sh
    x-www-form-urlencoded x-yaml xml yaml
"""
_TEXT_TYPES: Final = frozenset(f"application/{name}" for name in _TEXT_SUBTYPES.split())
_CHARSET: Final = re.compile(r';\s*charset\s*=\s*"?([^\s;"]+)', re.IGNORECASE)
# Not all that Python knows: some of its codecs are no charsets, such as unicode_escape.
_ENCODINGS: Final = {
    **dict.fromkeys(("iso-8859-1", "latin-1", "latin1"), "latin-1"),
    **{name: name for name in ("utf-16", "utf-16le", "utf-16be")},
}
"""Declared charsets that are used; all others, and unknown ones, are read as UTF-8."""

_MAX_FAST_STRIP_BYTES: Final = 16 * 1024
"""Larger replies are not stripped on the event loop, only in a worker thread."""
_PICTURE_SIGNATURES: Final[Mapping[str, re.Pattern[bytes]]] = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    # Between the two words is the size of the file.
    "image/webp": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
}
"""Image formats that models accept, by signature. An invalid image block can break a whole conversation."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of tools/call; ``structured`` is ``structuredContent``, ``meta`` is ``_meta``."""

    content: list[dict[str, Json]]
    structured: dict[str, Json] | None = None
    is_error: bool = False
    meta: dict[str, Json] = field(default_factory=dict)


def parse_json(reply: Reply) -> Json:
    """The JSON value of a reply, None for an empty one; raises ``UnusableReply``.

    A reply without a length may be cut, because a lost connection looks like its end (RFC 9112 8). JSON
    shows that it is complete, except for an empty reply and a number: ``12`` could be the start of ``12345``.
    """
    if not reply.content.strip():
        if not reply.complete:
            raise _incomplete()
        return None
    try:
        encoding = _declared_encoding(reply)
        # Without a declared charset, the decoder looks for a byte order mark.
        value = codec.decode(reply.content.decode(encoding, "replace") if encoding else reply.content)
    except codec.TooManyContainers as problem:
        message = f"The reply of the API server is too large to read: {problem}."
        advice = "Ask for less, if this tool's arguments can; otherwise tell the user."
        raise UnusableReply("reply-too-large", message, advice=advice) from problem
    except codec.NotJson as problem:
        declared = reply.media_type or "no valid Content-Type"
        message = (
            f"The API answered {reply.status} with {declared}, which cannot be read as JSON: {problem}."
            f" It begins with {codec.quote(text(reply), 200)}. Tell the user; calling again will not help."
        )
        raise UnusableReply("not-json", message) from problem
    if not reply.complete and reply.content.rstrip(b"\0")[-1:].isdigit():  # UTF-16 ends with a zero byte
        raise _incomplete()
    return value


def _incomplete() -> UnusableReply:
    message = "The API's reply may be incomplete: it declared no length. Tell the user."
    return UnusableReply("incomplete-reply", message)


def reply_document(reply: Reply) -> dict[str, Json]:
    """The input of a projection with ``from: reply``; the body is JSON, text, or null for other content types.

    Raises ``UnusableReply``.
    """
    kind = content_kind(reply) if reply.content else "json"
    body: Json = None
    if kind == "json":
        body = parse_json(reply)
    elif kind == "text":
        # Only JSON shows its own end.
        if not reply.complete:
            raise _incomplete()
        body = text(reply)
    return {"status": reply.status, "headers": reply.headers, "body": body}


def strip_reply(reply: Reply, *, steps: int = MAX_STEPS) -> Reply:
    """The reply without invisible characters in its headers and content; binary content is unchanged.

    Raises ``Unfinished`` for a large reply, unless ``steps`` is ``MAX_STEPS``.
    """
    headers = {name: bounds.strip_invisible(value) for name, value in reply.headers.items()}
    # ASCII has no invisible characters, except as escapes in JSON or in a charset such as UTF-16.
    if reply.content.isascii() and b"\\u" not in reply.content and not _declared_encoding(reply):
        return reply._replace(headers=headers)
    if steps < MAX_STEPS and len(reply.content) > _MAX_FAST_STRIP_BYTES:
        raise Unfinished
    try:
        value = parse_json(reply)
    except UnusableReply:
        # Bytes of a picture could look like invisible characters.
        if content_kind(reply) not in ("json", "text"):
            return reply._replace(headers=headers)
        written = bounds.strip_invisible(text(reply)).encode()
    else:
        shown = bounds.map_texts(value, bounds.strip_invisible)
        # The text keeps its layout, and its numbers such as 1.50.
        if shown == value:
            return reply._replace(headers=headers)
        written = codec.encode(shown)
    if "content-type" in headers:
        headers["content-type"] = reply.media_type  # without the charset, because the content is UTF-8 now
    return reply._replace(headers=headers, content=written)


def redact_reply(reply: Reply, redactor: Redactor, *, keeps_base64: bool = False) -> Reply:
    """The reply without secrets in header names, header values and content; the same object if it has none.

    JSON stays JSON, and binary content keeps its length. The declared charset may be wrong, so both the
    decoded text and the bytes are redacted. The media type is checked in lower case, as it is shown.
    ``keeps_base64`` is for content blocks: see ``Redactor.json``.
    """
    if not redactor:
        return reply
    encoding = _declared_encoding(reply) or codec.marked_encoding(reply.content)
    text = reply.content.decode(encoding, "replace").encode() if encoding else reply.content
    # All in one search, as nearly every reply has no secret. A line break keeps two texts apart.
    head = "\n".join([*reply.headers, *reply.headers.values(), reply.media_type]).encode(errors="replace")
    if not redactor.finds(b"%s\n%s" % (head, text)):
        # The charset may be wrong: then the secret is in the bytes.
        return reply._replace(content=redactor.binary(reply.content)) if encoding else reply
    headers = {redactor.text(name): redactor.text(value) for name, value in reply.headers.items()}
    if redactor.finds(reply.media_type.encode(errors="replace")):
        headers["content-type"] = redactor.text(reply.media_type)
    content = _redact_content(reply, encoding, redactor, keeps_base64=keeps_base64)
    return reply._replace(headers=headers, content=redactor.binary(content) if encoding else content)


def _redact_content(reply: Reply, encoding: str | None, redactor: Redactor, *, keeps_base64: bool) -> bytes:
    text = reply.content.decode(encoding or "utf-8", "replace").encode()
    if not redactor.finds(text):
        return redactor.binary(reply.content)
    try:
        codec.decode(text)
    except codec.NotJson:
        # A picture keeps its length, so that its offsets stay valid. What declares a charset is text.
        if not encoding and content_kind(reply) not in ("json", "text"):
            return redactor.binary(reply.content)
        text = redactor.text_bytes(text)
    else:
        text = redactor.json(text, keeps_base64=keeps_base64)
    return text.decode().encode(encoding, "replace") if encoding else text


def apply_projection(
    projection: Projection,
    document: Json,
    redactor: Redactor,
    *,
    steps: int = MAX_STEPS,
    size: int | None = None,
    keeps_base64: bool = False,
) -> Json:
    """The projected value without secrets: a JMESPath function may join parts of one."""
    value = projection.apply(document, steps, size=size)
    # Without functions, a projection selects whole strings, which are already redacted.
    if not redactor or "(" not in projection.expression:
        return value
    written = codec.encode(value)
    text = redactor.json(written, keeps_base64=keeps_base64)
    try:
        return value if text is written else codec.decode(text)
    except codec.NotJson as problem:
        message = f"The result of this tool's projection is not valid JSON: {problem}."
        raise UnusableReply("projection-failed", message) from problem


def reply_result(
    reply: Reply,
    response: ResponseSpec,
    *,
    tool: str,
    narrowing: Sequence[str] = (),
    redactor: Redactor = NO_SECRETS,
) -> Result:
    """The result for a reply without projection, by ``response.content``; raises ``UnusableReply``.

    ``narrowing`` are the optional arguments. ``redactor`` is applied to base64 only: the rest is already redacted.
    ``response.maxBytes`` limits text and resources, but not pictures and sound: a model does not pay for
    their bytes, and ``maxBytes`` limited them when they were read.
    """
    if not reply.content and reply.complete:
        return Result([_text_block(f"The API answered {reply.status} and sent no content.")])
    kind = content_kind(reply) if response.content == "auto" else response.content
    if kind in ("json", "blocks"):
        return value_result(parse_json(reply), response, narrowing=narrowing, redactor=redactor)
    if not reply.complete:
        raise _incomplete()
    if kind == "text":
        fitted = bounds.fit_text(text(reply), response.max_bytes, narrowing, response.invisible)
        return Result([_text_block(fitted.text)], meta=fitted.meta)
    if kind == "resource":
        return Result([_resource_block(reply, response, tool)])
    return Result([_media_block(reply, kind)])


def value_result(
    value: Json,
    response: ResponseSpec,
    *,
    narrowing: Sequence[str] = (),
    redactor: Redactor = NO_SECRETS,
) -> Result:
    """The result for a JSON value, by ``response.content``; raises ``UnusableReply``."""
    if response.content == "blocks":
        return Result(blocks.parse_blocks(value, response.max_bytes, redactor, response.invisible))
    if response.content == "text" and isinstance(value, str):
        fitted = bounds.fit_text(value, response.max_bytes, narrowing, response.invisible)
    else:
        fitted = bounds.fit_json(value, response.max_bytes, narrowing, response.invisible)
    return Result([_text_block(fitted.text)], meta=fitted.meta)


def structured_result(
    structured: dict[str, Json], response: ResponseSpec, *, narrowing: Sequence[str] = ()
) -> Result:
    """``structuredContent`` and the same JSON as text. It is never cut, because a part would not match the schema."""
    written = bounds.write_json(structured, response.max_bytes, narrowing, response.invisible)
    return Result([_text_block(written)], structured)


def add_empty_note(result: Result, status: int, *, safe: bool) -> Result:
    """A null result with a note for the model: the projection may not match the reply."""
    note = f"The API answered {status}, and this tool's projection found nothing but null in the reply."
    if not safe:
        note = f"The request was carried out ({status}). Do not repeat it. {note}"
    return replace(
        result,
        content=[*result.content, _text_block(note)],
        meta=result.meta | {"restbridge/empty": True},
    )


def _text_block(text: str) -> dict[str, Json]:
    return {"type": "text", "text": text}


def content_kind(reply: Reply) -> ContentKind:
    """The kind by Content-Type; without a Content-Type, or for images, by the bytes (RFC 9110 8.3)."""
    media_type = reply.media_type
    if media_type == "application/json" or media_type.endswith("+json"):
        return "json"
    if media_type.startswith("text/") or media_type.endswith("+xml") or media_type in _TEXT_TYPES:
        return "text"
    # Such as TIFF, which models do not accept as a picture.
    if media_type.startswith("image/"):
        return "image" if _picture_type(reply.content) else "resource"
    if media_type.startswith("audio/"):
        return "audio"
    return "resource" if media_type else _sniff_kind(reply.content)


def text(reply: Reply) -> str:
    """The body in its declared charset or UTF-8; invalid bytes become U+FFFD."""
    return reply.content.decode(_declared_encoding(reply) or "utf-8-sig", "replace")


def _declared_encoding(reply: Reply) -> str | None:
    charset = _CHARSET.search(reply.headers.get("content-type", ""))
    return _ENCODINGS.get(charset[1].lower()) if charset else None


def _sniff_kind(content: bytes) -> ContentKind:
    try:
        codec.decode(content)
    except codec.NotJson:
        try:
            # No text contains a zero byte, but some binary formats are valid UTF-8.
            return "resource" if "\0" in content.decode() else "text"
        except UnicodeDecodeError:
            return "resource"
    return "json"


def _picture_type(content: bytes) -> str | None:
    return next((name for name, signature in _PICTURE_SIGNATURES.items() if signature.match(content)), None)


def _media_block(reply: Reply, kind: str) -> dict[str, Json]:
    media_type = _picture_type(reply.content) if kind == "image" else None
    if media_type is None and reply.media_type.startswith(f"{kind}/"):
        media_type = bounds.visible(reply.media_type)
    if media_type is None:
        declared = reply.media_type or "no valid Content-Type"
        message = f"The API answered {reply.status} with {declared} instead of {kind}. Tell the user."
        raise UnusableReply("wrong-content", message)
    return {"type": kind, "data": base64.b64encode(reply.content).decode(), "mimeType": media_type}


def _resource_block(reply: Reply, response: ResponseSpec, tool: str) -> dict[str, Json]:
    """An embedded resource with a URI of the bridge; the same content has the same URI."""
    media_type = bounds.visible(reply.media_type or "application/octet-stream")
    is_text = content_kind(reply) in ("json", "text")
    if is_text:
        written = text(reply)
        bounds.require_size(
            len(written.encode()), response.max_bytes, media_type
        )  # before escaping, which can make it larger
        written = bounds.visible(written, response.invisible)
    else:
        written = base64.b64encode(reply.content).decode()
    # Again, as escapes and base64 are longer.
    bounds.require_size(len(written.encode()), response.max_bytes, media_type)
    uri = f"restbridge://{tool}/{sha256(reply.content).hexdigest()[:32]}"
    resource = {"uri": uri, "mimeType": media_type, "text" if is_text else "blob": written}
    return {"type": "resource", "resource": resource}
