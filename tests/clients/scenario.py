"""What every client goes through: tools come, change, break and go while it is connected."""

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

_BOUND: Final = 30  # seconds for one answer, notification or exit; far more than any of them takes
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
    """A client program; counts the notifications that it tells of."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._commands = process.stdin
        self._lines = BufferedByteReceiveStream(process.stdout)
        self._heard = 0

    async def answer(self) -> dict[str, Any]:
        while "heard" in (line := await self._line()):
            self._heard += 1
        return line

    async def expect_heard(self, count: int) -> None:
        """Waits for the next notification; ``count`` are then all so far, so none came twice."""
        while self._heard < count:
            _expect("a notification", await self._line(), {"heard": "tools/list_changed"})
            self._heard += 1
        _expect("notifications so far", self._heard, count)

    async def tools(self) -> dict[str, str]:
        """Name → the description's first word, in the order of the list."""
        tools = (await self._ask(list=True))["tools"]
        return {tool["name"]: tool["description"].split()[0] for tool in tools}

    async def call(self, name: str, **arguments: str) -> dict[str, Any]:
        return await self._ask(call={"name": name, "arguments": arguments})

    async def expect_result(self, wanted: str, name: str, **arguments: str) -> None:
        """The tool answers, with ``wanted`` in its text."""
        answer = await self.call(name, **arguments)
        result = answer.get("result", {})
        text = "".join(block["text"] for block in result.get("content", ()))
        _expect(f"whether {answer} has {wanted!r}", wanted in text and not result.get("isError"), wanted=True)

    async def end(self) -> None:
        """Nothing more was heard when the program ends."""
        await self._commands.aclose()
        with anyio.fail_after(_BOUND):
            _expect("the client's last words", b"".join([chunk async for chunk in self._lines]), b"")

    async def _ask(self, **command: object) -> dict[str, Any]:
        await self._commands.send(json.dumps(command).encode() + b"\n")
        return await self.answer()

    async def _line(self) -> dict[str, Any]:
        with anyio.fail_after(_BOUND):
            line: dict[str, Any] = json.loads(await self._lines.receive_until(b"\n", 2**20))
        return line


async def run(program: Program, over: str, shop: Mapping[str, str], folder: Path) -> None:
    """One case of the matrix, ``over`` "stdio" or "HTTP"; raises one of FAILURES, perhaps in groups.

    ``shop`` is the environment that leads the sample tools to their API; ``folder`` gets the tools directory,
    and in ``stderr`` what client and bridge say there.
    """
    tools = folder / "tools.d"
    shutil.copytree(ROOT / "tools.d", tools)
    bridge = [sys.executable, "-m", "bridge", "serve"]
    with (folder / "stderr").open("ab", buffering=0) as errors:
        if over == "HTTP":
            async with _serving([*bridge, "--http", "127.0.0.1:0", str(tools)], shop, errors) as url:
                await _drive(program, {"url": url}, tools, errors)
            return
        command, *args = bridge
        stdio = {"command": command, "args": [*args, str(tools)], "cwd": str(ROOT), "env": dict(shop)}
        await _drive(program, {"stdio": stdio}, tools, errors)


async def _drive(program: Program, server: Mapping[str, object], tools: Path, errors: IO[bytes]) -> None:
    config = json.dumps({"mode": program.mode, **server})
    async with _running([*program.command, config], cwd=ROOT, stderr=errors) as process:
        client = _Client(process)
        ready = {"version": program.version, "listChanged": True}
        _expect("the connection", await client.answer(), {"ready": ready})
        await _play(client, tools)
        await client.end()
        _expect("the client's exit code", await _ended(process), 0)


async def _play(client: _Client, tools: Path) -> None:
    new = tools / "find_products.yaml"
    with_new = tuple(sorted((*_SAMPLES, new.stem)))

    _expect("the first list", tuple(await client.tools()), _SAMPLES)
    await client.expect_result("Hand Coffee Grinder", "get_product", product_id="p-104")

    new.write_text(_NEW)
    await client.expect_heard(1)
    _expect("the list with the new tool", tuple(await client.tools()), with_new)
    await client.expect_result("Paring Knife", new.stem, category="kitchen")

    new.write_text(_EDITED)
    await client.expect_heard(2)
    _expect("the edited tool when the second notification came", (await client.tools())[new.stem], "List")

    new.write_text(_BROKEN)
    _edit_another(tools)  # this one is heard, and shows that the broken file has been looked at too
    await client.expect_heard(3)
    _expect("the broken tool when the third one came", (await client.tools())[new.stem], "List")
    await client.expect_result("Paring Knife", new.stem, category="kitchen")

    new.unlink()
    await client.expect_heard(4)
    _expect("the list after the deletion", tuple(await client.tools()), _SAMPLES)
    refusal = await client.call(new.stem, category="kitchen")
    _expect(f"the code in {refusal}", refusal.get("error", {}).get("code"), -32602)
    _expect(f"whether {refusal} names the tool", new.stem in refusal["error"]["message"], wanted=True)


def _edit_another(tools: Path) -> None:
    path = tools / "get_order.yaml"
    path.write_text(path.read_text().replace("description: Get", "description: Look up"))


@asynccontextmanager
async def _serving(command: list[str], shop: Mapping[str, str], errors: IO[bytes]) -> AsyncIterator[str]:
    """A bridge over HTTP, known by the URL that it prints to stderr."""
    async with (
        _running(command, cwd=ROOT, env={**os.environ, **shop}, stdin=DEVNULL, stdout=DEVNULL) as process,
        anyio.create_task_group() as readers,
    ):
        assert process.stderr is not None
        lines = BufferedByteReceiveStream(process.stderr)
        with anyio.fail_after(_BOUND):
            while not (found := _URL.search(line := await lines.receive_until(b"\n", 2**16))):
                errors.write(line + b"\n")
        readers.start_soon(_copy, lines, errors)
        yield found[0].decode()
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
    with anyio.fail_after(_BOUND):
        return await process.wait()


def _expect(what: str, seen: object, wanted: object) -> None:
    if seen != wanted:
        raise AssertionError(f"{what}: {seen!r}, wanted was {wanted!r}")
