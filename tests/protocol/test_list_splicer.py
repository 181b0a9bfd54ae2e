"""The tools of each list come from ``ToolListCache``: the SDK encodes none, and the answer equals its own."""

from typing import Any

import httpx
import pytest
from mcp.server.context import CallNext, HandlerResult
from mcp_types import methods
from starlette.types import Message

from bridge.protocol.caller_context import Context
from bridge.protocol.capabilities import PAGE_SIZE, page
from bridge.protocol.list_splicer import ToolListSplicer
from bridge.registry import Snapshot
from tests.serving.messages import Json, initialize, request
from tests.serving.served import Served
from tests.serving.session import Session
from tests.test_registry import tool

pytestmark = pytest.mark.anyio

HANDSHAKE = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN = "2026-07-28"
LAST_OF_THE_FIRST_PAGE = f"t{2 * PAGE_SIZE - 1}"
ASKED: tuple[tuple[Json, int], ...] = (
    ({}, 0),
    ({"_meta": {"progressToken": 1}}, 0),
    ({"x": '"tools":[]'}, 0),
    ({"cursor": LAST_OF_THE_FIRST_PAGE}, PAGE_SIZE),
    ({"cursor": "t9999"}, PAGE_SIZE + 1),
)


def many(served: Served) -> Snapshot:
    """More tools than fit on a page, with every field of a definition."""
    fields: Json = {
        "title": "Ünlike",
        "outputSchema": {"type": "object"},
        "inputSchema": {"default": {"n": None}},
    }
    snapshot = Snapshot([tool(f"t{number}", **fields) for number in range(PAGE_SIZE, 2 * PAGE_SIZE + 1)])
    served.registry.replace(snapshot)
    return snapshot


def watched(served: Served) -> list[Any]:
    """The tools that the SDK sees in each list."""
    seen: list[Any] = []

    async def watch(ctx: Context, call_next: CallNext) -> HandlerResult:
        result = await call_next(ctx)
        if ctx.method == "tools/list":
            assert isinstance(result, dict)
            seen.append(result["tools"])
        return result

    served.server.middleware.append(watch)
    return seen


def by_the_sdk(snapshot: Snapshot, version: str, start: int) -> Json:
    fields = {"ttlMs": 5000, "cacheScope": "private"}
    result = methods.serialize_server_result("tools/list", version, page(snapshot.tools, start) | fields)
    return {key: value for key, value in result.items() if key != "resultType" or version == MODERN}


@pytest.mark.parametrize("version", [*HANDSHAKE, MODERN])
async def test_every_list_equals_that_of_the_sdk(
    served: Served, web: httpx.AsyncClient, version: str
) -> None:
    snapshot, seen = many(served), watched(served)
    async with served.http(fast_path=False) as url:
        session = Session(web, url)
        if version in HANDSHAKE:
            reply = await session.post(initialize(version))
            session.headers["mcp-session-id"] = reply.headers["mcp-session-id"]
        for params, start in ASKED:
            message = request("tools/list", '"tools":[]', **params)
            answer = await (session.ask(message) if version in HANDSHAKE else session.ask_modern(message))
            answer["result"].pop("_meta", None)
            assert answer["result"] == by_the_sdk(snapshot, version, start)
    assert seen == [[]] * len(ASKED)


async def test_an_answer_without_tools_is_sent_unchanged() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    error: list[Message] = [
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]},
        {"type": "http.response.body", "body": b"{}"},
    ]
    listed = ToolListSplicer(send)
    listed.tools = b"1"
    for message in error:
        await listed.send(message)
    assert sent == error
