"""The command line as a process of its own, read line by line."""

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
_BOUND: Final = 60
"""Seconds; starting a process on a busy machine takes a while."""


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

    async def says(self, pattern: str) -> re.Match[str]:
        """The next line in which the pattern is found."""
        return await _line(self.err, pattern)

    async def rest(self) -> str:
        """All lines that are left, when the log has ended."""
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

    async def prints(self, pattern: str) -> re.Match[str]:
        """The next line on stdout in which the pattern is found."""
        return await _line(self.out, pattern)

    async def sends(self, *messages: dict[str, object]) -> None:
        """Lines of JSON to stdin."""
        for message in messages:
            await self._stdin.send(json.dumps(message).encode() + b"\n")

    def hears(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def hangs_up(self) -> int:
        """The exit code after the end of input."""
        await self._stdin.aclose()
        return await self.ends()

    async def ends(self, how: signal.Signals | None = None) -> int:
        """The exit code, after a signal if one is given."""
        if how:
            self._process.send_signal(how)
        with anyio.fail_after(_BOUND):
            return await self._process.wait()


async def _line(stream: BufferedByteReceiveStream, pattern: str) -> re.Match[str]:
    seen: list[str] = []
    with anyio.fail_after(_BOUND):
        while True:
            try:
                text = (await stream.receive_until(b"\n", 2**20)).decode()
            except anyio.IncompleteRead:
                raise AssertionError(f"{pattern!r} is not in {seen}") from None
            if match := re.search(pattern, text):
                return match
            seen.append(text)


@asynccontextmanager
async def restbridge(
    *words: str, cwd: Path, env: Mapping[str, str] | None = None, path: Path = ROOT
) -> AsyncIterator[Running]:
    """``path`` is where the package is imported from."""
    environment = {**os.environ, "PYTHONPATH": str(path), **(env or {})}
    command = [sys.executable, "-m", "bridge", *words]
    async with await anyio.open_process(
        command, cwd=cwd, env=environment, stdin=PIPE, stdout=PIPE, stderr=PIPE
    ) as process:
        try:
            yield Running(process)
        finally:
            if process.returncode is None:
                process.kill()
