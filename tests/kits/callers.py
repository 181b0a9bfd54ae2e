"""Concurrent callers with API keys and with tokens: no caller gets the identity or the tools of another,
or cancels its calls, also not with the session id of another.

Each caller has its own tool and its own scope, which only this tool needs. The bridge logs the caller of
each call. For callers with tokens, the API reports the exchanged token that it received.
"""

import json
import re
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import anyio
import httpx

from tests.kits.figures import Figure, at_most, none_of
from tests.kits.serving import Bridge, over_http
from tests.serving.logins import ISSUER, RESOURCE, Login, token
from tests.serving.messages import call, cancel, request
from tests.serving.session import Session
from tests.upstream.authorization import BRIDGE, SECRET, Authorization, serving_authorization
from tests.upstream.conversation import Exchange, serve_faults

_WITH_TOKENS: Final = ("cid", "dan")
_NAMES: Final = ("ann", "bob", *_WITH_TOKENS)
_SLOW: Final = "slow-"
"""With an id that begins like this, the API answers after half a second."""
_GUESSING_CONNECTIONS: Final = 64
"""Eight from each client address."""
_LINE: Final = re.compile(rb"call tool=of_(\w+) caller=(\w+) .*outcome=ok")
_REFUSED: Final = re.compile(rb"refused (?:a request|\d+ requests, the last one) from")
_UPSTREAM: Final = "baseUrl: {url}\nauth: {{type: none}}\n"
_EXCHANGING: Final = """\
baseUrl: {url}/api
auth: {{type: oauth2, flow: tokenExchange, tokenUrl: "{url}/oauth/token/", clientId: {bridge}, clientSecret: "{secret}"}}
"""
_TOOL: Final = """\
description: Answers with the id that it is called with.
upstream: {upstream}
scopes: [{name}]
inputSchema: {{type: object, required: [id], properties: {{id: {{type: string}}}}}}
request: {{method: POST, url: "{path}?id={{id}}"}}
"""


def _forged(number: int) -> str:
    """A token of Cid with an invalid signature, which differs for each number."""
    head, claims, signature = _credential("cid").split(".")
    return f"{head}.{claims}.{number:08x}{signature[8:]}"


@cache
def _credential(name: str) -> str:
    return token(sub=name, scope=name) if name in _WITH_TOKENS else f"key-of-{name}"


async def run(*, long: bool) -> list[Figure]:
    calls, hijack_tries = (10_000, 1000) if long else (800, 100)
    async with _world() as (bridge, authorization), httpx.AsyncClient(timeout=20, trust_env=False) as web:
        return [
            *await _identities(bridge, web, calls),
            at_most("token exchanges", len(authorization.token_requests), 2, "tokens"),
            *await _sessions(bridge, web, hijack_tries),
            *await _brute_force(bridge, web, 1000 if long else 200),
        ]


async def _identities(bridge: Bridge, web: httpx.AsyncClient, calls: int) -> list[Figure]:
    lost: list[str] = []
    leaks: list[str] = []

    async def call_repeatedly(name: str) -> None:
        session = await _open_session(name, bridge, web)
        for number in range(calls // len(_NAMES)):
            send = session.ask if number % 2 else session.ask_modern
            if not number % 10:
                leaks.extend(await _foreign_tools(name, send, number))
            answer = await send(_call(name, f"{name}-{number}"))
            if answer["id"] != f"{name}-{number}" or not _is_own_result(name, number, json.dumps(answer)):
                lost.append(f"{name}-{number}: {json.dumps(answer)[:200]}")

    async with anyio.create_task_group() as tasks:
        for name in _NAMES:
            tasks.start_soon(call_repeatedly, name)
    await bridge.wait_for_log(_LINE, times=calls)
    logged = [(match[1], match[2]) for match in _LINE.finditer(bridge.log)]
    wrong = [f"of_{tool.decode()} by {caller.decode()}" for tool, caller in logged if tool != caller]
    return [
        none_of("interleaved calls that were lost or got the reply of another", lost, calls),
        none_of("  logged under the name of another caller", wrong, len(logged)),
        none_of("tools of another caller that were listed or could be called", leaks, calls // 10 * 2),
    ]


def _is_own_result(name: str, number: int, answer: str) -> bool:
    """Whether the result has the id of the call and the right caller."""
    has_caller = rf"\"you\":\"{name}\"" in answer or name not in _WITH_TOKENS
    return has_caller and rf'"{name}-{number}\"' in answer


async def _foreign_tools(name: str, send: Any, number: int, other: str = "") -> list[str]:
    """The tools of other callers that a caller can see."""
    listed = await send(request("tools/list", f"list-{number}"))
    names = [tool["name"] for tool in listed["result"]["tools"]]
    other = other or _NAMES[(_NAMES.index(name) + 1) % len(_NAMES)]
    answer = await send(_call(other, f"other-{number}"))
    leaks = [] if names == [f"of_{name}"] else [f"{name} lists {names}"]
    if answer.get("error", {}).get("message") != f"Unknown tool: of_{other}":
        leaks.append(f"{name} calls of_{other}: {json.dumps(answer)[:200]}")
    return leaks


async def _sessions(bridge: Bridge, web: httpx.AsyncClient, tries: int) -> list[Figure]:
    """Bob sends requests with the session id of Ann. He stays Bob."""
    ann = await _open_session("ann", bridge, web)
    bob = _session("bob", bridge, web)
    bob.headers["mcp-session-id"] = ann.headers["mcp-session-id"]
    leaks: list[str] = []
    for number in range(tries):
        leaks += await _foreign_tools("bob", bob.ask, number, other="ann")
    cancelled: list[str] = []

    async def call_slowly(number: int) -> None:
        answer = await ann.ask(_call("ann", f"{_SLOW}{number}"))
        if "result" not in answer:
            cancelled.append(json.dumps(answer)[:200])

    calls = min(tries, 50)  # a caller may have 64 at a time
    async with anyio.create_task_group() as tasks:
        for number in range(calls):
            tasks.start_soon(call_slowly, number)
        for number in range(calls):
            await bob.post(cancel(f"{_SLOW}{number}"))
        await web.delete(bob.url, headers=bob.headers)
    return [
        none_of("tools of another caller that its session id gave access to", leaks, tries * 2),
        none_of("  calls that another caller cancelled with the session id", cancelled, calls),
    ]


async def _brute_force(bridge: Bridge, web: httpx.AsyncClient, tries: int) -> list[Figure]:
    """The latency of calls while other clients guess keys and tokens, and the guesses that are accepted."""
    ann = await _open_session("ann", bridge, web)
    baseline = await _latencies(ann, tries)
    accepted: list[str] = []
    tried = 0

    async def guess(number: int) -> None:
        nonlocal tried
        own_address = httpx.AsyncHTTPTransport(local_address=f"127.0.0.{2 + number % 8}")
        async with httpx.AsyncClient(transport=own_address, timeout=20, trust_env=False) as own:
            while True:
                tried += 1
                session = _session(f"guess-{number}-{tried}", bridge, own)
                if tried % 2:
                    session.headers["authorization"] = f"Bearer {_forged(tried)}"
                if (reply := await session.post(request("tools/list"))).status_code != 401:
                    accepted.append(f"{reply.status_code} {reply.text[:200]}")

    async with anyio.create_task_group() as tasks:
        for number in range(_GUESSING_CONNECTIONS):
            tasks.start_soon(guess, number)
        under_load = await _latencies(ann, tries)
        tasks.cancel_scope.cancel()
    lines = len(_REFUSED.findall(bridge.log))
    return [
        none_of("guessed keys that were accepted", accepted, tried),
        at_most("  log lines about them", lines, 10 + sum(under_load), "lines"),
        at_most(
            f"  p50 of a call during {_GUESSING_CONNECTIONS} guesses, compared with none",
            _ratio(under_load, baseline),
            2,
            "times",
        ),
    ]


async def _latencies(session: Session, calls: int) -> list[float]:
    latencies = []
    for number in range(calls):
        started = time.perf_counter()
        await session.ask_modern(_call("ann", f"timed-{number}"))
        latencies.append(time.perf_counter() - started)
    return latencies


def _ratio(latencies: list[float], baseline: list[float]) -> float:
    return statistics.median(latencies) / statistics.median(baseline)


def _call(name: str, id: str) -> dict[str, Any]:
    message = call(f"of_{name}", id)
    message["params"]["arguments"] = {"id": id}
    return message


def _session(name: str, bridge: Bridge, web: httpx.AsyncClient) -> Session:
    session = Session(web, bridge.url)
    session.headers["authorization"] = f"Bearer {_credential(name)}"
    return session


async def _open_session(name: str, bridge: Bridge, web: httpx.AsyncClient) -> Session:
    session = _session(name, bridge, web)
    await session.open()
    return session


async def _echo(exchange: Exchange) -> None:
    if exchange.query["id"].startswith(_SLOW):
        await anyio.sleep(0.5)
    await exchange.reply(json.dumps(exchange.query).encode())


@asynccontextmanager
async def _world() -> AsyncIterator[tuple[Bridge, Authorization]]:
    """An upstream that echoes the query, one that requires tokens, and a bridge with authentication."""
    with TemporaryDirectory() as name:
        tools, settings = Path(name) / "tools.d", Path(name) / "restbridge.yaml"
        tools.mkdir()
        entries = [
            {"name": each, "sha256": sha256(_credential(each).encode()).hexdigest(), "scopes": [each]}
            for each in _NAMES
            if each not in _WITH_TOKENS
        ]
        login = Login("ec-1")
        async with (
            serve_faults({"ok": _echo}) as faulty,
            login.serving(),
            serving_authorization() as authorization,
        ):
            issuers = [{"issuer": ISSUER, "jwks": login.url}]
            access = {"apiKeys": entries, "jwt": issuers, "resource": RESOURCE}
            settings.write_text(json.dumps({"access": access}))
            (tools / "api.upstream.yaml").write_text(_UPSTREAM.format(url=faulty.url))
            upstream_file = _EXCHANGING.format(url=authorization.url, bridge=BRIDGE, secret=SECRET)
            (tools / "exchanging.upstream.yaml").write_text(upstream_file)
            for each in _NAMES:
                upstream, path = ("exchanging", "/who") if each in _WITH_TOKENS else ("api", "/ok")
                tool_file = _TOOL.format(name=each, upstream=upstream, path=path)
                (tools / f"of_{each}.yaml").write_text(tool_file)
            async with over_http(tools, {"RESTBRIDGE_CONFIG": str(settings)}) as bridge:
                yield bridge, authorization
