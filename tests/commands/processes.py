"""The command line as a separate process, whose output is read line by line."""

import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Final

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

ROOT: Final = Path(__file__).parents[2]
_TIMEOUT_SECONDS: Final = 60
"""Long, because starting a process on a busy machine is slow."""


def request(id: int, method: str, **params: object) -> dict[str, object]:
    """A JSON-RPC request."""
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


HELLO: Final = request(
    1,
    "initialize",
    protocolVersion="2025-11-25",
    capabilities={},
    clientInfo={"name": "test", "version": "1"},
)


class Log:
    """A log that is read line by line."""

    def __init__(self, stream: BufferedByteReceiveStream) -> None:
        self.err = stream

    async def wait_for_log(self, pattern: str) -> re.Match[str]:
        """Reads lines until one matches the pattern; returns the match."""
        return await _line(self.err, pattern)

    async def remaining_log(self) -> str:
        """All remaining lines, once the log has ended."""
        chunks = [self.err.buffer, *[chunk async for chunk in self.err]]
        return b"".join(chunks).decode()


class Running(Log):
    """A process and its log on stderr."""

    def __init__(self, process: Process) -> None:
        assert process.stdout
        assert process.stderr
        assert process.stdin
        super().__init__(BufferedByteReceiveStream(process.stderr))
        self._stdin = process.stdin
        self.out = BufferedByteReceiveStream(process.stdout)
        self._process = process
        self.pid = process.pid

    async def wait_for_stdout(self, pattern: str) -> re.Match[str]:
        """Reads lines of stdout until one matches the pattern; returns the match."""
        return await _line(self.out, pattern)

    async def send(self, *messages: dict[str, object]) -> None:
        """Writes messages to stdin, one JSON object per line."""
        for message in messages:
            await self._stdin.send(json.dumps(message).encode() + b"\n")

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def close_stdin(self) -> int:
        """Closes stdin and waits for the end of the process; returns the exit code."""
        await self._stdin.aclose()
        return await self.wait_for_exit()

    async def wait_for_exit(self, number: signal.Signals | None = None) -> int:
        """Waits for the end of the process, after a signal if one is given; returns the exit code."""
        if number:
            self._process.send_signal(number)
        with anyio.fail_after(_TIMEOUT_SECONDS):
            return await self._process.wait()


async def _line(stream: BufferedByteReceiveStream, pattern: str) -> re.Match[str]:
    lines: list[str] = []
    with anyio.fail_after(_TIMEOUT_SECONDS):
        while True:
            try:
                text = (await stream.receive_until(b"\n", 2**20)).decode()
            except anyio.IncompleteRead:
                raise AssertionError(f"{pattern!r} is not in {lines}") from None
            if match := re.search(pattern, text):
                return match
            lines.append(text)


@asynccontextmanager
async def restbridge(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, path: Path = ROOT
) -> AsyncIterator[Running]:
    """``path`` is where the package is imported from."""
    environment = {**os.environ, "PYTHONPATH": str(path), **(env or {})}
    command = [sys.executable, "-m", "bridge", *arguments]
    async with await anyio.open_process(
        command, cwd=cwd, env=environment, stdin=PIPE, stdout=PIPE, stderr=PIPE
    ) as process:
        try:
            yield Running(process)
        finally:
            if process.returncode is None:
                process.kill()
