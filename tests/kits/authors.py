"""Whether a tool file can block the event loop: hostile schemas, arguments, replies and projections, through ``invoke``.

A stall is the CPU time of the process between two iterations of the loop. Other load on the machine does not change
it. Work in threads that does not block the loop is not a stall.
"""

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio

from bridge.app.runtime import limit_pauses
from bridge.codec import encode
from bridge.diagnostics import InvalidSpec
from bridge.events import ignore
from bridge.invoke import invoke
from bridge.secrets import Sources
from bridge.spec import Json, ToolSpec, UpstreamSpec
from bridge.tool.compiler import Tool, compile_tool, compile_upstream
from bridge.upstream.client import Client
from tests.kits.figures import Figure, at_least, at_most
from tests.tool.schema import hostile
from tests.upstream.conversation import Exchange, serve_faults

_SIZES: Final = (300, 3_000, 30_000, 300_000, 900_000)
_PROJECTIONS: Final = (
    "sort(@)", "sort_by(@, &a)", "[?@ > `1`] | sort(@)", "map(&a, @)", "join('', @)", "reverse(@)", "keys(@)",
    "to_string(@)", "max_by(@, &b)", "[].[@, @][] | [?@ == `1`]", "contains(@, `1.5`)", "@ == @", "*.* | [] | sort(@)",
)  # fmt: skip
_TIMEOUT: Final = 2.0


async def run(*, long: bool) -> list[Figure]:
    limit_pauses()
    stalls: list[float] = []
    overdue: list[float] = []
    memory_growth: list[float] = []
    tested = 0
    async with serve_faults({"large": _reply}) as api, _stall_monitor() as take_stall:
        client = Client()
        for seed in range(1000 if long else 60):
            rng = random.Random(seed)  # noqa: S311 - not security-relevant
            before = _memory()
            take_stall()
            tool = await anyio.to_thread.run_sync(_tool, rng, api.url)
            stalls.append(take_stall())
            if tool is None:
                continue
            tested += 1
            for size in _SIZES:
                arguments = hostile.arguments(rng, size)
                _Replies.content = encode(hostile.value(rng, size))
                started = time.monotonic()
                take_stall()
                await invoke(tool, arguments, client, ignore)
                stalls.append(take_stall())
                overdue.append(time.monotonic() - started - _TIMEOUT)
            memory_growth.append(_memory() - before)
        await client.aclose()
    return [
        at_least("tool files that check accepts, each called with five sizes of arguments", tested, 10),
        at_most("longest stall of the event loop", 1000 * max(stalls), 50, "ms"),
        at_most("longest time after the deadline of a call", max(0, *overdue), 0.5, "s"),
        at_most("memory that remains after the calls of one file", max(memory_growth), 30, "MB"),
    ]


class _Replies:
    """The body of the next replies of the API."""

    content = b"{}"


async def _reply(exchange: Exchange) -> None:
    await exchange.reply(_Replies.content)


def _tool(rng: random.Random, url: str) -> Tool | None:
    """The tool of a hostile file; None if ``check`` refuses it."""
    schema = hostile.schema(rng)
    output = {"type": "array", "items": {"anyOf": [{}, *hostile.schema(rng)["properties"].values()]}}
    tool_file: dict[str, Json] = {
        "description": "Try.",
        "inputSchema": schema,
        "request": {"method": "POST", "url": "/large"},
        "response": {"jmespath": rng.choice(_PROJECTIONS), "maxBytes": "2MB"} if rng.random() < 0.7 else {},
        "timeout": f"{_TIMEOUT:g}s",
    }
    if rng.random() < 0.4:
        tool_file["outputSchema"] = output | {"$defs": schema["$defs"]}
    sources = Sources({})
    upstream = compile_upstream(
        "api", UpstreamSpec.model_validate({"baseUrl": url, "auth": {"type": "none"}}), sources
    )
    try:
        return compile_tool("try", ToolSpec.model_validate(tool_file), upstream, sources)[0]
    except InvalidSpec:
        return None


@asynccontextmanager
async def _stall_monitor() -> AsyncIterator[Callable[[], float]]:
    """Yields a function that returns the longest stall since its last call, in CPU seconds."""
    worst, last = 0.0, time.process_time()

    async def tick() -> None:
        nonlocal worst, last
        while True:
            now = time.process_time()
            worst, last = max(worst, now - last), now
            await anyio.sleep(0.001)

    def take_stall() -> float:
        nonlocal worst, last
        now = time.process_time()
        longest, worst, last = max(worst, now - last), 0.0, now
        return longest

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        yield take_stall
        tasks.cancel_scope.cancel()


def _memory() -> float:
    """Resident memory in MB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
