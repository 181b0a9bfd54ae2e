"""Loading, starting and reloading.

CPU seconds are of the process measured, from /proc; times are of this machine, at this moment.
"""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridge.secrets import Sources
from bridge.toolfiles.loader import load
from bridge.toolfiles.watch.debounce import Settling
from bridge.toolfiles.watch.scan import Directories
from tests.bench.table import row, title
from tests.proc import cpu, memory

TOOL = """\
description: Get the status, the lines and the total of order kind {number}, as the customer sees them.
upstream: shop
inputSchema:
  type: object
  required: [order_id]
  properties:
    order_id:
      type: string
      description: "Order number, for example o-1001"
    detail: {{type: string, enum: [short, full], default: short, description: "How much to answer"}}
    limit: {{type: integer, minimum: 1, maximum: 100, description: "How many lines at the most"}}
request:
  method: GET
  url: "/api/{number}/orders/{{order_id}}{{?detail,limit}}"
  headers: {{X-Request-Id: "{{$uuid}}"}}
response:
  jmespath: "{{id: id, status: status, total: total, lines: lines[].{{sku: sku, quantity: quantity}}}}"
errors:
  404: No order has that number. Ask the customer for the number on the receipt.
tags: [orders, shop]
"""
UPSTREAM = "baseUrl: http://127.0.0.1:9\nauth: {type: none}\n"
MINIMAL_SERVER = """\
import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

async def tools(ctx, params):
    tool = types.Tool(name="one", description="One.", input_schema={"type": "object"})
    return types.ListToolsResult(tools=[tool])

async def main():
    server = Server("minimal", on_list_tools=tools)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())

anyio.run(main)
"""
INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "1"},
}


def fill(directory: Path, count: int) -> None:
    (directory / "shop.upstream.yaml").write_text(UPSTREAM)
    for number in range(count):
        (directory / f"tool_{number:05}.yaml").write_text(TOOL.format(number=number))


class Server:
    """A stdio server in a process of its own, spoken to in lines."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.pid = self._process.pid

    def send(self, method: str, params: object = None, id: int | None = None) -> None:
        message: dict[str, object] = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        line = json.dumps(message if id is None else message | {"id": id}) + "\n"
        assert self._process.stdin
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()

    def until(self, **wanted: object) -> dict[str, Any]:
        """The next message that says all of ``wanted``."""
        assert self._process.stdout
        for line in self._process.stdout:
            message: dict[str, Any] = json.loads(line)
            if wanted.items() <= message.items():
                return message
        raise EOFError(f"the server ended before {wanted}")

    def handshake(self) -> int:
        """Initialize and list the tools; answers how many are on the first page."""
        self.send("initialize", INITIALIZE, id=1)
        self.until(id=1)
        self.send("notifications/initialized")
        self.send("tools/list", id=2)
        return len(self.until(id=2)["result"]["tools"])

    def end(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@contextmanager
def running(*command: str) -> Iterator[Server]:
    server = Server(*command)
    try:
        yield server
    finally:
        server.end()


def loading(directory: Path, count: int) -> None:
    """Cold, and one edit: with the look at all files, and the load alone."""
    directories = Directories((str(directory),))
    settling = Settling(directories, lambda _: None, poll=0)
    began, wall = time.process_time(), time.perf_counter()
    settling.look_at_all(now=0)
    loaded = load(directories, settling.contents, Sources({}))
    row(
        f"{count} files, cold",
        f"{time.perf_counter() - wall:.2f} s, {time.process_time() - began:.2f} s of CPU",
    )
    settling.moved.clear()
    assert len(loaded.snapshot.tools) == count, loaded.diagnostics[:3]
    edits, looks = [], []
    for number in range(10):
        path = directory / f"tool_{number:05}.yaml"
        path.write_text(path.read_text().replace("How much to answer", f"How much to answer, {number}"))
        began = time.process_time()
        settling.look_at_all(now=10 + number)
        looks.append(time.process_time() - began)
        settling.look(now=11 + number)
        began = time.process_time()
        loaded = load(directories, settling.contents, Sources({}), loaded, settling.moved)
        edits.append(time.process_time() - began)
        settling.moved.clear()
    row(f"one edit among {count}", f"{statistics.median(edits) * 1000:.1f} ms of CPU")
    row("  the look at all files beside it", f"{statistics.median(looks) * 1000:.1f} ms of CPU")


def starting(directory: Path, rounds: int) -> None:
    """To the first tools/list over stdio, beside a minimal server on the same SDK, in turns."""
    minimal = directory.parent / "minimal.py"
    minimal.write_text(MINIMAL_SERVER)
    subjects = {
        "a minimal SDK server": (str(minimal),),
        "restbridge, 10 tools": ("-m", "bridge", "serve", str(directory)),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, command in subjects.items():
            began = time.perf_counter()
            with running(*command) as server:
                server.handshake()
                times[name].append((time.perf_counter() - began, cpu(server.pid)))
    for name, both in times.items():
        wall, used = (statistics.median(each) for each in zip(*both, strict=True))
        row(f"stdio start to first tools/list, {name}", f"{wall:.2f} s, {used:.2f} s of CPU")


def notifying(directory: Path, count: int, rounds: int) -> None:
    """From the rename that puts a file there to the notification at the client; and memory at rest."""
    fill(directory, count)
    delays, pace = [], threading.Event()
    with running("-m", "bridge", "serve", str(directory)) as server:
        server.handshake()
        server.send("tools/call", {"name": "no_such_tool"}, id=3)
        server.until(id=3)  # the SDK, too, is there
        row(f"memory at rest, {count} tools", f"{memory(server.pid):.0f} MB")
        text = TOOL.format(number=0)
        for number in range(rounds):
            draft = directory / ".draft"
            draft.write_text(text.replace("as the customer", f"as customer {number}"))
            began = time.perf_counter()
            draft.rename(directory / "tool_00000.yaml")
            server.until(method="notifications/tools/list_changed")
            delays.append(time.perf_counter() - began)
            pace.wait(0.3)  # at most four notifications a second are sent
    if rounds:
        cuts = statistics.quantiles(delays, n=100, method="inclusive")
        p50, p99 = cuts[49] * 1000, cuts[98] * 1000
        row(f"write → notification, {count} tools", f"p50 {p50:.0f} ms, p99 {p99:.0f} ms ({rounds} edits)")


def main(_url: str, folder: Path, *, quick: bool) -> None:
    title("loading, starting, reloading")
    for count in (1000,) if quick else (1000, 10_000):
        directory = folder / f"load_{count}"
        directory.mkdir()
        fill(directory, count)
        loading(directory, count)
    for count, rounds in ((10, 20),) if quick else ((10, 200), (1000, 200), (10_000, 0)):
        directory = folder / f"serve_{count}"
        directory.mkdir()
        notifying(directory, count, rounds)
    starting(folder / "serve_10", 3 if quick else 11)
