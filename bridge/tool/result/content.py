"""A reply becomes what the model gets: MCP content blocks, as plain JSON."""

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

Kind = Literal["json", "text", "image", "audio", "resource", "blocks"]

_TEXTUAL: Final = """
    ecmascript graphql javascript json-seq jsonl ndjson sql toml x-javascript x-jsonl x-ndjson x-sh
    x-www-form-urlencoded x-yaml xml yaml
"""
_TEXT_TYPES: Final = frozenset(f"application/{name}" for name in _TEXTUAL.split())
_CHARSET: Final = re.compile(r';\s*charset\s*=\s*"?([^\s;"]+)', re.IGNORECASE)
_ENCODINGS: Final = {
    **dict.fromkeys(("iso-8859-1", "latin-1", "latin1"), "latin-1"),
    **{name: name for name in ("utf-16", "utf-16le", "utf-16be")},
}
"""Charsets that are read as declared; ASCII is UTF-8, and so is all that is not known."""

_LONG: Final = 16 * 1024
"""Bytes from which on secrets that were found are not replaced where others wait meanwhile."""
_PICTURES: Final[Mapping[str, re.Pattern[bytes]]] = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
}
"""What models can see, by how it begins: a block that is no picture can end a whole conversation."""


@dataclass(frozen=True, slots=True)
class Result:
    """What tools/call answers, in MCP's words; ``structured`` is ``structuredContent``, ``meta`` is ``_meta``."""

    content: list[dict[str, Json]]
    structured: dict[str, Json] | None = None
    is_error: bool = False
    meta: dict[str, Json] = field(default_factory=dict)


def document(reply: Reply) -> Json:
    """The JSON that a reply says, None for an empty one; raises ``UnusableReply``.

    JSON shows its own end, but for a number: what was received of ``12345`` could be ``12``. Of any of it that could be
    nothing: a connection that is lost looks like one that ends (RFC 9112, 8).
    """
    if not reply.content.strip():
        if not reply.complete:
            raise _incomplete()
        return None
    try:
        encoding = _declared_encoding(reply)
        value = codec.decode(reply.content.decode(encoding, "replace") if encoding else reply.content)
    except codec.TooManyContainers as problem:
        message = f"The reply of the API server is too large to be read: {problem}."
        advice = "Ask for less, if this tool's arguments can; else tell the user."
        raise UnusableReply("reply-too-large", message, advice=advice) from problem
    except codec.NotJson as problem:
        declared = reply.media_type or "no Content-Type"
        message = (
            f"The API answered {reply.status} with {declared}, which cannot be read as JSON: {problem}."
            f" It begins with {codec.quote(text(reply), 200)}. Tell the user; calling again will not help."
        )
        raise UnusableReply("not-json", message) from problem
    if not reply.complete and reply.content.rstrip(b"\0")[-1:].isdigit():  # zeros as of UTF-16
        raise _incomplete()
    return value


def _incomplete() -> UnusableReply:
    message = "Nothing shows that the API's reply is whole: its length was not told. Tell the user."
    return UnusableReply("incomplete-reply", message)


def whole(reply: Reply) -> dict[str, Json]:
    """What a projection sees ``from: reply``; a body that is no JSON by its type is its text, or null.

    Raises ``UnusableReply``.
    """
    kind = kind_of(reply) if reply.content else "json"
    body: Json = None
    if kind == "json":
        body = document(reply)
    elif kind == "text":
        if not reply.complete:
            raise _incomplete()
        body = text(reply)
    return {"status": reply.status, "headers": reply.headers, "body": body}


def stripped(reply: Reply) -> Reply:
    """The reply without invisible characters in its headers and its content; bytes that are no text stay."""
    headers = {name: bounds.stripped(value) for name, value in reply.headers.items()}
    try:
        value = document(reply)
    except UnusableReply:
        if kind_of(reply) not in ("json", "text"):
            return reply._replace(headers=headers)
        written = bounds.stripped(text(reply)).encode()
    else:
        shown = bounds.each_text(value, bounds.stripped)
        if shown == value:
            return reply._replace(headers=headers)
        written = codec.encode(shown)
    if "content-type" in headers:
        headers["content-type"] = reply.media_type  # without a charset: it is UTF-8 now
    return reply._replace(headers=headers, content=written)


def redacted(
    reply: Reply, redactor: Redactor, *, steps: int = MAX_STEPS, keeps_base64: bool = False
) -> Reply:
    """The reply without secrets, in its headers and their names, and in its content; the very reply where it holds none.

    JSON stays JSON, and what is no text keeps its length. A charset may be wrong, so both the text that it makes of
    the content and the bytes themselves are redacted. The media type is looked at as it is shown, in lower case.
    ``keeps_base64`` is for content blocks: see ``Redactor.json``.
    Raises ``Unfinished`` where it may take long, unless there are ``MAX_STEPS``.
    """
    if not redactor:
        return reply
    if steps < MAX_STEPS and not redactor.is_quick(reply.content):
        raise Unfinished
    encoding = _declared_encoding(reply) or codec.marked_encoding(reply.content)
    text = reply.content.decode(encoding, "replace").encode() if encoding else reply.content
    head = "\n".join([*reply.headers, *reply.headers.values(), reply.media_type]).encode(errors="replace")
    if not redactor.finds(b"%s\n%s" % (head, text)):
        return reply._replace(content=redactor.binary(reply.content)) if encoding else reply
    if steps < MAX_STEPS and len(text) > _LONG:
        raise Unfinished
    headers = {redactor.text(name): redactor.text(value) for name, value in reply.headers.items()}
    if redactor.finds(reply.media_type.encode(errors="replace")):
        headers["content-type"] = redactor.text(reply.media_type)
    content = _redacted_content(reply, encoding, redactor, keeps_base64=keeps_base64)
    return reply._replace(headers=headers, content=redactor.binary(content) if encoding else content)


def _redacted_content(reply: Reply, encoding: str | None, redactor: Redactor, *, keeps_base64: bool) -> bytes:
    text = reply.content.decode(encoding or "utf-8", "replace").encode()
    if not redactor.finds(text):
        return redactor.binary(reply.content)
    try:
        codec.decode(text)
    except codec.NotJson:
        if not encoding and kind_of(reply) not in ("json", "text"):
            return redactor.binary(reply.content)
        text = redactor.text_bytes(text)
    else:
        text = redactor.json(text, keeps_base64=keeps_base64)
    return text.decode().encode(encoding, "replace") if encoding else text


def projected(
    projection: Projection,
    document: Json,
    redactor: Redactor,
    *,
    steps: int = MAX_STEPS,
    size: int | None = None,
    keeps_base64: bool = False,
) -> Json:
    """What ``Projection.apply`` answers, without secrets: a function may have put one together of its parts."""
    value = projection.apply(document, steps, size=size)
    if not redactor or "(" not in projection.expression:
        return value
    written = codec.encode(value)
    text = redactor.json(written, keeps_base64=keeps_base64)
    try:
        return value if text is written else codec.decode(text)
    except codec.NotJson as problem:
        message = f"What this tool's projection makes of the API's reply cannot be read as JSON: {problem}."
        raise UnusableReply("projection-failed", message) from problem


def of_reply(
    reply: Reply,
    response: ResponseSpec,
    *,
    tool: str,
    narrowing: Sequence[str] = (),
    redactor: Redactor = NO_SECRETS,
) -> Result:
    """A reply that is not projected, as ``response.content`` says; ``narrowing`` are optional arguments.

    ``redactor`` is for bytes that stand in base64: the rest has no secrets.

    Raises ``UnusableReply``. Only text is held to ``response.maxBytes``, and what is given as a
    resource: pictures and sound cost a model by what they show, and were bounded when they were read.
    """
    if not reply.content and reply.complete:
        return Result([_block(f"The API answered {reply.status} and sent no content.")])
    kind = kind_of(reply) if response.content == "auto" else response.content
    if kind in ("json", "blocks"):
        return of_value(document(reply), response, narrowing=narrowing, redactor=redactor)
    if not reply.complete:
        raise _incomplete()
    if kind == "text":
        fitted = bounds.fit_text(text(reply), response.max_bytes, narrowing, response.invisible)
        return Result([_block(fitted.text)], meta=fitted.meta)
    if kind == "resource":
        return Result([_resource(reply, response, tool)])
    return Result([_media(reply, kind)])


def of_value(
    value: Json,
    response: ResponseSpec,
    *,
    narrowing: Sequence[str] = (),
    redactor: Redactor = NO_SECRETS,
) -> Result:
    """A projected value, as ``response.content`` says; raises ``UnusableReply``."""
    if response.content == "blocks":
        return Result(blocks.read(value, response.max_bytes, redactor, response.invisible))
    if response.content == "text" and isinstance(value, str):
        fitted = bounds.fit_text(value, response.max_bytes, narrowing, response.invisible)
    else:
        fitted = bounds.fit(value, response.max_bytes, narrowing, response.invisible)
    return Result([_block(fitted.text)], meta=fitted.meta)


def of_structured(
    structured: dict[str, Json], response: ResponseSpec, *, narrowing: Sequence[str] = ()
) -> Result:
    """``structuredContent`` and the same JSON as text; a part would break the schema, so it fits or fails."""
    written = bounds.write(structured, response.max_bytes, narrowing, response.invisible)
    return Result([_block(written)], structured)


def of_nothing(result: Result, status: int, *, safe: bool) -> Result:
    """A result that is nothing but null, and a sentence beside it: the projection may not fit the reply."""
    words = f"The API answered {status}, and this tool's projection found nothing but null in the reply."
    if not safe:
        words = f"The request was carried out ({status}). Do not repeat it. {words}"
    return replace(
        result, content=[*result.content, _block(words)], meta=result.meta | {"restbridge/empty": True}
    )


def _block(words: str) -> dict[str, Json]:
    return {"type": "text", "text": words}


def kind_of(reply: Reply) -> Kind:
    """What a reply is by its Content-Type, and by its bytes where that is not enough (RFC 9110 8.3)."""
    media_type = reply.media_type
    if media_type == "application/json" or media_type.endswith("+json"):
        return "json"
    if media_type.startswith("text/") or media_type.endswith("+xml") or media_type in _TEXT_TYPES:
        return "text"
    if media_type.startswith("image/"):
        return "image" if _picture(reply.content) else "resource"
    if media_type.startswith("audio/"):
        return "audio"
    return "resource" if media_type else _sniffed(reply.content)


def text(reply: Reply) -> str:
    """The body as text, in its declared charset or UTF-8; what is not is U+FFFD."""
    return reply.content.decode(_declared_encoding(reply) or "utf-8-sig", "replace")


def _declared_encoding(reply: Reply) -> str | None:
    charset = _CHARSET.search(reply.headers.get("content-type", ""))
    return _ENCODINGS.get(charset[1].lower()) if charset else None


def _sniffed(content: bytes) -> Kind:
    try:
        codec.decode(content)
    except codec.NotJson:
        try:
            return "resource" if "\0" in content.decode() else "text"
        except UnicodeDecodeError:
            return "resource"
    return "json"


def _picture(content: bytes) -> str | None:
    return next((name for name, begin in _PICTURES.items() if begin.match(content)), None)


def _media(reply: Reply, kind: str) -> dict[str, Json]:
    media_type = _picture(reply.content) if kind == "image" else None
    if media_type is None and reply.media_type.startswith(f"{kind}/"):
        media_type = bounds.visible(reply.media_type)
    if media_type is None:
        declared = reply.media_type or "no Content-Type"
        message = f"The API answered {reply.status} with {declared} instead of {kind}. Tell the user."
        raise UnusableReply("wrong-content", message)
    return {"type": kind, "data": base64.b64encode(reply.content).decode(), "mimeType": media_type}


def _resource(reply: Reply, response: ResponseSpec, tool: str) -> dict[str, Json]:
    """An embedded resource under an address of our own: the same content has the same one."""
    media_type = bounds.visible(reply.media_type or "application/octet-stream")
    is_text = kind_of(reply) in ("json", "text")
    if is_text:
        written = bounds.visible(text(reply), response.invisible)
    else:
        written = base64.b64encode(reply.content).decode()
    bounds.require(len(written.encode()), response.max_bytes, media_type)
    uri = f"restbridge://{tool}/{sha256(reply.content).hexdigest()[:32]}"
    resource = {"uri": uri, "mimeType": media_type, "text" if is_text else "blob": written}
    return {"type": "resource", "resource": resource}
