"""Whether a tool file can hold the event loop: hostile schemas, arguments, replies and projections, through ``invoke``.

A stall is measured in the processor time of the process between two turns of the loop, which other load on the
machine does not change. So the work of worker threads that let the loop go on is not a stall.
"""

import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio

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
    sys.setswitchinterval(0.001)  # as serve does
    stalls: list[float] = []
    overdue: list[float] = []
    grown: list[float] = []
    tried = 0
    async with serve_faults({"large": _reply}) as api, _ticking() as measured:
        client = Client()
        for seed in range(1000 if long else 60):
            dice = random.Random(seed)  # noqa: S311 - it only throws dice
            before = _memory()
            measured()
            tool = await anyio.to_thread.run_sync(_tool, dice, api.url)
            stalls.append(measured())
            if tool is None:
                continue
            tried += 1
            for size in _SIZES:
                arguments = hostile.arguments(dice, size)
                _Replies.content = encode(hostile.value(dice, size))
                began = time.monotonic()
                measured()
                await invoke(tool, arguments, client, ignore)
                stalls.append(measured())
                overdue.append(time.monotonic() - began - _TIMEOUT)
            grown.append(_memory() - before)
        await client.aclose()
    return [
        at_least("tool files that check accepts, each called with five sizes of arguments", tried, 10),
        at_most("longest stall of the event loop", 1000 * max(stalls), 50, "ms"),
        at_most("longest time past the deadline of a call", max(0, *overdue), 0.5, "s"),
        at_most("memory that calls of one file took and kept", max(grown), 30, "MB"),
    ]


class _Replies:
    content = b"{}"


async def _reply(exchange: Exchange) -> None:
    await exchange.reply(_Replies.content)


def _tool(dice: random.Random, url: str) -> Tool | None:
    """A tool of a hostile file; None where ``check`` refuses it."""
    schema = hostile.schema(dice)
    output = {"type": "array", "items": {"anyOf": [{}, *hostile.schema(dice)["properties"].values()]}}
    written: dict[str, Json] = {
        "description": "Try.",
        "inputSchema": schema,
        "request": {"method": "POST", "url": "/large"},
        "response": {"jmespath": dice.choice(_PROJECTIONS), "maxBytes": "2MB"} if dice.random() < 0.7 else {},
        "timeout": f"{_TIMEOUT:g}s",
    }
    if dice.random() < 0.4:
        written["outputSchema"] = output | {"$defs": schema["$defs"]}
    sources = Sources({})
    upstream = compile_upstream(
        "api", UpstreamSpec.model_validate({"baseUrl": url, "auth": {"type": "none"}}), sources
    )
    try:
        return compile_tool("try", ToolSpec.model_validate(written), upstream, sources)[0]
    except InvalidSpec:
        return None


@asynccontextmanager
async def _ticking() -> AsyncIterator[Callable[[], float]]:
    """What it yields tells the longest stall since it was last asked, in seconds of processor time."""
    worst, last = 0.0, time.process_time()

    async def tick() -> None:
        nonlocal worst, last
        while True:
            now = time.process_time()
            worst, last = max(worst, now - last), now
            await anyio.sleep(0.001)

    def measured() -> float:
        nonlocal worst, last
        now = time.process_time()
        found, worst, last = max(worst, now - last), 0.0, now
        return found

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        yield measured
        tasks.cancel_scope.cancel()


def _memory() -> float:
    """Megabytes that are resident (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
