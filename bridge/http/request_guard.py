"""Checks requests to the MCP endpoint, and passes them on: those of modern clients to the SDK, others to ``Handshake``.

The first check that fails answers the request:

| Check | Answer | Where |
|---|---|---|
| Host and Origin name this server | 400, 421, 403 | ``check_host_and_origin`` |
| media type; Content-Length; the server is not stopping | 415, 413, 503 | ``check_headers`` |
| the session id is one of ours | 404 | ``__call__`` |
| size of the whole body | 413 | ``_read_body`` |
| memory for large bodies; time until they are parsed | 429, 503 | ``LargeBodies`` |
| the body is one JSON-RPC message | 400 | ``jsonrpc.parse`` |
| rate limit; size of the arguments | 429, 503, or a result with ``isError`` | ``_parse`` |
| scopes of the tool, if step-up is on | 403 | ``StepUp`` |
| quota of streams | 429, 503 | ``Quotas.hold`` |
| the client accepts JSON and events | 406 | ``Handshake`` or the SDK |
| no other request in flight has the id | 409 | ``Handshake`` |

A POST with a session id is refused with status 200 and a JSON-RPC error, unless the status is 401, 403 or 404. For other
statuses, many clients take the whole server for broken, and never call again (``ErrorReply``).

A GET opens a stream of a session. It passes the checks of headers, then the quota of streams.

The SDK is not enough in two places. Its Host check takes ``localhost:x@evil`` for localhost with a port. It answers some
invalid bodies with a dump of pydantic, and others not at all.
"""

import re
from collections.abc import Callable, Collection, Iterable
from contextlib import nullcontext
from ipaddress import ip_address
from typing import Final, TypeAlias

import anyio
from mcp_types import (
    DEFAULT_NEGOTIATED_VERSION,
    JSONRPCMessage,
    JSONRPCRequest,
    RequestId,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.codec import encode
from bridge.errors import InvalidCall, TooMany
from bridge.http.handshake import Handshake
from bridge.http.large_bodies import LargeBodies, is_large
from bridge.http.rejection_log import RejectionLog
from bridge.http.replies import ErrorReply, error_reply, rejection_reason, retry_later_reply, stopping_reply
from bridge.http.reply_stream import EarlyHeaders
from bridge.protocol.caller_context import caller_in
from bridge.protocol.capabilities import encode_answer
from bridge.protocol.handlers import ToolServer
from bridge.protocol.jsonrpc import InvalidMessage, is_call, parse
from bridge.protocol.large_arguments import LARGE_ARGUMENTS, LargeArguments
from bridge.protocol.list_splicer import TOOL_LIST_SPLICER, ToolListSplicer
from bridge.protocol.session_id import SESSION_HEADER, read_session_id
from bridge.spec import Json

RATE_LIMIT_ERROR: Final = "restbridge.over-rate"
"""Key of the ASGI scope: the ``TooMany`` of a request over its caller's rate limit."""
LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})

# localhost, example.com.:8443, [::1]:80, but not localhost:x@evil
_HOST: Final = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_ORIGIN: Final = re.compile(rf"https?://{_HOST.pattern}")


StepUpCheck: TypeAlias = Callable[[JSONRPCRequest, Scope], ErrorReply | None]
"""Returns the challenge if the caller needs a token with more scopes, else None."""


class RequestGuard:
    """An ASGI endpoint in front of the SDK's ``app``. Host and Origin must name one of ``hosts``.

    With ``any_address``, Host may be any literal IP address. ``max_body`` is in bytes.
    """

    def __init__(
        self,
        app: ASGIApp,
        server: ToolServer,
        rejections: RejectionLog,
        hosts: Collection[str],
        *,
        any_address: bool = False,
        step_up: StepUpCheck | None = None,
    ) -> None:
        self.is_stopping = False
        self.handshake = Handshake(server, rejections)
        self._app = app
        self.max_body = server.limits.config.body
        self._server = server
        self._quotas = server.limits
        self.rejections = rejections
        self._hosts = hosts
        self._any_address = any_address
        self._step_up = step_up
        self._large_bodies = LargeBodies()

    def stop(self) -> None:
        """Refuse all further requests."""
        self.is_stopping = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"] = strip_values(scope["headers"])
        headers, method = Headers(scope=scope), scope["method"]
        session_id = headers.get(SESSION_HEADER)
        if refused := self.check_headers(method, headers):
            # The server stops often; that is no fault of a client.
            if not self.is_stopping:
                self.rejections.report(scope, refused.status_code, rejection_reason(refused, headers))
            await refused(scope, receive, send)
        elif not _is_handshake_era(headers) or method not in ("POST", "GET", "DELETE"):
            await (self._serve_post if method == "POST" else self._app)(scope, receive, send)
        elif session_id is not None and read_session_id(session_id) is None:
            await error_reply(404, "Session not found")(scope, receive, send)
        elif method == "POST":
            await self._serve_post(scope, receive, send)
        else:
            try:
                await self.handshake.get_or_delete(scope, receive, send)
            except TooMany as error:
                await self.too_many_reply(error, scope)(scope, receive, send)

    def check_headers(self, method: str, headers: Headers) -> ErrorReply | None:
        """The reply that refuses a request because of its headers, or None."""
        if refused := self.check_host_and_origin(headers):
            return refused
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and media_type != "application/json":
            return error_reply(415, "Content-Type must be application/json")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.max_body:
            return error_reply(413, f"The request body is larger than {self.max_body} bytes")
        # A client may still end its session. A POST of a session is refused with the id of its request.
        if self.is_stopping and method != "DELETE" and not (method == "POST" and SESSION_HEADER in headers):
            return stopping_reply(None)
        return None

    def check_host_and_origin(self, headers: Headers) -> ErrorReply | None:
        """The reply that refuses a request for another server, or from another server's page, or None."""
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            return error_reply(400, "The request needs one Host header")
        if not self._is_own_host(hosts[0]):
            return error_reply(421, "The Host header names another server")
        if any(_host_name(_ORIGIN, origin) not in self._hosts for origin in headers.getlist("origin")):
            return error_reply(403, "This Origin may not call this server")
        return None

    def _is_own_host(self, host: str) -> bool:
        name = _host_name(_HOST, host)
        return name in self._hosts or (self._any_address and _is_address(name))

    async def _serve_post(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await _read_body(receive, self.max_body)
        except ClientDisconnect:
            return
        if body is None:
            refused = error_reply(413, f"The request body is larger than {self.max_body} bytes")
            self.rejections.report(scope, refused.status_code, refused.text)
            await refused(scope, receive, send)
            return
        if not is_large(body):
            await self._answer(body, scope, receive, send)
            return
        try:
            # A large body over the rate is not parsed, not even for the id of its request.
            if error := rate_limit_error(scope):
                raise error
            large = self._large_bodies.hold(len(body), caller_in(scope))
        except TooMany as error:
            await self.too_many_reply(error, scope)(scope, receive, send)
            return
        try:
            await self._answer(body, scope, receive, send, large)
        finally:
            large.end()

    async def _answer(
        self, body: bytes, scope: Scope, receive: Receive, send: Send, large: LargeArguments | None = None
    ) -> None:
        try:
            message, problem = await self._parse(body, scope)
        except InvalidMessage as refused:
            self.rejections.report(scope, 400, refused.kind)
            await error_reply(400, str(refused), refused.code, refused.id)(scope, receive, send)
            return
        except TooMany as error:
            await self.too_many_reply(error, scope)(scope, receive, send)
            return
        id = message.id if isinstance(message, JSONRPCRequest) else None
        if self.is_stopping:
            await stopping_reply(id)(scope, receive, send)
            return
        if problem:
            await self._refusal_reply(message, problem, scope)(scope, receive, send)
            return
        if is_call(message) and self._step_up and (challenge := self._step_up(message, scope)):
            self.rejections.report(scope, challenge.status_code, challenge.text)
            await challenge(scope, receive, send)
            return
        if is_call(message) and large:
            message = self._without_arguments(message, scope, large)
            body = encode(message.model_dump(exclude_unset=True))
        if isinstance(message, JSONRPCRequest) and message.method == "tools/list":
            scope[TOOL_LIST_SPLICER] = splicer = ToolListSplicer(send)
            send = splicer.send
        try:
            if _is_handshake_era(Headers(scope=scope)):
                await self.handshake.post(message, scope, receive, send)
            else:
                await self._serve_modern(message, body, scope, receive, send)
        except TooMany as error:
            await self.too_many_reply(error, scope, id)(scope, receive, send)

    async def _serve_modern(
        self, message: JSONRPCMessage, body: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        is_stream = isinstance(message, JSONRPCRequest) and message.method == "subscriptions/listen"
        replayed = ReplayedBody({"type": "http.request", "body": body, "more_body": False}, receive)
        early = EarlyHeaders(send)
        try:
            with self._quotas.hold("streams", caller_in(scope)) if is_stream else nullcontext():
                await self._app(scope, replayed, early.send)
        finally:
            await early.end()

    def _without_arguments(
        self, message: JSONRPCRequest, scope: Scope, large: LargeArguments
    ) -> JSONRPCRequest:
        """A large tools/call without its arguments, for the SDK.

        The SDK would check or parse them again, in the event loop. Arguments that headers may mirror stay. Arguments that
        are not an object become an empty list, which the SDK refuses in the same way.
        """
        params = message.params or {}
        name, arguments = params.get("name"), params.get("arguments")
        shown: Json = []
        if isinstance(arguments, dict):
            large.arguments, scope[LARGE_ARGUMENTS] = arguments, large
            shown = (
                self._server.mirrored_arguments(name, arguments, caller_in(scope))
                if isinstance(name, str)
                else {}
            )
        elif arguments is None:
            shown = {}
        return message.model_copy(update={"params": {**params, "arguments": shown}})

    async def _parse(self, body: bytes, scope: Scope) -> tuple[JSONRPCMessage, InvalidCall | TooMany | None]:
        """The message in a body, and the error if it must be refused.

        Raises ``InvalidMessage``. Raises ``TooMany`` if a large body is not parsed in time.
        """
        if is_large(body):
            return await self._large_bodies.parse(body, caller_in(scope))
        return parse(body), rate_limit_error(scope)

    def _refusal_reply(
        self, message: JSONRPCMessage, problem: InvalidCall | TooMany, scope: Scope
    ) -> Response:
        """A refused call gets a result, which models read. Other messages get a JSON-RPC error."""
        if is_call(message):
            result = self._server.refusal_result(message, problem, scope)
            return Response(encode_answer(message.id, result), media_type="application/json")
        assert isinstance(problem, TooMany)  # ``InvalidCall`` is about arguments, which only a call has
        return self.too_many_reply(
            problem, scope, message.id if isinstance(message, JSONRPCRequest) else None
        )

    def too_many_reply(self, error: TooMany, scope: Scope, id: RequestId | None = None) -> Response:
        """429 if the caller used up its own quota (RFC 6585 4), 503 if all did together (RFC 9110 15.6.4)."""
        status = 503 if error.is_total else 429
        self.rejections.report(scope, status, str(error))
        return retry_later_reply(status, str(error), error.retry_after, id)


async def receive_until(ended: anyio.Event, receive: Receive) -> Message:
    """The next ASGI message, or ``http.disconnect`` as soon as ``ended`` is set."""
    message: Message = {"type": "http.disconnect"}

    async def read() -> None:
        nonlocal message
        message = await receive()
        tasks.cancel_scope.cancel()

    async def leave() -> None:
        await ended.wait()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        tasks.start_soon(leave)
    return message


async def _read_body(receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None if it is larger than ``limit``. Raises ``ClientDisconnect``."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        size += len(message["body"])
        if size > limit:
            return None
        parts.append(message["body"])
        more = message["more_body"]
    return b"".join(parts)


def _is_handshake_era(headers: Headers) -> bool:
    """Whether a request is not modern, by its header. The SDK answers unknown versions as a modern server."""
    return headers.get("mcp-protocol-version", DEFAULT_NEGOTIATED_VERSION) in HANDSHAKE_PROTOCOL_VERSIONS


def strip_values(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers without the whitespace around values (RFC 9110 5.5), which httptools keeps."""
    return [(name, value.strip(b" \t")) for name, value in headers]


def rate_limit_error(scope: Scope) -> TooMany | None:
    """The error that ``RateLimitMiddleware`` has left in the scope, if the caller is over its rate limit."""
    error: TooMany | None = scope.get(RATE_LIMIT_ERROR)
    return error


def _host_name(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.fullmatch(text.lower())
    return match["name"].removesuffix(".") if match else ""  # example.com. is the same host in DNS


def _is_address(name: str) -> bool:
    """Whether a host is a literal IP address, which DNS rebinding cannot produce."""
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


class ReplayedBody:
    """An ASGI ``receive`` that returns ``first`` again."""

    def __init__(self, first: Message, receive: Receive) -> None:
        self._messages = [first]
        self._receive = receive

    async def __call__(self) -> Message:
        return self._messages.pop() if self._messages else await self._receive()
