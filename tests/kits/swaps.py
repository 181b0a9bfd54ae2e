"""Reloads that replace the registry or an upstream under load: callers must not notice them.

The called tool is edited repeatedly. The edits do not change the list of tools, so that only the swap itself
can disturb calls. A call is *old* if it was sent to an older version than the previous call of the same
caller.
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio
from mcp import Client, MCPError

from tests.kits.figures import Figure, at_least, none_of
from tests.kits.serving import TRANSPORTS, Bridge, code_of, connected, over_http, text_of
from tests.upstream.conversation import Exchange, Faulty, serve_faults

_CALLERS: Final = 16
_TIMEOUT_SECONDS: Final = 20
_RELOADED: Final = re.compile(rb"reload: \+0 ~1 -0 !0")
_UPSTREAM: Final = "baseUrl: {url}\nauth: {{type: none}}\n"
_TOOL: Final = """\
description: Answers with the id that it is called with.
upstream: api
inputSchema: {{type: object, required: [id], properties: {{id: {{type: string}}}}}}
request: {{method: POST, url: "/{path}?id={{id}}&version={version}"}}
"""


@dataclass
class Calls:
    done: int = 0
    lost: list[str] = field(default_factory=list)
    old: list[str] = field(default_factory=list)


async def run(*, long: bool) -> list[Figure]:
    return [*await _registry(1000 if long else 60), *await _upstreams(20 if long else 3)]


async def _registry(swaps: int) -> list[Figure]:
    calls = Calls()
    async with _setup() as (faulty, bridge, tools):
        ended = anyio.Event()
        async with anyio.create_task_group() as callers:
            for number in range(_CALLERS):
                callers.start_soon(_call_until, ended, bridge, number, calls)
            for version in range(1, swaps + 1):
                _replace(tools / "call.yaml", _TOOL.format(path="ok", version=version))
                await bridge.wait_for_log(_RELOADED, times=version)
            ended.set()
        twice = [target for (_, target), count in faulty.counts.items() if count > 1]
    return [
        at_least("swaps of the registry under 16 callers", swaps, swaps),
        none_of("  lost calls", calls.lost, calls.done),
        none_of("  calls to an older version", calls.old, calls.done),
        none_of("  calls that were sent twice", twice, calls.done),
    ]


async def _call_until(ended: anyio.Event, bridge: Bridge, number: int, calls: Calls) -> None:
    """Call repeatedly; every other caller is of the handshake era."""
    async with connected(TRANSPORTS[1 + number % 2], bridge) as client:
        count, newest = 0, 0
        while not ended.is_set():
            count += 1
            id = f"{number}-{count}"
            answer = await _call(client, id, calls)
            version = int(answer.get("version", newest))
            if version < newest:
                calls.old.append(f"{id}: {version} after {newest}")
            newest = version


async def _call(client: Client, id: str, calls: Calls, tool: str = "call") -> dict[str, str]:
    calls.done += 1
    try:
        with anyio.fail_after(_TIMEOUT_SECONDS):
            result = await client.call_tool(tool, {"id": id})
    except (MCPError, TimeoutError) as error:
        calls.lost.append(f"{id}: {error!r}")
        return {}
    answer: dict[str, str] = json.loads(text_of(result)) if code_of(result) == "ok" else {}
    if answer.get("id") != id:
        calls.lost.append(f"{id}: {code_of(result)}: {text_of(result)[:200]}")
    return answer


async def _upstreams(rounds: int) -> list[Figure]:
    """Calls in flight finish at the old address while the upstream changes its address and is then deleted."""
    calls, wrong = Calls(), []
    for _ in range(rounds):
        async with serve_faults(_FAULTS) as other, _setup() as (faulty, bridge, tools):
            upstream = tools / "api.upstream.yaml"
            async with connected("HTTP modern", bridge) as client, anyio.create_task_group() as tasks:
                for number in range(_CALLERS):
                    tasks.start_soon(_call, client, f"held-{number}", calls, "hold")
                await faulty.until(lambda: len(faulty.exchanges) == _CALLERS)
                _replace(upstream, _UPSTREAM.format(url=other.url))
                await bridge.wait_for_log(re.compile(rb"reload: \+0 ~2 -0 !0"))
                await _call(client, "elsewhere", calls)
                wrong += (
                    [] if len(other.exchanges) == 1 else ["a call after the swap went to the old upstream"]
                )
                upstream.unlink()
                await bridge.wait_for_log(re.compile(rb"reload: \+0 ~0 -2 !2"))
                faulty.go.set()
    return [
        none_of("calls in flight that were lost by a change of their upstream", calls.lost, calls.done),
        none_of("calls after the change that went to the old address", wrong, rounds),
    ]


async def _echo(exchange: Exchange) -> None:
    await exchange.reply(json.dumps(exchange.query).encode())


async def _hold(exchange: Exchange) -> None:
    await exchange.server.go.wait()
    await _echo(exchange)


_FAULTS: Final = {"ok": _echo, "hold": _hold}


@asynccontextmanager
async def _setup() -> AsyncIterator[tuple[Faulty, Bridge, Path]]:
    """An upstream that echoes the query, at once or when released, and a bridge with a tool for it."""
    with TemporaryDirectory() as name:
        tools = Path(name)
        async with serve_faults(_FAULTS) as faulty:
            (tools / "api.upstream.yaml").write_text(_UPSTREAM.format(url=faulty.url))
            (tools / "call.yaml").write_text(_TOOL.format(path="ok", version=0))
            (tools / "hold.yaml").write_text(_TOOL.format(path="hold", version=0))
            async with over_http(tools) as bridge:
                yield faulty, bridge, tools


def _replace(path: Path, text: str) -> None:
    path.with_name(".new").write_text(text)
    path.with_name(".new").replace(path)
