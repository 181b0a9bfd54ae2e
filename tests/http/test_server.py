import json
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import httpx
import pytest

from bridge.address import Address, is_loopback
from bridge.events import CallFinished, ignore
from bridge.http.listeners import bind
from bridge.http.server import Endpoint, Listening, serve_http
from tests.serving.api import Api
from tests.serving.messages import Json, call
from tests.serving.served import Served
from tests.serving.session import Session

ERAS = pytest.mark.parametrize("modern", [False, True], ids=["handshake", "modern"])


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("LocalHost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
    ],
)
def test_which_hosts_are_loopback(host: str, *, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.anyio
async def test_the_url_has_the_actual_port(served: Served) -> None:
    async with served.http("::1") as url:
        assert url.startswith("http://[::1]:")
        assert not url.endswith(":0/mcp")


@pytest.mark.anyio
async def test_a_port_in_use_raises_an_oserror(served: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        listening = Listening(Address(*occupied.getsockname()))
        with pytest.raises(OSError, match="in use"):
            await serve_http(served.server, listening, served.stop, print, endpoint=Endpoint(), emit=ignore)


@pytest.mark.anyio
@ERAS
async def test_a_call_in_flight_is_answered_before_the_server_stops(
    served: Served, api: Api, web: httpx.AsyncClient, *, modern: bool
) -> None:
    answers: list[Json] = []
    async with served.http() as url, anyio.create_task_group() as tasks:
        send = await _sender(web, url, modern=modern)

        async def hang() -> None:
            answers.append(await send(call("hang")))

        tasks.start_soon(hang)
        await _wait_until_called(api)
        served.stop.set()
        api.release.set()
    assert answers[0]["result"]["isError"] is False


@pytest.mark.anyio
@ERAS
async def test_a_call_that_exceeds_the_grace_period_is_aborted_with_an_error(
    served: Served, api: Api, web: httpx.AsyncClient, *, modern: bool
) -> None:
    answers: list[Json] = []
    async with served.http(grace=0) as url, anyio.create_task_group() as tasks:
        send = await _sender(web, url, modern=modern)

        async def hang() -> None:
            answers.append(await send(call("hang")))

        tasks.start_soon(hang)
        await _wait_until_called(api)
        served.stop.set()
        with anyio.fail_after(30):
            await api.left.wait()
    assert answers[0]["id"] == 1
    assert answers[0]["error"]["message"].startswith("The server stopped")
    assert [event.outcome for event in served.events if isinstance(event, CallFinished)] == ["stopped"]


async def accepts(port: int) -> bool:
    try:
        await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
    except OSError:
        return False
    return True


@pytest.mark.anyio
async def test_open_connections_get_a_last_answer_when_the_server_stops(served: Served) -> None:
    """A client may have sent its request before it knew."""
    request = b"GET /-/nosuch HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with served.http(drain=30) as url:
        port = httpx.URL(url).port or 0
        async with (
            await anyio.connect_tcp("127.0.0.1", port) as idle,
            await anyio.connect_tcp("127.0.0.1", port) as unused,
        ):
            await idle.send(request)
            assert b"connection: close" not in (await idle.receive()).lower()
            await unused.send(request[:10])
            served.stop.set()
            with anyio.fail_after(30):
                while await accepts(port):
                    pass
            for connection, rest in ((idle, request), (unused, request[10:])):
                await connection.send(rest)
                assert b"connection: close" in (await connection.receive()).lower()
                with pytest.raises(anyio.EndOfStream):
                    await connection.receive()


@pytest.mark.anyio
async def test_a_cancelled_server_ends_at_once_and_frees_its_port(
    served: Served, api: Api, web: httpx.AsyncClient
) -> None:
    started = anyio.Event()
    urls: list[str] = []

    def listening(url: str) -> None:
        urls.append(url)
        started.set()

    with anyio.fail_after(4):  # the grace period is 5 s
        async with anyio.create_task_group() as calls, anyio.create_task_group() as tasks:
            where = Listening(Address("127.0.0.1", 0))
            serve = partial(serve_http, endpoint=Endpoint(), emit=ignore)
            tasks.start_soon(serve, served.server, where, served.stop, listening)
            await started.wait()
            calls.start_soon(Session(web, urls[0]).ask_modern, call("hang"))
            await api.entered.wait()
            tasks.cancel_scope.cancel()
    with bind(Address("127.0.0.1", httpx.URL(urls[0]).port or 0)):
        pass


@pytest.mark.anyio
async def test_a_subscription_completes_when_the_server_stops(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url, Session(web, url).listen(toolsListChanged=True) as messages:
        assert (await anext(messages))["method"] == "notifications/subscriptions/acknowledged"
        served.stop.set()
        assert (await anext(messages))["result"]["resultType"] == "complete"


@pytest.mark.anyio
async def test_a_modern_client_that_disconnects_aborts_its_call(
    served: Served, api: Api, web: httpx.AsyncClient
) -> None:
    async with served.http() as url:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Session(web, url).ask_modern, call("hang"))
            await _wait_until_called(api)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(30):
            await api.left.wait()
    assert [event.outcome for event in served.events if isinstance(event, CallFinished)] == ["cancelled"]


async def _sender(web: httpx.AsyncClient, url: str, *, modern: bool) -> Callable[[Json], Awaitable[Json]]:
    session = Session(web, url)
    if modern:
        return session.ask_modern
    await session.open()
    return session.ask


async def _wait_until_called(api: Api) -> None:
    with anyio.fail_after(30):
        await api.entered.wait()


@pytest.mark.anyio
async def test_another_path_gets_404_with_the_right_path(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url:
        reply = await web.get(url.removesuffix("/mcp"))
        assert (reply.status_code, reply.text) == (
            404,
            "Not found. MCP clients connect to /mcp, or to /mcp/NAME for a configured view\n",
        )


@pytest.mark.anyio
@ERAS
async def test_a_large_result_is_complete(served: Served, web: httpx.AsyncClient, *, modern: bool) -> None:
    async with served.http() as url:
        send = await _sender(web, url, modern=modern)
        answer = await send(call("large"))
    assert len(answer["result"]["content"][0]["text"]) > 500_000


@pytest.mark.anyio
@pytest.mark.parametrize(
    "upgrade", ["h2c", "websocket"]
)  # sent by java.net.http.HttpClient and curl --http2, and by proxies that are set up for WebSocket
async def test_a_request_with_an_upgrade_is_answered_like_any_other(
    served: Served, web: httpx.AsyncClient, upgrade: str
) -> None:
    headers = {
        "connection": "Upgrade, HTTP2-Settings",
        "upgrade": upgrade,
        "http2-settings": "AAEAAEAAAAIAAAAB",
    }
    async with served.http() as url:
        session = Session(web, url)
        session.headers |= headers
        await session.open()
        for send in (session.ask, session.ask_modern):
            assert (await send(call("echo")))["result"]["isError"] is False


@pytest.mark.anyio
@ERAS
async def test_a_half_closed_client_gets_its_result(
    served: Served, api: Api, web: httpx.AsyncClient, *, modern: bool
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        posted = web.build_request("POST", url, **_posted(session, modern=modern))
        host, port = "127.0.0.1", httpx.URL(url).port or 0
        async with await anyio.connect_tcp(host, port) as stream:
            head = b"".join(b"%s: %s\r\n" % field for field in posted.headers.raw)
            await stream.send(b"POST /mcp HTTP/1.1\r\n%s\r\n%s" % (head, posted.content))
            await stream.send_eof()
            await _wait_until_called(api)
            api.release.set()
            with anyio.fail_after(5):
                answer = b"".join([chunk async for chunk in stream])
    assert answer.count(b'"isError":false') == 1
    assert [event.outcome for event in served.events if isinstance(event, CallFinished)] == ["ok"]


def _posted(session: Session, *, modern: bool) -> Json:
    message = call("hang")
    if modern:
        return session.modern(message)
    return {"content": json.dumps(message).encode(), "headers": session.headers}
