import json
import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from itertools import product
from typing import Any

import anyio
import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from bridge.access.credentials import Access
from bridge.access.throttle import Guesses
from bridge.events import CallFinished, Ear, Event, KeysChanged, RequestRefused, ignore
from bridge.http.authentication import Door
from bridge.http.rejection_log import Refusals
from bridge.settingsfile import Access as AccessWords
from bridge.settingsfile import ApiKey
from tests.serving.served import INITIALIZED, Api, Json, Served, Session, call, cancel, request

pytestmark = pytest.mark.anyio

CALLS = 200
"""In all, at four at a time."""


def entry(name: str, **words: Any) -> ApiKey:
    """The entry of the key ``key-of-NAME``."""
    digest = sha256(f"key-of-{name}".encode()).hexdigest()
    return ApiKey.model_validate({"name": name, "sha256": digest, **words})


def letting_in(keys: Iterable[ApiKey], emit: Ear = ignore) -> Access:
    """Those who hold these keys."""

    async def fetch(place: str) -> bytes:
        raise OSError(place)

    return Access(words_of(keys), fetch, emit)


def words_of(keys: Iterable[ApiKey]) -> AccessWords:
    return AccessWords.model_validate({"apiKeys": tuple(keys)})


def session_of(name: str, web: httpx.AsyncClient, url: str) -> Session:
    session = Session(web, url)
    session.headers["authorization"] = f"Bearer key-of-{name}"
    return session


async def opened(name: str, web: httpx.AsyncClient, url: str) -> Session:
    session = session_of(name, web, url)
    await session.open()
    return session


def later(seconds: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds, UTC).isoformat()


async def test_nobody_comes_in_without_a_key_that_counts(served: Served, web: httpx.AsyncClient) -> None:
    wrong: list[tuple[list[str], bool]] = [
        ([], False),
        (["Bearer"], False),
        (["Bearer no-such-key"], True),
        (["Bearer key-of-old"], True),
        (["Basic a2V5LW9mLWFubjo="], False),
        (["key-of-ann"], False),
        (["Bearer key-of-ann", "Bearer key-of-ann"], False),
        (["Bearer key-of-ann\u00fc"], True),
    ]
    tried = list(product(wrong, ("GET", "POST", "DELETE", "OPTIONS")))
    access = letting_in([entry("ann"), entry("old", expires="2020-01-01")])
    async with served.http(access=access) as url:
        for (shown, error), method in tried:
            headers = [*Session(web, url).headers.items(), *(("authorization", each) for each in shown)]
            encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
            content = json.dumps(call("echo")).encode()
            for path in (url, url.removesuffix("/mcp") + "/"):
                reply = await web.request(method, path, headers=encoded, content=content)
                assert reply.status_code == 401
                challenge = reply.headers["www-authenticate"]
                told = ', error="invalid_token", error_description="This key is not known here, or counts no more"'
                assert challenge == 'Bearer realm="restbridge"' + told * error
                assert reply.json()["error"]["message"] in (
                    "Show who you are: Authorization: Bearer, and a key or a token",
                    "Show one key: there is more than one Authorization header",
                    "This key is not known here, or counts no more",
                )
    assert served.events == [RequestRefused(401)] * 2 * len(tried)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
async def test_a_key_opens_and_its_holder_is_named(
    served: Served, web: httpx.AsyncClient, scheme: str
) -> None:
    access = letting_in([entry("bob"), entry("ann", expires=later(3600))])
    async with served.http(access=access) as url:
        session = Session(web, url)
        session.headers["authorization"] = f"{scheme} key-of-ann"
        await session.open()
        answers = [await session.ask(call("echo")), await session.ask_modern(call("echo", 2))]
        unknown = await session.ask_modern(call("nosuch", 3))
        assert [each.calls for each in served.server.announcer._sessions.values()] == [{}]
    assert [answer["result"]["isError"] for answer in answers] == [False, False]
    assert unknown["error"]["message"] == "Unknown tool: nosuch"
    assert [event.caller for event in served.events if isinstance(event, CallFinished)] == ["ann"] * 3
    assert [(holder.visits, holder.stay.running) for holder in access._keys.values()] == [(0, set())] * 2


async def test_no_caller_is_taken_for_another(served: Served, web: httpx.AsyncClient) -> None:
    names = ("ann", "bob", "cid", "dan")
    tools = dict(zip(names, ("echo", "any", "change", "typed"), strict=True))

    async def ask(name: str, url: str) -> None:
        session = await opened(name, web, url)
        for number in range(CALLS // len(names)):
            asks = session.ask if number % 2 else session.ask_modern
            answer = await asks(call(tools[name], f"{name}-{number}"))
            assert answer["id"] == f"{name}-{number}"
            assert tools[name] in answer["result"]["content"][0]["text"]

    async with served.http(access=letting_in(map(entry, names))) as url, anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(ask, name, url)
    calls = [event for event in served.events if isinstance(event, CallFinished)]
    assert len(calls) == CALLS
    assert all(event.caller and event.tool == tools[event.caller] for event in calls)


async def test_nobody_uses_the_session_of_another(served: Served, api: Api, web: httpx.AsyncClient) -> None:
    async with served.http(access=letting_in([entry("ann"), entry("eve")])) as url:
        ann = await opened("ann", web, url)
        eve = session_of("eve", web, url)
        eve.headers["mcp-session-id"] = ann.headers["mcp-session-id"]
        answers: list[Json] = []

        async def hang() -> None:
            answers.append(await ann.ask(call("hang", 7)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hang)
            await api.entered.wait()
            for message in (call("echo", 7), request("tools/list", 8), INITIALIZED, cancel(7)):
                assert (await eve.post(message)).status_code in (202, 404)
            stolen = [(await eve.post(call("echo", number))).status_code for number in range(100)]
            assert set(stolen) == {404}
            assert (await web.get(url, headers=eve.headers)).status_code == 404
            assert (await web.delete(url, headers=eve.headers)).status_code == 404
            assert not api.left.is_set()
            api.release.set()
        assert answers[0]["result"]["isError"] is False
        assert (await ann.post(call("echo", 9))).status_code == 200
    assert [event.caller for event in served.events if isinstance(event, CallFinished)] == ["ann", "ann"]


@pytest.mark.parametrize("modern", [False, True], ids=["handshake", "modern"])
@pytest.mark.parametrize("how", ["withdrawn", "made anew", "expired"])
async def test_a_stream_ends_with_its_key(
    served: Served, web: httpx.AsyncClient, how: str, *, modern: bool
) -> None:
    ann_key = entry("ann", expires=later(2)) if how == "expired" else entry("ann")
    events: list[Event] = []
    access = letting_in([ann_key, entry("bob")], events.append)
    async with served.http(access=access) as url, anyio.create_task_group() as tasks:
        tasks.start_soon(access.run)
        sessions = [await opened(name, web, url) for name in ("ann", "bob")]
        streams = [each.hearing(modern=modern) for each in sessions]
        async with streams[0] as ann, streams[1] as bob:
            if how == "made anew":
                access.replace(words_of([entry("ann", scopes=["more"]), entry("bob")]))
            if how == "withdrawn":
                access.replace(words_of([entry("bob")]))
            with anyio.fail_after(30):
                assert [event async for event in ann] == []
            await served.add("echo")
            assert (await anext(bob))["method"] == "notifications/tools/list_changed"
        answer = await sessions[0].post(call("echo"))
        assert answer.status_code == (200 if how == "made anew" else 401)
        tasks.cancel_scope.cancel()
    (event,) = (event for event in events if isinstance(event, KeysChanged))
    groups = {"made anew": event.changed, "withdrawn": event.removed, "expired": event.expired}
    assert groups == {each: ("ann",) * (each == how) for each in groups}
    assert (event.added, event.counting) == ((), 2 if how == "made anew" else 1)


@pytest.mark.parametrize("modern", [False, True], ids=["handshake", "modern"])
async def test_a_call_in_flight_ends_with_its_key(
    served: Served, api: Api, web: httpx.AsyncClient, *, modern: bool
) -> None:
    access = letting_in([entry("ann")])
    async with served.http(access=access) as url, anyio.create_task_group() as tasks:
        session = await opened("ann", web, url)
        replies: list[httpx.Response] = []

        async def hang() -> None:
            message = call("hang")
            post = web.post(url, **session.modern(message)) if modern else session.post(message)
            replies.append(await post)

        tasks.start_soon(hang)
        await api.entered.wait()
        access.replace(words_of([]))
        with anyio.fail_after(30):
            await api.left.wait()
    # In a session the SDK takes the end for the client's, and says nothing more.
    is_told = served.express or modern
    assert ("The key of this call counts no more" in replies[0].text) is is_told
    assert [event.outcome for event in served.events if isinstance(event, CallFinished)] == ["withdrawn"]


async def visited(access: Access) -> None:
    """Until somebody has come in."""
    while not any(holder.visits for holder in access._keys.values()):
        await anyio.lowlevel.checkpoint()


async def test_a_request_that_is_still_coming_ends_with_its_key(served: Served) -> None:
    access = letting_in([entry("ann")])
    async with served.http(access=access) as url:
        head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
        async with await anyio.connect_tcp("127.0.0.1", httpx.URL(url).port or 0) as stream:
            await stream.send(f"{head}Authorization: Bearer key-of-ann\r\n\r\n{{".encode())
            with anyio.fail_after(30):
                await visited(access)
                access.replace(words_of([]))
                assert (await stream.receive()).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("express", [True, False])
async def test_a_call_whose_body_comes_after_its_key_was_withdrawn_is_not_made(
    served: Served, *, express: bool
) -> None:
    access = letting_in([entry("ann")])
    async with served.http(access=access, express=express) as url, httpx.AsyncClient(timeout=30) as web:
        session = await opened("ann", web, url)
        message = call("change")
        plain: dict[str, Any] = {"content": json.dumps(message).encode(), "headers": session.headers}
        for sent in (plain, session.modern(message)):
            body = sent["content"]
            lines = [f"{name}: {value}" for name, value in sent["headers"].items()]
            head = "\r\n".join(
                ["POST /mcp HTTP/1.1", "host: localhost", *lines, f"content-length: {len(body)}"]
            )
            async with await anyio.connect_tcp("127.0.0.1", httpx.URL(url).port or 0) as stream:
                await stream.send(f"{head}\r\n\r\n".encode())
                with anyio.fail_after(30):
                    await visited(access)
                    access.replace(words_of([]))
                    await stream.send(body)
                    assert (await stream.receive()).startswith(b"HTTP/1.1 401 ")
            access.replace(words_of([entry("ann")]))
    assert not [event for event in served.events if isinstance(event, CallFinished)]


async def test_who_leaves_takes_back_the_call(served: Served, api: Api, web: httpx.AsyncClient) -> None:
    async with served.http(access=letting_in([entry("ann")])) as url:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session_of("ann", web, url).ask_modern, call("hang"))
            await api.entered.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(30):
            await api.left.wait()


async def test_who_tries_keys_does_not_flood_the_log(
    served: Served, web: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    began = anyio.current_time()
    with caplog.at_level(logging.WARNING):
        async with served.http(access=letting_in([entry("ann")])) as url:
            for _ in range(50):
                eve = session_of("eve", web, url)
                eve.headers["x-forwarded-for"] = "6.6.6.6"  # which anybody can say
                assert (await eve.post(call("echo"))).status_code == 401
            ann = session_of("ann", web, url)
            assert "result" in await ann.ask_modern(call("echo"))
    told = [message for message in caplog.messages if message.startswith("refused")]
    assert 1 <= len(told) <= 3 + (anyio.current_time() - began)  # one a second
    assert told[0] == (
        "refused a request from 127.0.0.1 with 401: This key is not known here, or counts no more"
    )
    assert "key-of" not in caplog.text


def let_wait_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose keys are not valid, but for the first forty."""
    monkeypatch.setattr("bridge.access.throttle._EVERY", 3600.0)
    monkeypatch.setattr("bridge.access.throttle._LONGEST", 3600.0)


async def test_who_tries_keys_waits_and_who_has_one_does_not(
    served: Served, web: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_wait_for_an_hour(monkeypatch)
    done: list[str] = []

    async def guess(number: int) -> None:
        assert (await session_of(f"eve-{number}", web, url).post(call("echo"))).status_code == 401
        done.append("eve")

    access = letting_in([entry("ann")])
    async with served.http(access=access, grace=0) as url, anyio.create_task_group() as tasks:
        for number in range(60):  # the last twenty wait for an hour
            tasks.start_soon(guess, number)
        with anyio.fail_after(30):
            while len(done) < 40:
                await anyio.lowlevel.checkpoint()
        for _ in range(3):
            assert "result" in await session_of("ann", web, url).ask_modern(call("echo"))
        tasks.cancel_scope.cancel()
    assert len(done) == 40


async def test_who_tries_keys_and_leaves_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    let_wait_for_an_hour(monkeypatch)
    done: list[str] = []

    async def nobody(scope: Scope, receive: Receive, send: Send) -> None:
        """Nobody comes as far as here."""

    async def answer(message: Message) -> None:
        assert message["type"].startswith("http.response")

    async def guess(name: str, *messages: Message) -> None:
        left = list(messages)

        async def receive() -> Message:
            if not left:
                await anyio.sleep_forever()
            return left.pop(0)

        await door({"type": "http", "path": "/mcp", "headers": []}, receive, answer)
        done.append(name)

    door = Door(nobody, letting_in([entry("ann")]), None, Refusals(ignore), lambda _: None)
    async with anyio.create_task_group() as tasks:
        for _ in range(60):
            tasks.start_soon(guess, "stays", {"type": "http.request"})
        for _ in range(20):
            tasks.start_soon(guess, "leaves", {"type": "http.request"}, {"type": "http.disconnect"})
        with anyio.fail_after(30):
            while len(done) < 60:
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert done == ["stays"] * 40 + ["leaves"] * 20


async def _never(*_: object) -> Any:
    raise AssertionError


async def test_health_checks_of_one_address_past_a_rate_wait_for_a_moment() -> None:
    done: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - an ASGI app
        done.append(scope["client"][0])

    answers = Guesses(lambda: 0.0, every=0.0007, at_once=20)  # whose clock stands still
    door = Door(app, letting_in([entry("ann")]), None, Refusals(ignore), lambda _: None, open_answers=answers)

    async def ask(address: str) -> None:
        scope = {"type": "http", "path": "/-/healthy", "headers": [], "client": (address, 1)}
        await door(scope, _never, _never)

    async with anyio.create_task_group() as tasks:
        for address, times in (("10.0.0.1", 30), ("10.0.0.2", 10)):
            for _ in range(times):
                tasks.start_soon(ask, address)
        await anyio.lowlevel.checkpoint()
        assert done == ["10.0.0.1"] * 20 + ["10.0.0.2"] * 10
    assert len(done) == 40


async def test_a_request_that_waits_to_begin_keeps_its_token() -> None:
    access, begun, ended = letting_in([entry("ann")]), list[str](), anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - an ASGI app
        begun.append(scope["path"])
        await ended.wait()

    door = Door(app, access, None, Refusals(ignore), lambda _: None)
    headers = [(b"authorization", b"Bearer key-of-ann")]
    holder = await access.holder(headers)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(door, {"type": "http", "path": "/mcp", "headers": headers}, _never, _never)
        await anyio.lowlevel.checkpoint()
        assert (len(begun), holder.visits) == (1, 3)
        ended.set()
    assert (len(begun), holder.visits) == (3, 0)


async def test_who_tries_keys_and_sends_a_body_waits_as_well() -> None:
    statuses: list[int] = []

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    at_once = Guesses(now=lambda: 0.0)
    access = letting_in([entry("ann")])
    door = Door(_never, access, None, Refusals(ignore), lambda _: None, guesses=at_once)
    for _ in range(41):
        await door({"type": "http", "path": "/mcp", "headers": [(b"content-length", b"1")]}, _never, answer)
    assert statuses == [401] * 41


async def test_everybody_lists_and_calls_what_their_scopes_allow(
    served: Served, web: httpx.AsyncClient
) -> None:
    served.scopes = {"echo": ["read"], "any": ["read", "more"], "change": ["write"]}
    served.show("echo", "any", "change", "typed")
    visible = {
        "ann": {"echo", "any", "typed"},
        "bob": {"echo", "typed"},
        "cid": {"typed"},
        "dan": {"change", "typed", "echo", "any"},
    }
    scopes = {"ann": ["read", "more"], "bob": ["read"], "cid": [], "dan": ["read", "write", "more", "other"]}
    access = letting_in([entry(name, scopes=granted) for name, granted in scopes.items()])
    async with served.http(access=access) as url:
        for name, seen in visible.items():
            session = await opened(name, web, url)
            await session.sees(seen, "echo", "any", "change", "typed", "nosuch")


@pytest.mark.parametrize("modern", [False, True], ids=["handshake", "modern"])
async def test_only_those_whose_own_list_changed_are_told(
    served: Served, web: httpx.AsyncClient, *, modern: bool
) -> None:
    served.scopes = {"echo": ["read"], "any": ["write"]}
    await served.change("typed")
    access = letting_in([entry("ann", scopes=["read"]), entry("bob", scopes=["write"])])
    async with served.http(access=access) as url:
        sessions = [await opened(name, web, url) for name in ("ann", "bob")]
        for session in sessions:
            await session.ask(request("tools/list"))
        streams = [each.hearing(modern=modern) for each in sessions]
        async with streams[0] as ann, streams[1] as bob:
            served.show("typed", "echo", "any")
            served.show("typed")
            await served.server.announcer.announce()  # of what was taken back
            await served.change("typed", "echo")
            assert (await anext(ann))["method"] == "notifications/tools/list_changed"
            await served.change("typed", "echo", "any")
            assert (await anext(bob))["method"] == "notifications/tools/list_changed"
            await served.change("any")
            assert (await anext(ann))["method"] == "notifications/tools/list_changed"
            assert (await anext(bob))["method"] == "notifications/tools/list_changed"
            access.replace(words_of([]))
            assert [event async for event in ann] == []
            assert [event async for event in bob] == []
