"""Official clients of both protocol eras, while workers are killed and restarted: which of them go on?

Each client program calls a tool that takes a second, again and again. A client may end only if its request was younger than
``_YOUNG_SECONDS`` when its worker was killed: such a request may have no headers yet, and these clients take a POST without
headers for the end of the server.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE
from tempfile import TemporaryDirectory
from typing import Any, Final

import anyio
import httpx
from anyio.abc import Process, TaskGroup
from anyio.streams.buffered import BufferedByteReceiveStream

from tests import proc
from tests.clients.programs import PROGRAMS, ROOT, Program, install
from tests.kits.figures import Figure, at_most, none_of
from tests.kits.serving import Bridge, over_http
from tests.serving.messages import initialize
from tests.serving.session import Session

_AGENTS: Final = 16
_CALL_SECONDS: Final = 1.0
_YOUNG_SECONDS: Final = 0.15
"""Three times the time after which headers are sent: on a busy machine a request takes time to arrive."""
_TIMEOUT_SECONDS: Final = 60
_LEFT_SESSIONS: Final = 10_000
_STREAMS: Final = 1_000
_TOOL: Final = """\
description: Answers slowly.
request: {{method: POST, url: "{url}/slow"}}
retries: {{max: 0}}
"""


@dataclass
class _Agent:
    """A client program. ``sent`` is the time of its last call, None between two calls."""

    program: Program
    process: Process
    sent: float | None = None
    answered: int = 0
    is_cut: bool = False
    told_of_loss: int = 0
    notified: int = 0
    has_ended: bool = False
    problems: list[str] = field(default_factory=list)
    progress: anyio.Event = field(default_factory=anyio.Event)

    async def run(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        lines = BufferedByteReceiveStream(self.process.stdout)
        try:
            while True:
                line: dict[str, Any] = json.loads(await lines.receive_until(b"\n", 2**20))
                if "notification" in line:
                    self.notified += 1
                else:
                    self._count(line)
                    self.is_cut = False
                    self.sent = time.monotonic()
                    command = {"call": {"name": "slow", "arguments": {}}}
                    await self.process.stdin.send(json.dumps(command).encode() + b"\n")
                self._wake()
        except (anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError):
            self.has_ended = True
            self._wake()

    def _count(self, line: dict[str, Any]) -> None:
        if "result" in line and not line["result"].get("isError"):
            self.answered += 1
        elif self.is_cut:  # its call was in a process that was killed
            self.told_of_loss += 1
        elif "ready" not in line:
            self.problems.append(f"{self.program.name}: {json.dumps(line)[:200]}")

    def _wake(self) -> None:
        self.progress.set()
        self.progress = anyio.Event()

    async def reaches(self, *, answered: int = 0, notified: int = 0) -> bool:
        """Wait for so many answers and notifications. Returns False if the agent ends first, or takes too long."""
        with anyio.move_on_after(_TIMEOUT_SECONDS):
            while (self.answered < answered or self.notified < notified) and not self.has_ended:
                await self.progress.wait()
        return self.answered >= answered and self.notified >= notified


class _Agents:
    """``_AGENTS`` programs, of every kind in turn. Those that have ended are replaced before the next fault."""

    def __init__(self, url: str, tasks: TaskGroup) -> None:
        self.running: list[_Agent] = []
        self._url = url
        self._tasks = tasks

    async def fill(self) -> None:
        self.running = [each for each in self.running if not each.has_ended]
        for number in range(len(self.running), _AGENTS):
            program = PROGRAMS[number % len(PROGRAMS)]
            config = json.dumps({"mode": program.mode, "url": self._url})
            process = await anyio.open_process(
                [*program.command, config], cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
            )
            agent = _Agent(program, process)
            self.running.append(agent)
            self._tasks.start_soon(agent.run)
        for agent in self.running:
            assert await agent.reaches(answered=agent.answered + 1), agent.program.name

    async def end(self) -> None:
        for agent in self.running:
            if agent.process.returncode is None:
                agent.process.kill()
            await agent.process.wait()


async def run(*, long: bool) -> list[Figure]:
    install()
    rounds = 4 if long else 1
    figures: list[Figure] = []
    with TemporaryDirectory() as name:
        tools = Path(name) / "tools.d"
        tools.mkdir()
        async with _slow_api() as api_url:
            (tools / "slow.yaml").write_text(_TOOL.format(url=api_url))
            async with (
                over_http(tools, None, "bridge", "--workers", "2") as bridge,
                anyio.create_task_group() as tasks,
            ):
                agents = _Agents(bridge.url, tasks)
                try:
                    for label, victims in (("one worker", 1), ("all workers", 2)):
                        for _ in range(rounds):
                            await agents.fill()
                            figures += await _kill(label, victims, bridge, agents, tools)
                finally:
                    with anyio.CancelScope(shield=True):
                        await agents.end()
                tasks.cancel_scope.cancel()
            async with over_http(tools) as bridge:
                figures += await _memory(bridge)
    return figures


async def _kill(label: str, victims: int, bridge: Bridge, agents: _Agents, tools: Path) -> list[Figure]:
    """Kill workers, change the tools meanwhile, and see which agents go on."""
    workers = proc.children(bridge.pid)[:victims]
    before = {id(each): (each.answered, each.notified) for each in agents.running}
    now = time.monotonic()
    ages = {id(each): now - each.sent for each in agents.running if each.sent is not None}
    for agent in agents.running:
        agent.is_cut = True
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    new = tools / f"new_{time.monotonic_ns()}.yaml"
    new.write_text((tools / "slow.yaml").read_text())
    ended, unnotified = [], []
    for agent in agents.running:
        answered, notified = before[id(agent)]
        if not await agent.reaches(answered=answered + 2):
            if ages.get(id(agent), 0) > _YOUNG_SECONDS:
                ended.append(f"{agent.program.name}: its request was {ages[id(agent)]:.2f} s old")
        elif not await agent.reaches(notified=notified + 1):
            unnotified.append(agent.program.name)
    problems = [problem for agent in agents.running for problem in agent.problems]
    for agent in agents.running:
        agent.problems.clear()
    return [
        none_of(f"kill -9 of {label}: clients that ended", ended, len(agents.running)),
        none_of(f"kill -9 of {label}: other errors that clients got", problems, len(agents.running)),
        none_of(f"kill -9 of {label}: clients that were not notified", unnotified, len(agents.running)),
    ]


async def _memory(bridge: Bridge) -> list[Figure]:
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        session = Session(client, bridge.url)
        for _ in range(200):  # what every process allocates once
            await session.post(initialize())
        before = bridge.rss
        for _ in range(_LEFT_SESSIONS):
            await session.post(initialize())
        left = bridge.rss - before
    before = bridge.rss
    host, port = bridge.url.removeprefix("http://").removesuffix("/mcp").split(":")
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        session = Session(client, bridge.url)
        await session.open()
    head = f"GET /mcp HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n"
    head += f"Mcp-Session-Id: {session.headers['mcp-session-id']}\r\n\r\n"
    writers = []
    for _ in range(_STREAMS):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode())
        await reader.readuntil(b"\r\n\r\n")
        writers.append(writer)
    streams = bridge.rss - before
    for writer in writers:
        writer.close()
    return [
        at_most(f"memory of {_LEFT_SESSIONS} sessions that were left", left, 1, "MB"),
        at_most(f"memory of {_STREAMS} GET streams", streams, 40, "MB"),
    ]


@asynccontextmanager
async def _slow_api() -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.lower().splitlines()
                        if line.startswith(b"content-length")
                    ),
                    0,
                )
                await reader.readexactly(length)
                await asyncio.sleep(_CALL_SECONDS)
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
