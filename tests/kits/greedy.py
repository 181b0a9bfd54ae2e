"""One caller sends excessive load in several ways: the effect on the latency and memory for another caller."""

import asyncio
import json
import os
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
from tests.kits.hostile import NICE
from tests.kits.serving import ROOT, Bridge, over_http
from tests.serving.logins import ISSUER, RESOURCE, Login, token
from tests.serving.messages import call, initialize, request
from tests.serving.session import Session
from tests.upstream.conversation import Exchange, serve_faults

_SLOW_SECONDS: Final = 0.1
_SCOPES: Final = 10
_TOOLS: Final = 100
_UPSTREAM: Final = "baseUrl: {url}\nauth: {{type: none}}\nlimits: {{concurrency: 8, queue: 60s}}\n"
_TOOL: Final = """\
description: Answers after a delay. {text}
upstream: {upstream}
scopes: [{scope}]
inputSchema: {{type: object, additionalProperties: true}}
request: {{method: {method}, url: "/{path}"}}
"""
_REFUSED: Final = re.compile(rb"outcome=(?:unknown-tool|too-many-calls)|refused ")


async def run(*, long: bool) -> list[Figure]:
    calls = 400 if long else 60
    async with _setup() as bridge, httpx.AsyncClient(timeout=60, trust_env=False) as web:
        victim = _session("key-of-vic", bridge.url, web)
        return [
            *await _slow_calls(bridge, victim, 60 if long else 10),
            *await _sessions(bridge),
            *await _tokens(bridge, web),
            *await _floods(bridge, victim, calls),
        ]


async def _slow_calls(bridge: Bridge, victim: Session, calls: int) -> list[Figure]:
    """An API with a concurrency of 8, which one caller keeps busy with 64 calls."""
    async with _busy_caller(bridge, 60, lambda session: session.ask_modern(call("slow"))):
        await anyio.sleep(4 * _SLOW_SECONDS)  # until the calls are queued
        quick, slow = await _latencies(victim, "quick", calls), await _latencies(victim, "slow", calls)
    return [
        at_most(
            "p50 of a call by another caller while 60 calls wait",
            statistics.median(slow) / _SLOW_SECONDS,
            3,
            "times",
        ),
        at_most("  to another API", statistics.median(quick), _SLOW_SECONDS, "s"),
    ]


async def _sessions(bridge: Bridge) -> list[Figure]:
    async with httpx.AsyncClient(timeout=60, trust_env=False) as web:
        greedy = _session("key-of-gus", bridge.url, web)
        await greedy.open()
        before = bridge.rss
        replies = [await greedy.post(initialize() | {"id": number}) for number in range(1005)]
        rejected = [str(reply.status_code) for reply in replies if "mcp-session-id" not in reply.headers]
        other = _session("key-of-vic", bridge.url, web)
        if (await other.post(initialize())).status_code != 200:
            rejected.append("the other caller")
    return [
        none_of("handshakes of one caller that were rejected, or of another one after them", rejected, 1006),
        at_most("  memory that remains", bridge.rss - before, 5, "MB"),
    ]


async def _floods(bridge: Bridge, victim: Session, calls: int) -> list[Figure]:
    large_call = call("quick")
    large_call["params"]["arguments"] = {"list": [1.5] * 550_000, "text": "x" * 800_000}
    many_values = call("slow_post")
    many_values["params"]["arguments"] = {"objects": [{"a": 1}] * 40_000, "texts": ["ab"] * 100_000}
    kinds = {
        "unknown tools": (16, call("nosuch")),
        "lists": (16, request("tools/list")),
        "requests with an unknown method": (16, request("no/method")),
        "lists through the SDK": (16, request("tools/list", _meta={"progressToken": 1})),
        "calls with 3 MB": (4, large_call),
        "slow calls with 1 MB of small values": (64, many_values),
    }
    figures = []
    for kind, (connections, message) in kinds.items():
        baseline = await _latencies(victim, "quick", calls)
        log_lines, started = _count_log_lines(bridge), time.monotonic()
        bridge.reset_peak()
        before = bridge.rss
        async with _flood(bridge, connections, message):
            under_load = await _latencies(victim, "quick", calls)
        seconds = time.monotonic() - started
        label = f"p50 of a call next to {connections} connections with {kind}"
        figures += [
            at_most(label, _ratio(under_load, baseline, 0.5), 3, "times"),
            at_most("  p99", _ratio(under_load, baseline, 0.99), 3, "times"),
            at_most("  log lines", _count_log_lines(bridge) - log_lines, 5 + 3 * seconds, "lines"),
            at_most("  memory", bridge.peak - before, 100, "MB"),
        ]
    return figures


@asynccontextmanager
async def _flood(bridge: Bridge, connections: int, message: dict[str, Any]) -> AsyncIterator[None]:
    """A busy caller in a separate process, so that the client of the other caller keeps its CPU time."""
    command = [sys.executable, "-m", "tests.kits.greedy", bridge.url, str(connections)]
    async with await anyio.open_process(command, cwd=ROOT, stderr=None) as process:
        assert process.stdin
        assert process.stdout
        await process.stdin.send(json.dumps(message).encode())
        await process.stdin.aclose()
        await process.stdout.receive()  # until it sends
        yield
        process.kill()


async def _send_in_loop(url: str, connections: int, message: dict[str, Any]) -> None:
    session = _session("key-of-gus", url, httpx.AsyncClient())
    http_request = session.modern(message)
    endpoint = httpx.URL(url)
    head = "".join(f"{name}: {value}\r\n" for name, value in http_request["headers"].items())
    length = len(http_request["content"])
    content = (
        f"POST {endpoint.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{head}\r\n".encode()
    )
    content += http_request["content"]

    async def send_repeatedly() -> None:
        while True:
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, limit=2**24)
            # The bridge closes the connection if the caller exceeds its limits.
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    writer.write(content)
                    head = await reader.readuntil(b"\r\n\r\n")
                    if size := re.search(rb"(?i)content-length: (\d+)", head):
                        await reader.readexactly(int(size[1]))
                    else:  # a reply that takes long is a stream
                        await reader.readuntil(b"\r\n0\r\n\r\n")
            writer.close()

    async with anyio.create_task_group() as tasks:
        for _ in range(connections):
            tasks.start_soon(send_repeatedly)
        await anyio.sleep(0.3)
        print("sending", flush=True)  # noqa: T201 - the parent process waits for it


async def _tokens(bridge: Bridge, web: httpx.AsyncClient) -> list[Figure]:
    """One caller lists the tools with a thousand tokens, each with different scopes."""

    async def check_list(number: int) -> list[str]:
        scopes = [f"s{bit}" for bit in range(_SCOPES) if number >> bit & 1]
        session = _session(token(sub="gus", scope=" ".join(scopes)), bridge.url, web)
        listed = await session.ask_modern(request("tools/list"))
        names = {tool["name"] for tool in listed["result"]["tools"]}
        expected = {f"many_{tool:03}" for tool in range(_TOOLS) if f"s{tool % _SCOPES}" in scopes}
        return [] if names == expected else [f"{scopes}: {sorted(names)[:9]}"]

    await check_list(1)
    before = bridge.rss
    wrong = [each for number in range(1, 1001) for each in await check_list(number)]
    return [
        none_of("lists of 1000 tokens with different scopes that were wrong", wrong, 1000),
        at_most("  memory that remains", bridge.rss - before, 10, "MB"),
    ]


@asynccontextmanager
async def _busy_caller(
    bridge: Bridge, connections: int, send: Callable[[Session], Awaitable[object]]
) -> AsyncIterator[list[int]]:
    """One caller on several connections. Each sends the next request when it has the answer."""
    sent: list[int] = []

    async def send_repeatedly() -> None:
        async with httpx.AsyncClient(timeout=120, trust_env=False) as own:
            session = _session("key-of-gus", bridge.url, own)
            while True:
                await send(session)
                sent.append(1)

    async with anyio.create_task_group() as tasks:
        for _ in range(connections):
            tasks.start_soon(send_repeatedly)
        yield sent
        tasks.cancel_scope.cancel()


async def _latencies(session: Session, tool: str, calls: int) -> list[float]:
    latencies = []
    for number in range(calls):
        started = time.perf_counter()
        answer = await session.ask_modern(call(tool, number))
        latencies.append(time.perf_counter() - started)
        if answer["result"]["isError"]:
            raise AssertionError(json.dumps(answer)[:300])
    return latencies


def _ratio(latencies: list[float], baseline: list[float], quantile: float) -> float:
    def value(times: list[float]) -> float:
        return sorted(times)[round(quantile * (len(times) - 1))]

    return value(latencies) / value(baseline)


def _count_log_lines(bridge: Bridge) -> int:
    return len(_REFUSED.findall(bridge.log))


def _session(credential: str, url: str, web: httpx.AsyncClient) -> Session:
    session = Session(web, url)
    session.headers["authorization"] = f"Bearer {credential}"
    return session


async def _reply_after_delay(exchange: Exchange) -> None:
    await anyio.sleep(_SLOW_SECONDS)
    await exchange.reply(b"{}")


async def _reply(exchange: Exchange) -> None:
    await exchange.reply(b"{}")


@asynccontextmanager
async def _setup() -> AsyncIterator[Bridge]:
    with TemporaryDirectory() as name:
        tools, settings = Path(name) / "tools.d", Path(name) / "restbridge.yaml"
        tools.mkdir()
        keys: list[dict[str, Any]] = [
            {"name": each, "sha256": sha256(f"key-of-{each}".encode()).hexdigest(), "scopes": ["try"]}
            for each in ("gus", "vic")
        ]
        login = Login("ec-1")
        async with serve_faults({"slow": _reply_after_delay, "quick": _reply}) as api, login.serving():
            access = {"apiKeys": keys, "jwt": [{"issuer": ISSUER, "jwks": login.url}], "resource": RESOURCE}
            settings.write_text(json.dumps({"access": access}))
            for each in ("slow", "quick"):
                (tools / f"{each}.upstream.yaml").write_text(_UPSTREAM.format(url=api.url))
                for tool, method in ((each, "GET"), (f"{each}_post", "POST")):
                    tool_yaml = _TOOL.format(text="", upstream=each, scope="try", path=each, method=method)
                    (tools / f"{tool}.yaml").write_text(tool_yaml)
            for number in range(_TOOLS):
                scope = f"s{number % _SCOPES}"
                tool_yaml = _TOOL.format(
                    text="x" * 500, upstream="quick", scope=scope, path="quick", method="GET"
                )
                (tools / f"many_{number:03}.yaml").write_text(tool_yaml)
            async with over_http(tools, {"RESTBRIDGE_CONFIG": str(settings)}) as bridge:
                yield bridge


if __name__ == "__main__":
    os.nice(NICE)
    anyio.run(_send_in_loop, sys.argv[1], int(sys.argv[2]), json.load(sys.stdin))
