"""The HTTP transport: the SDK's Streamable HTTP at ``/mcp``, behind the gate, on uvicorn."""

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from types import MappingProxyType
from typing import Final, cast

import anyio
import uvicorn
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from bridge.access.credentials import Access
from bridge.access.quotas import Limits
from bridge.access.throttle import Guesses
from bridge.address import Address, is_loopback
from bridge.events import ignore
from bridge.http.admin_routes import Operator, routes
from bridge.http.authentication import Door
from bridge.http.connection import Connection, Patience
from bridge.http.fast_path_middleware import Express
from bridge.http.listeners import bind
from bridge.http.rejection_log import Refusals
from bridge.http.request_guard import LOCAL_NAMES, Gate
from bridge.http.resource_metadata import Resource
from bridge.http.step_up import StepUp
from bridge.http.views import Views
from bridge.protocol.handlers import ToolServer
from bridge.protocol.notifications import SESSION_HEADER, Announcer
from bridge.settingsfile import View

PATH: Final = "/mcp"
_IDLE: Final = 600.0
_MOMENT: Final = 0.5
"""Seconds in which calls are answered that end with their key, before their sessions do."""
_SWEEP: Final = 10
"""Tenths of a second between two looks at connections that are slow."""
_KEEP_ALIVE: Final = 75
"""Seconds; longer than clients keep idle connections, so that none sends into one that is being closed."""


async def serve_http(
    server: ToolServer,
    host: str,
    port: int,
    stop: anyio.Event,
    started: Callable[[str], None],
    *,
    names: Collection[str] = (),
    grace: float = 5,
    express: bool = True,
    access: Access | None = None,
    operator: Operator | None = None,
    views: Mapping[str, View] = MappingProxyType({}),
    resource: Resource | None = None,
    shared: bool = False,
    idle: float = _IDLE,
) -> None:
    """Serve until ``stop`` is set; calls in flight are then answered, within ``grace`` seconds.

    Without ``express`` every request goes through the SDK; with ``access`` each has to show a key or a token, for
    ``resource`` where that is given; an ``operator`` is answered, too. ``views`` are by their names.

    ``started`` gets the URL, with the port that port 0 became. ``names`` are hosts as which clients
    may address the server beside its own; other processes may serve on a port that is ``shared``. Sessions that are
    ``idle`` for so many seconds end. Raises ``OSError`` where it cannot listen.
    """
    limits = server.limits.words
    manager = StreamableHTTPSessionManager(
        server,
        stateless=not server.alone,
        # The gate has checked it, exactly.
        security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        session_idle_timeout=idle,
        max_request_body_size=limits.body,
        max_sessions=limits.in_all.sessions,
    )
    literal = f"[{host}]" if ":" in host else host
    gate = Gate(
        StreamableHTTPASGIApp(manager),
        server.announcer,
        server.refusals,
        LOCAL_NAMES | {name.lower() for name in (literal, *names)} | ({resource.host} if resource else set()),
        any_address=not is_loopback(host),
        refuse_call=server.refuse_call,
        alone_reads_arguments=server.alone_reads_arguments,
        step_up=StepUp(server, access, resource).challenge if access and resource else None,
        sessions=server.alone,
        max_body=limits.body,
    )

    def stopping(grace: float) -> None:
        gate.stopping.set()
        server.stop(grace)

    app = Starlette(
        routes=[Route(PATH, gate), *(routes(operator, gate) if operator else ())],
        lifespan=lambda _: _living(manager, access, server.announcer),
        exception_handlers={404: _nothing_here},
    )
    app.router.redirect_slashes = False
    front: ASGIApp = Express(app, gate, server, PATH) if express else app
    front = Views(front, views, PATH, server.refusals)
    guesses = Guesses()
    if access:
        front = Door(front, access, resource, server.refusals, gate.stranger, guesses=guesses)
    await serve_app(
        front,
        host,
        port,
        stop,
        lambda url: started(url + PATH),
        stopping=stopping,
        grace=grace,
        shared=shared,
        limits=server.limits,
        refusals=server.refusals,
        guesses=guesses,
    )


@asynccontextmanager
async def _living(
    manager: StreamableHTTPSessionManager, access: Access | None, announcer: Announcer
) -> AsyncIterator[None]:
    async with manager.run(), anyio.create_task_group() as tasks:
        if access:
            tasks.start_soon(_end_sessions, access, announcer, manager)
        yield
        tasks.cancel_scope.cancel()


async def _end_sessions(access: Access, announcer: Announcer, manager: StreamableHTTPSessionManager) -> None:
    """Give back the room of those whose owner has gone, as if the client had ended them."""
    while True:
        departed = access.departed
        for session in announcer.sessions_without(access.knows):
            headers = [(SESSION_HEADER.encode(), (session.connection.session_id or "").encode())]
            scope = {
                "type": "http",
                "method": "DELETE",
                "path": PATH,
                "headers": headers,
                "user": session.user,
            }
            await manager.handle_request(scope, _nothing_more, _ignored)
        await departed.wait()
        await anyio.sleep(_MOMENT)


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}


async def _ignored(message: Message) -> None:
    """Nobody waits for it."""


async def serve_app(
    app: ASGIApp,
    host: str,
    port: int,
    stop: anyio.Event,
    started: Callable[[str], None],
    *,
    stopping: Callable[[float], None] = lambda _grace: None,
    grace: float = 5,
    shared: bool = False,
    limits: Limits | None = None,
    refusals: Refusals | None = None,
    patience: Patience | None = None,
    guesses: Guesses | None = None,
) -> None:
    """Serve any ASGI app until ``stop`` is set; requests then have ``grace`` seconds, as ``stopping`` hears.

    Other processes may serve on a port that is ``shared``. ``limits`` hear of results that are not read,
    ``refusals`` of what is answered to nobody's request, or ends; ``patience`` is that with slow clients. ``guesses``
    say how long the refusal of a request that is malformed waits.
    """
    refusals = refusals or Refusals(ignore)
    with bind(Address(host, port), shared=shared) as listener:
        config = uvicorn.Config(
            app,
            http=cast(
                "type[asyncio.Protocol]",
                partial(
                    Connection, limits or Limits(), refusals, patience or Patience(), guesses or Guesses()
                ),
            ),
            access_log=False,
            lifespan="on",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            ws="none",
        )
        web = _Web(config, partial(started, _url(host, listener)))

        async def end() -> None:
            patience = 0.0
            try:
                await stop.wait()
                patience = grace
            finally:
                config.timeout_graceful_shutdown = math.ceil(patience) + 1
                stopping(patience)
                web.should_exit = True

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end)
            with anyio.CancelScope(shield=True):  # uvicorn leaves its sockets open when it is cancelled
                await web.serve(sockets=[listener])
            tasks.cancel_scope.cancel()
        refusals.flush()


async def _nothing_here(_request: Request, _problem: Exception) -> Response:
    return PlainTextResponse(
        f"Nothing is here. Agents connect to {PATH}, or to {PATH}/NAME for a view that there is\n", 404
    )


class _Web(uvicorn.Server):
    """uvicorn that leaves signals alone: it would raise them again after serving."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()

    async def on_tick(self, counter: int) -> bool:
        """Every tenth of a second; uvicorn asks each time whether to stop."""
        if counter % _SWEEP == 0:
            for connection in list(self.server_state.connections):
                cast("Connection", connection).end_if_slow()
        return await super().on_tick(counter)


def _url(host: str, listener: socket.socket) -> str:
    literal = f"[{host}]" if ":" in host else host
    return f"http://{literal}:{listener.getsockname()[1]}"
