"""MCP content blocks that an upstream writes itself: checked, and passed on."""

import base64
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from bridge.errors import UnusableReply
from bridge.redaction import NO_SECRETS, Redactor
from bridge.spec import Invisible, Json
from bridge.tool.result.bounds import each_text, json_text, require, visible
from bridge.tool.schema.violations import place


def _base64(text: str) -> str:
    base64.b64decode(text, validate=True)
    return text


Base64 = Annotated[str, AfterValidator(_base64)]


class _Part(BaseModel):
    """MCP 2025-11-25 and 2026-07-28, ContentBlock; what a client does not know is left out."""

    model_config = ConfigDict(
        strict=True, extra="ignore", alias_generator=to_camel, hide_input_in_errors=True
    )


class _Annotations(_Part):
    audience: list[Literal["user", "assistant"]] | None = None
    priority: float | None = Field(default=None, ge=0, le=1)
    last_modified: str | None = None


class _Block(_Part):
    annotations: _Annotations | None = None
    meta: dict[str, Any] | None = Field(default=None, alias="_meta")


class _Text(_Block):
    type: Literal["text"]
    text: str


class _Media(_Block):
    type: Literal["image", "audio"]
    data: Base64
    mime_type: str


class _TextContents(_Part):
    uri: str
    mime_type: str | None = None
    text: str


class _BlobContents(_Part):
    uri: str
    mime_type: str | None = None
    blob: Base64


class _Resource(_Block):
    type: Literal["resource"]
    resource: _TextContents | _BlobContents


class _ResourceLink(_Block):
    type: Literal["resource_link"]
    uri: str
    name: str
    title: str | None = None
    description: str | None = None
    mime_type: str | None = None
    size: int | None = None


_BLOCKS = TypeAdapter(
    list[Annotated[_Text | _Media | _Resource | _ResourceLink, Field(discriminator="type")]]
)


def read(
    value: Json, max_bytes: int, redactor: Redactor = NO_SECRETS, invisible: Invisible = "show"
) -> list[dict[str, Json]]:
    """The blocks that ``value`` is, with all their texts visible; raises ``UnusableReply``.

    All but pictures and sound is held to ``max_bytes``. ``redactor`` is for the bytes in base64: the texts of ``value``
    have no secrets.
    """
    try:
        blocks = _BLOCKS.validate_python(value)
    except ValidationError as problem:
        error = problem.errors(include_url=False, include_input=False)[0]
        path = [step for step in error["loc"] if not str(step).startswith("_")]  # names of our own classes
        where = place((*path[:1], *path[2:])) or "the whole"  # the second step is the block's type
        what = "is missing" if error["type"] == "missing" else "is not as MCP has it"
        message = f"The API's reply is no list of MCP content blocks: {where} {what}. Tell the user."
        raise UnusableReply("invalid-blocks", message) from problem
    dumped = _BLOCKS.dump_python(blocks, by_alias=True, exclude_none=True)
    written: list[dict[str, Json]] = each_text(dumped, partial(visible, invisible=invisible))
    for part in (block.get("resource", block) for block in written):
        for key in part.keys() & {"data", "blob"}:
            part[key] = redactor.base64(part[key])
    require(len(json_text([b for b in written if "data" not in b])), max_bytes, "content blocks")
    return written
