"""The fast path over HTTP: ``protocol/fast_path.py`` says which requests it takes. This file has what is HTTP's own.

A request goes on untouched, also every invalid one, unless its headers are the usual ones, each present once:

| Client | Further conditions | Answer to a call |
|---|---|---|
| modern (2026-07-28) | ``Mcp-Method`` and ``Mcp-Name`` agree with the body | JSON, or events if it takes long |
| handshake era, with a session | no other request in flight has the id | events |
| handshake era, no session is named | | events |

``FastPathMiddleware`` reads the body to decide; ``ReplayedBody`` gives it to the next app again.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, TypeAlias

import anyio
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp_types import DEFAULT_NEGOTIATED_VERSION
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.caller import Caller
from bridge.http.large_bodies import is_large
from bridge.http.reply_stream import ReplyStream, opening_event, send_event, send_json
from bridge.http.request_guard import ReplayedBody, RequestGuard, rate_limit_error
from bridge.protocol.caller_context import caller_in
from bridge.protocol.capabilities import MODERN_VERSION
from bridge.protocol.fast_path import FastRequest, answer_call, answer_list, recognize
from bridge.protocol.handlers import CANCELLED, ToolServer
from bridge.protocol.in_flight import ClientKey, client_key
from bridge.protocol.session_id import read_session_id

_MAX_CACHED_HEADERS: Final = 1024
"""Bytes of the checked headers. Longer ones go to the SDK, so the cached results stay small."""

_Head: TypeAlias = Mapping[bytes, bytes]
"""Headers by lower-case name, each present once."""


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
                version, client = _client(head, caller)
                if (
                    not rate_limit_error(scope)
                    and (body := self._small_body(first))
                    and (request := self._recognize(body, version, client, head, caller))
                ):
                    await self._answer(request, client, head, receive, send)
                    return
        await self._app(scope, receive, send)

    def _has_fast_headers(self, head: _Head) -> bool:
        if self._guard.is_stopping:  # not part of the cached result, since it changes
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

    def _recognize(
        self, body: bytes, version: str, client: ClientKey | None, head: _Head, caller: Caller
    ) -> FastRequest | None:
        request = recognize(body, version, self._server, caller)
        if request is None or (client and self._server.in_flight.holds(client, request.id)):
            return None
        return request if version != MODERN_VERSION or _agrees(head, request) else None

    async def _answer(
        self, request: FastRequest, client: ClientKey | None, head: _Head, receive: Receive, send: Send
    ) -> None:
        """Clients of the handshake era get a stream of events. Without a session, a client that leaves cancels its call."""
        is_stream, tool = request.version != MODERN_VERSION, request.tool
        if tool is None:
            parts = answer_list(request, self._server)
            await (send_event(send, *parts) if is_stream else send_json(send, *parts))
            return
        in_flight = self._server.in_flight
        running = in_flight.add(client, request.id) if client else anyio.CancelScope()
        opening = opening_event(request.version, request.id) if client else b""
        reply = ReplyStream(receive, send, opening, None if client else running)
        try:
            body, error = await answer_call(request, tool, self._server, running, head.items())
        finally:
            if client:
                in_flight.remove(client, request.id)
            await reply.end()
        if is_stream or reply.is_open:
            # A cancelled call gets no answer, unless its stream has begun.
            await reply.answer(b"" if error == CANCELLED and not reply.is_open else body)
        else:
            await send_json(send, body, status=ERROR_CODE_HTTP_STATUS.get(error, 200))


def _client(head: _Head, caller: Caller) -> tuple[str, ClientKey | None]:
    """The protocol version of a client, and its key if it has a session. The version is empty if the request is not plain."""
    version = head.get(b"mcp-protocol-version", DEFAULT_NEGOTIATED_VERSION.encode()).decode("latin-1")
    id = head.get(b"mcp-session-id")
    if id is None or version == MODERN_VERSION:
        return version if id is None else "", None
    text = id.decode("latin-1")
    session = read_session_id(text)
    if session is None or version not in HANDSHAKE_PROTOCOL_VERSIONS:
        return "", None
    # As in the SDK, the version of the handshake counts, whatever handshake version the header names.
    return session.version, client_key(caller, text)


def _agrees(head: _Head, request: FastRequest) -> bool:
    """Whether the headers of a modern request repeat its method and tool (MCP 2026-07-28, Streamable HTTP)."""
    method, name = (b"tools/call", request.name.encode()) if request.tool else (b"tools/list", None)
    return (
        head.get(b"mcp-method") == method
        and head.get(b"mcp-name") == name
        # The SDK judges these. One search costs less than a loop over the names.
        and b"mcp-param-" not in b" ".join(head)
    )
