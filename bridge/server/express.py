"""The express lane: plain tools/call and tools/list over HTTP, from bytes to bytes, in front of the SDK.

Plain is what clients send nearly always: one whole message in its simplest shape, with headers that agree
with it, to a tool that is there. That is answered as the SDK would answer it, from the same snapshot and
through the same ``ToolServer.call``. Everything else, and everything that is wrong in any way, goes to the
SDK untouched. A session's life stays in the SDK, too: it sees one request a minute of those who call.
"""

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import anyio
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp_types import methods
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.codec import NotJson, decode, encode
from bridge.server.announce import Session
from bridge.server.gate import Again, Gate
from bridge.server.handlers import ToolServer
from bridge.spec import Json
from bridge.tool.compiler import Tool

_SOON: Final = 0.05
"""Seconds after which it is watched whether the client is still there: most calls have ended by then."""
_QUIET: Final = 15.0
"""Seconds after which a client that waits is sent a sign of life, as by the SDK."""
_REFRESH: Final = 60.0
"""Seconds after which a session's next call goes to the SDK, which ends sessions that it does not see."""
_LONGEST: Final = 300.0
"""Seconds that a call of a session may take here; the SDK would wait for a longer one."""
_ALIKE: Final = frozenset({"2025-06-18", "2025-11-25"})
"""Handshake versions in which results look as we make them; of older ones the SDK leaves parts out."""

_Head: TypeAlias = Mapping[bytes, bytes]
_MODERN: Final = {version.encode(): version for version in MODERN_PROTOCOL_VERSIONS}
_HANDSHAKE: Final = {version.encode() for version in HANDSHAKE_PROTOCOL_VERSIONS}
_KEYS: Final = ({"jsonrpc", "id", "method", "params"}, {"jsonrpc", "id", "method"})
_STREAM: Final = [
    (b"cache-control", b"no-cache, no-transform"),
    (b"connection", b"keep-alive"),
    (b"content-type", b"text/event-stream"),
    (b"x-accel-buffering", b"no"),
]


class _Asked(NamedTuple):
    """A plain request; no tool is a wish for the list of them, no session is the modern era."""

    id: int | str
    version: str
    session: Session | None
    tool: Tool | None
    arguments: dict[str, Json]


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
                if asked := self._asked(head, first):
                    await self._answer(asked, receive, send)
                    return
        await self._app(scope, receive, send)

    # --- what is plain ---

    def _may_be_plain(self, head: _Head) -> bool:
        """By its headers alone."""
        if self._gate.stopping.is_set():
            return False
        judged = (head.get(b"host"), head.get(b"origin"), head.get(b"content-type"), head.get(b"accept"))
        return self._admits(*judged)

    def _is_admitted(self, *judged: bytes | None) -> bool:
        names = (b"host", b"origin", b"content-type", b"accept")
        raw = [(name, value) for name, value in zip(names, judged, strict=True) if value is not None]
        accepted = {part.partition(b";")[0].strip() for part in (judged[3] or b"").split(b",")}
        return (
            all(value == value.strip() for _, value in raw)
            and accepted >= {b"application/json", b"text/event-stream"}
            and self._gate.refusal("POST", Headers(raw=raw)) is None
        )

    def _asked(self, head: _Head, first: Message) -> _Asked | None:
        body = first.get("body", b"")
        if first.get("more_body") or not body.startswith(b"{") or b"\\ud" in body or b"\\uD" in body:
            return None
        try:
            frame = decode(body)
        except NotJson:
            return None
        if type(frame) is not dict or frame.keys() not in _KEYS or frame["jsonrpc"] != "2.0":
            return None
        id, method, params = frame["id"], frame["method"], frame.get("params", {})
        if type(id) not in (int, str) or type(method) is not str or type(params) is not dict:
            return None
        version = _MODERN.get(head.get(b"mcp-protocol-version", b""))
        if version:
            return self._modern(head, version, id, method, params)
        return self._of_session(head, id, method, params)

    def _modern(
        self, head: _Head, version: str, id: int | str, method: str, params: dict[str, Json]
    ) -> _Asked | None:
        meta = params.pop("_meta", None)
        if (
            b"mcp-session-id" in head
            or head.get(b"mcp-method") != method.encode()
            or any(name.startswith(b"mcp-param-") for name in head)
            or type(meta) is not dict
            or not _is_plain_envelope(version, encode(meta))
        ):
            return None
        if method == "tools/list":
            return _Asked(id, version, None, None, {}) if not params and b"mcp-name" not in head else None
        asked = self._call(id, version, None, method, params)
        return asked if asked and head.get(b"mcp-name") == params["name"].encode() else None

    def _of_session(self, head: _Head, id: int | str, method: str, params: dict[str, Json]) -> _Asked | None:
        key = head.get(b"mcp-session-id", b"").decode("latin-1")
        session = self._server.announcer.session(key)
        if (
            session is None
            or head.get(b"mcp-protocol-version", b"2025-11-25") not in _HANDSHAKE
            or session.connection.protocol_version not in _ALIKE
            or anyio.current_time() - session.seen > _REFRESH
            or (key, str(id)) in self._gate.calls
        ):
            return None
        version = session.connection.protocol_version
        if method == "tools/list":
            return _Asked(id, version, session, None, {}) if not params else None
        return self._call(id, version, session, method, params)

    def _call(
        self, id: int | str, version: str, session: Session | None, method: str, params: dict[str, Json]
    ) -> _Asked | None:
        name, arguments = params.get("name"), params.get("arguments", {})
        if method != "tools/call" or not params.keys() <= {"name", "arguments"}:
            return None
        if type(name) is not str or type(arguments) is not dict:
            return None
        tool = self._server.find(name)
        if tool is None or not tool.is_plain or (session and tool.upstream.spec.timeout.total > _LONGEST):
            return None
        return _Asked(id, version, session, tool, arguments)

    # --- how it is answered ---

    async def _answer(self, asked: _Asked, receive: Receive, send: Send) -> None:
        if asked.session:
            await self._answer_session(asked, asked.session, receive, send)
            return
        if asked.tool is None:
            await _send_json(send, 200, _frame(asked.id, b"result", self._server.listing(asked.version)))
            return
        leaving = anyio.CancelScope()
        reply = _Reply(receive, send, _STREAM, leaving)
        status = 200
        try:
            result = await self._server.call(asked.tool, asked.arguments, asked.id, leaving)
            body = _frame(asked.id, b"result", self._server.stamped(result))
        except MCPError as error:
            status = ERROR_CODE_HTTP_STATUS.get(error.error.code, 200)
            body = _frame(asked.id, b"error", _error(error))
        finally:
            await reply.end()
        if reply.is_stream:
            await reply.event(body)
        else:
            await _send_json(send, status, body)

    async def _answer_session(self, asked: _Asked, session: Session, receive: Receive, send: Send) -> None:
        session_id = session.connection.session_id
        assert session_id is not None
        headers = [*_STREAM, (b"mcp-session-id", session_id.encode())]
        if asked.tool is None:
            self._server.announcer.listed(session.connection)
            listing = self._server.listing(asked.version)
            await _Reply.at_once(send, headers, _frame(asked.id, b"result", listing))
            return
        key = (session_id, str(asked.id))
        self._gate.calls.add(key)
        session.calls[key[1]] = call = anyio.CancelScope()
        reply = _Reply(receive, send, headers)
        try:
            result = await self._server.call(asked.tool, asked.arguments, asked.id, call)
            body = _frame(asked.id, b"result", encode(_of_handshake(result)))
        except MCPError as error:
            body = _frame(asked.id, b"error", _error(error))
        finally:
            self._gate.calls.discard(key)
            session.calls.pop(key[1], None)
            await reply.end()
        await reply.event(b"" if session.ended else body)


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
        await self._send({"type": "http.response.body", "body": _event(body) if body else b""})

    @staticmethod
    async def at_once(send: Send, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": _event(body)})


def _event(body: bytes) -> bytes:
    return b"event: message\r\ndata: " + body + b"\r\n\r\n"


async def _send_json(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _frame(id: int | str, kind: bytes, body: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":' + encode(id) + b',"' + kind + b'":' + body + b"}"


def _error(error: MCPError) -> bytes:
    return encode(error.error.model_dump(mode="json", exclude_none=True))


def _of_handshake(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "resultType"}


@lru_cache(maxsize=256)
def _is_plain_envelope(version: str, meta: bytes) -> bool:
    """Whether a request's ``_meta`` says who calls and by which version, rightly, and nothing else."""
    envelope = decode(meta)
    prefix = "io.modelcontextprotocol/"
    needed = {f"{prefix}protocolVersion", f"{prefix}clientCapabilities"}
    if not needed <= envelope.keys() <= needed | {f"{prefix}clientInfo"}:
        return False
    if envelope[f"{prefix}protocolVersion"] != version:
        return False
    try:
        methods.validate_client_request("tools/call", version, {"name": "x", "_meta": envelope})
    except ValidationError:
        return False
    return True
