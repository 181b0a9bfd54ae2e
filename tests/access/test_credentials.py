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

from bridge.access.credentials import CredentialStore
from bridge.access.throttle import AddressThrottle
from bridge.caller import Caller
from bridge.events import CallFinished, Event, KeysChanged, Listener, RequestRefused, ignore
from bridge.http.authentication import AuthenticationMiddleware, Throttles
from bridge.http.rejection_log import RejectionLog
from bridge.protocol.in_flight import client_key
from bridge.settings import Access as AccessConfig
from bridge.settings import ApiKey
from tests.serving.api import Api
from tests.serving.messages import INITIALIZED, Json, call, cancel, request
from tests.serving.served import Served
from tests.serving.session import Session

pytestmark = pytest.mark.anyio

CALLS = 200
"""In all, at four at a time."""


def entry(name: str, **fields: Any) -> ApiKey:
    """The entry of the key ``key-of-NAME``."""
    digest = sha256(f"key-of-{name}".encode()).hexdigest()
    return ApiKey.model_validate({"name": name, "sha256": digest, **fields})


def credentials_for(keys: Iterable[ApiKey], emit: Listener = ignore) -> CredentialStore:
    """A store with these keys."""

    async def fetch(place: str) -> bytes:
        raise OSError(place)

    return CredentialStore(access_config(keys), fetch, emit)


def access_config(keys: Iterable[ApiKey]) -> AccessConfig:
    return AccessConfig.model_validate({"apiKeys": tuple(keys)})


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


async def test_a_request_without_a_valid_key_is_refused(served: Served, web: httpx.AsyncClient) -> None:
    wrong: list[tuple[list[str], bool]] = [
        ([], False),
        (["Bearer"], False),
        (["Bearer no-such-key"], True),
        (["Bearer key-of-old"], True),
        (["Basic a2V5LW9mLWFubjo="], False),
        (["key-of-ann"], False),
        (["Bearer key-of-ann\u00fc"], True),
    ]
    tried = list(product(wrong, ("GET", "POST", "DELETE", "OPTIONS")))
    access = credentials_for([entry("ann"), entry("old", expires="2020-01-01")])
    async with served.http(access=access) as url:
        for (shown, error), method in tried:
            headers = [*Session(web, url).headers.items(), *(("authorization", each) for each in shown)]
            encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
            content = json.dumps(call("echo")).encode()
            for path in (url, url.removesuffix("/mcp") + "/"):
                reply = await web.request(method, path, headers=encoded, content=content)
                assert reply.status_code == 401
                challenge = reply.headers["www-authenticate"]
                challenge_end = (
                    ', error="invalid_token", error_description="This key is unknown, revoked or expired"'
                )
                assert challenge == 'Bearer realm="restbridge"' + challenge_end * error
                assert reply.json()["error"]["message"] in (
                    "No credentials: send Authorization: Bearer with a key or a token",
                    "This key is unknown, revoked or expired",
                )
    assert served.events == [RequestRefused(401)] * 2 * len(tried)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
async def test_a_valid_key_is_accepted_and_its_caller_is_named(
    served: Served, web: httpx.AsyncClient, scheme: str
) -> None:
    access = credentials_for([entry("bob"), entry("ann", expires=later(3600))])
    async with served.http(access=access) as url:
        session = Session(web, url)
        session.headers["authorization"] = f"{scheme} key-of-ann"
        await session.open()
        answers = [await session.ask(call("echo")), await session.ask_modern(call("echo", 2))]
        unknown = await session.ask_modern(call("nosuch", 3))
        ann = client_key(Caller("ann"), session.headers["mcp-session-id"])
        assert not served.server.in_flight.holds(ann, 1)
    assert [answer["result"]["isError"] for answer in answers] == [False, False]
    assert unknown["error"]["message"] == "Unknown tool: nosuch"
    assert [event.caller for event in served.events if isinstance(event, CallFinished)] == ["ann"] * 3
    assert [
        (credential.active_requests, credential.lease.running) for credential in access._keys.values()
    ] == [(0, set())] * 2


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

    async with (
        served.http(access=credentials_for(map(entry, names))) as url,
        anyio.create_task_group() as tasks,
    ):
        for name in names:
            tasks.start_soon(ask, name, url)
    calls = [event for event in served.events if isinstance(event, CallFinished)]
    assert len(calls) == CALLS
    assert all(event.caller and event.tool == tools[event.caller] for event in calls)


async def test_the_session_id_of_another_caller_gives_no_power_over_its_calls(
    served: Served, api: Api, web: httpx.AsyncClient
) -> None:
    async with served.http(access=credentials_for([entry("ann"), entry("eve")])) as url:
        ann = await opened("ann", web, url)
        eve = session_of("eve", web, url)
        eve.headers["mcp-session-id"] = ann.headers["mcp-session-id"]
        answers: list[Json] = []

        async def hang() -> None:
            answers.append(await ann.ask(call("hang", 7)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hang)
            await api.entered.wait()
            assert "/echo" in str(await eve.ask(call("echo", 7)))
            for message in (INITIALIZED, cancel(7)):
                assert (await eve.post(message)).status_code == 202
            assert (await web.delete(url, headers=eve.headers)).status_code == 200
            assert not api.left.is_set()
            api.release.set()
        assert answers[0]["id"] == 7
        assert "/hang" in str(answers[0]["result"])
        assert (await ann.ask(call("echo", 9)))["result"]["isError"] is False
    callers = [event.caller for event in served.events if isinstance(event, CallFinished)]
    assert callers == ["eve", "ann", "ann"]


async def test_a_session_id_shows_each_caller_its_own_tools(served: Served, web: httpx.AsyncClient) -> None:
    served.scopes = {"echo": ["read"], "any": ["write"]}
    served.show("echo", "any")
    access = credentials_for([entry("ann", scopes=["read"]), entry("eve", scopes=["write"])])
    async with served.http(access=access) as url:
        ann = await opened("ann", web, url)
        eve = session_of("eve", web, url)
        eve.headers["mcp-session-id"] = ann.headers["mcp-session-id"]
        await ann.sees({"echo"}, "echo", "any")
        await eve.sees({"any"}, "echo", "any")
        async with ann.stream() as hers, eve.stream() as other:
            # The id has the digest of another list than the one that this caller sees.
            assert (await anext(other))["method"] == "notifications/tools/list_changed"
            await served.change("any")
            assert (await anext(hers))["method"] == "notifications/tools/list_changed"


@pytest.mark.slow
@pytest.mark.parametrize("modern", [False, True], ids=["handshake", "modern"])
@pytest.mark.parametrize("how", ["revoked", "changed", "expired"])
async def test_an_expired_or_revoked_key_ends_its_open_streams(
    served: Served, web: httpx.AsyncClient, how: str, *, modern: bool
) -> None:
    ann_key = entry("ann", expires=later(2)) if how == "expired" else entry("ann")
    events: list[Event] = []
    access = credentials_for([ann_key, entry("bob")], events.append)
    async with served.http(access=access) as url, anyio.create_task_group() as tasks:
        tasks.start_soon(access.run)
        sessions = [await opened(name, web, url) for name in ("ann", "bob")]
        streams = [each.subscribed(modern=modern) for each in sessions]
        async with streams[0] as ann, streams[1] as bob:
            if how == "changed":
                access.replace(access_config([entry("ann", scopes=["more"]), entry("bob")]))
            if how == "revoked":
                access.replace(access_config([entry("bob")]))
            with anyio.fail_after(30):
                assert [event async for event in ann] == []
            await served.add("echo")
            assert (await anext(bob))["method"] == "notifications/tools/list_changed"
        answer = await sessions[0].post(call("echo"))
        assert answer.status_code == (200 if how == "changed" else 401)
        tasks.cancel_scope.cancel()
    (event,) = (event for event in events if isinstance(event, KeysChanged))
    groups = {"changed": event.changed, "revoked": event.removed, "expired": event.expired}
    assert groups == {each: ("ann",) * (each == how) for each in groups}
    assert (event.added, event.valid_keys) == ((), 2 if how == "changed" else 1)


@pytest.mark.parametrize("modern", [False, True], ids=["handshake", "modern"])
async def test_a_revoked_key_ends_its_calls_in_flight(
    served: Served, api: Api, web: httpx.AsyncClient, *, modern: bool
) -> None:
    access = credentials_for([entry("ann")])
    async with served.http(access=access) as url, anyio.create_task_group() as tasks:
        session = await opened("ann", web, url)
        replies: list[httpx.Response] = []

        async def hang() -> None:
            message = call("hang")
            post = web.post(url, **session.modern(message)) if modern else session.post(message)
            replies.append(await post)

        tasks.start_soon(hang)
        await api.entered.wait()
        access.replace(access_config([]))
        with anyio.fail_after(30):
            await api.left.wait()
    assert "The credential of this call was revoked or has expired" in replies[0].text
    assert [event.outcome for event in served.events if isinstance(event, CallFinished)] == ["withdrawn"]


async def authenticated(access: CredentialStore) -> None:
    """Wait until a request is authenticated."""
    while not any(credential.active_requests for credential in access._keys.values()):
        await anyio.lowlevel.checkpoint()


async def test_a_revoked_key_ends_a_request_whose_body_is_incomplete(served: Served) -> None:
    access = credentials_for([entry("ann")])
    async with served.http(access=access) as url:
        head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
        async with await anyio.connect_tcp("127.0.0.1", httpx.URL(url).port or 0) as stream:
            await stream.send(f"{head}Authorization: Bearer key-of-ann\r\n\r\n{{".encode())
            with anyio.fail_after(30):
                await authenticated(access)
                access.replace(access_config([]))
                assert (await stream.receive()).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "credentials", ["", "Authorization: Bearer key-of-eve\r\n", "Authorization: Basic eDp5\r\n"]
)
@pytest.mark.parametrize("fast_path", [True, False])
async def test_a_request_without_a_valid_key_is_answered_before_its_body(
    served: Served, credentials: str, *, fast_path: bool
) -> None:
    head = (
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    )
    async with (
        served.http(access=credentials_for([entry("ann")]), fast_path=fast_path) as url,
        await anyio.connect_tcp("127.0.0.1", httpx.URL(url).port or 0) as stream,
    ):
        await stream.send(f"{head}{credentials}\r\n".encode())
        with anyio.fail_after(30):
            assert (await stream.receive()).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("fast_path", [True, False])
async def test_a_call_whose_body_arrives_after_its_key_was_revoked_is_not_made(
    served: Served, *, fast_path: bool
) -> None:
    access = credentials_for([entry("ann")])
    async with served.http(access=access, fast_path=fast_path) as url, httpx.AsyncClient(timeout=30) as web:
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
                    await authenticated(access)
                    access.replace(access_config([]))
                    await stream.send(body)
                    assert (await stream.receive()).startswith(b"HTTP/1.1 401 ")
            access.replace(access_config([entry("ann")]))
    assert not [event for event in served.events if isinstance(event, CallFinished)]


async def test_a_disconnect_cancels_the_call(served: Served, api: Api, web: httpx.AsyncClient) -> None:
    async with served.http(access=credentials_for([entry("ann")])) as url:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session_of("ann", web, url).ask_modern, call("hang"))
            await api.entered.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(30):
            await api.left.wait()


async def test_guessing_keys_does_not_flood_the_log(
    served: Served, web: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    began = anyio.current_time()
    with caplog.at_level(logging.WARNING):
        async with served.http(access=credentials_for([entry("ann")])) as url:
            for _ in range(50):
                eve = session_of("eve", web, url)
                eve.headers["x-forwarded-for"] = "6.6.6.6"  # which anybody can say
                assert (await eve.post(call("echo"))).status_code == 401
            ann = session_of("ann", web, url)
            assert "result" in await ann.ask_modern(call("echo"))
    logged = [message for message in caplog.messages if message.startswith("refused")]
    assert 1 <= len(logged) <= 3 + (anyio.current_time() - began)  # one a second
    assert logged[0] == ("refused a request from 127.0.0.1 with 401: This key is unknown, revoked or expired")
    assert "key-of" not in caplog.text


def delay_of_an_hour() -> AddressThrottle:
    """Delays refusals by an hour, except for the first forty."""
    return AddressThrottle(interval=3600, max_delay=3600)


@pytest.mark.slow
async def test_invalid_keys_are_delayed_and_valid_keys_are_not(
    served: Served, web: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.http.server.Throttles", lambda: Throttles(delay_of_an_hour()))
    done: list[str] = []

    async def guess(number: int) -> None:
        assert (await session_of(f"eve-{number}", web, url).post(call("echo"))).status_code == 401
        done.append("eve")

    access = credentials_for([entry("ann")])
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


async def test_a_delayed_refusal_ends_when_the_client_disconnects() -> None:
    done: list[str] = []

    async def unreached(scope: Scope, receive: Receive, send: Send) -> None:
        """No request reaches the app."""

    async def answer(message: Message) -> None:
        assert message["type"].startswith("http.response")

    async def guess(name: str, *messages: Message) -> None:
        left = list(messages)

        async def receive() -> Message:
            if not left:
                await anyio.sleep_forever()
            return left.pop(0)

        await middleware({"type": "http", "path": "/mcp", "headers": []}, receive, answer)
        done.append(name)

    middleware = AuthenticationMiddleware(
        unreached,
        credentials_for([entry("ann")]),
        None,
        RejectionLog(ignore),
        lambda _: None,
        throttles=Throttles(delay_of_an_hour()),
    )
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


async def _forever() -> Message:
    await anyio.sleep_forever()
    raise AssertionError


async def _never(*_: object) -> Any:
    raise AssertionError


async def test_health_checks_of_one_address_past_the_rate_limit_are_delayed() -> None:
    done: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - an ASGI app
        done.append(scope["client"][0])

    answers = AddressThrottle(lambda: 0, interval=0.0007, burst=20)  # whose clock stands still
    middleware = AuthenticationMiddleware(
        app,
        credentials_for([entry("ann")]),
        None,
        RejectionLog(ignore),
        lambda _: None,
        throttles=Throttles(open=answers),
    )

    async def ask(address: str) -> None:
        scope = {"type": "http", "path": "/-/healthy", "headers": [], "client": (address, 1)}
        await middleware(scope, _never, _never)

    async with anyio.create_task_group() as tasks:
        for address, times in (("10.0.0.1", 30), ("10.0.0.2", 10)):
            for _ in range(times):
                tasks.start_soon(ask, address)
        await anyio.lowlevel.checkpoint()
        assert done == ["10.0.0.1"] * 20 + ["10.0.0.2"] * 10
    assert len(done) == 40


@pytest.mark.parametrize(
    "headers",
    [[(b"x", bytes(2 * 4096 - 33 - len("/-/ready")))], [(b"x", b"")] * 248],
    ids=["a long one", "many"],
)
async def test_a_request_without_a_key_is_weighted_by_the_size_of_its_head(
    headers: list[tuple[bytes, bytes]],
) -> None:
    done: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - an ASGI app
        done.append(scope["path"])

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            done.append("refused")

    answers, rejections = [AddressThrottle(lambda: 0, interval=0.1, burst=20) for _ in range(2)]
    middleware = AuthenticationMiddleware(
        app,
        credentials_for([entry("ann")]),
        None,
        RejectionLog(ignore),
        lambda _: None,
        throttles=Throttles(rejections, answers),
    )
    async with anyio.create_task_group() as tasks:
        for path in ["/-/ready", "/mcp"] * 20:
            scope: Scope = {"type": "http", "path": path, "headers": headers, "client": ("10.0.0.1", 1)}
            tasks.start_soon(middleware, scope, _forever, answer)
        usual: Scope = {"type": "http", "path": "/-/healthy", "headers": [], "client": ("10.0.0.1", 1)}
        tasks.start_soon(middleware, usual, _forever, answer)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert (done.count("/-/ready"), done.count("refused")) == (10, 10)
        assert "/-/healthy" in done
        tasks.cancel_scope.cancel()


async def test_a_request_that_waits_to_start_keeps_its_token_cached() -> None:
    access, begun, ended = credentials_for([entry("ann")]), list[str](), anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - an ASGI app
        begun.append(scope["path"])
        await ended.wait()

    middleware = AuthenticationMiddleware(app, access, None, RejectionLog(ignore), lambda _: None)
    headers = [(b"authorization", b"Bearer key-of-ann")]
    credential = await access.authenticate(headers)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(middleware, {"type": "http", "path": "/mcp", "headers": headers}, _never, _never)
        await anyio.lowlevel.checkpoint()
        assert (len(begun), credential.active_requests) == (1, 3)
        ended.set()
    assert (len(begun), credential.active_requests) == (3, 0)


async def test_an_invalid_key_with_a_body_is_delayed_too() -> None:
    statuses: list[int] = []

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    at_once = AddressThrottle(lambda: 0)
    access = credentials_for([entry("ann")])
    middleware = AuthenticationMiddleware(
        _never, access, None, RejectionLog(ignore), lambda _: None, throttles=Throttles(at_once)
    )
    for _ in range(41):
        await middleware(
            {"type": "http", "path": "/mcp", "headers": [(b"content-length", b"1")]}, _never, answer
        )
    assert statuses == [401] * 41


async def test_a_caller_lists_and_calls_what_its_scopes_allow(served: Served, web: httpx.AsyncClient) -> None:
    served.scopes = {"echo": ["read"], "any": ["read", "more"], "change": ["write"]}
    served.show("echo", "any", "change", "typed")
    visible = {
        "ann": {"echo", "any", "typed"},
        "bob": {"echo", "typed"},
        "cid": {"typed"},
        "dan": {"change", "typed", "echo", "any"},
    }
    scopes = {"ann": ["read", "more"], "bob": ["read"], "cid": [], "dan": ["read", "write", "more", "other"]}
    access = credentials_for([entry(name, scopes=granted) for name, granted in scopes.items()])
    async with served.http(access=access) as url:
        for name, seen in visible.items():
            session = await opened(name, web, url)
            await session.sees(seen, "echo", "any", "change", "typed", "nosuch")


@pytest.mark.parametrize("modern", [False, True], ids=["handshake", "modern"])
async def test_only_callers_whose_own_list_changed_are_notified(
    served: Served, web: httpx.AsyncClient, *, modern: bool
) -> None:
    served.scopes = {"echo": ["read"], "any": ["write"]}
    await served.change("typed")
    access = credentials_for([entry("ann", scopes=["read"]), entry("bob", scopes=["write"])])
    async with served.http(access=access) as url:
        sessions = [await opened(name, web, url) for name in ("ann", "bob")]
        for session in sessions:
            await session.ask(request("tools/list"))
        streams = [each.subscribed(modern=modern) for each in sessions]
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
            access.replace(access_config([]))
            assert [event async for event in ann] == []
            assert [event async for event in bob] == []
