"""The HTTP server: uvicorn, the middlewares, and the MCP endpoint at ``/mcp``.

A request passes these, in this order. Each may answer it.

| what | its task |
|---|---|
| ``Connection`` | parses HTTP; enforces timeouts and size limits |
| ``AuthenticationMiddleware`` | checks the key or token, if ``credentials`` are given |
| ``RateLimitMiddleware`` | counts the request for the rate limit of its caller |
| ``Views`` | maps ``/mcp/NAME`` to ``/mcp`` with a view |
| ``FastPathMiddleware`` | answers simple calls without the SDK |
| ``RequestGuard`` | checks Host, Origin and the message |
| the SDK | serves modern clients |
| ``Handshake``, ``NotificationStreams`` | serve clients of the handshake era |
"""

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, cast

import anyio
import uvicorn
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from bridge.access.credentials import CredentialStore
from bridge.access.quotas import Quotas
from bridge.access.throttle import AddressThrottle
from bridge.address import Address, is_loopback
from bridge.events import Listener, ignore
from bridge.http.acceptor import Acceptor
from bridge.http.admin_routes import AdminEndpoints, routes
from bridge.http.authentication import AuthenticationMiddleware, Throttles
from bridge.http.connection import Connection, Timeouts
from bridge.http.connection_table import Share
from bridge.http.fast_path_middleware import FastPathMiddleware
from bridge.http.handshakes import Handshakes
from bridge.http.listeners import bind
from bridge.http.rejection_log import RejectionLog
from bridge.http.request_guard import LOCAL_HOSTS, RequestGuard
from bridge.http.request_rate import RateLimitMiddleware
from bridge.http.resource_metadata import Resource
from bridge.http.step_up import StepUp
from bridge.http.tls import ServerTls
from bridge.http.views import Views
from bridge.protocol.handlers import ToolServer
from bridge.view import View

PATH: Final = "/mcp"
_TICKS_PER_TIMEOUT_CHECK: Final = 10
"""uvicorn ticks ten times a second."""
_KEEP_ALIVE_SECONDS: Final = 75
"""Longer than clients keep idle connections. Otherwise a client could send on a connection that the server is closing."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a server listens, and how it stops.

    First it accepts no new connections. Requests that still come on open connections within ``drain_seconds`` are answered,
    each with ``Connection: close``. Then requests in flight have ``grace_seconds`` to complete.

    ``inherited`` is the socket that workers share, and ``share`` this worker's part of its connections. ``tls``: serve HTTPS.
    """

    address: Address
    grace_seconds: float = 5
    drain_seconds: float = 0
    inherited: socket.socket | None = None
    share: Share | None = None
    tls: ServerTls | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is served over HTTP, and to whom.

    | field | meaning |
    |---|---|
    | ``host_names`` | names that are accepted in the Host header, next to the host of the address |
    | ``fast_path`` | if false, every request goes through the SDK |
    | ``credentials`` | if given, each request needs a valid key or token |
    | ``resource`` | the OAuth resource that tokens are issued for |
    | ``admin`` | the endpoints of the operator, if they are served |
    | ``views`` | by name |
    """

    host_names: Collection[str] = ()
    fast_path: bool = True
    credentials: CredentialStore | None = None
    resource: Resource | None = None
    admin: AdminEndpoints | None = None
    views: Mapping[str, View] = field(default_factory=dict)


async def serve_http(
    server: ToolServer,
    listening: Listening,
    stop: anyio.Event,
    on_started: Callable[[str], None],
    *,
    endpoint: Endpoint,
    emit: Listener,
) -> None:
    """Serve until ``stop`` is set. Raises ``OSError`` if it cannot listen.

    ``on_started`` is called with the URL, which has the actual port if that of the address is 0. ``emit`` is called with an
    event for each refused request.
    """
    limits, host = server.limits.config, listening.address.host
    credentials, resource, views = endpoint.credentials, endpoint.resource, endpoint.views
    rejections = RejectionLog(emit)
    manager = StreamableHTTPSessionManager(
        server,
        stateless=True,  # it gets only modern requests
        # RequestGuard checks Host and Origin more strictly.
        security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        max_request_body_size=limits.body,
    )
    literal = f"[{host}]" if ":" in host else host
    guard = RequestGuard(
        StreamableHTTPASGIApp(manager),
        server,
        rejections,
        LOCAL_HOSTS
        | {name.lower() for name in (literal, *endpoint.host_names)}
        | ({resource.host} if resource else set()),
        any_address=not is_loopback(host),
        step_up=StepUp(server, credentials, resource).challenge if credentials and resource else None,
    )

    def end_streams() -> None:
        guard.handshake.stop()
        server.announcer.close()

    def stop_serving(grace_seconds: float) -> None:
        guard.stop()
        server.stop(grace_seconds)

    app = Starlette(
        routes=[Route(PATH, guard), *(routes(endpoint.admin, guard, stop) if endpoint.admin else ())],
        lifespan=lambda _: _lifespan(manager, guard),
        exception_handlers={404: _not_found},
    )
    # ``Views`` maps /mcp/ to /mcp without a redirect.
    app.router.redirect_slashes = False
    # From the inside out: the last one gets a request first.
    front: ASGIApp = FastPathMiddleware(app, guard, server, PATH) if endpoint.fast_path else app
    front = Views(front, views, PATH, rejections)
    front = RateLimitMiddleware(front, guard, server.limits, {PATH, *(f"{PATH}/{view}" for view in views)})
    throttles = Throttles()
    if credentials:
        front = AuthenticationMiddleware(
            front, credentials, resource, rejections, guard.check_host_and_origin, throttles=throttles
        )
    await serve_app(
        front,
        listening,
        stop,
        lambda url: on_started(url + PATH),
        on_draining=end_streams,
        on_stopping=stop_serving,
        connection=partial(Connection, server.limits, rejections, Timeouts(), throttles.failed),
        rejections=rejections,
    )
    rejections.flush()


@asynccontextmanager
async def _lifespan(manager: StreamableHTTPSessionManager, guard: RequestGuard) -> AsyncIterator[None]:
    async with manager.run(), guard.handshake.run():
        yield


async def serve_app(
    app: ASGIApp,
    listening: Listening,
    stop: anyio.Event,
    on_started: Callable[[str], None],
    *,
    on_draining: Callable[[], None] = lambda: None,
    on_stopping: Callable[[float], None] = lambda _grace: None,
    connection: Callable[..., Connection] | None = None,
    rejections: RejectionLog | None = None,
) -> None:
    """Serve any ASGI app until ``stop`` is set. Raises ``OSError`` if it cannot listen.

    When it stops, it first calls ``on_draining``. When the connections are drained, it calls ``on_stopping`` with the seconds
    that requests in flight have to complete. These are ``listening.grace_seconds``, or 0 if it is cancelled. ``connection`` makes a ``Connection`` of uvicorn's arguments.
    ``rejections`` reports TLS handshakes that fail.
    """
    rejections = rejections or RejectionLog(ignore)
    if connection is None:
        connection = partial(Connection, Quotas(), rejections, Timeouts(), AddressThrottle())
    with listening.inherited or bind(listening.address) as listener:
        config = uvicorn.Config(
            app,
            http=cast("type[asyncio.Protocol]", connection),
            access_log=False,
            lifespan="on",  # "auto" would serve an app whose lifespan raises
            log_config=None,  # otherwise uvicorn adds handlers, one of them for stdout
            # Otherwise a client on this machine could choose the address that is throttled (X-Forwarded-For).
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            ws="none",
        )
        listener.settimeout(0)
        url = _url(listening, listener)
        uvicorn_server = _Server(config, listening, listener, partial(on_started, url), rejections)

        async def end() -> None:
            seconds = 0.0
            try:
                await stop.wait()
                on_draining()
                await uvicorn_server.drain(listening.drain_seconds)
                seconds = listening.grace_seconds
            finally:
                # A second more than the calls have: those that are cancelled then still get their answers.
                config.timeout_graceful_shutdown = math.ceil(seconds) + 1
                on_stopping(seconds)
                uvicorn_server.should_exit = True

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end)
            with anyio.CancelScope(shield=True):  # if uvicorn is cancelled, it leaves its sockets open
                await uvicorn_server.serve(sockets=[listener])
            tasks.cancel_scope.cancel()


async def _not_found(_request: Request, _problem: Exception) -> Response:
    return PlainTextResponse(
        f"Not found. MCP clients connect to {PATH}, or to {PATH}/NAME for a configured view\n", 404
    )


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which raise the signals again after serving, and with our acceptor."""

    def __init__(
        self,
        config: uvicorn.Config,
        listening: Listening,
        listener: socket.socket,
        on_listening: Callable[[], None],
        rejections: RejectionLog,
    ) -> None:
        super().__init__(config)
        self._listener = listener
        self._share = listening.share
        self._tls = listening.tls
        self._on_listening = on_listening
        self._rejections = rejections
        self._accepting = anyio.CancelScope()
        self._accepting_ended = anyio.Event()
        self._drained = anyio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's name
        await super().startup([])  # uvicorn would take a whole burst
        self._on_listening()

    async def main_loop(self) -> None:
        count, connect = self.server_state.connections.__len__, self._connect
        async with anyio.create_task_group() as tasks:
            handshakes = None
            if self._tls:
                handshakes = Handshakes(self._tls, self._rejections.report_handshake, connect, tasks)
                tasks.start_soon(self._end_untrusted, self._tls)
            tasks.start_soon(self._accept, Acceptor(self._listener, connect, count, self._share, handshakes))
            await super().main_loop()
            tasks.cancel_scope.cancel()

    async def _accept(self, acceptor: Acceptor) -> None:
        try:
            with self._accepting:
                await acceptor.run()
        finally:
            self._accepting_ended.set()

    async def drain(self, seconds: float) -> None:
        """Accept no new connections, and wait until there is none, at most so many seconds."""
        self._accepting.cancel()
        await self._accepting_ended.wait()
        self._listener.close()
        self._drain_connections()
        with anyio.move_on_after(seconds):
            await self._drained.wait()

    def _drain_connections(self) -> None:
        for connection in self.server_state.connections:
            cast("Connection", connection).drain()

    async def _end_untrusted(self, tls: ServerTls) -> None:
        """Abort the connections of clients whose authority was removed."""
        while True:
            await tls.authorities_removed.wait()
            # A copy: a connection that is aborted leaves the set.
            for connection in list(self.server_state.connections):
                tls.end_if_untrusted(cast("Connection", connection).transport)

    def _connect(self) -> asyncio.Protocol:
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second, uvicorn asks whether to stop."""
        if counter % _TICKS_PER_TIMEOUT_CHECK == 0:
            # A copy: a connection that is ended leaves the set.
            for connection in list(self.server_state.connections):
                cast("Connection", connection).enforce_timeouts()
        if self._accepting.cancel_called:
            self._drain_connections()  # also those whose handshake took until now
            if not self.server_state.connections:
                self._drained.set()
        return await super().on_tick(counter)


def _url(listening: Listening, listener: socket.socket) -> str:
    scheme, host = "https" if listening.tls else "http", listening.address.host
    literal = f"[{host}]" if ":" in host else host
    return f"{scheme}://{literal}:{listener.getsockname()[1]}"
