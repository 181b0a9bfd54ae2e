"""A bridge in the test process."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cached_property, partial

import anyio

from bridge.access.credentials import CredentialStore
from bridge.address import Address
from bridge.events import Event
from bridge.http.admin_routes import AdminEndpoints
from bridge.http.resource_metadata import Resource
from bridge.http.server import Endpoint, Listening, serve_http
from bridge.http.tls import ServerTls
from bridge.protocol.handlers import ToolServer
from bridge.registry import Registry, Snapshot
from bridge.secrets import Sources
from bridge.settings import Limits
from bridge.spec import ToolSpec
from bridge.stdio.early_answers import EarlyAnswers, Handoff
from bridge.stdio.transport import serve_stdio
from bridge.telemetry.tracing import Tracing
from bridge.tool.compiler import compile_tool
from bridge.upstream.client import Client
from bridge.view import View
from tests.serving.messages import Json
from tests.serving.pipe import Pipe
from tests.serving.tools import tool_file


class Served:
    """A bridge whose tools are set by the test."""

    def __init__(
        self,
        api_url: str,
        client: Client,
        *,
        fast_path: bool = True,
        limits: Limits | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.fast_path = fast_path
        self.registry = Registry()
        self.events: list[Event] = []
        self._make_server = partial(
            ToolServer, self.registry, client, self.events.append, limits=limits, tracing=tracing
        )
        self.stop = anyio.Event()
        self.stopped = anyio.Event()
        self.scopes: dict[str, list[str]] = {}
        self.tags: dict[str, list[str]] = {}
        self._api_url = api_url

    @cached_property
    def server(self) -> ToolServer:
        """Made at its first use, so that its first tools are those that the test has shown by then."""
        return self._make_server()

    def show(self, *names: str) -> None:
        tools = (compile_tool(name, self._spec(name), None, Sources({})) for name in names)
        self.registry.replace(Snapshot([tool for tool, _ in tools]))

    def _spec(self, name: str) -> ToolSpec:
        spec = tool_file(self._api_url, name) | {
            "scopes": self.scopes.get(name, []),
            "tags": self.tags.get(name, []),
        }
        return ToolSpec.model_validate(spec)

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
        drain: float = 0,
        fast_path: bool | None = None,
        access: CredentialStore | None = None,
        operator: AdminEndpoints | None = None,
        views: Mapping[str, Json] | None = None,
        resource: Resource | None = None,
        tls: ServerTls | None = None,
    ) -> AsyncIterator[str]:
        """Serves over HTTP and yields the URL. Stops at the end of the block, unless the test has stopped it."""
        urls: list[str] = []
        up = anyio.Event()

        def started(url: str) -> None:
            urls.append(url)
            up.set()

        async def serve() -> None:
            await serve_http(
                self.server,
                Listening(Address(host, 0), grace, drain, tls=tls),
                self.stop,
                started,
                endpoint=Endpoint(
                    fast_path=self.fast_path if fast_path is None else fast_path,
                    credentials=access,
                    admin=operator,
                    views={name: View.model_validate(view) for name, view in (views or {}).items()},
                    resource=resource,
                ),
                emit=self.events.append,
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
        """Serves over a pair of pipes; the client closes its end after the block, unless the test has closed it."""
        source, to_server = os.pipe()
        from_server, sink = os.pipe()
        async with self.stdio_on(source, sink, Pipe(to_server, from_server), grace=grace) as pipe:
            yield pipe

    @asynccontextmanager
    async def stdio_after(self, *messages: Json, read: int, waiting: int = 1) -> AsyncIterator["Pipe"]:
        """Like ``stdio``, after early answers: the client has read ``read`` of them, and at least ``waiting`` bytes are unread."""
        source, to_server = os.pipe()
        from_server, sink = os.pipe()
        pipe = Pipe(to_server, from_server)
        first = EarlyAnswers(self.registry.current, source, sink)
        first.start()
        await pipe.send(*messages)
        for _ in range(read):
            await pipe.line()
        await pipe.readable(waiting)
        async with self.stdio_on(source, sink, pipe, before=first.stop()):
            yield pipe

    @asynccontextmanager
    async def stdio_on(
        self, source: int, sink: int, pipe: "Pipe", *, grace: float = 5, before: Handoff | None = None
    ) -> AsyncIterator["Pipe"]:
        """Serves over these descriptors; the client ``pipe`` has the other ends. ``before`` is the handoff of early answers."""

        async def serve() -> None:
            options = {"handoff": before} if before else {}
            try:
                await serve_stdio(
                    self.server, source, sink, self.stop, fast_path=self.fast_path, grace=grace, **options
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
