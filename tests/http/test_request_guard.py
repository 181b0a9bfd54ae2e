import json

import anyio
import httpx
import pytest
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.events import Event, Listener, RequestRefused, ignore
from bridge.http.large_bodies import LARGE_BODY_BYTES, LargeBodies
from bridge.http.rejection_log import RejectionLog
from bridge.http.request_guard import LOCAL_HOSTS, RequestGuard, receive_until
from bridge.protocol.handlers import ToolServer
from bridge.registry import Registry, Snapshot
from bridge.secrets import Sources
from bridge.settings import Limits
from bridge.spec import ToolSpec
from bridge.tool.compiler import compile_tool
from bridge.upstream.client import Client
from bridge.upstream.slots import Slot
from tests.serving.messages import request
from tests.serving.served import Served

pytestmark = pytest.mark.anyio

PING = json.dumps(request("ping")).encode()
TOOL = {
    "description": "x",
    "inputSchema": {"properties": {"a": {"type": "integer", "x-mcp-header": "A"}, "b": {"type": "array"}}},
    "request": {"method": "POST", "url": "http://127.0.0.1:1/"},
}
MAX_BYTES = Limits().body


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive()).get("body", b"")
    await JSONResponse({"method": scope["method"], "size": len(body)})(scope, receive, send)


def guard(
    *names: str,
    app: ASGIApp = echo,
    any_address: bool = False,
    emit: Listener = ignore,
) -> RequestGuard:
    tool, _ = compile_tool("x", ToolSpec.model_validate(TOOL), None, Sources({}))
    server = ToolServer(Registry(Snapshot([tool])), Client(), ignore)
    return RequestGuard(app, server, RejectionLog(emit), LOCAL_HOSTS | set(names), any_address=any_address)


async def send(
    to: RequestGuard,
    body: bytes = PING,
    *,
    method: str = "POST",
    media_type: str = "application/json",
    **headers: str,
) -> httpx.Response:
    """Send a request of a modern client: only these reach the app."""
    sent = {"host": "localhost:8000", "content-type": media_type, "mcp-protocol-version": "2026-07-28"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(to), base_url="http://x") as web:
        return await web.request(method, "/mcp", content=body, headers=sent | headers)


@pytest.mark.parametrize(
    "host",
    [
        "localhost.",
        "localhost",
        "localhost:8000",
        "LOCALHOST:1",
        "127.0.0.1:65535",
        "[::1]",
        "[::1]:8000",
        "api.example",
    ],
)
async def test_a_host_of_this_server_passes(host: str) -> None:
    assert (await send(guard("api.example"), host=host)).json() == {"method": "POST", "size": len(PING)}


async def test_a_request_has_one_host_and_all_its_origins_must_be_allowed(served: Served) -> None:
    async with served.http() as url:
        port = httpx.URL(url).port
        for fields, status in (
            (b"", b"400"),  # RFC 9112 3.2
            (b"Host: localhost\r\nHost: evil.example\r\n", b"400"),
            (b"Host: localhost\r\nOrigin: http://localhost\r\nOrigin: https://evil.example\r\n", b"403"),
        ):
            async with await anyio.connect_tcp("127.0.0.1", port or 0) as stream:
                head = b"POST /mcp HTTP/1.1\r\nContent-Type: application/json\r\n"
                await stream.send(b"%s%sContent-Length: 2\r\n\r\n{}" % (head, fields))
                assert (await stream.receive()).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "localhost:evil.example",
        "localhost:x@evil.example",
        "localhost:",
        "localhost:123456",
        "127.0.0.2",
        "10.0.0.1",
        "[::2]",
        "::1",
        "user@localhost",
    ],
)
async def test_a_host_of_another_server_is_refused(host: str, caplog: pytest.LogCaptureFixture) -> None:
    events: list[Event] = []
    assert (await send(guard(emit=events.append), host=host)).status_code == 421
    assert events == [RequestRefused(421)]
    why = f'The Host header names another server (host="{host}" content-type="application/json")'
    assert f"refused a request from 127.0.0.1 with 421: {why}" in caplog.text


async def test_a_large_body_that_is_not_parsed_in_time_is_refused() -> None:
    events: list[Event] = []
    busy = guard(emit=events.append)
    bodies = busy._large_bodies = LargeBodies(max_wait_seconds=0.001)
    async with Slot(bodies._slots[0], bodies._limits):
        answer = await send(busy, b" " * LARGE_BODY_BYTES + PING)
    assert answer.status_code == 503
    assert answer.json()["error"]["message"].startswith(
        "Too many bytes of large requests: this request waited too long"
    )
    assert events == [RequestRefused(503)]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ('{"4111-1111":1,"4111-1111":2}', "an object has a key more than once"),
        ('{"a":4111e999}', "a number is outside the range of a double"),
        (f'{{"4111-1111":1,"a":[{"0," * 200_000}0],"4111-1111":2}}', "an object has a key more than once"),
    ],
    ids=lambda text: text[:20],
)
async def test_invalid_json_is_quoted_to_the_client_and_not_in_the_log(
    arguments: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = PING.replace(b"{", b'{"params":{"arguments":%s},' % arguments.encode(), 1)
    answer = await send(guard(), body)
    assert answer.status_code == 400
    assert "4111" in answer.text
    assert f"with 400: Parse error: {kind}" in caplog.text
    assert "4111" not in caplog.text


@pytest.mark.parametrize(
    ("host", "status"),
    [("10.0.0.1:8000", 200), ("[fe80::1]:8000", 200), ("evil.example", 421), ("1.2.3", 421)],
)
async def test_a_server_that_others_can_reach_accepts_any_ip_address_as_host(host: str, status: int) -> None:
    assert (await send(guard(any_address=True), host=host)).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:6274", 200),
        ("https://127.0.0.1", 200),
        ("http://[::1]:3000", 200),
        ("null", 403),
        ("", 403),
        ("http://evil.example", 403),
        ("http://10.0.0.1", 403),
        ("http://localhost:3000.evil.example", 403),
        ("http://localhost:x@evil", 403),
        ("http://localhost/", 403),
        ("file://localhost", 403),
    ],
)
async def test_only_pages_of_this_machine_may_call(origin: str, status: int) -> None:
    assert (await send(guard(any_address=True), origin=origin)).status_code == status


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("Application/JSON; charset=utf-8", 200),
        ("application/jsonX", 415),
        ("text/plain", 415),
        ("", 415),
    ],
)
async def test_the_media_type_of_a_body_must_be_json(media_type: str, status: int) -> None:
    assert (await send(guard(), media_type=media_type)).status_code == status


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"[]", -32600),
        (b'{"jsonrpc":"1.0"}', -32600),
        (PING.replace(b"{}", b'{"n": NaN}'), -32700),
        (PING.replace(b'"id"', b'"id": 2, "id"'), -32700),
        (PING.replace(b"{}", b'{"n": %s}' % (b"[" * 300 + b"]" * 300)), -32700),
        (PING.decode().encode("utf-16-le"), -32700),
        (b"[" + PING + b"]", -32600),
        (PING.replace(b"{}", b'{"n": [%s[]]}' % (b"[]," * 50_000)), -32600),
    ],
)
async def test_an_invalid_message_is_answered_without_the_sdk(body: bytes, code: int) -> None:
    reply = await send(guard(), body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, code)


@pytest.mark.parametrize(
    ("name", "arguments", "shown"),
    [
        ("x", {"a": 1, "b": [0] * 5000}, {"a": 1}),
        (5, {"a": 1, "b": [0] * 5000}, {}),
        ("x", [0] * 5000, []),
        ("x", "0," * 5000, []),
        ("x" * 10_000 + "," * 5000, None, {}),
    ],
)
async def test_of_large_arguments_the_sdk_sees_only_those_that_headers_may_mirror(
    name: object, arguments: object, shown: object
) -> None:
    async def repeat(scope: Scope, receive: Receive, send: Send) -> None:
        await Response((await receive())["body"])(scope, receive, send)

    message = request("tools/call", 1, name=name, arguments=arguments, _meta={"x": "y"})
    reply = await send(guard(app=repeat), json.dumps(message).encode())
    assert reply.json() == message | {"params": message["params"] | {"arguments": shown}}


async def test_a_body_over_the_limit_is_refused() -> None:
    assert (await send(guard(), b" " * (MAX_BYTES + 1))).status_code == 413


@pytest.mark.parametrize(("method", "status"), [("POST", 503), ("GET", 503), ("DELETE", 200)])
async def test_a_stopping_server_accepts_only_the_end_of_a_session(method: str, status: int) -> None:
    stopping = guard()
    stopping.stop()
    reply = await send(stopping, method=method)
    assert reply.status_code == status
    refused = ("close", "1") if status == 503 else (None, None)
    assert (reply.headers.get("connection"), reply.headers.get("retry-after")) == refused


async def test_an_incomplete_body_gets_no_answer() -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]
    answered: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def answer(message: Message) -> None:
        answered.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": headers}
    await guard()(scope, receive, answer)
    assert answered == []


async def test_a_finished_request_is_not_kept_in_memory() -> None:
    kept: list[Receive] = []

    async def keep(scope: Scope, receive: Receive, send: Send) -> None:
        kept.append(receive)
        await echo(scope, receive, send)

    await send(guard(app=keep))
    assert await kept[0]() == {"type": "http.disconnect"}


async def test_a_message_is_received_until_an_event() -> None:
    ended = anyio.Event()
    sender, receiver = anyio.create_memory_object_stream[Message](1)
    with sender, receiver:
        await sender.send({"type": "http.request"})
        assert await receive_until(ended, receiver.receive) == {"type": "http.request"}
        ended.set()
        assert await receive_until(ended, receiver.receive) == {"type": "http.disconnect"}
