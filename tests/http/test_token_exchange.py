"""What of a caller's own request an API gets: never their token, but another one for it; and headers by their names."""

import json
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
import httpx
import pytest

from bridge.access.credentials import CredentialStore
from bridge.access.jwks import fetch_or_read
from bridge.registry import Snapshot
from bridge.secrets import Sources
from bridge.spec import ToolSpec, UpstreamSpec
from bridge.tool.compiler import Tool, compile_tool, compile_upstream
from bridge.upstream.client import Client
from tests.access.test_jwt import access_config, issuer, session_of
from tests.serving.logins import Login, token
from tests.serving.messages import Json, call
from tests.serving.served import Served
from tests.upstream.authorization import BRIDGE, SECRET, Authorization, serving_authorization

pytestmark = pytest.mark.anyio

NAMES = ("ann", "bob", "cid")
MINE = {"x-tenant": "blue", "X-TRACE": "t/1", "cookie": "session=1", "x-own": "caller's", "x-other": "no"}


@pytest.fixture
async def authorization() -> AsyncIterator[Authorization]:
    async with serving_authorization() as running:
        yield running


@pytest.fixture
async def access(client: Client) -> AsyncIterator[CredentialStore]:
    login = Login("ec-1")
    async with login.serving():
        yield CredentialStore(access_config(issuer(login.url)), partial(fetch_or_read, client))


def tool(server: Authorization, method: str = "GET", **words: Any) -> Tool:
    auth = {
        "type": "oauth2",
        "flow": "tokenExchange",
        "tokenUrl": f"{server.url}/oauth/token/",
        "clientId": BRIDGE,
        "clientSecret": SECRET,
    }
    spec = UpstreamSpec.model_validate({"baseUrl": f"{server.url}/api", "auth": auth, **words})
    written = {
        "description": "Who am I?",
        "upstream": "shop",
        "request": {"method": method, "url": "/who", "headers": {"X-Own": "tool's"}},
    }
    upstream = compile_upstream("shop", spec, Sources({}))
    return compile_tool("who", ToolSpec.model_validate(written), upstream, Sources({}))[0]


@pytest.mark.parametrize("fast_path", [True, False], ids=["fast path", "SDK alone"])
async def test_each_caller_is_called_for_with_a_token_of_their_own(
    served: Served,
    web: httpx.AsyncClient,
    access: CredentialStore,
    authorization: Authorization,
    caplog: pytest.LogCaptureFixture,
    *,
    fast_path: bool,
) -> None:
    caplog.set_level(logging.DEBUG, "bridge")
    served.registry.replace(
        Snapshot(
            [tool(authorization, forwardHeaders=["X-Tenant", "x-trace", "X-Own"], overridable=["X-Own"])]
        )
    )
    subjects = {name: token(sub=name) for name in NAMES}
    seen: list[tuple[str, Json]] = []

    async def calls(name: str, url: str) -> None:
        session = session_of(subjects[name], web, url)
        session.headers |= MINE
        await session.open()
        for number in range(10):
            asks = session.ask if number % 2 else session.ask_modern
            answer = await asks(call("who", number))
            (block,) = answer["result"]["content"]
            seen.append((name, json.loads(block["text"])))

    async with served.http(access=access, fast_path=fast_path) as url, anyio.create_task_group() as tasks:
        for name in NAMES:
            tasks.start_soon(calls, name, url)
    assert len(seen) == 30
    assert [name for name, reply in seen if reply["you"] != name] == []
    assert {reply["shown"] for _, reply in seen} == {"Bearer [redacted]"}
    for _, reply in seen:
        headers = reply["headers"]
        assert [headers.get(name) for name in ("x-tenant", "x-trace", "x-own")] == ["blue", "t/1", "tool's"]
        assert not headers.keys() & {"cookie", "x-other", "mcp-session-id", "mcp-method"}
    assert len(authorization.token_requests) == len(NAMES)
    told = f"{seen} {caplog.text} {served.events} {[dict(each.headers) for each in authorization.calls]}"
    secret = [*subjects.values(), *authorization.tokens, SECRET]
    ours = f"{seen} {caplog.text} {served.events}"
    assert [each for each in secret if each in ours] == []
    assert [each for each in subjects.values() if each in told] == []


async def test_whoever_shows_no_token_is_told_so(
    served: Served, web: httpx.AsyncClient, authorization: Authorization
) -> None:
    served.registry.replace(Snapshot([tool(authorization, "POST")]))
    async with served.http() as url:
        answer = await session_of("nothing", web, url).ask_modern(call("who"))
    result = answer["result"]
    assert result["isError"]
    assert result["_meta"]["restbridge/error"] == "unknown-caller"
    assert authorization.token_requests == authorization.calls == []


async def test_a_header_that_cannot_be_sent_on_is_told_of(
    served: Served, web: httpx.AsyncClient, authorization: Authorization
) -> None:
    shown = tool(authorization, forwardHeaders=["X-Tenant"])
    served.registry.replace(Snapshot([shown]))
    async with served.http() as url:
        session = session_of("nothing", web, url)
        session.headers["x-tenant"] = "a\tb"
        answer = await session.ask_modern(call("who"))
    text = answer["result"]["content"][0]["text"]
    assert "the header X-Tenant of this request cannot be forwarded: it holds a line break, tab" in text
