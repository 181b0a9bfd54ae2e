"""The scenario of every client: a tool file is added, edited, broken and deleted while the client is connected."""

import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL
from typing import IO, Any, Final

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.clients.programs import ROOT, Program

FAILURES: Final = (AssertionError, TimeoutError, OSError, anyio.IncompleteRead, anyio.BrokenResourceError)

_TIMEOUT_SECONDS: Final = 30  # for one answer, notification or exit
_URL: Final = re.compile(rb"http://127\.0\.0\.1:\d+/mcp")
_SAMPLES: Final = (
    "add_customer_note", "create_order", "get_customer", "get_order", "get_product", "list_products",
)  # fmt: skip
_NEW: Final = """\
description: Find the names of the products of one category.
upstream: shop
inputSchema:
  type: object
  required: [category]
  properties:
    category: {type: string}
request: {method: GET, url: "/api/products{?category}"}
response: {jmespath: "items[].name"}
"""
_EDITED: Final = _NEW.replace("Find", "List")
_BROKEN: Final = _NEW.replace("Find", "Get").replace("GET", "FETCH")


class _Client:
    """A client program; counts the notifications that it reports."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._commands = process.stdin
        self._lines = BufferedByteReceiveStream(process.stdout)
        self._notifications = 0

    async def answer(self) -> dict[str, Any]:
        while "notification" in (line := await self._line()):
            self._notifications += 1
        return line

    async def expect_notifications(self, count: int) -> None:
        """Waits until ``count`` notifications have arrived in total; fails if there are more."""
        while self._notifications < count:
            _expect("a notification", await self._line(), {"notification": "tools/list_changed"})
            self._notifications += 1
        _expect("notifications so far", self._notifications, count)

    async def tools(self) -> dict[str, str]:
        """The first word of each tool's description by the tool's name, in the order of the list."""
        tools = (await self._command(list=True))["tools"]
        return {tool["name"]: tool["description"].split()[0] for tool in tools}

    async def call(self, name: str, **arguments: str) -> dict[str, Any]:
        return await self._command(call={"name": name, "arguments": arguments})

    async def expect_result(self, expected: str, name: str, **arguments: str) -> None:
        """The tool succeeds, and ``expected`` is in its text."""
        answer = await self.call(name, **arguments)
        result = answer.get("result", {})
        text = "".join(block["text"] for block in result.get("content", ()))
        _expect(
            f"{expected!r} in the successful result {answer}",
            expected in text and not result.get("isError"),
            expected=True,
        )

    async def end(self) -> None:
        """Closes stdin; the program must end without further output."""
        await self._commands.aclose()
        with anyio.fail_after(_TIMEOUT_SECONDS):
            _expect("output after the end of input", b"".join([chunk async for chunk in self._lines]), b"")

    async def _command(self, **command: object) -> dict[str, Any]:
        await self._commands.send(json.dumps(command).encode() + b"\n")
        return await self.answer()

    async def _line(self) -> dict[str, Any]:
        with anyio.fail_after(_TIMEOUT_SECONDS):
            line: dict[str, Any] = json.loads(await self._lines.receive_until(b"\n", 2**20))
        return line


async def run_scenario(program: Program, transport: str, shop: Mapping[str, str], folder: Path) -> None:
    """One case of the matrix, over "stdio" or "HTTP"; raises one of FAILURES, perhaps in exception groups.

    ``shop`` is the environment that the sample tools need. ``folder`` receives the tools directory and the file
    ``stderr``, with the stderr of the client and the bridge.
    """
    tools = folder / "tools.d"
    shutil.copytree(ROOT / "tools.d", tools)
    bridge = [sys.executable, "-m", "bridge", "serve"]
    with (folder / "stderr").open("ab", buffering=0) as errors:
        if transport == "HTTP":
            async with _serving([*bridge, "--http", "127.0.0.1:0", str(tools)], shop, errors) as url:
                await _run_client(program, {"url": url}, tools, errors)
            return
        command, *args = bridge
        stdio = {"command": command, "args": [*args, str(tools)], "cwd": str(ROOT), "env": dict(shop)}
        await _run_client(program, {"stdio": stdio}, tools, errors)


async def _run_client(program: Program, server: Mapping[str, object], tools: Path, errors: IO[bytes]) -> None:
    config = json.dumps({"mode": program.mode, **server})
    async with _running([*program.command, config], cwd=ROOT, stderr=errors) as process:
        client = _Client(process)
        ready = {"version": program.version, "listChanged": True}
        _expect("the connection", await client.answer(), {"ready": ready})
        await _run_steps(client, tools)
        await client.end()
        _expect("the client's exit code", await _ended(process), 0)


async def _run_steps(client: _Client, tools: Path) -> None:
    new = tools / "find_products.yaml"
    with_new = tuple(sorted((*_SAMPLES, new.stem)))

    _expect("the first list", tuple(await client.tools()), _SAMPLES)
    await client.expect_result("Hand Coffee Grinder", "get_product", product_id="p-104")

    new.write_text(_NEW)
    await client.expect_notifications(1)
    _expect("the list with the new tool", tuple(await client.tools()), with_new)
    await client.expect_result("Paring Knife", new.stem, category="kitchen")

    new.write_text(_EDITED)
    await client.expect_notifications(2)
    _expect("the edited tool after the second notification", (await client.tools())[new.stem], "List")

    new.write_text(_BROKEN)
    _edit_another(tools)  # its notification shows that the broken file has been read too
    await client.expect_notifications(3)
    _expect("the broken tool after the third notification", (await client.tools())[new.stem], "List")
    await client.expect_result("Paring Knife", new.stem, category="kitchen")

    new.unlink()
    await client.expect_notifications(4)
    _expect("the list after the deletion", tuple(await client.tools()), _SAMPLES)
    reply = await client.call(new.stem, category="kitchen")
    _expect(f"the code in {reply}", reply.get("error", {}).get("code"), -32602)
    _expect(f"the name of the tool in {reply}", new.stem in reply["error"]["message"], expected=True)


def _edit_another(tools: Path) -> None:
    path = tools / "get_order.yaml"
    path.write_text(path.read_text().replace("description: Get", "description: Look up"))


@asynccontextmanager
async def _serving(command: list[str], shop: Mapping[str, str], errors: IO[bytes]) -> AsyncIterator[str]:
    """A bridge over HTTP; yields the URL that it prints to stderr."""
    async with (
        _running(command, cwd=ROOT, env={**os.environ, **shop}, stdin=DEVNULL, stdout=DEVNULL) as process,
        anyio.create_task_group() as readers,
    ):
        assert process.stderr is not None
        lines = BufferedByteReceiveStream(process.stderr)
        with anyio.fail_after(_TIMEOUT_SECONDS):
            while not (match := _URL.search(line := await lines.receive_until(b"\n", 2**16))):
                errors.write(line + b"\n")
        readers.start_soon(_copy, lines, errors)
        yield match[0].decode()
        process.terminate()
        _expect("the bridge's exit code", await _ended(process), 0)


async def _copy(lines: BufferedByteReceiveStream, errors: IO[bytes]) -> None:
    async for chunk in lines:
        errors.write(chunk)


@asynccontextmanager
async def _running(command: list[str], **options: Any) -> AsyncIterator[Process]:
    """A program that is killed if the case fails before it has ended."""
    async with await anyio.open_process(command, **options) as process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()


async def _ended(process: Process) -> int:
    with anyio.fail_after(_TIMEOUT_SECONDS):
        return await process.wait()


def _expect(label: str, actual: object, expected: object) -> None:
    if actual != expected:
        raise AssertionError(f"{label}: found {actual!r}, expected {expected!r}")
