import json

import anyio
import httpx
import pytest
from mcp.server.context import CallNext, HandlerResult

from bridge.caller import ANYBODY, Caller
from bridge.errors import TooMany
from bridge.events import CallFinished
from bridge.http.large_bodies import (
    LARGE_BODY,
    MAX_WAITING_BYTES,
    MAX_WAITING_BYTES_PER_CALLER,
    LargeBodies,
    is_large,
)
from bridge.protocol.jsonrpc import Refused
from bridge.protocol.notifications import Context
from bridge.upstream.slots import Turn
from tests.serving.served import Json, Served, Session, call, request

pytestmark = pytest.mark.anyio

ANN, BOB = Caller("ann"), Caller("bob")


def large_call(size: int, name: str = "any") -> Json:
    message = call(name)
    message["params"]["arguments"] = {"text": "x" * size}
    return message


@pytest.mark.parametrize("express", [True, False])
async def test_a_large_call_is_made_up_to_a_mebibyte_of_arguments(
    served: Served, web: httpx.AsyncClient, *, express: bool
) -> None:
    async with served.http(express=express) as url:
        session = Session(web, url)
        await session.open()
        for asks in (session.ask, session.ask_modern):
            url_too_long = (await asks(large_call(500_000)))["result"]
            assert url_too_long["_meta"]["restbridge/error"] == "url-too-long"
        refused = [await session.ask_modern(large_call(2_000_000))]
        refused.append((await session.post(large_call(2_000_000))).json())
    text = "The arguments are larger than 1048576 bytes; nothing was sent. Send less at a time."
    for answer in refused:
        assert answer["result"]["isError"] is True
        assert answer["result"]["content"] == [{"type": "text", "text": text}]
        assert answer["result"]["_meta"]["restbridge/error"] == "arguments-too-large"
    outcomes = [event.outcome for event in served.events if isinstance(event, CallFinished)]
    assert outcomes == ["url-too-long"] * 2 + ["arguments-too-large"] * 2


async def test_nothing_but_a_call_may_be_large(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url:
        session = Session(web, url)
        for message in (
            request("ping", 7, x="x" * LARGE_BODY),
            {"jsonrpc": "2.0", "method": "x", "x": "x" * LARGE_BODY},
        ):
            reply = await session.post(message)
            error = reply.json()
            assert (reply.status_code, error["id"]) == (400, message.get("id"))
            assert error["error"]["message"] == "Only tools/call may have more than 65536 bytes"
        reply = await session.post(b"[1," + b" " * LARGE_BODY)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, -32700)


async def test_a_message_of_too_many_values_is_not_read(served: Served, web: httpx.AsyncClient) -> None:
    message = call("any")
    message["params"]["arguments"] = {"list": [1] * 700_000}
    async with served.http() as url:
        reply = await Session(web, url).post(json.dumps(message).encode())
    assert reply.status_code == 400
    assert "and 600000 commas" in reply.json()["error"]["message"]


async def test_large_arguments_that_are_too_deep_are_refused_by_their_check(
    served: Served, web: httpx.AsyncClient
) -> None:
    deep = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"any","arguments":{"a":%s1%s,"b":"%s"}}}'
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        reply = await session.post(deep % (b"[" * 190, b"]" * 190, b"x" * LARGE_BODY))
    assert "nested more than 64 deep" in reply.text


@pytest.mark.parametrize(
    ("body", "large"),
    [
        (b"[]," * 2700, False),  # short
        (b"x, " * 4000 + b"x" * 110_000, False),  # a long text
        (b"x" * (LARGE_BODY + 1), True),
        (b"[]," * 2800, True),
        (rb"\ud800" * 5000, True),
        (b"9" * 4200 + b"x" * 5000, True),
    ],
)
def test_a_body_is_large_for_what_it_holds(body: bytes, *, large: bool) -> None:
    assert is_large(body) is large


@pytest.mark.parametrize("express", [True, False])
async def test_the_sdk_does_not_parse_rich_arguments_again(
    served: Served, web: httpx.AsyncClient, *, express: bool
) -> None:
    seen: list[object] = []

    async def watch(ctx: Context, call_next: CallNext) -> HandlerResult:
        seen.append((ctx.params or {}).get("arguments"))
        return await call_next(ctx)

    served.server.middleware.append(watch)
    message = call("strict")
    message["params"]["arguments"] = {"n": [0] * 5000}
    async with served.http(express=express) as url:
        session = Session(web, url)
        await session.open()
        seen.clear()
        for asks in (session.ask, session.ask_modern):
            answer = await asks(message)
            assert "- n: [0," in answer["result"]["content"][0]["text"]
            answer = await asks(message | {"params": message["params"] | {"name": "unknown"}})
            assert answer["error"]["message"] == "Unknown tool: unknown"
    assert seen == [{}] * 4


async def test_what_waits_to_be_parsed_is_bounded() -> None:
    bodies = LargeBodies()
    body = b"x" * 4_000_000
    held = Turn(bodies._slots, bodies._limits)

    async def wait(caller: Caller) -> None:
        with pytest.raises(Refused):
            await bodies.parse(body, caller)

    async with anyio.create_task_group() as tasks, held:
        for _ in range(MAX_WAITING_BYTES_PER_CALLER // len(body)):
            tasks.start_soon(wait, ANN)
        await anyio.lowlevel.checkpoint()
        with pytest.raises(TooMany, match="at most 16777216 for each caller") as refused:
            await bodies.parse(body, ANN)
        assert not refused.value.in_all
        for number in range(12):
            tasks.start_soon(wait, Caller(str(number)))
        await anyio.lowlevel.checkpoint()
        for caller in (BOB, ANYBODY):
            with pytest.raises(TooMany, match="at most 67108864 in all") as refused:
                await bodies.parse(body, caller)
            assert refused.value.in_all
    assert bodies._bytes == {}
    assert MAX_WAITING_BYTES == 4 * MAX_WAITING_BYTES_PER_CALLER


async def test_a_body_that_is_not_parsed_in_time_is_refused() -> None:
    bodies = LargeBodies(patience=0.001)
    async with Turn(bodies._slots, bodies._limits):
        with pytest.raises(TooMany, match="none was parsed in time"):
            await bodies.parse(b"x", ANN)
