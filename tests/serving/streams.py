"""Event streams, as a client reads them."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from tests.serving.messages import Json
from tests.serving.session import Session


@asynccontextmanager
async def posted(session: Session, message: Json, *, modern: bool = False) -> AsyncIterator[httpx.Response]:
    """The reply to a POST, as soon as its headers are there."""
    plain = {"content": json.dumps(message).encode(), "headers": session.headers}
    sent = session.modern(message) if modern else plain
    async with session.web.stream("POST", session.url, **sent) as reply:
        yield reply


async def blocks(reply: httpx.Response) -> AsyncIterator[dict[str, str]]:
    """The fields of each event; a comment has an empty name."""
    block: dict[str, str] = {}
    async for line in reply.aiter_lines():
        if line:
            name, _, value = line.partition(":")
            block[name] = value.removeprefix(" ")
        else:
            yield block
            block = {}


async def messages(reply: httpx.Response) -> list[Json]:
    """All JSON-RPC messages of a stream, up to its end."""
    return [json.loads(block["data"]) async for block in blocks(reply) if block.get("data")]
