import json

import anyio
import httpx
import pytest
from mcp.server.context import CallNext, HandlerResult
from mcp_types import JSONRPCRequest

from bridge.caller import ANONYMOUS, Caller
from bridge.errors import TooMany
from bridge.events import CallFinished
from bridge.http import large_bodies
from bridge.http.large_bodies import LARGE_BODY_BYTES, MAX_BYTES, MAX_BYTES_PER_CALLER, LargeBodies, is_large
from bridge.protocol.caller_context import Context
from bridge.protocol.handlers import ToolServer
from bridge.protocol.large_arguments import LARGE_ARGUMENTS
from bridge.registry import Registry, Snapshot
from bridge.upstream.client import Client
from bridge.upstream.slots import Slot
from tests.serving.api import Api
from tests.serving.messages import Json, call, request
from tests.serving.served import Served
from tests.serving.session import Session
from tests.test_registry import tool

pytestmark = pytest.mark.anyio

ANN, BOB = Caller("ann"), Caller("bob")


def large_call(size: int, name: str = "any") -> Json:
    message = call(name)
    message["params"]["arguments"] = {"text": "x" * size}
    return message


@pytest.mark.parametrize("fast_path", [True, False])
async def test_a_call_may_have_one_mebibyte_of_arguments(
    served: Served, web: httpx.AsyncClient, *, fast_path: bool
) -> None:
    async with served.http(fast_path=fast_path) as url:
        session = Session(web, url)
        await session.open()
        for send in (session.ask, session.ask_modern):
            url_too_long = (await send(large_call(500_000)))["result"]
            assert url_too_long["_meta"]["restbridge/error"] == "url-too-long"
        rejections = [await session.ask_modern(large_call(2_000_000))]
        rejections.append((await session.post(large_call(2_000_000))).json())
    text = "The arguments are larger than 1048576 bytes; nothing was sent. Send less at a time."
    for answer in rejections:
        assert answer["result"]["isError"] is True
        assert answer["result"]["content"] == [{"type": "text", "text": text}]
        assert answer["result"]["_meta"]["restbridge/error"] == "arguments-too-large"
    outcomes = [event.outcome for event in served.events if isinstance(event, CallFinished)]
    assert outcomes == ["url-too-long"] * 2 + ["arguments-too-large"] * 2


async def test_only_a_call_may_be_large(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url:
        session = Session(web, url)
        for message in (
            request("ping", 7, x="x" * LARGE_BODY_BYTES),
            {"jsonrpc": "2.0", "method": "x", "x": "x" * LARGE_BODY_BYTES},
        ):
            reply = await session.post(message)
            error = reply.json()
            assert (reply.status_code, error["id"]) == (400, message.get("id"))
            assert error["error"]["message"] == "Only tools/call may be larger than 65536 bytes"
        reply = await session.post(b"[1," + b" " * LARGE_BODY_BYTES)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, -32700)


async def test_a_message_with_too_many_values_is_not_parsed(served: Served, web: httpx.AsyncClient) -> None:
    message = call("any")
    message["params"]["arguments"] = {"list": [1] * 700_000}
    async with served.http() as url:
        reply = await Session(web, url).post(json.dumps(message).encode())
    assert reply.status_code == 400
    assert "and 600000 commas" in reply.json()["error"]["message"]


async def test_large_arguments_that_are_nested_too_deep_are_refused_by_validation(
    served: Served, web: httpx.AsyncClient
) -> None:
    deep = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"any","arguments":{"a":%s1%s,"b":"%s"}}}'
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        reply = await session.post(deep % (b"[" * 190, b"]" * 190, b"x" * LARGE_BODY_BYTES))
    assert "nested more than 64 deep" in reply.text


@pytest.mark.parametrize(
    ("body", "large"),
    [
        (b"[]," * 2700, False),  # short
        (b"x, " * 4000 + b"x" * 110_000, False),  # a long text
        (b"x" * (LARGE_BODY_BYTES + 1), True),
        (b"[]," * 2800, True),
        (rb"\ud800" * 5000, True),
        (b"9" * 4200 + b"x" * 5000, True),
    ],
)
def test_a_body_is_large_by_size_or_by_its_number_of_values(body: bytes, *, large: bool) -> None:
    assert is_large(body) is large


@pytest.mark.parametrize("fast_path", [True, False])
async def test_the_sdk_does_not_parse_arguments_with_many_values_again(
    served: Served, web: httpx.AsyncClient, *, fast_path: bool
) -> None:
    seen: list[object] = []

    async def watch(ctx: Context, call_next: CallNext) -> HandlerResult:
        seen.append((ctx.params or {}).get("arguments"))
        return await call_next(ctx)

    served.server.middleware.append(watch)
    message = call("strict")
    message["params"]["arguments"] = {"n": [0] * 5000}
    async with served.http(fast_path=fast_path) as url:
        session = Session(web, url)
        await session.open()
        seen.clear()
        for send in (session.ask, session.ask_modern):
            answer = await send(message)
            assert "- n: [0," in answer["result"]["content"][0]["text"]
            answer = await send(message | {"params": message["params"] | {"name": "unknown"}})
            assert answer["error"]["message"] == "Unknown tool: unknown"
    assert seen == [{}] * 4


@pytest.mark.parametrize("fast_path", [True, False])
@pytest.mark.parametrize(("name", "arguments"), [("any", [0]), ("any", "0"), (5, {"a": 0})])
async def test_large_arguments_of_the_wrong_type_are_answered_like_small_ones(
    served: Served, web: httpx.AsyncClient, name: object, arguments: Json, *, fast_path: bool
) -> None:
    small = request("tools/call", 1, name=name, arguments=arguments)
    large = request(
        "tools/call", 1, name=name, arguments=[[0] * 5000] if name == "any" else {"a": [0] * 5000}
    )
    async with served.http(fast_path=fast_path) as url:
        session = Session(web, url)
        await session.open()
        assert (await session.ask(small))["error"] == (await session.ask(large))["error"]
        sent = [session.modern(message) for message in (small, large)]
        errors = [(await web.post(url, **each)).json()["error"] for each in sent]
    assert errors[0] == errors[1]


NAME: Json = {"type": "string", "x-mcp-header": "Name"}
WITH_HEADERS: Json = {
    "properties": {
        "name": NAME,
        "inner": {"properties": {"number": {"type": "integer", "x-mcp-header": "N"}}},
    },
    "additionalProperties": True,
}


@pytest.mark.parametrize(
    ("name", "arguments", "visible"),
    [
        (
            "mirror",
            {"name": "x", "inner": {"number": 5, "x": 1}, "x": 1},
            {"name": "x", "inner": {"number": 5}},
        ),
        ("mirror", {"name": None, "inner": {"x": 1}}, {}),
        ("mirror", {"name": {"x": 1}, "inner": [1]}, {"name": {}}),
        ("mirror", {"name": [1]}, {"name": []}),
        ("blocks", {"name": "x"}, {}),
        ("plain", {"name": "x"}, {}),
        ("unknown", {"name": "x"}, {}),
    ],
)
def test_the_sdk_sees_only_those_large_arguments_that_headers_may_repeat(
    name: str, arguments: Json, visible: Json
) -> None:
    tools = [
        tool("mirror", inputSchema=WITH_HEADERS, request={"method": "POST", "url": "https://api.example/x"}),
        tool("blocks", response={"content": "blocks"}),
        tool("plain"),
    ]
    server = ToolServer(Registry(Snapshot(tools)), Client(), lambda _: None)
    assert server.mirrored_arguments(name, arguments, ANONYMOUS) == visible


def test_the_bytes_of_large_bodies_are_limited() -> None:
    bodies, size = LargeBodies(), 4_000_000
    held = [bodies.hold(size, ANN) for _ in range(MAX_BYTES_PER_CALLER // size)]
    with pytest.raises(TooMany, match="at most 16777216 for each caller") as rejection:
        bodies.hold(size, ANN)
    assert not rejection.value.is_total
    held += [bodies.hold(size, Caller(str(number))) for number in range(12)]
    for caller in (BOB, ANONYMOUS):
        with pytest.raises(TooMany, match="at most 67108864 in total") as rejection:
            bodies.hold(size, caller)
        assert rejection.value.is_total
    for body in held:
        body.end()
    assert bodies._bytes == {}
    assert MAX_BYTES == 4 * MAX_BYTES_PER_CALLER


async def test_a_body_that_is_not_parsed_in_time_is_refused() -> None:
    bodies = LargeBodies(max_wait_seconds=0.001)
    async with Slot(bodies._slots[0], bodies._limits):
        with pytest.raises(TooMany, match="this request waited too long"):
            await bodies.parse(b"x", ANN)


async def test_calls_that_are_too_large_do_not_delay_other_bodies() -> None:
    bodies = LargeBodies()
    large = json.dumps(large_call(2_000_000)).encode()
    async with Slot(bodies._slots[1], bodies._limits):
        message, problem = await bodies.parse(json.dumps(large_call(1_050_000)).encode(), ANN)
    assert isinstance(message, JSONRPCRequest)
    assert problem is None
    async with Slot(bodies._slots[0], bodies._limits):
        _, problem = await bodies.parse(large, ANN)
    assert problem
    assert problem.code == "arguments-too-large"


async def test_a_large_call_counts_until_it_ends_and_holds_no_arguments(
    served: Served, web: httpx.AsyncClient, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_bodies, "MAX_BYTES", 300_000)
    seen: list[Json] = []

    async def watch(ctx: Context, call_next: CallNext) -> HandlerResult:
        if ctx.request and LARGE_ARGUMENTS in ctx.request.scope:
            seen.append(ctx.request.scope[LARGE_ARGUMENTS].arguments)
        return await call_next(ctx)

    served.server.middleware.append(watch)
    message = call("hang")
    message["params"]["arguments"] = {"x": "x" * 200_000}
    served.registry.replace(
        Snapshot(
            [
                tool(
                    "hang",
                    inputSchema={"additionalProperties": True},
                    request={"method": "POST", "url": f"{api.url}/hang"},
                )
            ]
        )
    )
    async with served.http() as url:
        session = Session(web, url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.ask_modern, message)
            await api.entered.wait()
            assert seen == [{}]
            reply = await web.post(url, **session.modern(message))
            assert (reply.status_code, reply.json()["error"]["message"]) == (
                503,
                "Too many bytes of large requests: at most 300000 in total. Try again in 5 seconds.",
            )
            api.release.set()
        assert (await session.ask_modern(message))["result"]["isError"] is False


async def test_a_large_call_is_not_made_if_its_client_leaves_before_it_starts(
    served: Served, web: httpx.AsyncClient
) -> None:
    waiting, ended = anyio.Event(), anyio.Event()

    async def wait(ctx: Context, call_next: CallNext) -> HandlerResult:
        waiting.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()
        return await call_next(ctx)

    served.server.middleware.append(wait)
    async with served.http() as url:
        session = Session(web, url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.ask_modern, large_call(200_000))
            await waiting.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(30):
            await ended.wait()
    assert [event for event in served.events if isinstance(event, CallFinished)] == []
