"""Serves clients of the handshake era (2024-11-05 to 2025-11-25) through the SDK, without a session in any process.

The SDK's session manager keeps a task and streams for each session. Here each request is a call of ``serve_one``, with what
the session id says of the client (``protocol/session_id.py``):

| Request | Answer |
|---|---|
| POST ``initialize`` | its result, with a new id |
| POST of another request | its result, as an event |
| POST of a notification or an answer | 202; ``notifications/cancelled`` cancels a request |
| GET | a stream (``notification_stream.py``) |
| DELETE | 200; requests of the session in this process are cancelled |

A request without an id is served too: nothing depends on the session.
"""

import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup
from mcp.server.connection import Connection
from mcp.server.runner import serve_one
from mcp.server.streamable_http import check_accept_headers
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data, progress_token_from_params
from mcp.shared.message import MessageMetadata, ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    DEFAULT_NEGOTIATED_VERSION,
    INTERNAL_ERROR,
    ErrorData,
    JSONRPCMessage,
    JSONRPCRequest,
    ProgressToken,
    RequestId,
)
from mcp_types.version import LATEST_HANDSHAKE_VERSION
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bridge.codec import encode, log_safe
from bridge.http.notification_stream import NotificationStreams
from bridge.http.rejection_log import RejectionLog
from bridge.http.replies import error_reply
from bridge.http.reply_stream import ReplyStream, opening_event, send_event
from bridge.protocol.caller_context import caller_in
from bridge.protocol.capabilities import encode_answer
from bridge.protocol.handlers import CANCELLED, ToolServer
from bridge.protocol.in_flight import cancelled_request, client_key
from bridge.protocol.jsonrpc import InvalidMessage
from bridge.protocol.session_id import (
    SESSION_HEADER,
    Session,
    elicitation_modes,
    new_session_id,
    read_session_id,
)

_log = logging.getLogger(__name__)
_REQUEST_CANCELLED: Final = ErrorData(code=CANCELLED, message="Request cancelled")


@dataclass
class _PostContext:
    """The SDK's ``DispatchContext`` of one POST. Notifications are events of its reply."""

    transport: TransportContext
    request_id: RequestId
    message_metadata: MessageMetadata
    progress_token: ProgressToken | None
    reply: ReplyStream | None
    cancel_requested: anyio.Event = field(default_factory=anyio.Event)
    can_send_request: bool = False

    async def send_raw_request(
        self,
        method: str,
        params: Mapping[str, Any] | None,  # noqa: ARG002 - the SDK's protocol
        opts: CallOptions | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        opts: CallOptions | None = None,  # noqa: ARG002
    ) -> None:
        if self.reply:
            frame = {"jsonrpc": "2.0", "method": method, "params": params or {}}
            await self.reply.event(encode(frame))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        if self.progress_token is not None:
            fields = {"progressToken": self.progress_token, "progress": progress}
            more = {"total": total, "message": message}
            shown = {name: value for name, value in more.items() if value is not None}
            await self.notify("notifications/progress", fields | shown)


class Handshake:
    """Serves inside of ``run``. ``RequestGuard`` has checked the requests, and has parsed their bodies."""

    def __init__(self, server: ToolServer, rejections: RejectionLog) -> None:
        self._server = server
        self._rejections = rejections
        self._streams = NotificationStreams(server.announcer)
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        async with self._server.lifespan(self._server) as self._tasks:
            yield

    def stop(self) -> None:
        """End the streams."""
        self._streams.stop()

    async def get_or_delete(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request of a session without a message. Raises ``TooMany``."""
        session_id = Headers(scope=scope).get(SESSION_HEADER, "")
        caller, session = caller_in(scope), read_session_id(session_id)
        if session is None:
            reply: Response = error_reply(400, f"{scope['method']} needs the header Mcp-Session-Id")
        elif scope["method"] == "DELETE":
            self._server.in_flight.end(client_key(caller, session_id))
            reply = Response()
        elif not check_accept_headers(Request(scope))[1]:
            reply = error_reply(406, "The client must accept text/event-stream")
        else:
            with self._server.limits.hold("streams", caller):
                await self._streams.serve(session, scope, receive, send)
            return
        await reply(scope, receive, send)

    async def post(self, message: JSONRPCMessage, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        session_id = headers.get(SESSION_HEADER)
        client = client_key(caller_in(scope), session_id) if session_id else None
        if not isinstance(message, JSONRPCRequest):
            # Nothing depends on other notifications, nor on answers.
            if client and (id := cancelled_request(message)) is not None:
                self._server.in_flight.cancel(client, id)
            await Response(status_code=202)(scope, receive, send)
        elif not all(check_accept_headers(Request(scope))):
            text = "The client must accept application/json and text/event-stream"
            await error_reply(406, text, id=message.id)(scope, receive, send)
        elif message.method == "initialize":
            await self._open_session(message, scope, receive, send)
        elif client is None:
            version = headers.get("mcp-protocol-version", DEFAULT_NEGOTIATED_VERSION)
            reply = ReplyStream(receive, send, leaving=(running := anyio.CancelScope()))
            await self._serve(message, Connection.from_envelope(version, None, {}), reply, running, scope)
        else:
            session = read_session_id(client.session_id)
            assert session, "RequestGuard refuses unknown ids"
            try:
                running = self._server.in_flight.add(client, message.id)
            except InvalidMessage as refused:
                self._rejections.report(scope, 409, refused.kind)
                await error_reply(409, str(refused), refused.code, refused.id)(scope, receive, send)
                return
            reply = ReplyStream(receive, send, opening_event(session.version, message.id))
            connection = Connection.from_envelope(session.version, None, session.capabilities)
            try:
                await self._serve(message, connection, reply, running, scope)
            finally:
                self._server.in_flight.remove(client, message.id)

    async def _open_session(
        self, message: JSONRPCRequest, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer ``initialize``, with the id of the new session."""
        connection = Connection.from_envelope(LATEST_HANDSHAKE_VERSION, None, None)
        result = await self._result(message, connection, None, Request(scope, receive))
        if isinstance(result, ErrorData):
            await send_event(send, _encode(message.id, result))
            return
        # The SDK has checked the params.
        capabilities = (message.params or {})["capabilities"]
        digest = self._server.announcer.digest(caller_in(scope))
        modes = elicitation_modes(capabilities)
        session = Session(connection.protocol_version, modes, digest, int(time.time()))
        await send_event(send, _encode(message.id, result), session_id=new_session_id(session))

    async def _serve(
        self,
        message: JSONRPCRequest,
        connection: Connection,
        reply: ReplyStream,
        running: anyio.CancelScope,
        scope: Scope,
    ) -> None:
        """Answer a request. ``running`` cancels it."""
        result: dict[str, Any] | ErrorData | None = None
        try:
            with running:
                result = await self._result(message, connection, reply, Request(scope))
        finally:
            await reply.end()
        if result is None and reply.is_open:
            result = _REQUEST_CANCELLED
        await reply.answer(b"" if result is None else _encode(message.id, result))

    async def _result(
        self,
        message: JSONRPCRequest,
        connection: Connection,
        reply: ReplyStream | None,
        request: Request,
    ) -> dict[str, Any] | ErrorData:
        assert self._tasks, "run() was not entered"
        context = _PostContext(
            TransportContext(kind="streamable-http", can_send_request=False, headers=request.headers),
            message.id,
            ServerMessageMetadata(request_context=request, can_send_request=False),
            progress_token_from_params(message.params),
            reply,
        )
        try:
            return await serve_one(
                self._server,
                context,
                message.method,
                message.params,
                connection=connection,
                lifespan_state=self._tasks,
            )
        except Exception as problem:  # noqa: BLE001 - the outermost place of a request, as in the SDK
            error = handler_exception_to_error_data(problem)
            if error is None:
                _log.exception("fault: method=%s", log_safe(message.method))
                error = ErrorData(code=INTERNAL_ERROR, message="Internal server error")
            return error


def _encode(id: RequestId, result: dict[str, Any] | ErrorData) -> bytes:
    if isinstance(result, dict):
        return encode_answer(id, encode(result))
    error = result.model_dump(mode="json", exclude_none=True)
    return encode({"jsonrpc": "2.0", "id": id, "error": error})
