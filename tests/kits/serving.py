"""The bridge as a separate process, and official clients over every transport."""

import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any, Final, Literal, get_args

import anyio
from anyio.abc import Process
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult, TextContent

from tests import proc
from tests.serving.pipe import Pipe

ROOT: Final = Path(__file__).parents[2]
_URL: Final = re.compile(rb"serving (https?://[^\s;]+)[\s;]")
_TIMEOUT_SECONDS: Final = 30

Transport = Literal["stdio", "HTTP modern", "HTTP handshake"]
TRANSPORTS: Final[tuple[Transport, ...]] = get_args(Transport)


@dataclass
class Bridge:
    """A bridge that serves HTTP; ``log`` is its stderr."""

    pid: int
    process: Process
    url: str = ""
    log: bytearray = field(default_factory=bytearray)
    log_grew: anyio.Event = field(default_factory=anyio.Event)

    async def wait_for_log(self, pattern: re.Pattern[bytes], times: int = 1) -> re.Match[bytes]:
        """Waits until the log matches this often; returns the last match."""
        with anyio.fail_after(_TIMEOUT_SECONDS):
            while len(found := list(pattern.finditer(self.log))) < times:
                await self.log_grew.wait()
        return found[times - 1]

    async def ended(self) -> int:
        """The exit code."""
        with anyio.fail_after(_TIMEOUT_SECONDS):
            return await self.process.wait()

    @property
    def rss(self) -> float:
        """Resident memory in MB."""
        return proc.memory(self.pid)

    @property
    def peak(self) -> float:
        """Peak resident memory in MB since ``reset_peak``."""
        return proc.status(self.pid, "VmHWM") / 1000

    def reset_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    @property
    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    @property
    def threads(self) -> int:
        return proc.status(self.pid, "Threads")

    @property
    def cpu(self) -> float:
        """CPU seconds so far."""
        return proc.cpu(self.pid)


@asynccontextmanager
async def over_http(
    directory: Path, env: Mapping[str, str] | None = None, module: str = "bridge", *options: str
) -> AsyncIterator[Bridge]:
    """Serves a directory on a free port; it must exit cleanly after SIGTERM."""
    command = [sys.executable, "-m", module, "serve", "--http", "127.0.0.1:0", *options, str(directory)]
    async with await anyio.open_process(
        command, cwd=ROOT, env={**os.environ, **(env or {})}, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
    ) as process:
        try:
            async with anyio.create_task_group() as tasks:
                bridge = Bridge(process.pid, process)

                async def read() -> None:
                    assert process.stderr
                    async for chunk in process.stderr:
                        bridge.log += chunk
                        bridge.log_grew.set()
                        bridge.log_grew = anyio.Event()

                tasks.start_soon(read)
                bridge.url = (await bridge.wait_for_log(_URL))[1].decode()
                yield bridge
                if process.returncode is None:
                    process.terminate()
                await bridge.ended()
            if process.returncode != 0:
                raise AssertionError(f"the bridge ended with {process.returncode}:\n{bridge.log.decode()}")
        finally:
            if process.returncode is None:
                process.kill()


@asynccontextmanager
async def connected(transport: Transport, bridge: Bridge) -> AsyncIterator[Client]:
    """A client of a bridge that serves HTTP."""
    async with Client(bridge.url, mode="legacy" if transport == "HTTP handshake" else "auto") as client:
        yield client


@asynccontextmanager
async def over_stdio(directory: Path, env: Mapping[str, str], log: Path) -> AsyncIterator[Client]:
    """A client that starts its own bridge; the bridge's stderr goes to ``log``."""
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "bridge", "serve", str(directory)],
        env={**os.environ, **env},
        cwd=ROOT,
    )
    with log.open("w") as stderr:
        async with Client(stdio_client(command, errlog=stderr)) as client:
            yield client


@asynccontextmanager
async def over_pipes(tools: Path, stderr: int = DEVNULL) -> AsyncIterator[tuple[Process, Pipe]]:
    """A bridge over two pipes, which can be closed separately."""
    source, to_server = os.pipe()
    from_server, sink = os.pipe()
    pipe = Pipe(to_server, from_server)
    command = [sys.executable, "-m", "bridge", "serve", str(tools)]
    async with await anyio.open_process(
        command, cwd=ROOT, stdin=source, stdout=sink, stderr=stderr
    ) as process:
        os.close(source)
        os.close(sink)
        try:
            await pipe.open(_TIMEOUT_SECONDS)
            yield process, pipe
        finally:
            if process.returncode is None:
                process.kill()
            pipe.hang_up()
            pipe.stop_reading()


def text_of(result: CallToolResult) -> str:
    """All the text of a result."""
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def code_of(result: CallToolResult) -> str:
    """``ok``, or the error code."""
    meta: dict[str, Any] = result.meta or {}
    return str(meta.get("restbridge/error", "no code")) if result.is_error else "ok"
