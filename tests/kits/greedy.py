"""A caller who wants more than its share, in each way that it has, and what another caller next to it notices."""

import asyncio
import json
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import anyio
import httpx

from tests.kits.figures import Figure, at_most, none_of
from tests.kits.serving import ROOT, Bridge, over_http
from tests.serving.logins import ISSUER, RESOURCE, Login, token
from tests.serving.served import Session, call, initialize, request
from tests.upstream.conversation import Exchange, serve_faults

_SLOW_SECONDS: Final = 0.1
_SCOPES: Final = 10
_TOOLS: Final = 100
_UPSTREAM: Final = "baseUrl: {url}\nauth: {{type: none}}\nlimits: {{concurrency: 8, queue: 60s}}\n"
_TOOL: Final = """\
description: Answers after a while. {text}
upstream: {upstream}
scopes: [{scope}]
inputSchema: {{type: object, additionalProperties: true}}
request: {{method: GET, url: "/{path}"}}
"""
_REFUSED: Final = re.compile(rb"outcome=(?:unknown-tool|too-many-calls)|refused ")


async def run(*, long: bool) -> list[Figure]:
    calls = 400 if long else 60
    async with _world() as bridge, httpx.AsyncClient(timeout=60, trust_env=False) as web:
        victim = _session("key-of-vic", bridge.url, web)
        return [
            *await _slow_calls(bridge, victim, 60 if long else 10),
            *await _sessions(bridge),
            *await _tokens(bridge, web),
            *await _floods(bridge, victim, calls),
        ]


async def _slow_calls(bridge: Bridge, victim: Session, calls: int) -> list[Figure]:
    """Of an API with eight slots, which one caller keeps busy with 64 calls."""
    async with _greedy(bridge, 60, lambda session: session.ask_modern(call("slow"))):
        await anyio.sleep(4 * _SLOW_SECONDS)  # until they wait
        quick, slow = await _times(victim, "quick", calls), await _times(victim, "slow", calls)
    return [
        at_most(
            "p50 of another's call of an API that 60 calls wait for",
            statistics.median(slow) / _SLOW_SECONDS,
            3,
            "times",
        ),
        at_most("  of another API", statistics.median(quick), _SLOW_SECONDS, "s"),
    ]


async def _sessions(bridge: Bridge) -> list[Figure]:
    async with httpx.AsyncClient(timeout=60, trust_env=False) as web:
        greedy = _session("key-of-gus", bridge.url, web)
        replies = [await greedy.post(initialize() | {"id": number}) for number in range(1005)]
        statuses = [reply.status_code for reply in replies]
        other = _session("key-of-vic", bridge.url, web)
        refused = [] if (await other.post(initialize())).status_code == 200 else ["the other"]
    return [
        at_most("sessions that one caller opens of 1005", statuses.count(200), 100, "sessions"),
        none_of("  refused to another", refused, 1),
    ]


async def _floods(bridge: Bridge, victim: Session, calls: int) -> list[Figure]:
    large = call("quick")
    large["params"]["arguments"] = {"list": [1.5] * 550_000, "text": "x" * 800_000}
    kinds = {
        "unknown tools": (16, call("nosuch")),
        "lists": (16, request("tools/list")),
        "requests of no method": (16, request("no/method")),
        "calls with 3 MB": (4, large),
    }
    figures = []
    for kind, (connections, message) in kinds.items():
        alone, lines, began = await _times(victim, "quick", calls), _lines(bridge), time.monotonic()
        bridge.forget_peak()
        before = bridge.rss
        async with _flood(bridge, connections, message):
            beside = await _times(victim, "quick", calls)
        seconds = time.monotonic() - began
        what = f"p50 of a call next to {connections} connections with {kind}"
        figures += [
            at_most(what, _ratio(beside, alone, 0.5), 3, "times"),
            at_most("  p99", _ratio(beside, alone, 0.99), 3, "times"),
            at_most("  lines of the log", _lines(bridge) - lines, 5 + 3 * seconds, "lines"),
            at_most("  memory", bridge.peak - before, 100, "MB"),
        ]
    return figures


@asynccontextmanager
async def _flood(bridge: Bridge, connections: int, message: dict[str, Any]) -> AsyncIterator[None]:
    """The same as ``_greedy`` from a process of its own, which takes no time from the other caller's client."""
    command = [sys.executable, "-m", "tests.kits.greedy", bridge.url, str(connections)]
    async with await anyio.open_process(command, cwd=ROOT, stderr=None) as process:
        assert process.stdin
        assert process.stdout
        await process.stdin.send(json.dumps(message).encode())
        await process.stdin.aclose()
        await process.stdout.receive()  # that it has begun
        yield
        process.kill()


async def _send_on(url: str, connections: int, message: dict[str, Any]) -> None:
    session = _session("key-of-gus", url, httpx.AsyncClient())
    sent = session.modern(message)
    where = httpx.URL(url)
    head = "".join(f"{name}: {value}\r\n" for name, value in sent["headers"].items())
    length = len(sent["content"])
    content = (
        f"POST {where.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{head}\r\n".encode()
    )
    content += sent["content"]

    async def go_on() -> None:
        while True:
            reader, writer = await asyncio.open_connection(where.host, where.port)
            # It ends where that is more than a caller may send at a time.
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    writer.write(content)
                    head = await reader.readuntil(b"\r\n\r\n")
                    size = re.search(rb"(?i)content-length: (\d+)", head)
                    assert size
                    await reader.readexactly(int(size[1]))
            writer.close()

    async with anyio.create_task_group() as tasks:
        for _ in range(connections):
            tasks.start_soon(go_on)
        await anyio.sleep(0.3)
        print("sending", flush=True)  # noqa: T201 - to the process that waits for it


async def _tokens(bridge: Bridge, web: httpx.AsyncClient) -> list[Figure]:
    """A thousand tokens of one caller, each with other scopes, with which it lists and calls."""

    async def use(number: int) -> list[str]:
        scopes = [f"s{bit}" for bit in range(_SCOPES) if number >> bit & 1]
        session = _session(token(sub="gus", scope=" ".join(scopes)), bridge.url, web)
        listed = await session.ask_modern(request("tools/list"))
        names = {tool["name"] for tool in listed["result"]["tools"]}
        wanted = {f"many_{tool:03}" for tool in range(_TOOLS) if f"s{tool % _SCOPES}" in scopes}
        return [] if names == wanted else [f"{scopes}: {sorted(names)[:9]}"]

    await use(1)
    before = bridge.rss
    wrong = [each for number in range(1, 1001) for each in await use(number)]
    return [
        none_of("lists of 1000 tokens with different scopes that were wrong", wrong, 1000),
        at_most("  memory that they leave", bridge.rss - before, 10, "MB"),
    ]


@asynccontextmanager
async def _greedy(
    bridge: Bridge, connections: int, send: Callable[[Session], Awaitable[object]]
) -> AsyncIterator[list[int]]:
    """One caller that sends on so many connections, each time at once when it is answered."""
    sent: list[int] = []

    async def go_on() -> None:
        async with httpx.AsyncClient(timeout=120, trust_env=False) as own:
            session = _session("key-of-gus", bridge.url, own)
            while True:
                await send(session)
                sent.append(1)

    async with anyio.create_task_group() as tasks:
        for _ in range(connections):
            tasks.start_soon(go_on)
        yield sent
        tasks.cancel_scope.cancel()


async def _times(session: Session, tool: str, calls: int) -> list[float]:
    took = []
    for number in range(calls):
        began = time.perf_counter()
        answer = await session.ask_modern(call(tool, number))
        took.append(time.perf_counter() - began)
        if answer["result"]["isError"]:
            raise AssertionError(json.dumps(answer)[:300])
    return took


def _ratio(ours: list[float], theirs: list[float], part: float) -> float:
    def at(times: list[float]) -> float:
        return sorted(times)[round(part * (len(times) - 1))]

    return at(ours) / at(theirs)


def _lines(bridge: Bridge) -> int:
    return len(_REFUSED.findall(bridge.log))


def _session(shown: str, url: str, web: httpx.AsyncClient) -> Session:
    session = Session(web, url)
    session.headers["authorization"] = f"Bearer {shown}"
    return session


async def _slowly(exchange: Exchange) -> None:
    await anyio.sleep(_SLOW_SECONDS)
    await exchange.reply(b"{}")


async def _at_once(exchange: Exchange) -> None:
    await exchange.reply(b"{}")


@asynccontextmanager
async def _world() -> AsyncIterator[Bridge]:
    with TemporaryDirectory() as name:
        tools, settings = Path(name) / "tools.d", Path(name) / "restbridge.yaml"
        tools.mkdir()
        keys: list[dict[str, Any]] = [
            {"name": each, "sha256": sha256(f"key-of-{each}".encode()).hexdigest(), "scopes": ["try"]}
            for each in ("gus", "vic")
        ]
        login = Login("ec-1")
        async with serve_faults({"slow": _slowly, "quick": _at_once}) as api, login.serving():
            access = {"apiKeys": keys, "jwt": [{"issuer": ISSUER, "jwks": login.url}], "resource": RESOURCE}
            settings.write_text(json.dumps({"access": access}))
            for each in ("slow", "quick"):
                (tools / f"{each}.upstream.yaml").write_text(_UPSTREAM.format(url=api.url))
                written = _TOOL.format(text="", upstream=each, scope="try", path=each)
                (tools / f"{each}.yaml").write_text(written)
            for number in range(_TOOLS):
                scope = f"s{number % _SCOPES}"
                written = _TOOL.format(text="x" * 500, upstream="quick", scope=scope, path="quick")
                (tools / f"many_{number:03}.yaml").write_text(written)
            async with over_http(tools, {"RESTBRIDGE_CONFIG": str(settings)}) as bridge:
                yield bridge


if __name__ == "__main__":
    anyio.run(_send_on, sys.argv[1], int(sys.argv[2]), json.load(sys.stdin))
