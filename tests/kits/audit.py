"""Kills the bridge during unsafe calls: the audit log must contain each request that the API received."""

import itertools
import json
import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio
import httpx

from tests.commands.processes import restbridge
from tests.kits.figures import Figure, at_least, none_of
from tests.serving.messages import request
from tests.serving.session import Session
from tests.upstream.conversation import Exchange, serve_faults

_CONCURRENT_BRIDGES: Final = 2
"""Bridges that append to the same audit log."""
_CALLERS: Final = 8
_MAX_CALLS: Final = 100
_TOOL: Final = """\
description: Pays.
inputSchema: {{type: object, required: [n], properties: {{n: {{type: integer}}}}}}
request: {{method: POST, url: "{url}/pay?bridge={bridge}&n={{n}}"}}
"""


@dataclass
class _Kill:
    """When a bridge is killed: at the request after ``calls`` others, before or after its reply."""

    pid: int
    calls: int
    waits_for_reply: bool

    def execute(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


@dataclass
class _Api:
    """Records the calls that it receives, by the id of the client's request."""

    kills: dict[str, _Kill] = field(default_factory=dict)
    received: list[str] = field(default_factory=list)

    async def pay(self, exchange: Exchange) -> None:
        query = exchange.query
        self.received.append(query["n"])
        kill = self.kills[query["bridge"]]
        kill.calls -= 1
        if kill.calls == 0 and not kill.waits_for_reply:
            kill.execute()
        await exchange.reply()
        if kill.calls == 0 and kill.waits_for_reply:
            kill.execute()


async def run(*, long: bool) -> list[Figure]:
    rounds, api, ids = 100 if long else 10, _Api(), itertools.count(1)
    with TemporaryDirectory() as name:
        folder = Path(name)
        async with serve_faults({"pay": api.pay}) as upstream:
            for first in range(0, rounds * _CONCURRENT_BRIDGES, _CONCURRENT_BRIDGES):
                async with anyio.create_task_group() as tasks:
                    for number in range(first, first + _CONCURRENT_BRIDGES):
                        tools = folder / f"tools{number}.d"
                        tools.mkdir()
                        tool = _TOOL.format(url=upstream.url, bridge=number)
                        (tools / "pay.yaml").write_text(tool)
                        tasks.start_soon(_call_until_killed, folder, number, api, ids)
        lines = (folder / "audit.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    started = {event["call"]: event for event in events if event["event"] == "call-started"}
    ended = {event["call"] for event in events if event["event"] == "call"}
    known = {event["id"] for event in started.values()}
    return [
        at_least("bridges killed in the middle of calls", len(api.kills), rounds * _CONCURRENT_BRIDGES),
        at_least("  calls that the audit shows as started and not ended", len(started.keys() - ended), 1),
        none_of(
            "  requests seen by the API and not by the audit", set(api.received) - known, len(api.received)
        ),
        none_of("  ends of calls that were never started", ended - started.keys(), len(ended)),
        none_of("  torn lines", [""] * (len(lines) - len(events)), len(lines)),
    ]


async def _call_until_killed(folder: Path, number: int, api: _Api, ids: Iterator[int]) -> None:
    """Eight concurrent callers call the tool until the API kills the bridge. Every second bridge uses the fast path."""
    options = ("serve", "--http", "0", "--audit", str(folder / "audit.jsonl"), f"tools{number}.d")
    env = {"RESTBRIDGE_FAST_PATH": str(number % 2)}
    async with restbridge(*options, cwd=folder, env=env) as bridge, httpx.AsyncClient(trust_env=False) as web:
        session = Session(web, (await bridge.wait_for_log(r"http://\S+/mcp"))[0])
        calls = random.randint(1, _MAX_CALLS)  # noqa: S311 - not security-relevant
        api.kills[str(number)] = _Kill(bridge.pid, calls, random.random() < 0.5)  # noqa: S311

        async def call() -> None:
            try:
                while True:
                    id = next(ids)
                    await session.ask_modern(request("tools/call", id, name="pay", arguments={"n": id}))
            except httpx.TransportError:
                pass  # the bridge is dead

        async with anyio.create_task_group() as callers:
            for _ in range(_CALLERS):
                callers.start_soon(call)
        await bridge.wait_for_exit()
