import json
import socket
from collections.abc import Awaitable, Callable

import anyio
import httpx
import pytest

from bridge.address import Address, is_loopback
from bridge.events import CallFinished
from bridge.http.listeners import bind
from bridge.http.server import serve_http
from tests.serving.served import Api, Json, Served, Session, call, cancel, request

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
def test_only_loopback_is_loopback(host: str, *, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.anyio
async def test_the_url_names_the_port_that_was_found(served: Served) -> None:
    async with served.http("::1") as url:
        assert url.startswith("http://[::1]:")
        assert not url.endswith(":0/mcp")


@pytest.mark.anyio
async def test_a_port_in_use_is_an_error_of_the_system(served: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        await serve_http(served.server, "127.0.0.1", taken.getsockname()[1], served.stop, print)


@pytest.mark.anyio
@ERAS
async def test_a_call_in_flight_is_answered_before_the_end(
    served: Served, api: Api, web: httpx.AsyncClient, *, modern: bool
) -> None:
    answers: list[Json] = []
    async with served.http() as url, anyio.create_task_group() as tasks:
        ask = await _asking(web, url, modern=modern)

        async def hang() -> None:
            answers.append(await ask(call("hang")))

        tasks.start_soon(hang)
        await _entered(api)
        served.stop.set()
        api.release.set()
    assert answers[0]["result"]["isError"] is False


@pytest.mark.anyio
@ERAS
async def test_a_call_past_the_grace_is_aborted_and_told_so(
    served: Served, api: Api, web: httpx.AsyncClient, *, modern: bool
) -> None:
    answers: list[Json] = []
    async with served.http(grace=0) as url, anyio.create_task_group() as tasks:
        ask = await _asking(web, url, modern=modern)

        async def hang() -> None:
            answers.append(await ask(call("hang")))

        tasks.start_soon(hang)
        await _entered(api)
        served.stop.set()
        with anyio.fail_after(30):
            await api.left.wait()
    assert answers[0]["id"] == 1
    assert answers[0]["error"]["message"].startswith("The server stopped")
    assert [event.outcome for event in served.events if isinstance(event, CallFinished)] == ["stopped"]


@pytest.mark.anyio
async def test_cancelled_it_ends_at_once_and_frees_its_port(
    served: Served, api: Api, web: httpx.AsyncClient
) -> None:
    started = anyio.Event()
    urls: list[str] = []

    def listening(url: str) -> None:
        urls.append(url)
        started.set()

    with anyio.fail_after(4):  # the grace is 5
        async with anyio.create_task_group() as calls, anyio.create_task_group() as tasks:
            tasks.start_soon(serve_http, served.server, "127.0.0.1", 0, served.stop, listening)
            await started.wait()
            calls.start_soon(Session(web, urls[0]).ask_modern, call("hang"))
            await api.entered.wait()
            tasks.cancel_scope.cancel()
    with bind(Address("127.0.0.1", httpx.URL(urls[0]).port or 0)):
        pass


@pytest.mark.anyio
async def test_a_stream_ends_cleanly_when_the_server_stops(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        async with session.stream() as told:
            served.stop.set()
            assert [message async for message in told] == []


@pytest.mark.anyio
async def test_a_listener_is_told_that_the_server_stops(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url, Session(web, url).listen(toolsListChanged=True) as told:
        assert (await anext(told))["method"] == "notifications/subscriptions/acknowledged"
        served.stop.set()
        assert (await anext(told))["result"]["resultType"] == "complete"


@pytest.mark.anyio
async def test_a_modern_client_that_leaves_aborts_its_call(
    served: Served, api: Api, web: httpx.AsyncClient
) -> None:
    async with served.http() as url:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Session(web, url).ask_modern, call("hang"))
            await _entered(api)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(30):
            await api.left.wait()
    assert [event.outcome for event in served.events if isinstance(event, CallFinished)] == ["cancelled"]


@pytest.mark.anyio
async def test_a_handshake_client_cancels_by_saying_so(
    served: Served, api: Api, web: httpx.AsyncClient
) -> None:
    """One that only leaves does not: it may come back (MCP 2025-11-25, Streamable HTTP)."""
    answers: list[Json] = []
    async with served.http() as url, anyio.create_task_group() as tasks:
        session = Session(web, url)
        await session.open()

        async def hang() -> None:
            answers.append(await session.ask(call("hang")))

        tasks.start_soon(hang)
        await _entered(api)
        await session.post(cancel(1))
        with anyio.fail_after(30):
            await api.left.wait()
    assert answers[0]["error"]["message"] == "Request cancelled"


@pytest.mark.anyio
async def test_a_second_request_with_an_id_in_flight_is_refused(
    served: Served, api: Api, web: httpx.AsyncClient
) -> None:
    answers: list[Json] = []
    async with served.http() as url, anyio.create_task_group() as tasks:
        session = Session(web, url)
        await session.open()

        async def hang() -> None:
            answers.append(await session.ask(call("hang", 7)))

        tasks.start_soon(hang)
        await _entered(api)
        refused = await session.post(request("ping", "7"))
        assert (refused.status_code, refused.json()["id"]) == (409, "7")
        api.release.set()
    assert answers[0]["result"]["isError"] is False


@pytest.mark.anyio
async def test_a_session_has_one_stream(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        async with session.stream():
            assert (await web.get(url, headers=session.headers)).status_code == 409


async def _asking(web: httpx.AsyncClient, url: str, *, modern: bool) -> Callable[[Json], Awaitable[Json]]:
    session = Session(web, url)
    if modern:
        return session.ask_modern
    await session.open()
    return session.ask


async def _entered(api: Api) -> None:
    with anyio.fail_after(30):
        await api.entered.wait()


@pytest.mark.anyio
async def test_who_comes_to_another_path_is_told_the_right_one(
    served: Served, web: httpx.AsyncClient
) -> None:
    async with served.http() as url:
        reply = await web.get(url.removesuffix("/mcp"))
        assert (reply.status_code, reply.text) == (
            404,
            "Nothing is here. Agents connect to /mcp, or to /mcp/NAME for a view that there is\n",
        )


@pytest.mark.anyio
@ERAS
async def test_a_large_reply_comes_whole(served: Served, web: httpx.AsyncClient, *, modern: bool) -> None:
    async with served.http() as url:
        ask = await _asking(web, url, modern=modern)
        answer = await ask(call("large"))
    assert len(answer["result"]["content"][0]["text"]) > 500_000


@pytest.mark.anyio
@pytest.mark.parametrize(
    "upgrade", ["h2c", "websocket"]
)  # as java.net.http.HttpClient and curl --http2 ask, and as a proxy's lines for WebSocket
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
        for asks in (session.ask, session.ask_modern):
            assert (await asks(call("echo")))["result"]["isError"] is False


@pytest.mark.anyio
async def test_a_stream_opens_again_after_the_last_event(served: Served, web: httpx.AsyncClient) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        session.headers["last-event-id"] = "5"
        async with session.stream() as told:
            await served.add("late")
            assert (await anext(told))["method"] == "notifications/tools/list_changed"
            served.stop.set()


@pytest.mark.anyio
@ERAS
async def test_a_client_that_closes_its_side_gets_the_result(
    served: Served, api: Api, web: httpx.AsyncClient, *, modern: bool
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        asked = web.build_request("POST", url, **_posted(session, modern=modern))
        host, port = "127.0.0.1", httpx.URL(url).port or 0
        async with await anyio.connect_tcp(host, port) as stream:
            head = b"".join(b"%s: %s\r\n" % field for field in asked.headers.raw)
            await stream.send(b"POST /mcp HTTP/1.1\r\n%s\r\n%s" % (head, asked.content))
            await stream.send_eof()
            await _entered(api)
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
