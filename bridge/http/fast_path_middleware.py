"""The express lane: plain tools/call and tools/list over HTTP, from bytes to bytes, in front of the SDK.

Plain is what clients send nearly always: one whole message in its simplest shape, with headers that agree
with it, to a tool that is there. That is answered as the SDK would answer it, from the same snapshot and
through the same ``ToolServer.call``. Everything else, and everything that is wrong in any way, goes to the
SDK untouched. A session's life stays in the SDK, too: it sees one request a minute of those who call.
"""

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

import anyio
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.caller import Caller, Inbound
from bridge.http.large_bodies import is_large
from bridge.http.request_guard import Again, Gate, call_key
from bridge.protocol import fast_path as plain
from bridge.protocol.capabilities import ALIKE
from bridge.protocol.handlers import ToolServer
from bridge.protocol.notifications import Session, caller_in
from bridge.spec import Json
from bridge.telemetry.log_output import fit
from bridge.tool.compiler import Tool

_SOON: Final = 0.05
"""Seconds after which it is watched whether the client is still there: most calls have ended by then."""
_QUIET: Final = 15.0
"""Seconds after which a client that waits is sent a sign of life, as by the SDK."""
_REFRESH: Final = 60.0
"""Seconds after which a session's next call goes to the SDK, which ends sessions that it does not see."""
_LONGEST: Final = 300.0
"""Seconds that a call of a session may take here; the SDK would wait for a longer one."""
_MAX_CACHED_HEADERS: Final = 1024
"""Bytes of the headers that are judged; the verdicts on 256 combinations are cached."""

_Head: TypeAlias = Mapping[bytes, bytes]
_MODERN: Final = {version.encode(): version for version in MODERN_PROTOCOL_VERSIONS}
_HANDSHAKE: Final = {version.encode() for version in HANDSHAKE_PROTOCOL_VERSIONS}
_EVENT: Final = b"event: message\r\ndata: "
_END: Final = b"\r\n\r\n"
_JSON: Final = [(b"content-type", b"application/json")]
_STREAM: Final = [
    (b"cache-control", b"no-cache, no-transform"),
    (b"content-type", b"text/event-stream"),
    (b"x-accel-buffering", b"no"),
]


class _Asked(NamedTuple):
    """A plain request; no tool is a wish for the list of them, in the modern era there is no session."""

    id: int | str
    version: str
    session: Session | None
    tool: Tool | None
    arguments: dict[str, Json]
    caller: Caller
    head: _Head


class Express:
    """An ASGI app before ``app``; ``gate`` says who may come in, ``path`` is where the endpoint is."""

    def __init__(self, app: ASGIApp, gate: Gate, server: ToolServer, path: str) -> None:
        self._app = app
        self._gate = gate
        self._server = server
        self._path = path
        self._admits = lru_cache(maxsize=256)(self._is_admitted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == self._path:
            head = dict(scope["headers"])
            if len(head) == len(scope["headers"]) and self._may_be_plain(head):
                first = await receive()
                receive = Again(first, receive)
                if not self._gate.over_rate(scope) and (asked := self._asked(head, first, caller_in(scope))):
                    if asked.session:
                        await self._answer_session(asked, asked.session, receive, send)
                    else:
                        await self._answer_alone(asked, receive, send)
                    return
        await self._app(scope, receive, send)

    # --- what is plain ---

    def _may_be_plain(self, head: _Head) -> bool:
        """By its headers alone."""
        if self._gate.stopping.is_set():
            return False
        judged = (head.get(b"host"), head.get(b"origin"), head.get(b"content-type"), head.get(b"accept"))
        return sum(map(len, filter(None, judged))) <= _MAX_CACHED_HEADERS and self._admits(*judged)

    def _is_admitted(self, *judged: bytes | None) -> bool:
        names = (b"host", b"origin", b"content-type", b"accept")
        raw = [(name, value) for name, value in zip(names, judged, strict=True) if value is not None]
        accepted = {part.partition(b";")[0].strip() for part in (judged[3] or b"").split(b",")}
        return (
            all(value == value.strip() for _, value in raw)
            and accepted >= {b"application/json", b"text/event-stream"}
            and self._gate.refusal("POST", Headers(raw=raw)) is None
        )

    def _asked(self, head: _Head, first: Message, caller: Caller) -> _Asked | None:
        body: bytes = first.get("body", b"")
        if first.get("more_body") or len(body) > self._gate.max_body or is_large(body):
            return None
        request = plain.request(body)
        if request is None:
            return None
        version = _MODERN.get(head.get(b"mcp-protocol-version", b""))
        if version:
            return self._modern(head, version, request, caller)
        return (self._of_session if self._server.alone else self._of_nobody)(head, request, caller)

    def _modern(self, head: _Head, version: str, request: plain.Request, caller: Caller) -> _Asked | None:
        id, method, params = request
        if (
            b"mcp-session-id" in head
            or head.get(b"mcp-method") != method.encode()
            or any(name.startswith(b"mcp-param-") for name in head)
            or not plain.is_envelope(version, params.pop("_meta", None))
        ):
            return None
        wish = self._wish(request, caller)
        name = None if wish is None or wish[0] is None else params["name"].encode()
        if wish is None or head.get(b"mcp-name") != name:
            return None
        return _Asked(id, version, None, *wish, caller, head)

    def _of_session(self, head: _Head, request: plain.Request, caller: Caller) -> _Asked | None:
        key = head.get(b"mcp-session-id", b"").decode("latin-1")
        session = self._server.announcer.session(key, caller)
        if (
            session is None
            or head.get(b"mcp-protocol-version", b"2025-11-25") not in _HANDSHAKE
            or session.connection.protocol_version not in ALIKE
            or anyio.current_time() - session.seen > _REFRESH
            or call_key(key, caller, request.id) in self._gate.calls
        ):
            return None
        wish = self._wish(request, caller)
        if wish is None or (wish[0] and wish[0].upstream.spec.timeout.total > _LONGEST):
            return None
        return _Asked(request.id, session.connection.protocol_version, session, *wish, caller, head)

    def _of_nobody(self, head: _Head, request: plain.Request, caller: Caller) -> _Asked | None:
        """In the handshake era, where no sessions are kept."""
        version = head.get(b"mcp-protocol-version", b"").decode("latin-1")
        if version not in ALIKE or b"mcp-session-id" in head:
            return None
        wish = self._wish(request, caller)
        return None if wish is None else _Asked(request.id, version, None, *wish, caller, head)

    def _wish(self, request: plain.Request, caller: Caller) -> tuple[Tool | None, dict[str, Json]] | None:
        """A tool and its arguments, or no tool for the list of them; None where it is not plain."""
        match request.method:
            case "tools/call":
                return plain.call(request.params, self._server, caller)
            case "tools/list" if not request.params:
                return None, {}
        return None

    # --- how it is answered ---

    async def _answer_alone(self, asked: _Asked, receive: Receive, send: Send) -> None:
        """A client without a session can take its call back by leaving; of the handshake era it wants a stream."""
        is_stream = asked.version in ALIKE
        if asked.tool is None:
            parts = plain.parts(asked.id, self._server.listing(asked.version, asked.caller, asked.id))
            await (_send(send, _STREAM, _EVENT, *parts, _END) if is_stream else _send(send, _JSON, *parts))
            return
        leaving = anyio.CancelScope()
        reply = _Reply(receive, send, _STREAM, leaving)
        status = 200
        try:
            body = plain.answer(asked.id, await self._call(asked.tool, asked, leaving))
        except MCPError as error:
            status = ERROR_CODE_HTTP_STATUS.get(error.error.code, 200)
            body = plain.refusal(asked.id, error)
        finally:
            await reply.end()
        if is_stream or reply.is_stream:
            await reply.event(body)
        else:
            await _send(send, _JSON, body, status=status)

    async def _answer_session(self, asked: _Asked, session: Session, receive: Receive, send: Send) -> None:
        session_id = session.connection.session_id
        assert session_id is not None
        headers = [*_STREAM, (b"mcp-session-id", session_id.encode())]
        if asked.tool is None:
            self._server.announcer.listed(session.connection)
            listing = self._server.listing(asked.version, asked.caller, asked.id)
            await _send(send, headers, _EVENT, *plain.parts(asked.id, listing), _END)
            return
        key, id = call_key(session_id, asked.caller, asked.id), str(asked.id)
        self._gate.calls.add(key)
        session.calls[id] = call = anyio.CancelScope()
        reply = _Reply(receive, send, headers)
        try:
            body = plain.answer(asked.id, await self._call(asked.tool, asked, call))
        except MCPError as error:
            body = plain.refusal(asked.id, error)
        finally:
            self._gate.calls.discard(key)
            session.calls.pop(id, None)
            await reply.end()
        await reply.event(b"" if session.ended else body)

    async def _call(self, tool: Tool, asked: _Asked, running: anyio.CancelScope) -> bytes:
        inbound = Inbound(asked.caller, fit(asked.id), asked.head.items())
        return await self._server.call_plain(tool, asked.arguments, inbound, asked.version, running)


class _Reply:
    """A stream of events that is opened when the first one is sent, or after a while, to say that all is well.

    ``leaving`` is cancelled when the client leaves.
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
        self._timer = asyncio.get_running_loop().call_later(_SOON, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._attend())

    async def _attend(self) -> None:
        while True:
            with anyio.move_on_after(_QUIET):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
                if self._leaving:
                    self._leaving.cancel()
                return
            await self._open()
            await self._send({"type": "http.response.body", "body": b": ping\r\n\r\n", "more_body": True})

    async def _open(self) -> None:
        if not self.is_stream:
            self.is_stream = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})

    async def end(self) -> None:
        """Look no longer after the client; what is sent then comes from the caller alone."""
        self._timer.cancel()
        if self._task:
            self._task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([self._task])

    async def event(self, body: bytes) -> None:
        """The last event, and the end; without ``body`` the end alone."""
        await self._open()
        await self._send(
            {"type": "http.response.body", "body": b"".join([_EVENT, body, _END]) if body else b""}
        )


async def _send(send: Send, headers: list[tuple[bytes, bytes]], *parts: bytes, status: int = 200) -> None:
    """A reply that is there as a whole."""
    length = (b"content-length", b"%d" % sum(map(len, parts)))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    for number, part in enumerate(parts, 1):
        await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})
