"""The fast path compared with the SDK: both answer random requests alike."""

import json
import random
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

from bridge.caller import ANONYMOUS
from bridge.events import CallFinished, ignore
from bridge.http import fast_path_middleware
from bridge.http.fast_path_middleware import FastPathMiddleware
from bridge.http.rejection_log import RejectionLog
from bridge.http.request_guard import LOCAL_HOSTS, RequestGuard
from tests.serving.api import Api
from tests.serving.messages import META, Json, call, request
from tests.serving.served import Served
from tests.serving.session import Session

pytestmark = pytest.mark.anyio

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
    headers = {name: reply.getheader(name) for name in ("content-type", "cache-control", "x-accel-buffering")}
    headers["content-type"] = (headers["content-type"] or "").partition(";")[0]
    if text.startswith("event:"):
        body: Any = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    else:
        body = json.loads(text) if headers["content-type"] == "application/json" and text else text
    is_session = reply.getheader("mcp-session-id") == session
    return {"status": reply.status, "headers": headers, "session": is_session, "body": body}


@pytest.mark.parametrize("seed", range(3))
async def test_the_fast_path_and_the_sdk_answer_alike(
    served: Served, web: httpx.AsyncClient, seed: int
) -> None:
    async with served.http() as fast, served.http(fast_path=False) as slow:
        sessions = [Session(web, url) for url in (fast, slow)]
        for session in sessions:
            await session.open()
        ids = [session.headers["mcp-session-id"] for session in sessions]
        for attempt in random_requests(seed, 300):
            await _check_answers_are_alike(served, attempt, dict(zip((fast, slow), ids, strict=True)))


async def _check_answers_are_alike(served: Served, attempt: RandomRequest, sessions: dict[str, str]) -> None:
    """``sessions`` maps each URL to the id of a session there."""
    answers = []
    for url, id in sessions.items():
        served.events.clear()
        answer = await answered(url, id, attempt)
        events = [(e.tool, e.outcome, e.status) for e in served.events if isinstance(e, CallFinished)]
        answers.append(answer | {"events": events})
    assert answers[0] == answers[1], (attempt.headers, attempt.content)


@pytest.mark.parametrize("seed", [4])
async def test_the_fast_path_and_the_sdk_answer_alike_without_sessions(shared: Served, seed: int) -> None:
    async with shared.http() as fast, shared.http(fast_path=False) as slow:
        for attempt in random_requests(seed, 300, sessions=False):
            await _check_answers_are_alike(shared, attempt, {fast: "gone", slow: "gone"})


async def test_without_sessions_simple_requests_do_not_reach_the_sdk(
    shared: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        fast_path_middleware, "_WATCH_DELAY_SECONDS", 3600
    )  # all calls end before the client is watched
    attempts = [attempt for attempt in random_requests(7, 200, sessions=False) if attempt.mutations == 0]
    statuses = [await status_of(attempt, "", shared) for attempt in attempts]
    assert statuses.count(200) == len(statuses) > 50


@pytest.mark.parametrize("fast_path", [True, False])
async def test_without_a_session_a_client_that_leaves_cancels_its_call(
    shared: Served, web: httpx.AsyncClient, api: Api, *, fast_path: bool
) -> None:
    async with shared.http(fast_path=fast_path) as url:
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
        guard.stopping.set()
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


async def test_simple_requests_do_not_reach_the_sdk(
    served: Served, web: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        fast_path_middleware, "_WATCH_DELAY_SECONDS", 3600
    )  # all calls end before the client is watched
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        id = session.headers["mcp-session-id"]
        statuses = [
            await status_of(attempt, id, served)
            for attempt in random_requests(7, 200)
            if attempt.mutations == 0
        ]
        assert statuses.count(200) == len(statuses) > 50
        assert await status_of(next(random_requests(7, 1)), id, served, stopping=True) == 599


async def test_long_headers_are_left_to_the_sdk_and_not_cached(
    served: Served, web: httpx.AsyncClient
) -> None:
    long = "x" * 2000
    async with served.http() as url:
        session = Session(web, url)
        session.headers["accept"] = f"application/json;a={long}, text/event-stream"
        assert (await session.ask_modern(call("echo")))["result"]["isError"] is False


async def test_a_lost_connection_does_not_cancel_the_call_of_a_session(
    served: Served, web: httpx.AsyncClient, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_path_middleware, "_WATCH_DELAY_SECONDS", 0)
    served.show("hang")
    attempt = next(each for each in random_requests(7, 200) if each.mutations == 0 and not each.is_modern)
    attempt.frame = call("hang")
    async with served.http() as url, anyio.create_task_group() as tasks:
        session = Session(web, url)
        await session.open()
        tasks.start_soon(status_of, attempt, session.headers["mcp-session-id"], served)
        await api.entered.wait()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        api.release.set()
    assert [e.outcome for e in served.events if isinstance(e, CallFinished)] == ["ok"]


async def test_a_session_sends_the_sdk_one_request_a_minute(
    served: Served, web: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        known = served.server.announcer.session(session.headers["mcp-session-id"], ANONYMOUS)
        assert known
        seen = known.last_seen_by_sdk
        await session.ask(call("echo"))
        assert known.last_seen_by_sdk == seen
        monkeypatch.setattr(fast_path_middleware, "_SDK_REFRESH_SECONDS", -1.0)
        await session.ask(call("echo"))
        assert known.last_seen_by_sdk > seen


async def test_the_end_of_a_session_cancels_its_calls(
    served: Served, web: httpx.AsyncClient, api: Api
) -> None:
    served.show("hang")
    async with served.http() as url, anyio.create_task_group() as tasks:
        session = Session(web, url)
        await session.open()
        replies: list[httpx.Response] = []

        async def hang() -> None:
            replies.append(await session.post(call("hang")))

        tasks.start_soon(hang)
        await api.entered.wait()
        await web.delete(url, headers=session.headers)
        await api.left.wait()
        tasks.cancel_scope.deadline = anyio.current_time() + 5
        while not replies:
            await anyio.lowlevel.checkpoint()
        assert (replies[0].status_code, replies[0].text) == (200, "")


@pytest.mark.parametrize("modern", [True, False])
async def test_a_client_that_waits_gets_pings(
    served: Served, web: httpx.AsyncClient, api: Api, monkeypatch: pytest.MonkeyPatch, *, modern: bool
) -> None:
    monkeypatch.setattr(fast_path_middleware, "_WATCH_DELAY_SECONDS", 0)
    monkeypatch.setattr(fast_path_middleware, "_PING_SECONDS", 0.01)
    served.show("hang")
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        message = call("hang")
        handshake: Json = {"content": json.dumps(message).encode(), "headers": session.headers}
        sending = session.modern(message) if modern else handshake
        if modern:
            del sending["headers"]["mcp-session-id"]
        async with web.stream("POST", url, **sending) as reply:
            lines = reply.aiter_lines()
            assert [await anext(lines), await anext(lines), await anext(lines)] == [": ping", "", ": ping"]
            api.release.set()
            events = [json.loads(line[6:]) async for line in lines if line.startswith("data: ")]
        assert [event["id"] for event in events] == [1]
