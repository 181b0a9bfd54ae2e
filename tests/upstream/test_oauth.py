from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import anyio
import pytest

from bridge.diagnostics import InvalidSpec
from bridge.errors import InvalidCall, NotSent
from bridge.events import CircuitChanged, TokenRequested
from bridge.exchange import Reply, Request
from bridge.resolved_upstream import Upstream
from bridge.secrets import Sources
from bridge.spec import UpstreamSpec
from bridge.tool.compiler import compile_upstream
from tests.serving.logins import token
from tests.upstream.authorization import BRIDGE, SECRET, Authorization, serving_authorization
from tests.upstream.sending import Caller

pytestmark = pytest.mark.anyio

OWN = {"flow": "clientCredentials"}
EXCHANGE = {"flow": "tokenExchange"}


@pytest.fixture
async def server() -> AsyncIterator[Authorization]:
    async with serving_authorization() as running:
        yield running


def upstream(server: Authorization, auth: dict[str, Any], **keys: Any) -> Upstream:
    whole = {
        "type": "oauth2",
        "tokenUrl": f"{server.url}/oauth/token/",
        "clientId": BRIDGE,
        "clientSecret": "${env:SECRET}",
    }
    known = {name: word for name, word in (whole | auth).items() if word is not None}
    spec = UpstreamSpec.model_validate({"baseUrl": f"{server.url}/api", "auth": known, **keys})
    return compile_upstream("shop", spec, Sources({"SECRET": SECRET}))


async def ask(
    caller: Caller, to: Upstream, subject: str | None = None, method: str = "GET", within: float = 30
) -> Reply:
    return await caller.client.send(
        Request(method, f"{to.spec.base_url}/who"),
        to,
        subject=subject,
        deadline=anyio.current_time() + within,
    )


async def at_once(server: Authorization, call: Callable[[], Coroutine[Any, Any, None]], times: int) -> None:
    """Calls that all wait before the server issues the first token."""
    server.held = held = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for _ in range(times):
            tasks.start_soon(call)
        await server.entered.wait()
        await anyio.wait_all_tasks_blocked()
        held.set()


def you(reply: Reply) -> str:
    assert reply.status == 200
    return reply.content.decode().split('"you":"')[1].split('"')[0]


def outcomes(caller: Caller) -> list[str]:
    return [event.outcome for event in caller.events if isinstance(event, TokenRequested)]


@pytest.mark.parametrize(
    "auth",
    [
        {},
        {"clientAuthentication": "client_secret_post"},
        {"clientSecret": None},
    ],
    ids=["basic", "post", "public"],
)
async def test_one_token_of_the_bridge_serves_all_calls(
    caller: Caller, server: Authorization, auth: dict[str, Any]
) -> None:
    wanted = {"scopes": ["orders:read", "orders:write"], "audience": "shop", "resource": "https://shop/"}
    to = upstream(server, OWN | wanted | auth)
    assert [you(await ask(caller, to, subject)) for subject in (None, token(), None)] == [BRIDGE] * 3
    (form,) = server.token_requests
    assert (
        form.items()
        >= {
            "grant_type": "client_credentials",
            "scope": "orders:read orders:write",
            "audience": "shop",
            "resource": "https://shop/",
        }.items()
    )
    assert ("client_secret" in form) is ("clientAuthentication" in auth)
    assert outcomes(caller) == ["ok"]


async def test_the_token_url_may_have_a_query(caller: Caller, server: Authorization) -> None:
    to = upstream(server, OWN | {"tokenUrl": f"{server.url}/oauth/token/?p=b2c_1%20in&q"})
    assert you(await ask(caller, to)) == BRIDGE
    assert [(form["?p"], form["?q"], form["grant_type"]) for form in server.token_requests] == [
        ("b2c_1 in", "", "client_credentials")
    ]


async def test_all_waiting_calls_get_one_token_even_if_it_has_expired(
    caller: Caller, server: Authorization
) -> None:
    to = upstream(server, OWN, limits={"concurrency": 50})
    server.tokens["fixed"] = BRIDGE
    server.failing = {"access_token": "fixed", "token_type": "bearer", "expires_in": 0}
    seen: list[str] = []

    async def call() -> None:
        seen.append(you(await ask(caller, to)))

    await at_once(server, call, 20)
    assert seen == [BRIDGE] * 20
    assert len(server.token_requests) == 1


async def test_earlier_tokens_are_redacted_as_well(caller: Caller, server: Authorization) -> None:
    to = upstream(server, OWN)
    server.life = -1
    used = [(await ask(caller, to)).secrets[-1] for _ in range(4)]
    assert len(set(used)) == 4
    assert (await ask(caller, to)).secrets[:2] == tuple(used[2:])


async def test_each_caller_has_a_separate_token(caller: Caller, server: Authorization) -> None:
    to = upstream(server, EXCHANGE | {"requestedTokenType": "urn:ietf:params:oauth:token-type:access_token"})
    subjects = {name: token(sub=name) for name in ("ann", "bob", "cid")}
    seen: list[tuple[str, str]] = []

    async def calls(name: str) -> None:
        seen.extend([(name, you(await ask(caller, to, subjects[name]))) for _ in range(20)])

    async with anyio.create_task_group() as tasks:
        for name in subjects:
            tasks.start_soon(calls, name)
    assert len(seen) == 60
    assert [pair for pair in seen if pair[0] != pair[1]] == []
    assert sorted(form["subject_token"] for form in server.token_requests) == sorted(subjects.values())
    assert {form["requested_token_type"] for form in server.token_requests} == {
        "urn:ietf:params:oauth:token-type:access_token"
    }
    shown = {request.headers["authorization"].removeprefix("Bearer ") for request in server.calls}
    assert shown == server.tokens.keys()
    assert not shown & set(subjects.values())


async def test_a_call_without_a_callers_token_is_refused(caller: Caller, server: Authorization) -> None:
    with pytest.raises(
        InvalidCall, match="on behalf of the caller, and the caller sent no access token"
    ) as refused:
        await ask(caller, upstream(server, EXCHANGE))
    assert refused.value.code == "unknown-caller"
    assert server.token_requests == server.calls == []


async def test_concurrent_calls_request_one_token(caller: Caller, server: Authorization) -> None:
    to, subject = upstream(server, EXCHANGE, limits={"concurrency": 50}), token()
    seen: list[str] = []

    async def call() -> None:
        seen.append(you(await ask(caller, to, subject)))

    await at_once(server, call, 20)
    assert seen == ["ann"] * 20
    assert len(server.token_requests) == 1


async def test_concurrent_calls_get_the_same_refusal(caller: Caller, server: Authorization) -> None:
    to, subject = upstream(server, EXCHANGE), token(aud="another")
    rejections: list[str] = []

    async def call() -> None:
        with pytest.raises(NotSent) as refused:
            await ask(caller, to, subject)
        rejections.append(f"{refused.value.code}: {refused.value}")

    await at_once(server, call, 5)
    place = server.url.removeprefix("http://")
    text = f"The authorization server at {place} issued no token for this call (invalid_request)."
    assert rejections == [f"token-refused: {text} Tell the operator of this tool."] * 5
    assert len(server.token_requests) == 1
    assert server.calls == []
    (event,) = (event for event in caller.events if isinstance(event, TokenRequested))
    assert (event.outcome, event.error) == ("token-refused", "invalid_request")
    assert event.error_description == "not a token: [redacted] of [redacted]"


@pytest.mark.parametrize("error", [{"code": 7}, ["invalid_client"], 7, None])
async def test_an_error_that_is_not_a_string_is_reported_by_its_status(
    caller: Caller, server: Authorization, error: Any
) -> None:
    server.refusal = {"error": error, "error_description": {"a": 1}}
    with pytest.raises(NotSent, match=r"issued no token for this call \(400\)"):
        await ask(caller, upstream(server, OWN))
    (event,) = (event for event in caller.events if isinstance(event, TokenRequested))
    assert (event.outcome, event.error, event.error_description) == ("token-refused", "400", "")


async def test_a_caller_with_an_expired_token_is_advised_to_log_in(
    caller: Caller, server: Authorization
) -> None:
    server.refusal = {"error": "invalid_grant"}
    for auth, whose in ((EXCHANGE, "Tell the user, who may have to log in."), (OWN, "Tell the operator of")):
        with pytest.raises(NotSent, match=rf"\(invalid_grant\)\. {whose}"):
            await ask(caller, upstream(server, auth), token())


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["is cancelled", "runs out of time"])
async def test_after_the_requesting_call_ended_a_waiting_call_requests_the_token(
    caller: Caller, server: Authorization, ending: str
) -> None:
    to, subject = upstream(server, EXCHANGE), token()
    server.held = anyio.Event()
    first, ended = anyio.CancelScope(), anyio.Event()
    seen: list[str] = []

    async def requesting() -> None:
        with first:
            within = 30 if ending == "is cancelled" else 2
            with pytest.raises(
                NotSent,
                match=r"no token for this call\. No complete answer from the authorization server at ",
            ):
                await ask(caller, to, subject, within=within)
        ended.set()

    async def waiting() -> None:
        seen.append(you(await ask(caller, to, subject)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(requesting)
        await server.entered.wait()
        tasks.start_soon(waiting)
        await anyio.wait_all_tasks_blocked()
        if ending == "is cancelled":
            first.cancel()
        await ended.wait()
        server.held.set()
    assert seen == ["ann"]
    assert len(server.token_requests) == 2


async def test_a_waiting_call_near_its_deadline_does_not_request_a_token(
    caller: Caller, server: Authorization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.upstream.oauth._MIN_REQUEST_SECONDS", 3600)
    to, subject = upstream(server, EXCHANGE), token()
    server.held = anyio.Event()
    first = anyio.CancelScope()

    async def leaving() -> None:
        with first:
            await ask(caller, to, subject)

    async def waiting() -> None:
        with pytest.raises(NotSent, match=r"issued no token in time\. Please try again later\."):
            await ask(caller, to, subject)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leaving)
        await server.entered.wait()
        tasks.start_soon(waiting)
        await anyio.wait_all_tasks_blocked()
        first.cancel()
    assert len(server.token_requests) == 1


@pytest.mark.slow
async def test_calls_with_the_same_deadline_request_one_token(caller: Caller, server: Authorization) -> None:
    to, subject = upstream(server, EXCHANGE), token()
    server.held = anyio.Event()
    codes: list[str] = []

    async def call() -> None:
        with pytest.raises(NotSent) as refused:
            await ask(caller, to, subject, within=2)
        codes.append(refused.value.code)

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(call)
    assert len(codes) == 10
    assert set(codes) <= {"timeout", "no-token"}
    assert len(server.token_requests) == 1
    (event,) = (event for event in caller.events if isinstance(event, TokenRequested))
    # The token request ends 50 ms before the calls. A loop that was busy meanwhile ends both at once.
    assert event.outcome in ("no-token", "cancelled")


async def test_too_many_calls_that_wait_for_tokens_are_reported(
    caller: Caller, server: Authorization
) -> None:
    to = upstream(server, EXCHANGE, limits={"concurrency": 1, "queue": "1ms"})
    server.held = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, caller, to, token(sub="ann"))
        await server.entered.wait()
        with pytest.raises(NotSent, match="Too many calls wait for a token of the authorization server at"):
            await ask(caller, to, token(sub="bob"))
        server.held.set()


@pytest.mark.slow
async def test_an_authorization_server_that_hangs_opens_its_circuit(
    caller: Caller, server: Authorization
) -> None:
    to = upstream(server, EXCHANGE, circuit={"failures": 2, "openFor": "60s"})
    server.held = anyio.Event()
    codes: list[str] = []
    for name in ("ann", "bob", "cid"):
        with pytest.raises(NotSent) as refused:
            await ask(caller, to, token(sub=name), within=2)
        codes.append(str(refused.value))
    assert len(server.token_requests) == 2
    assert "failed 2 times in a row, so no calls are made" in codes[2]
    assert CircuitChanged("shop/tokens", is_open=True, failures=2) in caller.events


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_token_that_the_api_refuses_is_replaced(
    caller: Caller, server: Authorization, method: str
) -> None:
    to, subject = upstream(server, EXCHANGE), token()
    before = await ask(caller, to, subject)
    server.tokens.clear()
    after = await ask(caller, to, subject, method)
    assert you(before) == you(after) == "ann"
    assert [request.method for request in server.calls] == ["GET", method, method]
    assert len(server.token_requests) == 2
    assert len(after.secrets) == 2
    assert after.secrets[-1] in after.content.decode()
    assert after.secrets[0] == before.secrets[0]


async def test_an_api_that_refuses_every_token_does_not_cause_a_token_request_per_call(
    caller: Caller, server: Authorization
) -> None:
    to = upstream(server, OWN)
    server.refusing = True
    statuses = [(await ask(caller, to)).status for _ in range(5)]
    assert statuses == [401] * 5
    assert (len(server.token_requests), len(server.calls)) == (2, 6)
    server.refusing = False
    assert you(await ask(caller, to)) == BRIDGE
    server.tokens.clear()
    assert you(await ask(caller, to)) == BRIDGE
    assert len(server.token_requests) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("failing", "left"), [(503, 9.0), (503, -1.0), (None, 9.0), ("hangs", 4.0)])
async def test_a_stale_token_is_used_while_no_other_is_available(
    caller: Caller, server: Authorization, failing: int | str | None, left: float
) -> None:
    to = upstream(server, OWN, retries={"max": 0})
    await ask(caller, to)
    (entry,) = caller.client._upstreams["shop"].tokens._entries.values()
    assert entry.token
    now = anyio.current_time()
    entry.token = entry.token._replace(refresh_at=now - 1, expires_at=now + left)
    server.failing = failing if isinstance(failing, int) else None
    server.held = anyio.Event() if failing == "hangs" else None
    if failing and left < 0:
        with pytest.raises(NotSent, match="answered with 503, so there is no token"):
            await ask(caller, to)
        return
    assert [you(await ask(caller, to)) for _ in range(3)] == [BRIDGE] * 3
    assert len(server.token_requests) == 2  # and not again for a while
    assert outcomes(caller) == ["ok", "no-token" if failing else "ok"]
    assert entry.token.refresh_at <= entry.token.expires_at


async def test_a_token_that_another_call_replaced_meanwhile_is_kept(
    caller: Caller, server: Authorization
) -> None:
    to, subject = upstream(server, EXCHANGE), token()
    await ask(caller, to, subject)
    server.tokens.clear()
    late = server.late = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, caller, to, subject)
        with anyio.fail_after(30):
            while len(server.calls) < 2:
                await anyio.lowlevel.checkpoint()
        assert you(await ask(caller, to, subject)) == "ann"
        late.set()
    assert len(server.token_requests) == 2


async def test_concurrent_calls_with_a_refused_token_request_one_new_token(
    caller: Caller, server: Authorization
) -> None:
    to = upstream(server, OWN, limits={"concurrency": 50})
    await ask(caller, to)
    server.tokens.clear()

    async def call() -> None:
        assert you(await ask(caller, to)) == BRIDGE

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(call)
    assert len(server.token_requests) == 2


@pytest.mark.parametrize(
    ("failing", "text"),
    [
        ({"access_token": "x" * 100_000}, "CANNOT BE READ"),
        (503, "answered with 503, so there is no token for this call. Please try again later."),
        (429, "answered with 429, so there is no token for this call. Please try again later."),
        (
            {"access_token": "x", "token_type": "N_A"},
            "answered without a valid Bearer token (RFC 6750). Tell the operator of this tool.",
        ),
        (
            {"access_token": "x\r\ny", "token_type": "Bearer"},
            "answered without a valid Bearer token (RFC 6750). Tell the operator of this tool.",
        ),
        ({}, "answered without a valid Bearer token (RFC 6750). Tell the operator of this tool."),
    ],
)
async def test_an_unusable_token_response_is_reported(
    caller: Caller, server: Authorization, failing: Any, text: str
) -> None:
    server.failing = failing
    with pytest.raises(NotSent) as refused:
        await ask(caller, upstream(server, OWN, retries={"max": 0}))
    assert refused.value.code == "no-token"
    if text == "CANNOT BE READ":
        what = f"the reply of the authorization server at {server.url[7:]} cannot be read"
        assert (
            str(refused.value) == f"There is no token for this call: {what}. Tell the operator of this tool."
        )
    else:
        assert str(refused.value) == f"The authorization server at {server.url[7:]} {text}"
    assert outcomes(caller) == ["no-token"]


async def test_a_refusal_without_a_known_error_is_reported_by_its_status(
    caller: Caller, server: Authorization
) -> None:
    server.failing = 418
    to = upstream(server, OWN | {"tokenUrl": f"{server.url}/nowhere"})
    with pytest.raises(NotSent, match=r"issued no token for this call \(404\)") as refused:
        await ask(caller, to)
    assert refused.value.code == "token-refused"


async def test_an_unreachable_authorization_server_is_reported(caller: Caller, server: Authorization) -> None:
    to = upstream(server, OWN | {"tokenUrl": "http://127.0.0.1:9/token"}, retries={"max": 0})
    with pytest.raises(NotSent) as refused:
        await ask(caller, to)
    assert refused.value.code == "no-token"
    there = "Cannot reach the authorization server at 127.0.0.1:9 (connection refused)"
    assert str(refused.value) == f"There is no token for this call. {there}. Please try again later."


@pytest.mark.parametrize(
    ("lifetime", "requests"),
    [
        (3600, 1),
        (0, 2),
        ("3600", 1),
        ("soon", 1),
        (None, 1),
        (-5, 2),
        (10**400, 1),
        ("9" * 400, 1),
        (1e300, 1),
        ([], 1),
    ],
    ids=lambda value: repr(value)[:8],
)
async def test_a_token_is_used_until_it_expires(
    caller: Caller, server: Authorization, lifetime: Any, requests: int
) -> None:
    to = upstream(server, OWN)
    server.tokens["fixed"] = BRIDGE
    server.failing = {"access_token": "fixed", "token_type": "bearer", "expires_in": lifetime}
    for _ in range(2):
        assert you(await ask(caller, to)) == BRIDGE
    assert len(server.token_requests) == requests


async def test_tokens_outlive_a_reload_but_not_another_auth(caller: Caller, server: Authorization) -> None:
    to = upstream(server, OWN)
    await ask(caller, to)
    caller.client.retire([upstream(server, OWN, timeout="9s")])
    await ask(caller, upstream(server, OWN, timeout="9s"))
    assert len(server.token_requests) == 1
    await ask(caller, upstream(server, OWN | {"scopes": ["orders:read"]}))
    assert len(server.token_requests) == 2


async def test_the_tokens_of_the_most_recent_callers_are_kept(
    caller: Caller, server: Authorization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.upstream.oauth._MAX_CACHED_CALLERS", 2)
    to, subjects = upstream(server, EXCHANGE), [token(sub=name) for name in ("ann", "bob", "cid")]
    for number in (0, 1, 0, 2, 0, 1):
        await ask(caller, to, subjects[number])
    assert len(server.token_requests) == 4


@pytest.mark.parametrize("url", ["login/token", "http://login.example.com/token"])
def test_an_invalid_token_url_is_reported(url: str) -> None:
    keys = {"type": "oauth2", "flow": "clientCredentials", "tokenUrl": url, "clientId": "x"}
    spec = UpstreamSpec.model_validate({"baseUrl": "http://127.0.0.1:9", "auth": keys})
    with pytest.raises(InvalidSpec) as refused:
        compile_upstream("shop", spec, Sources({}))
    assert [(finding.code, finding.route) for finding in refused.value.findings] == [
        ("bad-url", ("auth", "tokenUrl"))
    ]
