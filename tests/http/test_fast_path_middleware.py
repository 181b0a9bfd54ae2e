"""The express lane beside the SDK alone: whatever is asked, both answer the same."""

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

from bridge.caller import ANYBODY
from bridge.events import CallFinished
from bridge.http import fast_path_middleware as express
from bridge.http.fast_path_middleware import Express
from bridge.http.request_guard import LOCAL_NAMES, Gate
from tests.serving.served import META, Api, Json, Served, Session, call, request

pytestmark = pytest.mark.anyio

SESSION: Final = "@SESSION@"
HEADERS: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
TOOLS: Final = ("any", "change", "echo", "fail", "strict", "typed", "no-such", "")
CLIENT: Final = "io.modelcontextprotocol/clientInfo"
CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
VERSION: Final = "io.modelcontextprotocol/protocolVersion"


class Wild:
    """One request, plain at first; ``spoil`` changes a thing or two of it."""

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
        self.spoil_text: Callable[[str], str] = str
        self.spoils = chance.choice([0, 0, 1, 1, 2])
        for _ in range(self.spoils):
            chance.choice([self._spoil_headers, self._spoil_frame, self._spoil_params, self._spoil_text])()

    @property
    def content(self) -> bytes:
        return self.spoil_text(json.dumps(self.frame)).encode()

    def _spoil_headers(self) -> None:
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

    def _spoil_frame(self) -> None:
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

    def _spoil_params(self) -> None:
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

    def _spoil_text(self) -> None:
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
        self.spoil_text = self.chance.choice(ways)


def wild(seed: int, count: int, *, sessions: bool = True) -> Iterator[Wild]:
    chance = random.Random(seed)  # noqa: S311 - the same requests each time
    for _ in range(count):
        yield Wild(chance, sessions=sessions)


class _Read:
    """What ``HTTPResponse`` takes for a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> BytesIO:
        return BytesIO(self._data)


async def answered(url: str, session: str, what: Wild) -> Json:
    """All of a reply that a client can tell; sent by hand, as clients refuse to send what is odd."""
    where = urlsplit(url)
    lines = [f"POST {where.path} HTTP/1.1", f"Host: {where.netloc}", f"Content-Length: {len(what.content)}"]
    lines += [f"{name}: {value.replace(SESSION, session)}" for name, value in what.headers]
    head = "\r\n".join([*lines, "Connection: close", "", ""]).encode()
    async with await anyio.connect_tcp(where.hostname or "", where.port or 0) as stream:
        await stream.send(head + what.content)
        data = b"".join([chunk async for chunk in stream])
    reply = HTTPResponse(_Read(data))  # type: ignore[arg-type]
    reply.begin()
    text = reply.read().decode()
    told = {name: reply.getheader(name) for name in ("content-type", "cache-control", "x-accel-buffering")}
    told["content-type"] = (told["content-type"] or "").partition(";")[0]
    if text.startswith("event:"):
        body: Any = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    else:
        body = json.loads(text) if told["content-type"] == "application/json" and text else text
    is_session = reply.getheader("mcp-session-id") == session
    return {"status": reply.status, "headers": told, "session": is_session, "body": body}


@pytest.mark.parametrize("seed", range(3))
async def test_both_answer_the_same(served: Served, web: httpx.AsyncClient, seed: int) -> None:
    async with served.http() as fast, served.http(express=False) as slow:
        sessions = [Session(web, url) for url in (fast, slow)]
        for session in sessions:
            await session.open()
        ids = [session.headers["mcp-session-id"] for session in sessions]
        for what in wild(seed, 300):
            await _is_answered_alike(served, what, dict(zip((fast, slow), ids, strict=True)))


async def _is_answered_alike(served: Served, what: Wild, sessions: dict[str, str]) -> None:
    """Under all URLs, each with the id of a session there."""
    told = []
    for url, id in sessions.items():
        served.events.clear()
        answer = await answered(url, id, what)
        events = [(e.tool, e.outcome, e.status) for e in served.events if isinstance(e, CallFinished)]
        told.append(answer | {"events": events})
    assert told[0] == told[1], (what.headers, what.content)


@pytest.mark.parametrize("seed", [4])
async def test_both_answer_the_same_where_no_sessions_are_kept(shared: Served, seed: int) -> None:
    async with shared.http() as fast, shared.http(express=False) as slow:
        for what in wild(seed, 300, sessions=False):
            await _is_answered_alike(shared, what, {fast: "gone", slow: "gone"})


async def test_without_sessions_the_sdk_is_not_troubled_either(
    shared: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(express, "_SOON", 3600)  # all calls have ended before it is seen that the client left
    asked = [what for what in wild(7, 200, sessions=False) if what.spoils == 0]
    statuses = [await status_of(what, "", shared) for what in asked]
    assert statuses.count(200) == len(statuses) > 50


@pytest.mark.parametrize("express", [True, False])
async def test_without_a_session_a_client_takes_a_call_back_by_leaving(
    shared: Served, web: httpx.AsyncClient, api: Api, *, express: bool
) -> None:
    async with shared.http(express=express) as url:
        session = Session(web, url)
        session.headers["mcp-protocol-version"] = "2025-11-25"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.post, call("hang"))
            await api.entered.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(30):
            await api.left.wait()


async def passed_on(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - an ASGI app
    """In the SDK's place: it says that the lane did not answer."""
    await send({"type": "http.response.start", "status": 599})


async def status_of(what: Wild, session: str, served: Served, *, stopping: bool = False) -> int:
    """What the lane answers with nothing behind it, to a client that leaves after its request."""
    server = served.server
    gate = Gate(
        passed_on,
        server.announcer,
        server.refusals,
        LOCAL_NAMES,
        any_address=False,
        refuse_call=server.refuse_call,
        alone_reads_arguments=server.alone_reads_arguments,
    )
    if stopping:
        gate.stopping.set()
    messages: list[Message] = [{"type": "http.request", "body": what.content, "more_body": False}]
    headers = [(name.encode(), value.replace(SESSION, session).encode()) for name, value in what.headers]
    scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": [*headers, (b"host", b"localhost")]}
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await Express(passed_on, gate, served.server, "/mcp")(scope, receive, send)
    status: int = sent[0]["status"]
    return status


async def test_what_is_plain_does_not_trouble_the_sdk(
    served: Served, web: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(express, "_SOON", 3600)  # all calls have ended before it is seen that the client left
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        id = session.headers["mcp-session-id"]
        statuses = [await status_of(what, id, served) for what in wild(7, 200) if what.spoils == 0]
        assert statuses.count(200) == len(statuses) > 50
        assert await status_of(next(wild(7, 1)), id, served, stopping=True) == 599


async def test_long_headers_are_left_to_the_sdk_and_not_cached(
    served: Served, web: httpx.AsyncClient
) -> None:
    long = "x" * 2000
    async with served.http() as url:
        session = Session(web, url)
        session.headers["accept"] = f"application/json;a={long}, text/event-stream"
        assert (await session.ask_modern(call("echo")))["result"]["isError"] is False


async def test_a_session_that_loses_its_connection_does_not_lose_its_call(
    served: Served, web: httpx.AsyncClient, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(express, "_SOON", 0)
    served.show("hang")
    what = next(each for each in wild(7, 200) if each.spoils == 0 and not each.is_modern)
    what.frame = call("hang")
    async with served.http() as url, anyio.create_task_group() as tasks:
        session = Session(web, url)
        await session.open()
        tasks.start_soon(status_of, what, session.headers["mcp-session-id"], served)
        await api.entered.wait()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        api.release.set()
    assert [e.outcome for e in served.events if isinstance(e, CallFinished)] == ["ok"]


async def test_a_session_is_shown_to_the_sdk_once_a_minute(
    served: Served, web: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        known = served.server.announcer.session(session.headers["mcp-session-id"], ANYBODY)
        assert known
        seen = known.seen
        await session.ask(call("echo"))
        assert known.seen == seen
        monkeypatch.setattr(express, "_REFRESH", -1.0)
        await session.ask(call("echo"))
        assert known.seen > seen


async def test_the_end_of_a_session_ends_its_calls(served: Served, web: httpx.AsyncClient, api: Api) -> None:
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
async def test_who_waits_is_told_that_the_call_goes_on(
    served: Served, web: httpx.AsyncClient, api: Api, monkeypatch: pytest.MonkeyPatch, *, modern: bool
) -> None:
    monkeypatch.setattr(express, "_SOON", 0)
    monkeypatch.setattr(express, "_QUIET", 0.01)
    served.show("hang")
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        message = call("hang")
        plain: Json = {"content": json.dumps(message).encode(), "headers": session.headers}
        sending = session.modern(message) if modern else plain
        if modern:
            del sending["headers"]["mcp-session-id"]
        async with web.stream("POST", url, **sending) as reply:
            lines = reply.aiter_lines()
            assert [await anext(lines), await anext(lines), await anext(lines)] == [": ping", "", ": ping"]
            api.release.set()
            events = [json.loads(line[6:]) async for line in lines if line.startswith("data: ")]
        assert [event["id"] for event in events] == [1]
