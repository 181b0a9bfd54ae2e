"""An API on a real socket, a bridge in front of it, and clients that speak JSON-RPC by hand."""

import asyncio
import fcntl
import json
import os
import sys
import termios
from array import array
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import httpx

from bridge.access.credentials import Access
from bridge.events import Event
from bridge.http.admin_routes import Operator
from bridge.http.resource_metadata import Resource
from bridge.http.server import serve_http
from bridge.protocol.handlers import ToolServer
from bridge.registry import Registry, Snapshot
from bridge.secrets import Sources
from bridge.settingsfile import Limits, View
from bridge.spec import ToolSpec
from bridge.stdio.early_answers import Before, FirstAnswers
from bridge.stdio.transport import serve_stdio
from bridge.telemetry.tracing import Tracing
from bridge.tool.compiler import compile_tool
from bridge.upstream.client import Client

Json: TypeAlias = dict[str, Any]

META: Json = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}
TOOLS = ("any", "change", "echo", "fail", "hang", "large", "strict", "typed")
INITIALIZED: Json = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def request(method: str, id: Any = 1, **params: Any) -> Json:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def initialize(version: str = "2025-11-25") -> Json:
    who = {"name": "test", "version": "1"}
    return request("initialize", 0, protocolVersion=version, capabilities={}, clientInfo=who)


def call(name: str, id: Any = 1, **params: Any) -> Json:
    return request("tools/call", id, name=name, arguments={}, **params)


def cancel(id: Any) -> Json:
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}


class Api:
    """Answers its path; ``/hang`` only when released, ``/fail`` with 500, ``/large`` with 500 kB."""

    def __init__(self) -> None:
        self.url = ""
        self.entered = anyio.Event()
        self.hanging = 0
        self.left = anyio.Event()
        self.release = anyio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            size = 0
            while (header := await reader.readline()).strip():
                if header.lower().startswith(b"content-length:"):
                    size = int(header.split(b":")[1])
            await reader.readexactly(size)
            path = line.split()[1].decode().partition("?")[0]
            if path == "/hang" and not await self._released(reader):
                break
            status = "500 Failed" if path == "/fail" else "200 OK"
            text = "x" * (500_000 if path == "/large" else 1)
            body = json.dumps({"path": path, "text": text, "nothing": None}).encode()
            head = (
                f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()

    async def _released(self, reader: asyncio.StreamReader) -> bool:
        self.entered.set()
        self.hanging += 1
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                await self.release.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(wait)
            await reader.read()
            self.left.set()
            tasks.cancel_scope.cancel()
        return not self.left.is_set()


@asynccontextmanager
async def serving_api() -> AsyncIterator[Api]:
    api = Api()
    server = await asyncio.start_server(api.answer, "127.0.0.1", 0)
    api.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield api
    api.release.set()
    server.close()


def tool_file(api_url: str, name: str) -> Json:
    """A tool that calls the API's path of its name."""
    spec: Json = {
        "description": f"Calls {name}.",
        "inputSchema": {
            "properties": {"n": {"type": "integer"}},
            "required": ["n"] if name == "strict" else [],
            "additionalProperties": name == "any",
        },
        "request": {"method": "POST" if name == "change" else "GET", "url": f"{api_url}/{name}"},
        "response": {"maxBytes": "1MB"},
        "retries": {"max": 0},
    }
    return spec | ({"outputSchema": {"type": "object"}} if name == "typed" else {})


class Files:
    """The tools of a bridge in a process of its own."""

    def __init__(self, directory: Path, api_url: str) -> None:
        self.command = [sys.executable, "-m", "bridge", "serve", str(directory)]
        self._directory = directory
        self._api_url = api_url
        for name in TOOLS:
            self._write(name)

    async def add(self, name: str) -> None:
        self._write(name)

    async def drop(self, name: str) -> None:
        (self._directory / f"{name}.yaml").unlink()

    def _write(self, name: str) -> None:
        (self._directory / f"{name}.yaml").write_text(json.dumps(tool_file(self._api_url, name)))


class Served:
    """A bridge whose tools the test names."""

    def __init__(
        self,
        api_url: str,
        client: Client,
        *,
        express: bool = True,
        alone: bool = True,
        limits: Limits | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.express = express
        self.registry = Registry()
        self.events: list[Event] = []
        self.server = ToolServer(
            self.registry, client, self.events.append, alone=alone, limits=limits, tracing=tracing
        )
        self.stop = anyio.Event()
        self.stopped = anyio.Event()
        self.scopes: dict[str, list[str]] = {}
        self.tags: dict[str, list[str]] = {}
        self._api_url = api_url

    def show(self, *names: str) -> None:
        tools = (compile_tool(name, self._spec(name), None, Sources({})) for name in names)
        self.registry.replace(Snapshot([tool for tool, _ in tools]))

    def _spec(self, name: str) -> ToolSpec:
        words = tool_file(self._api_url, name) | {
            "scopes": self.scopes.get(name, []),
            "tags": self.tags.get(name, []),
        }
        return ToolSpec.model_validate(words)

    async def change(self, *names: str) -> None:
        self.show(*names)
        await self.server.announcer.announce()

    async def add(self, name: str) -> None:
        await self.change(name, *self._names())

    async def drop(self, name: str) -> None:
        await self.change(*(self._names() - {name}))

    def _names(self) -> set[str]:
        return {tool.name for tool in self.registry.current.tools}

    @asynccontextmanager
    async def http(
        self,
        host: str = "127.0.0.1",
        *,
        grace: float = 5,
        express: bool | None = None,
        access: Access | None = None,
        operator: Operator | None = None,
        views: Mapping[str, Json] | None = None,
        resource: Resource | None = None,
        idle: float = 600,
    ) -> AsyncIterator[str]:
        """Serves over HTTP; yields the URL, and stops at the end if the test has not."""
        urls: list[str] = []
        up = anyio.Event()

        def started(url: str) -> None:
            urls.append(url)
            up.set()

        async def serve() -> None:
            lane = self.express if express is None else express
            await serve_http(
                self.server,
                host,
                0,
                self.stop,
                started,
                grace=grace,
                express=lane,
                access=access,
                operator=operator,
                views={name: View.model_validate(words) for name, words in (views or {}).items()},
                resource=resource,
                idle=idle,
            )
            self.stopped.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            await up.wait()
            yield urls[0]
            self.stop.set()
            with anyio.fail_after(30):
                await self.stopped.wait()

    @asynccontextmanager
    async def stdio(self, *, grace: float = 5) -> AsyncIterator["Pipe"]:
        """Serves over a pair of pipes; the client hangs up at the end if the test has not."""
        source, to_server = os.pipe()
        from_server, sink = os.pipe()
        async with self._stdio(source, sink, Pipe(to_server, from_server), grace=grace) as pipe:
            yield pipe

    @asynccontextmanager
    async def stdio_after(self, *messages: Json, read: int, waiting: int = 1) -> AsyncIterator["Pipe"]:
        """The same, after first answers of which the client has read so many, and so many bytes wait for it."""
        source, to_server = os.pipe()
        from_server, sink = os.pipe()
        pipe = Pipe(to_server, from_server)
        first = FirstAnswers(self.registry.current, source, sink)
        first.start()
        await pipe.send(*messages)
        for _ in range(read):
            await pipe.line()
        await pipe.readable(waiting)
        async with self._stdio(source, sink, pipe, before=first.stop()):
            yield pipe

    @asynccontextmanager
    async def _stdio(
        self, source: int, sink: int, pipe: "Pipe", *, grace: float = 5, before: Before | None = None
    ) -> AsyncIterator["Pipe"]:
        async def serve() -> None:
            words = {"before": before} if before else {}
            try:
                await serve_stdio(
                    self.server, source, sink, self.stop, express=self.express, grace=grace, **words
                )
            finally:
                os.close(source)
                os.close(sink)
            self.stopped.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            yield pipe
            pipe.hang_up()
            with anyio.fail_after(30):
                await self.stopped.wait()
        pipe.stop_reading()


class Pipe:
    """A client over two pipes."""

    def __init__(self, to_server: int, from_server: int) -> None:
        self._open = {to_server, from_server}
        self._to_server = to_server
        self._from_server = from_server
        self._buffer = b""

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            await anyio.wait_writable(self._to_server)
            view = view[os.write(self._to_server, view[:4096]) :]

    async def send(self, *messages: Json) -> None:
        await self.write(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    async def readable(self, size: int = 1) -> None:
        """The server has written so many bytes that are not read yet."""
        written = array("i", [0])
        while written[0] < size:
            await anyio.lowlevel.checkpoint()
            fcntl.ioctl(self._from_server, termios.FIONREAD, written)

    async def line(self, patience: float = 30) -> bytes:
        """The next line, empty at the end."""
        with anyio.fail_after(patience):
            while b"\n" not in self._buffer:
                await anyio.wait_readable(self._from_server)
                chunk = os.read(self._from_server, 1 << 20)
                if not chunk:
                    return b""
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    async def answer(self) -> Json:
        message: Json = json.loads(await self.line())
        return message

    async def open(self, patience: float = 30) -> None:
        """Shake hands."""
        await self.send(initialize())
        await self.line(patience)
        await self.send(INITIALIZED)

    def hang_up(self) -> None:
        self._close(self._to_server)

    def stop_reading(self) -> None:
        self._close(self._from_server)

    def _close(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open.remove(descriptor)
            os.close(descriptor)


class Session:
    """A client over HTTP, by hand; of the handshake era once it is opened."""

    def __init__(self, web: httpx.AsyncClient, url: str) -> None:
        self.web = web
        self.url = url
        self.headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}

    async def open(self) -> None:
        await self.shake_hands()
        await self.post(INITIALIZED)

    async def shake_hands(self) -> None:
        reply = await self.post(initialize())
        self.headers["mcp-session-id"] = reply.headers["mcp-session-id"]

    async def post(self, message: Json | bytes, **headers: str) -> httpx.Response:
        content = message if isinstance(message, bytes) else json.dumps(message).encode()
        return await self.web.post(self.url, content=content, headers=self.headers | headers)

    async def ask(self, message: Json) -> Json:
        """The one answer to a request of the handshake era, out of its event stream."""
        reply = await self.post(message)
        events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: ")]
        answer: Json = events[0]
        return answer

    async def ask_modern(self, message: Json) -> Json:
        """The answer to a request of 2026-07-28: in JSON, where nothing is told before it."""
        reply = await self.web.post(self.url, **self.modern(message))
        answer: Json = reply.json()
        return answer

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[AsyncIterator[Json]]:
        """The session's GET stream: what the server says of its own accord."""
        status = 409
        while status == 409:  # the server has not seen yet that the last one is closed
            async with self.web.stream("GET", self.url, headers=self.headers) as reply:
                if (status := reply.status_code) == 200:
                    yield _events(reply)

    @asynccontextmanager
    async def listen(self, **kinds: bool) -> AsyncIterator[AsyncIterator[Json]]:
        """A ``subscriptions/listen`` stream of 2026-07-28."""
        message = request("subscriptions/listen", 5, notifications=kinds)
        async with self.web.stream("POST", self.url, **self.modern(message)) as reply:
            yield _events(reply)

    @asynccontextmanager
    async def hearing(self, *, modern: bool) -> AsyncIterator[AsyncIterator[Json]]:
        """Whichever of the two the era has, once the server knows of it."""
        async with self.listen(toolsListChanged=True) if modern else self.stream() as events:
            if modern:
                await anext(events)  # that it listens
            yield events

    async def sees(self, seen: set[str], *asked: str) -> None:
        """In both eras these tools are listed, and of those that are asked for these alone are there."""
        for asks in (self.ask, self.ask_modern):
            listed = await asks(request("tools/list", 1))
            assert {tool["name"] for tool in listed["result"]["tools"]} == seen
            for number, tool in enumerate(asked, 2):
                answer = await asks(call(tool, number))
                assert ("result" in answer) is (tool in seen)
                if tool not in seen:
                    assert answer["error"] == {"code": -32602, "message": f"Unknown tool: {tool}"}

    def modern(self, message: Json) -> Json:
        params = message["params"]
        headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": message["method"]}
        if "name" in params:
            headers["mcp-name"] = params["name"]
        message = message | {"params": params | {"_meta": META}}
        return {"content": json.dumps(message).encode(), "headers": self.headers | headers}


async def _events(reply: httpx.Response) -> AsyncIterator[Json]:
    async for line in reply.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line[6:])
