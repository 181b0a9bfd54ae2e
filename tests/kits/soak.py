"""A short soak test: concurrent callers of both eras and repeated edits. A fifth of the calls meet a fault."""

import os
import random
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import anyio
from mcp import Client, MCPError

from tests.kits.figures import Figure, at_least, at_most, none_of
from tests.kits.serving import TRANSPORTS, Bridge, code_of, connected, over_http
from tests.upstream.faulty import FAULTS, serve

_CALLERS: Final = 8
_FAULTS: Final = (
    *("rst_before_head", "cut_head", "short_content_length", "gzip_cut", "gzip_bomb", "not_http", "nan_json"),
    *("keepalive_then_408", "long_content_length_extra", "slow_body", "endless_body", "header_bomb"),
)
_TASKS: Final = re.compile(rb"tasks=(\d+)\n")
_UPSTREAM: Final = "baseUrl: {url}\nauth: {{type: none}}\ntimeout: 1s\nmaxBytes: 1MiB\n"
_TOOL: Final = """\
description: Calls {fault}, version {version}.
upstream: faulty
inputSchema: {{type: object, properties: {{id: {{type: string}}}}}}
request: {{method: POST, url: "/{fault}{{?id}}"}}
"""


class Sample(NamedTuple):
    seconds: float
    rss: float
    descriptors: int
    threads: int
    tasks: int


async def run(*, long: bool) -> list[Figure]:
    seconds = 1800 if long else 120
    assert set(_FAULTS) <= FAULTS.keys()
    samples: list[Sample] = []
    wrong: list[str] = []
    done = [0]
    with TemporaryDirectory() as name:
        tools = Path(name)
        async with serve() as faulty:
            (tools / "faulty.upstream.yaml").write_text(_UPSTREAM.format(url=faulty.url))
            for fault in ("ok", *_FAULTS):
                (tools / f"{fault}.yaml").write_text(_TOOL.format(fault=fault, version=0))
            async with over_http(tools, module="tests.kits.measured") as bridge:
                await _work(bridge, tools, 15 if long else 10, wrong, done)  # everything is warm then
                samples.append(await _sample(bridge, 0))
                began = anyio.current_time()
                while (passed := anyio.current_time() - began) < seconds:
                    await _work(bridge, tools, min(30, seconds - passed + 1), wrong, done)
                    samples.append(await _sample(bridge, anyio.current_time() - began))
    return [
        at_least(f"calls in {seconds} s, a fifth of them into faults", done[0], seconds * 20),
        none_of("  calls without a fault that went wrong", wrong, done[0]),
        *_figures(samples, long=long),
    ]


def _figures(samples: list[Sample], *, long: bool) -> Iterator[Figure]:
    first, last = samples[0], samples[-1]
    if long:
        series = tuple(f"after {sample.seconds:.0f} s {sample.rss:.1f} MB" for sample in samples)
        slope = _slope(samples[len(samples) // 2 :]) * 600
        yield replace(at_most("memory, in 10 minutes", slope, 1, "MB"), details=series)
    else:  # two minutes are too short for a slope
        yield at_most("memory, beyond that at the start", last.rss - first.rss, 40, "MB")
    for metric in ("descriptors", "threads", "tasks"):
        more = getattr(last, metric) - getattr(first, metric)
        yield at_most(f"  {metric}, beyond those at the start ({getattr(first, metric)})", more, 2, "more")


def _slope(samples: list[Sample]) -> float:
    """Growth in MB per second, by least squares."""
    times, sizes = [sample.seconds for sample in samples], [sample.rss for sample in samples]
    time, size = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((each - time) ** 2 for each in times)
    return sum((a - time) * (b - size) for a, b in zip(times, sizes, strict=True)) / spread


async def _work(bridge: Bridge, tools: Path, seconds: float, wrong: list[str], done: list[int]) -> None:
    """All callers concurrently, each with its own client; returns when all have ended."""
    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(seconds + 30):
            until = anyio.current_time() + seconds
            for number in range(_CALLERS):
                tasks.start_soon(_call, bridge, number, until, wrong, done)
            version = 0
            while anyio.current_time() < until:
                version += 1
                fault = _FAULTS[version % len(_FAULTS)]
                (tools / f"{fault}.yaml").write_text(_TOOL.format(fault=fault, version=version))
                (tools / "passing.yaml").write_text(_TOOL.format(fault="ok", version=version))
                await anyio.sleep(0.1)
                if version % 5 == 0:
                    (tools / "passing.yaml").unlink()


async def _call(bridge: Bridge, number: int, until: float, wrong: list[str], done: list[int]) -> None:
    rng = random.Random(number)  # noqa: S311 - not security-relevant
    async with connected(TRANSPORTS[1 + number % 2], bridge) as client:
        while anyio.current_time() < until:
            done[0] += 1
            fault = rng.choice(_FAULTS) if rng.random() < 0.2 else "ok"
            outcome = await _outcome(client, fault, f"{number}-{done[0]}")
            if fault == "ok" and outcome != "ok":
                wrong.append(outcome)


async def _outcome(client: Client, fault: str, id: str) -> str:
    try:
        return code_of(await client.call_tool(fault, {"id": id}))
    except MCPError as error:
        return str(error)


async def _sample(bridge: Bridge, seconds: float) -> Sample:
    """A measurement after a short idle time."""
    await anyio.sleep(2)
    count = len(_TASKS.findall(bridge.log)) + 1
    os.kill(bridge.pid, signal.SIGUSR1)
    tasks = int((await bridge.wait_for_log(_TASKS, times=count))[1])
    return Sample(seconds, bridge.rss, bridge.descriptors, bridge.threads, tasks)
