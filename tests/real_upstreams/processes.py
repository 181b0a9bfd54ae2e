"""Real servers that nobody here wrote, and the bridge in front of them, each a process of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.types import CallToolResult, TextContent

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def program(name: str, path: Path | None = None) -> str:
    """Where a program is; skips the test where it is not installed."""
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed; run .ci/upstreams as root on Debian")
    return found


def url_in(line: str) -> str:
    """The URL that a line of a log holds."""
    return next(word for word in line.split() if word.startswith("http"))


# --- a server process ---


class Log:
    """What a process writes, line by line, and who waits for a line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.lines: list[str] = []
        self._ended = False
        self._grown = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(process,))
        self._thread.start()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr
        for line in process.stderr:
            with self._grown:
                self.lines.append(line)
                self._grown.notify_all()
        with self._grown:
            self._ended = True
            self._grown.notify_all()

    def wait_for(self, text: str) -> str:
        """The first line that holds ``text``."""
        with self._grown:
            self._grown.wait_for(lambda: self._ended or self._find(text), 60)
            found = self._find(text)
        assert found, f"no {text!r} in:\n{''.join(self.lines)}"
        return found

    def _find(self, text: str) -> str | None:
        return next((line for line in self.lines if text in line), None)

    def close(self) -> None:
        """Read to the end, which the end of the process brings."""
        self._thread.join()


@contextmanager
def running(*command: str | Path, ready: str, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run a server from the moment its log holds ``ready`` to the end of the block; answers that line."""
    environment = os.environ | dict(env or {})
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        log = Log(process)
        try:
            yield log.wait_for(ready)
        finally:
            process.terminate()
            log.close()
            sys.stderr.writelines(log.lines)  # pytest shows it with a test that failed


# --- the bridge ---


@dataclass(frozen=True)
class Bridge:
    """The bridge as a user's agent sees it."""

    client: Client

    async def call(self, tool: str, **arguments: Any) -> CallToolResult:
        return await self.client.call_tool(tool, arguments)

    async def text(self, tool: str, **arguments: Any) -> str:
        """The one text of a call that succeeds."""
        result = await self.call(tool, **arguments)
        assert not result.is_error, result
        return text_of(result)

    async def json(self, tool: str, **arguments: Any) -> Any:
        """The one JSON text of a call that succeeds."""
        return json.loads(await self.text(tool, **arguments))

    async def error(self, tool: str, **arguments: Any) -> tuple[str, str]:
        """The code and the text of a call that fails."""
        result = await self.call(tool, **arguments)
        assert result.is_error, result
        assert result.meta
        return result.meta["restbridge/error"], text_of(result)


def text_of(result: CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


@asynccontextmanager
async def over_stdio(
    folder: Path, log: Path, env: Mapping[str, str], mode: Literal["auto", "legacy"] = "auto"
) -> AsyncIterator[Bridge]:
    """Serve the tool files of a folder over stdio."""
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "bridge", "serve", str(folder)],
        env=os.environ | dict(env),
        cwd=ROOT,
    )
    with log.open("w") as stderr:
        async with Client(stdio_client(command, errlog=stderr), mode=mode) as client:
            yield Bridge(client)
