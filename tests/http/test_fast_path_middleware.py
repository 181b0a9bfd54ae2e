"""The fast path compared with the SDK: both answer random requests alike."""

import json
import random
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from http.client import HTTPResponse
from io import BytesIO
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from bridge.events import CallFinished, ignore
from bridge.http import reply_stream
from bridge.http.fast_path_middleware import FastPathMiddleware
from bridge.http.rejection_log import RejectionLog
from bridge.http.request_guard import LOCAL_HOSTS, RequestGuard
from bridge.protocol.session_id import Session as SessionClaims
from bridge.protocol.session_id import new_session_id
from tests.serving.api import Api
from tests.serving.messages import META, Json, call, cancel, initialize, request
from tests.serving.served import Served
from tests.serving.session import Session, events_in

pytestmark = pytest.mark.anyio

AT_ONCE: Final = pytest.mark.usefixtures("early_headers")
LATE: Final = pytest.mark.usefixtures("no_early_headers")
"""When the headers of a reply go out that has to wait."""

SESSION: Final = "@SESSION@"
HEADERS: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
TOOLS: Final = ("any", "change", "echo", "fail", "strict", "typed", "no-such", "")
CLIENT: Final = "io.modelcontextprotocol/clientInfo"
CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
VERSION: Final = "io.modelcontextprotocol/protocolVersion"


class RandomRequest:
    """A request for the fast path, with up to two random mutations."""

    def __init__(self, chance: random.Random, *, sessions: bool) -> None:
        self.chance = chance
        self.is_modern = chance.random() < 0.5
        self.tool = chance.choice(TOOLS[:6])
        self.method = chance.choice(["tools/call"] * 5 + ["tools/list"])
        params: Json = {}
        if self.method == "tools/call":
            params = {"name": self.tool, "arguments": chance.choice([{}, {"n": 3}, {"n": "x"}, {"m": None}])}
        self.headers = list(HEADERS.items())
        if self.is_modern:
            params["_meta"] = deepcopy(META)
            self.headers += [("mcp-protocol-version", "2026-07-28"), ("mcp-method", self.method)]
            if self.method == "tools/call":
                self.headers.append(("mcp-name", self.tool))
        else:
            self.headers += [("mcp-session-id", SESSION)] * sessions
            self.headers.append(("mcp-protocol-version", "2025-11-25"))
        self.frame: Any = request(self.method, chance.choice([1, 0, "x", "ü", 2**40]), **params)
        self.mutate_text: Callable[[str], str] = str
        self.mutations = chance.choice([0, 0, 1, 1, 2])
        for _ in range(self.mutations):
            chance.choice(
                [self._mutate_headers, self._mutate_frame, self._mutate_params, self._mutate_text]
            )()

    @property
    def content(self) -> bytes:
        return self.mutate_text(json.dumps(self.frame)).encode()

    def _mutate_headers(self) -> None:
        index = self.chance.randrange(len(self.headers))
        name, value = self.headers[index]
        match self.chance.randrange(5):
            case 0:
                del self.headers[index]
            case 1:
                self.headers.append((name, value))
            case 2:
                others = ["", "*/*", "text/event-stream", "application/json", "2025-06-18", "1999-01-01"]
                others += [
                    "tools/list",
                    "echo",
                    "application/json; charset=utf-8",
                    "=?base64?ZWNobw==?=",
                    "no",
                ]
                self.headers[index] = (name, self.chance.choice(others))
            case 3:
                self.headers[index] = (name, f" {value} ")
            case 4:
                more = [
                    ("origin", "http://localhost"),
                    ("origin", "http://evil.example"),
                    ("mcp-param-n", "3"),
                ]
                more += [("mcp-session-id", SESSION), ("mcp-session-id", "unknown"), ("x-other", "1")]
                self.headers.append(self.chance.choice(more))

    def _mutate_frame(self) -> None:
        if not isinstance(self.frame, dict):
            return
        key = self.chance.choice(["jsonrpc", "id", "method", "params", "more", "batch"])
        if key == "batch":
            self.frame = [self.frame]
            return
        wrong: list[Any] = [
            None,
            True,
            1.5,
            "x",
            "",
            [],
            {},
            "tools/list",
            "tools/call",
            "ping",
            "nonsense",
            -1,
            2**70,
        ]
        if self.chance.random() < 0.3:
            self.frame.pop(key, None)
        else:
            self.frame[key] = self.chance.choice(wrong)

    def _mutate_params(self) -> None:
        params = self.frame.get("params") if isinstance(self.frame, dict) else None
        if not isinstance(params, dict):
            return
        meta = params.setdefault("_meta", {})
        match self.chance.randrange(6):
            case 0:
                params["name"] = self.chance.choice([*TOOLS, None, 3])
            case 1:
                params["arguments"] = self.chance.choice([None, [], "x", {"n": 2**70}, {"n": 1.0}, {"o": {}}])
            case 2:
                params[self.chance.choice(["cursor", "task", "extra"])] = "x"
            case 3:
                meta[self.chance.choice(["progressToken", "traceparent", "x"])] = 7
            case 4:
                meta[self.chance.choice([CLIENT, CAPABILITIES, VERSION])] = self.chance.choice(
                    [None, {}, {"name": 1}, {"roots": 5}, {"name": "n", "version": "1"}, "2025-11-25", []]
                )
            case 5:
                meta.pop(self.chance.choice([CLIENT, CAPABILITIES, VERSION]), None)

    def _mutate_text(self) -> None:
        ways: list[Callable[[str], str]] = [
            lambda text: text[:-1],
            lambda text: f"\ufeff{text}",
            lambda text: f" \n{text}\n ",
            lambda text: text.replace("{", '{"jsonrpc": "2.0", ', 1),
            lambda text: text.replace('"n": 3', '"n": NaN'),
            lambda text: text.replace('"x"', '"\\ud800"'),
            lambda text: text.replace('"x"', '"\\u0041"'),
            lambda _: "",
        ]
        self.mutate_text = self.chance.choice(ways)


def random_requests(seed: int, count: int, *, sessions: bool = True) -> Iterator[RandomRequest]:
    chance = random.Random(seed)  # noqa: S311 - the same requests each time
    for _ in range(count):
        yield RandomRequest(chance, sessions=sessions)


class _Read:
    """Bytes in the form of a socket, for ``HTTPResponse``."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> BytesIO:
        return BytesIO(self._data)


async def answered(url: str, session: str, attempt: RandomRequest) -> Json:
    """What a client sees of a reply. The request is written by hand: client libraries refuse invalid ones."""
    where = urlsplit(url)
    lines = [
        f"POST {where.path} HTTP/1.1",
        f"Host: {where.netloc}",
        f"Content-Length: {len(attempt.content)}",
    ]
    lines += [f"{name}: {value.replace(SESSION, session)}" for name, value in attempt.headers]
    head = "\r\n".join([*lines, "Connection: close", "", ""]).encode()
    async with await anyio.connect_tcp(where.hostname or "", where.port or 0) as stream:
        await stream.send(head + attempt.content)
        data = b"".join([chunk async for chunk in stream])
    reply = HTTPResponse(_Read(data))  # type: ignore[arg-type]
    reply.begin()
    text = reply.read().decode()
    names = ("content-type", "cache-control", "x-accel-buffering", "mcp-session-id")
    headers = {name: reply.getheader(name) for name in names}
    headers["content-type"] = (headers["content-type"] or "").partition(";")[0]
    if text.startswith("event:"):
        body: Any = events_in(text)
    else:
        body = json.loads(text) if headers["content-type"] == "application/json" and text else text
    return {"status": reply.status, "headers": headers, "body": body}


def opened_elsewhere(version: str) -> str:
    """The id of a session that another server has opened."""
    return new_session_id(SessionClaims(version, ("form",), "0123456789abcdef", 1_800_000_000))


@LATE
@pytest.mark.parametrize("opened", ["by the server", "elsewhere", "nowhere"])
@pytest.mark.parametrize(
    ("seed", "version"), [(0, "2025-11-25"), (1, "2025-06-18"), (2, "2025-03-26"), (3, "2024-11-05")]
)
async def test_the_fast_path_and_the_sdk_answer_alike(
    served: Served, web: httpx.AsyncClient, seed: int, version: str, opened: str
) -> None:
    count = 300 if seed == 0 and opened == "by the server" else 100
    async with served.http() as fast, served.http(fast_path=False) as slow:
        if opened == "by the server":
            id = (await Session(web, fast).post(initialize(version))).headers["mcp-session-id"]
        else:
            id = opened_elsewhere(version) if opened == "elsewhere" else "gone"
        for attempt in random_requests(seed, count):
            await _check_answers_are_alike(served, attempt, id, (fast, slow))


async def _check_answers_are_alike(
    served: Served, attempt: RandomRequest, session: str, urls: tuple[str, str]
) -> None:
    answers = []
    for url in urls:
        served.events.clear()
        answer = await answered(url, session, attempt)
        events = [(e.tool, e.outcome, e.status) for e in served.events if isinstance(e, CallFinished)]
        answers.append(answer | {"events": events})
    assert answers[0] == answers[1], (attempt.headers, attempt.content)


@LATE
async def test_the_fast_path_and_the_sdk_answer_alike_without_a_session(served: Served) -> None:
    async with served.http() as fast, served.http(fast_path=False) as slow:
        for attempt in random_requests(4, 300, sessions=False):
            await _check_answers_are_alike(served, attempt, opened_elsewhere("2025-11-25"), (fast, slow))


@LATE
async def test_without_a_session_simple_requests_do_not_reach_the_sdk(served: Served) -> None:
    attempts = [attempt for attempt in random_requests(7, 200, sessions=False) if attempt.mutations == 0]
    statuses = [await status_of(attempt, "", served) for attempt in attempts]
    assert statuses.count(200) == len(statuses) > 50


@AT_ONCE
@pytest.mark.parametrize("fast_path", [True, False])
async def test_without_a_session_a_client_that_leaves_cancels_its_call(
    served: Served, web: httpx.AsyncClient, api: Api, *, fast_path: bool
) -> None:
    async with served.http(fast_path=fast_path) as url:
        session = Session(web, url)
        session.headers["mcp-protocol-version"] = "2025-11-25"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.post, call("hang"))
            await api.entered.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(30):
            await api.left.wait()


async def passed_on(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - an ASGI app
    """Stands for the SDK: status 599 says that the fast path did not answer."""
    await send({"type": "http.response.start", "status": 599})


async def status_of(attempt: RandomRequest, session: str, served: Served, *, stopping: bool = False) -> int:
    """The status that the fast path answers to a client that leaves after its request."""
    server = served.server
    guard = RequestGuard(passed_on, server, RejectionLog(ignore), LOCAL_HOSTS)
    if stopping:
        guard.is_stopping = True
    messages: list[Message] = [{"type": "http.request", "body": attempt.content, "more_body": False}]
    headers = [(name.encode(), value.replace(SESSION, session).encode()) for name, value in attempt.headers]
    scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": [*headers, (b"host", b"localhost")]}
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await FastPathMiddleware(passed_on, guard, served.server, "/mcp")(scope, receive, send)
    status: int = sent[0]["status"]
    return status


@LATE
async def test_simple_requests_do_not_reach_the_sdk(served: Served) -> None:
    id = opened_elsewhere("2025-11-25")
    attempts = [attempt for attempt in random_requests(7, 200) if attempt.mutations == 0]
    statuses = [await status_of(attempt, id, served) for attempt in attempts]
    assert statuses.count(200) == len(statuses) > 50
    assert await status_of(attempts[0], id, served, stopping=True) == 599


@LATE
@pytest.mark.parametrize(
    ("session", "version", "status"),
    [
        ("2025-11-25", "2025-11-25", 200),
        ("2025-06-18", "2025-11-25", 200),
        ("2025-11-25", "2024-11-05", 200),  # the version of the handshake counts
        ("2025-03-26", "2025-11-25", 599),
        ("2025-11-25", "2026-07-28", 599),
        ("2025-11-25", "1999-01-01", 599),
        ("unknown", "2025-11-25", 599),
    ],
)
async def test_the_session_says_whether_a_request_reaches_the_sdk(
    served: Served, session: str, version: str, status: int
) -> None:
    attempt = next(each for each in random_requests(7, 200) if each.mutations == 0 and not each.is_modern)
    attempt.headers[-1] = ("mcp-protocol-version", version)
    id = session if session == "unknown" else opened_elsewhere(session)
    assert await status_of(attempt, id, served) == status


@LATE
async def test_long_headers_are_left_to_the_sdk_and_not_cached(
    served: Served, web: httpx.AsyncClient
) -> None:
    long = "x" * 2000
    async with served.http() as url:
        session = Session(web, url)
        session.headers["accept"] = f"application/json;a={long}, text/event-stream"
        assert (await session.ask_modern(call("echo")))["result"]["isError"] is False


@AT_ONCE
async def test_a_lost_connection_does_not_cancel_the_call_of_a_session(served: Served, api: Api) -> None:
    served.show("hang")
    attempt = next(each for each in random_requests(7, 200) if each.mutations == 0 and not each.is_modern)
    attempt.frame = call("hang")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(status_of, attempt, opened_elsewhere("2025-11-25"), served)
        await api.entered.wait()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        api.release.set()
    assert [e.outcome for e in served.events if isinstance(e, CallFinished)] == ["ok"]


@LATE
@pytest.mark.parametrize("fast_path", [True, False])
@pytest.mark.parametrize("by_delete", [True, False])
async def test_a_cancelled_call_of_a_session_gets_no_event(
    served: Served, web: httpx.AsyncClient, api: Api, *, fast_path: bool, by_delete: bool
) -> None:
    reply = await _cancelled_call(served, web, api, fast_path=fast_path, by_delete=by_delete)
    assert (reply.status_code, reply.headers["content-type"], reply.text) == (200, "text/event-stream", "")


@AT_ONCE
@pytest.mark.parametrize("fast_path", [True, False])
@pytest.mark.parametrize("by_delete", [True, False])
async def test_a_cancelled_call_whose_stream_has_begun_gets_an_error(
    served: Served, web: httpx.AsyncClient, api: Api, *, fast_path: bool, by_delete: bool
) -> None:
    reply = await _cancelled_call(served, web, api, fast_path=fast_path, by_delete=by_delete)
    error = {"code": -32800, "message": "Request cancelled"}
    assert events_in(reply.text) == [{"jsonrpc": "2.0", "id": 7, "error": error}]


async def _cancelled_call(
    served: Served, web: httpx.AsyncClient, api: Api, *, fast_path: bool, by_delete: bool
) -> httpx.Response:
    """The reply to a call of a session that is cancelled by a notification, or by the end of the session."""
    replies: list[httpx.Response] = []
    async with served.http(fast_path=fast_path) as url:
        session = Session(web, url)
        await session.open()

        async def hang() -> None:
            replies.append(await session.post(call("hang", 7)))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hang)
                await api.entered.wait()
                ended = web.delete(url, headers=session.headers) if by_delete else session.post(cancel(7))
                assert (await ended).status_code == (200 if by_delete else 202)
                await api.left.wait()
    assert [e.outcome for e in served.events if isinstance(e, CallFinished)] == ["cancelled"]
    return replies[0]


@LATE
@pytest.mark.parametrize("fast_path", [True, False])
async def test_a_call_that_its_cancellation_has_overtaken_is_not_made(
    served: Served, web: httpx.AsyncClient, api: Api, *, fast_path: bool
) -> None:
    async with served.http(fast_path=fast_path) as url:
        session = Session(web, url)
        await session.open()
        await session.post(cancel(7))
        reply = await session.post(call("hang", 7))
        assert (reply.status_code, reply.text) == (200, "")
        assert (await session.ask(call("echo", 7)))["result"]["isError"] is False
    assert not api.entered.is_set()


@AT_ONCE
@pytest.mark.parametrize("modern", [True, False])
async def test_a_client_that_waits_gets_pings(
    served: Served, web: httpx.AsyncClient, api: Api, monkeypatch: pytest.MonkeyPatch, *, modern: bool
) -> None:
    monkeypatch.setattr(reply_stream, "PING_SECONDS", 0.01)
    served.show("hang")
    async with served.http() as url:
        session = Session(web, url)
        if not modern:
            await session.open()
        message = call("hang")
        handshake: Json = {"content": json.dumps(message).encode(), "headers": session.headers}
        async with web.stream("POST", url, **session.modern(message) if modern else handshake) as reply:
            lines = reply.aiter_lines()
            if not modern:
                assert re.fullmatch(r"id: p\.[\w-]+\.1", await anext(lines))
                assert [await anext(lines), await anext(lines)] == ["data: ", ""]
            assert [await anext(lines), await anext(lines), await anext(lines)] == [": ping", "", ": ping"]
            api.release.set()
            events = [message async for line in lines for message in events_in(line)]
        assert [event["id"] for event in events] == [1]
