"""Callers with keys and with tokens, all at once: nobody is taken for another, sees another's tools or uses another's session.

Each caller has a tool of its own, which alone asks for the scope that alone it has. The bridge's log says who
called what; of those with tokens, the API says by whose token it was called, which the bridge had in exchange.
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
from tests.serving.served import Session, call, request
from tests.upstream.authorization import BRIDGE, SECRET, Authorization, serving_authorization
from tests.upstream.conversation import Exchange, serve_faults

_WITH_TOKENS: Final = ("cid", "dan")
_NAMES: Final = ("ann", "bob", *_WITH_TOKENS)
_BRUTES: Final = 64
"""Connections; eight from each address."""
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
    """A token of Cid's with a signature that is another one each time."""
    head, claims, signature = _shown("cid").split(".")
    return f"{head}.{claims}.{number:08x}{signature[8:]}"


@cache
def _shown(name: str) -> str:
    return token(sub=name, scope=name) if name in _WITH_TOKENS else f"key-of-{name}"


async def run(*, long: bool) -> list[Figure]:
    calls, stolen = (10_000, 1000) if long else (800, 100)
    async with _world() as (bridge, authorization), httpx.AsyncClient(timeout=20, trust_env=False) as web:
        return [
            *await _identities(bridge, web, calls),
            at_most("tokens that were asked for in exchange", len(authorization.asked), 2, "tokens"),
            await _sessions(bridge, web, stolen),
            *await _brute_force(bridge, web, 1000 if long else 200),
        ]


async def _identities(bridge: Bridge, web: httpx.AsyncClient, calls: int) -> list[Figure]:
    lost: list[str] = []
    seen: list[str] = []

    async def ask(name: str) -> None:
        session = await _opened(name, bridge, web)
        for number in range(calls // len(_NAMES)):
            asks = session.ask if number % 2 else session.ask_modern
            if not number % 10:
                seen.extend(await _trespasses(name, asks, number))
            answer = await asks(_call(name, f"{name}-{number}"))
            if answer["id"] != f"{name}-{number}" or not _is_of(name, number, json.dumps(answer)):
                lost.append(f"{name}-{number}: {json.dumps(answer)[:200]}")

    async with anyio.create_task_group() as tasks:
        for name in _NAMES:
            tasks.start_soon(ask, name)
    await bridge.heard(_LINE, times=calls)
    told = [(match[1], match[2]) for match in _LINE.finditer(bridge.log)]
    wrong = [f"of_{tool.decode()} by {caller.decode()}" for tool, caller in told if tool != caller]
    return [
        none_of("interleaved calls that were lost or answered with another's", lost, calls),
        none_of("  that the log has under another name", wrong, len(told)),
        none_of("looks at another's tool: listed, called, or told of", seen, calls // 10 * 2),
    ]


def _is_of(name: str, number: int, answer: str) -> bool:
    """Whether it holds the id that the call had, and the API knew whose it was."""
    told = rf"\"you\":\"{name}\"" in answer or name not in _WITH_TOKENS
    return told and rf'"{name}-{number}\"' in answer


async def _trespasses(name: str, asks: Any, number: int) -> list[str]:
    """What a caller sees of the tools of another."""
    listed = await asks(request("tools/list", f"list-{number}"))
    names = [tool["name"] for tool in listed["result"]["tools"]]
    other = _NAMES[(_NAMES.index(name) + 1) % len(_NAMES)]
    answer = await asks(_call(other, f"other-{number}"))
    found = [] if names == [f"of_{name}"] else [f"{name} lists {names}"]
    if answer.get("error", {}).get("message") != f"Unknown tool: of_{other}":
        found.append(f"{name} calls of_{other}: {json.dumps(answer)[:200]}")
    return found


async def _sessions(bridge: Bridge, web: httpx.AsyncClient, tries: int) -> Figure:
    ann = await _opened("ann", bridge, web)
    eve = _session("bob", bridge, web)
    eve.headers["mcp-session-id"] = ann.headers["mcp-session-id"]
    served = []
    for number in range(tries):
        reply = await eve.post(_call("ann" if number % 2 else "bob", f"stolen-{number}"))
        if reply.status_code != 404:
            served.append(f"{number}: {reply.status_code} {reply.text[:200]}")
    return none_of("calls in the session of another that were served", served, tries)


async def _brute_force(bridge: Bridge, web: httpx.AsyncClient, tries: int) -> list[Figure]:
    """What calls take beside those who try keys, and what those find."""
    ann = await _opened("ann", bridge, web)
    alone = await _times(ann, tries)
    opened: list[str] = []
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
                    opened.append(f"{reply.status_code} {reply.text[:200]}")

    async with anyio.create_task_group() as tasks:
        for number in range(_BRUTES):
            tasks.start_soon(guess, number)
        beside = await _times(ann, tries)
        tasks.cancel_scope.cancel()
    lines = len(_REFUSED.findall(bridge.log))
    return [
        none_of("keys that were tried and opened something", opened, tried),
        at_most("  lines of the log about them", lines, 10 + sum(beside), "lines"),
        at_most(f"  p50 of a call beside {_BRUTES} of them", _ratio(beside, alone), 2, "times"),
    ]


async def _times(session: Session, calls: int) -> list[float]:
    took = []
    for number in range(calls):
        began = time.perf_counter()
        await session.ask_modern(_call("ann", f"timed-{number}"))
        took.append(time.perf_counter() - began)
    return took


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(ours) / statistics.median(theirs)


def _call(name: str, id: str) -> dict[str, Any]:
    message = call(f"of_{name}", id)
    message["params"]["arguments"] = {"id": id}
    return message


def _session(name: str, bridge: Bridge, web: httpx.AsyncClient) -> Session:
    session = Session(web, bridge.url)
    session.headers["authorization"] = f"Bearer {_shown(name)}"
    return session


async def _opened(name: str, bridge: Bridge, web: httpx.AsyncClient) -> Session:
    session = _session(name, bridge, web)
    await session.open()
    return session


async def _echo(exchange: Exchange) -> None:
    await exchange.reply(json.dumps(exchange.query).encode())


@asynccontextmanager
async def _world() -> AsyncIterator[tuple[Bridge, Authorization]]:
    """An upstream that answers with the query, another that takes tokens, and a bridge that asks who calls."""
    with TemporaryDirectory() as name:
        tools, settings = Path(name) / "tools.d", Path(name) / "restbridge.yaml"
        tools.mkdir()
        entries = [
            {"name": each, "sha256": sha256(_shown(each).encode()).hexdigest(), "scopes": [each]}
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
            written = _EXCHANGING.format(url=authorization.url, bridge=BRIDGE, secret=SECRET)
            (tools / "exchanging.upstream.yaml").write_text(written)
            for each in _NAMES:
                upstream, path = ("exchanging", "/who") if each in _WITH_TOKENS else ("api", "/ok")
                words = _TOOL.format(name=each, upstream=upstream, path=path)
                (tools / f"of_{each}.yaml").write_text(words)
            async with over_http(tools, {"RESTBRIDGE_CONFIG": str(settings)}) as bridge:
                yield bridge, authorization
