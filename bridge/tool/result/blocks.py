"""MCP content blocks that an upstream returns itself: validated and passed on."""

import base64
from functools import partial
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, InstanceOf, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from bridge import codec
from bridge.errors import UnusableReply
from bridge.redaction import NO_SECRETS, Redactor
from bridge.spec import Invisible, Json
from bridge.tool.quoting import place
from bridge.tool.result.bounds import map_texts, require_size, visible

MAX_BLOCKS: Final = 1000


def _base64(text: str) -> str:
    base64.b64decode(text, validate=True)
    return text


Base64 = Annotated[str, AfterValidator(_base64)]


class _McpModel(BaseModel):
    """ContentBlock of MCP 2025-11-25 and 2026-07-28; members outside the MCP schema are left out."""

    model_config = ConfigDict(
        strict=True, extra="ignore", alias_generator=to_camel, hide_input_in_errors=True
    )


class _Annotations(_McpModel):
    # fail_fast: otherwise pydantic would keep an error for each item of a long list.
    audience: list[Literal["user", "assistant"]] | None = Field(default=None, fail_fast=True)
    priority: float | None = Field(default=None, ge=0, le=1)
    last_modified: str | None = None


class _Block(_McpModel):
    annotations: _Annotations | None = None
    meta: InstanceOf[dict[str, Any]] | None = Field(default=None, alias="_meta")
    """Not copied by pydantic: copying a large dictionary would block the event loop."""


class _Text(_Block):
    type: Literal["text"]
    text: str


class _Media(_Block):
    type: Literal["image", "audio"]
    data: Base64
    mime_type: str


class _TextContents(_McpModel):
    uri: str
    mime_type: str | None = None
    text: str


class _BlobContents(_McpModel):
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


_BLOCK: Final[TypeAdapter[_Text | _Media | _Resource | _ResourceLink]] = TypeAdapter(
    Annotated[_Text | _Media | _Resource | _ResourceLink, Field(discriminator="type")]
)


def parse_blocks(
    value: Json, max_bytes: int, redactor: Redactor = NO_SECRETS, invisible: Invisible = "show"
) -> list[dict[str, Json]]:
    """``value`` validated as a list of blocks, with invisible characters escaped; raises ``UnusableReply``.

    ``max_bytes`` limits everything except the ``data`` of pictures and sound. ``redactor`` is applied to
    base64 only: the texts of ``value`` are already redacted.
    """
    if not isinstance(value, list):
        raise _invalid("expected an array")
    if len(value) > MAX_BLOCKS:
        raise _invalid(f"it has {len(value)} items, at most {MAX_BLOCKS} are allowed")
    blocks = [_block(item, index) for index, item in enumerate(value)]
    _require_size(blocks, max_bytes)  # before escaping, which can make it six times larger
    written: list[dict[str, Json]] = map_texts(blocks, partial(visible, invisible=invisible))
    for part in (block.get("resource", block) for block in written):
        # Secrets inside base64: those in texts were found before.
        for key in part.keys() & {"data", "blob"}:
            part[key] = redactor.base64(part[key])
    # Again: escapes are longer.
    _require_size(written, max_bytes)
    return written


def _block(item: Json, index: int) -> dict[str, Json]:
    try:
        block = _BLOCK.validate_python(item)
    except ValidationError as problem:
        error = problem.errors(include_url=False, include_input=False)[0]
        path = [
            step for step in error["loc"][1:] if not str(step).startswith("_")
        ]  # pydantic adds the names of our classes
        what = "is missing" if error["type"] == "missing" else "does not match the MCP schema"
        raise _invalid(f"{place((index, *path))} {what}") from problem
    written: dict[str, Json] = _BLOCK.dump_python(block, by_alias=True, exclude={"meta"}, exclude_none=True)
    return written if block.meta is None else written | {"_meta": block.meta}


def _require_size(blocks: list[dict[str, Json]], max_bytes: int) -> None:
    counted = [block | {"data": ""} if "data" in block else block for block in blocks]
    require_size(len(codec.encode(counted)), max_bytes, "content blocks")


def _invalid(problem: str) -> UnusableReply:
    message = f"The API's reply is not a list of MCP content blocks: {problem}. Tell the user."
    return UnusableReply("invalid-blocks", message)
