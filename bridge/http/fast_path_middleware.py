"""The fast path over HTTP: ``protocol/fast_path.py`` says which requests it takes. This file has what is HTTP's own.

A request goes to the SDK untouched, also every invalid one, unless its headers are the usual ones, each present once:

| Client | Further conditions | Answer to a call |
|---|---|---|
| modern (2026-07-28) | ``Mcp-Method`` and ``Mcp-Name`` agree with the body | JSON, or events if it takes long |
| handshake era, with a session | it is initialized, and the SDK saw it in the last minute | events |
| handshake era, server keeps no sessions | no session is named | events |

The SDK owns the sessions and ends those that it does not see. So each session sends it one request a minute.
``FastPathMiddleware`` reads the body to decide; ``ReplayedBody`` gives it to the SDK again.
"""

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, TypeAlias

import anyio
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.caller import Caller
from bridge.http.large_bodies import is_large
from bridge.http.request_guard import ReplayedBody, RequestGuard, rate_limit_error
from bridge.protocol.caller_context import caller_in
from bridge.protocol.capabilities import MODERN_VERSION
from bridge.protocol.fast_path import FastRequest, answer_call, answer_list, recognize
from bridge.protocol.handlers import ToolServer
from bridge.protocol.notifications import Session

_WATCH_DELAY_SECONDS: Final = 0.05
"""Most calls end sooner. Only after this is the connection watched for a client that leaves."""
_PING_SECONDS: Final = 15.0
"""Pause between two comments that keep a connection alive, as in the SDK."""
_SDK_REFRESH_SECONDS: Final = 60.0
"""After this the next request of a session goes to the SDK, which ends sessions that it does not see."""
# Together with ``_SDK_REFRESH_SECONDS`` less than ``Endpoint.session_idle_seconds``: the SDK does not see a
# call on the fast path, and would end its session meanwhile.
_MAX_CALL_SECONDS: Final = 300.0
"""Longest timeout of a tool whose calls in a session take the fast path."""
_MAX_CACHED_HEADERS: Final = 1024
"""Bytes of the checked headers. Longer ones go to the SDK, so the cached results stay small."""

_Head: TypeAlias = Mapping[bytes, bytes]
"""Headers by lower-case name, each present once."""
_EVENT: Final = b"event: message\r\ndata: "
_END: Final = b"\r\n\r\n"
_JSON: Final = [(b"content-type", b"application/json")]
_STREAM: Final = [
    (b"cache-control", b"no-cache, no-transform"),
    (b"content-type", b"text/event-stream"),
    (b"x-accel-buffering", b"no"),
]


class FastPathMiddleware:
    """An ASGI app in front of ``app``, whose MCP endpoint is at ``path``. ``guard`` checks the headers."""

    def __init__(self, app: ASGIApp, guard: RequestGuard, server: ToolServer, path: str) -> None:
        self._app = app
        self._guard = guard
        self._server = server
        self._path = path
        # Clients repeat these headers with each request. The cache is this object's, since its guard decides.
        self._is_allowed_cached = lru_cache(maxsize=256)(self._is_allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == self._path:
            head = dict(scope["headers"])  # shorter than the list if a header occurs twice
            if len(head) == len(scope["headers"]) and self._has_fast_headers(head):
                first = await receive()
                receive = ReplayedBody(first, receive)
                caller = caller_in(scope)
                version, session = self._client(head, caller)
                if (
                    not rate_limit_error(scope)
                    and (body := self._small_body(first))
                    and (request := self._recognize(body, version, session, head, caller))
                ):
                    await self._answer(request, session, head, receive, send)
                    return
        await self._app(scope, receive, send)

    def _has_fast_headers(self, head: _Head) -> bool:
        if self._guard.stopping.is_set():  # not part of the cached result, since it changes
            return False
        checked = (head.get(b"host"), head.get(b"origin"), head.get(b"content-type"), head.get(b"accept"))
        return sum(map(len, filter(None, checked))) <= _MAX_CACHED_HEADERS and self._is_allowed_cached(
            *checked
        )

    def _is_allowed(self, *checked: bytes | None) -> bool:
        names = (b"host", b"origin", b"content-type", b"accept")
        raw = [(name, value) for name, value in zip(names, checked, strict=True) if value is not None]
        accepted = {part.partition(b";")[0].strip() for part in (checked[3] or b"").split(b",")}
        return (
            # ``RequestGuard`` strips values before its check (RFC 9110 5.5), this class does not.
            all(value == value.strip() for _, value in raw)
            and accepted >= {b"application/json", b"text/event-stream"}
            and self._guard.check_headers("POST", Headers(raw=raw)) is None
        )

    def _small_body(self, first: Message) -> bytes:
        """The whole body, or nothing if it is large or comes in several messages."""
        body: bytes = first.get("body", b"")
        is_whole = not first.get("more_body") and len(body) <= self._guard.max_body
        return body if is_whole and not is_large(body) else b""

    def _client(self, head: _Head, caller: Caller) -> tuple[str, Session | None]:
        """The protocol version of a client, and its session. The version is empty if the request is for the SDK."""
        version = head.get(b"mcp-protocol-version", b"").decode("latin-1")
        session_id = head.get(b"mcp-session-id")
        if version == MODERN_VERSION or not self._server.keeps_sessions:
            return version if session_id is None else "", None
        session = self._server.announcer.session((session_id or b"").decode("latin-1"), caller)
        if (
            session is None
            or not session.is_ready
            or (b"mcp-protocol-version" in head and version not in HANDSHAKE_PROTOCOL_VERSIONS)
            or anyio.current_time() - session.last_seen_by_sdk > _SDK_REFRESH_SECONDS
        ):
            return "", None
        # The SDK also uses the version of the handshake, whatever handshake version a later header names.
        return session.connection.protocol_version, session

    def _recognize(
        self, body: bytes, version: str, session: Session | None, head: _Head, caller: Caller
    ) -> FastRequest | None:
        in_flight = session.in_flight if session else ()
        request = recognize(body, version, self._server, caller, in_flight)
        if request is None:
            return None
        tool = request.tool
        if session:
            return None if tool and tool.upstream.spec.timeout.total > _MAX_CALL_SECONDS else request
        return request if version != MODERN_VERSION or _agrees(head, request) else None

    async def _answer(
        self, request: FastRequest, session: Session | None, head: _Head, receive: Receive, send: Send
    ) -> None:
        """Clients of the handshake era get a stream of events. Without a session, a client that leaves cancels its call."""
        is_stream, tool = request.version != MODERN_VERSION, request.tool
        id = session.connection.session_id if session else None
        headers = [*_STREAM, (b"mcp-session-id", id.encode())] if id else _STREAM
        if tool is None:
            if session:
                self._server.announcer.tools_listed(session.connection)
            parts = answer_list(request, self._server)
            await (_send(send, headers, _EVENT, *parts, _END) if is_stream else _send(send, _JSON, *parts))
            return
        running = session.in_flight.add(request.id) if session else anyio.CancelScope()
        reply = _ReplyWriter(receive, send, headers, None if session else running)
        try:
            body, error = await answer_call(request, tool, self._server, running, head.items())
        finally:
            if session:
                session.in_flight.remove(request.id)
            await reply.end()
        if is_stream or reply.is_stream:
            # If its session has ended, the SDK ends the stream of a call without an event.
            await reply.event(b"" if session and session.has_ended else body)
        else:
            await _send(send, _JSON, body, status=ERROR_CODE_HTTP_STATUS.get(error, 200))


def _agrees(head: _Head, request: FastRequest) -> bool:
    """Whether the headers of a modern request repeat its method and tool (MCP 2026-07-28, Streamable HTTP)."""
    method, name = (b"tools/call", request.name.encode()) if request.tool else (b"tools/list", None)
    return (
        head.get(b"mcp-method") == method
        and head.get(b"mcp-name") == name
        # The SDK judges these. One search costs less than a loop over the names.
        and b"mcp-param-" not in b" ".join(head)
    )


class _ReplyWriter:
    """Watches the client while a call runs, and writes a stream of events.

    The stream opens with the last event, or with the first ping after ``_PING_SECONDS``. A reply whose stream has not
    opened may be sent as JSON. ``leaving`` is cancelled when the client leaves.
    """

    def __init__(
        self,
        receive: Receive,
        send: Send,
        headers: list[tuple[bytes, bytes]],
        leaving: anyio.CancelScope | None = None,
    ) -> None:
        self.is_stream = False
        self._receive = receive
        self._send = send
        self._headers = headers
        self._leaving = leaving
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(_WATCH_DELAY_SECONDS, self._start)

    def _start(self) -> None:
        # No detached task: the request that made this object calls ``end`` in any case, which cancels and
        # awaits it. A task group would cost each call 15 times the CPU of the timer, which seldom fires.
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            with anyio.move_on_after(_PING_SECONDS):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
                if self._leaving:
                    self._leaving.cancel()
                return  # also for a session, whose call goes on: nobody reads further pings
            await self._open()
            await self._send({"type": "http.response.body", "body": b": ping\r\n\r\n", "more_body": True})

    async def _open(self) -> None:
        if not self.is_stream:
            self.is_stream = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})

    async def end(self) -> None:
        """Stop watching. After this no ping is sent, so the reply can be written."""
        self._timer.cancel()
        if self._task:
            self._task.cancel()
            # Shielded: otherwise a request that is cancelled meanwhile would leave the task behind.
            with anyio.CancelScope(shield=True):
                await asyncio.wait([self._task])

    async def event(self, body: bytes) -> None:
        """Send the last event and end the stream. An empty ``body`` only ends it."""
        await self._open()
        await self._send(
            {"type": "http.response.body", "body": b"".join([_EVENT, body, _END]) if body else b""}
        )


async def _send(send: Send, headers: list[tuple[bytes, bytes]], *parts: bytes, status: int = 200) -> None:
    """Send a whole reply with its Content-Length."""
    length = (b"content-length", b"%d" % sum(map(len, parts)))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    for number, part in enumerate(parts, 1):
        await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})
