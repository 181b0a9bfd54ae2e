"""Loading, start-up and reloading.

CPU seconds are those of the measured process, from /proc. Wall times depend on the machine and its load.
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
from bridge.toolfiles.place import Directories
from bridge.toolfiles.watch.debounce import Debouncer
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
    limit: {{type: integer, minimum: 1, maximum: 100, description: "Maximum number of lines"}}
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
    """A stdio server in a separate process, and its client."""

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

    def until(self, **members: object) -> dict[str, Any]:
        """The next message with all of these members."""
        assert self._process.stdout
        for line in self._process.stdout:
            message: dict[str, Any] = json.loads(line)
            if members.items() <= message.items():
                return message
        raise EOFError(f"the server ended before {members}")

    def handshake(self) -> int:
        """Initialize and list the tools; returns the number on the first page."""
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
    """CPU of the first load, and of one edit: the scan of all files and the load itself, separately."""
    directories = Directories((str(directory),))
    debouncer = Debouncer(directories, lambda _: None, poll=0)
    started, wall = time.process_time(), time.perf_counter()
    debouncer.scan(time=0)
    loaded = load(directories, debouncer.contents, Sources({}))
    row(
        f"{count} files, cold",
        f"{time.perf_counter() - wall:.2f} s, {time.process_time() - started:.2f} s of CPU",
    )
    debouncer.changed.clear()
    assert len(loaded.snapshot.tools) == count, loaded.diagnostics[:3]
    edits, scans = [], []
    for number in range(10):
        path = directory / f"tool_{number:05}.yaml"
        path.write_text(path.read_text().replace("How much to answer", f"How much to answer, {number}"))
        started = time.process_time()
        debouncer.scan(time=10 + number)
        scans.append(time.process_time() - started)
        debouncer.check(time=11 + number)
        started = time.process_time()
        loaded = load(directories, debouncer.contents, Sources({}), loaded, debouncer.changed)
        edits.append(time.process_time() - started)
        debouncer.changed.clear()
    row(f"one edit among {count}", f"{statistics.median(edits) * 1000:.1f} ms of CPU")
    row("  the scan of all files, in addition", f"{statistics.median(scans) * 1000:.1f} ms of CPU")


def starting(directory: Path, rounds: int) -> None:
    """From start to the first tools/list over stdio, interleaved with a minimal server on the same SDK."""
    minimal = directory.parent / "minimal.py"
    minimal.write_text(MINIMAL_SERVER)
    servers = {
        "a minimal SDK server": (str(minimal),),
        "restbridge, 10 tools": ("-m", "bridge", "serve", str(directory)),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, command in servers.items():
            started = time.perf_counter()
            with running(*command) as server:
                server.handshake()
                times[name].append((time.perf_counter() - started, cpu(server.pid)))
    for name, samples in times.items():
        wall, cpu_used = (statistics.median(each) for each in zip(*samples, strict=True))
        row(f"stdio start to first tools/list, {name}", f"{wall:.2f} s, {cpu_used:.2f} s of CPU")


def notifying(directory: Path, count: int, rounds: int) -> None:
    """The delay from the rename of an edited file to the notification at the client, and the idle memory."""
    fill(directory, count)
    delays, pace = [], threading.Event()
    with running("-m", "bridge", "serve", str(directory)) as server:
        server.handshake()
        server.send("tools/call", {"name": "no_such_tool"}, id=3)
        server.until(id=3)  # the SDK has been imported
        row(f"idle memory, {count} tools", f"{memory(server.pid):.0f} MB")
        text = TOOL.format(number=0)
        for number in range(rounds):
            draft = directory / ".draft"
            draft.write_text(text.replace("as the customer", f"as customer {number}"))
            started = time.perf_counter()
            draft.rename(directory / "tool_00000.yaml")
            server.until(method="notifications/tools/list_changed")
            delays.append(time.perf_counter() - started)
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
