import json

import anyio
import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.events import Ear, Event, RequestRefused, ignore
from bridge.http.rejection_log import Refusals
from bridge.http.request_guard import LOCAL_NAMES, Gate
from bridge.protocol.notifications import Announcer
from bridge.registry import Registry
from bridge.stdio.framing import MAX_BYTES
from tests.serving.served import Served, request

pytestmark = pytest.mark.anyio

PING = json.dumps(request("ping")).encode()


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive()).get("body", b"")
    await JSONResponse({"method": scope["method"], "size": len(body)})(scope, receive, send)


def gate(
    *names: str,
    app: ASGIApp = echo,
    any_address: bool = False,
    sessions: bool = True,
    emit: Ear = ignore,
    alone_reads_arguments: bool = True,
) -> Gate:
    known = LOCAL_NAMES | set(names)
    return Gate(
        app,
        Announcer(Registry()),
        Refusals(emit),
        known,
        any_address=any_address,
        refuse_call=lambda *_: b"",
        alone_reads_arguments=lambda _name, _caller: alone_reads_arguments,
        sessions=sessions,
    )


async def send(
    to: Gate,
    body: bytes = PING,
    *,
    method: str = "POST",
    media_type: str = "application/json",
    **headers: str,
) -> httpx.Response:
    sent = {"host": "localhost:8000", "content-type": media_type} | headers
    async with httpx.AsyncClient(transport=httpx.ASGITransport(to), base_url="http://x") as web:
        return await web.request(method, "/mcp", content=body, headers=sent)


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
async def test_a_host_that_is_ours_passes(host: str) -> None:
    assert (await send(gate("api.example"), host=host)).json() == {"method": "POST", "size": len(PING)}


async def test_two_hosts_or_origins_are_not_taken_for_the_first(served: Served) -> None:
    async with served.http() as url:
        port = httpx.URL(url).port
        for extra, status in (
            (b"Host: evil.example\r\n", b"421"),
            (b"Origin: http://localhost\r\nOrigin: https://evil.example\r\n", b"403"),
        ):
            async with await anyio.connect_tcp("127.0.0.1", port or 0) as stream:
                head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                await stream.send(b"%s%sContent-Length: 2\r\n\r\n{}" % (head, extra))
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
async def test_another_host_is_misdirected(host: str, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []
    assert (await send(gate(emit=heard.append), host=host)).status_code == 421
    assert heard == [RequestRefused(421)]
    why = f'The Host header names another server (host="{host}" content-type="application/json")'
    assert f"refused a request from 127.0.0.1 with 421: {why}" in caplog.text


@pytest.mark.parametrize(
    ("host", "status"),
    [("10.0.0.1:8000", 200), ("[fe80::1]:8000", 200), ("evil.example", 421), ("1.2.3", 421)],
)
async def test_where_it_is_open_to_others_any_address_passes_but_no_name(host: str, status: int) -> None:
    assert (await send(gate(any_address=True), host=host)).status_code == status


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
    assert (await send(gate(any_address=True), origin=origin)).status_code == status


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("Application/JSON; charset=utf-8", 200),
        ("application/jsonX", 415),
        ("text/plain", 415),
        ("", 415),
    ],
)
async def test_a_body_is_declared_as_json(media_type: str, status: int) -> None:
    assert (await send(gate(), media_type=media_type)).status_code == status


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
async def test_what_is_no_message_is_answered_without_the_sdk(body: bytes, code: int) -> None:
    reply = await send(gate(), body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, code)


@pytest.mark.parametrize(
    ("name", "arguments", "alone", "whole"),
    [
        ("x", {"a": [0] * 5000}, True, False),
        ("x", {"a": [0] * 5000}, False, True),
        ("x", [0] * 5000, True, True),
    ],
)
async def test_the_sdk_sees_large_arguments_only_where_it_needs_them(
    name: str, arguments: object, *, alone: bool, whole: bool
) -> None:
    body = json.dumps(request("tools/call", 1, name=name, arguments=arguments)).encode()
    reply = await send(gate(alone_reads_arguments=alone), body)
    assert (reply.json()["size"] == len(body)) is whole


async def test_a_body_past_the_limit_is_refused() -> None:
    assert (await send(gate(), b" " * (MAX_BYTES + 1))).status_code == 413


@pytest.mark.parametrize(("method", "status"), [("POST", 503), ("GET", 503), ("DELETE", 200)])
async def test_while_it_stops_only_a_good_bye_passes(method: str, status: int) -> None:
    stopping = gate()
    stopping.stopping.set()
    reply = await send(stopping, method=method)
    assert reply.status_code == status
    refused = ("close", "1") if status == 503 else (None, None)
    assert (reply.headers.get("connection"), reply.headers.get("retry-after")) == refused


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_without_sessions_there_is_nothing_to_get_or_to_delete(method: str) -> None:
    without = gate(sessions=False)
    reply = await send(without, method=method)
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert (await send(without)).status_code == 200


async def test_nothing_comes_of_a_body_that_breaks_off() -> None:
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
    await gate()(scope, receive, answer)
    assert answered == []


async def test_what_a_request_was_received_by_is_let_go_with_it() -> None:
    kept: list[Receive] = []

    async def keep(scope: Scope, receive: Receive, send: Send) -> None:
        kept.append(receive)
        await echo(scope, receive, send)

    await send(gate(app=keep))
    assert await kept[0]() == {"type": "http.disconnect"}
