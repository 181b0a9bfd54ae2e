"""Checks requests to the MCP endpoint before the SDK gets them, and tracks what the SDK does not report.

The first check that fails answers the request:

| Check | Answer | Where |
|---|---|---|
| Host and Origin name this server | 400, 421, 403 | ``check_host_and_origin`` |
| media type; the server is not stopping; Content-Length | 415, 503, 413 | ``check_headers`` |
| the session was opened at the same path (view) | 404 | ``__call__`` |
| size of the whole body | 413 | the SDK's ``RequestBodyLimitMiddleware`` |
| memory for large bodies; time until they are parsed | 429, 503 | ``LargeBodies`` |
| the body is one JSON-RPC message | 400 | ``jsonrpc.parse`` |
| rate limit; size of the arguments | 429, 503, or a result with ``isError`` | ``_parse`` |
| scopes of the tool, if step-up is on | 403 | ``StepUp`` |
| quota of streams, quota of sessions | 429, 503 | ``_answer``, ``_serve`` |
| no other request in flight has the id | 409 | ``_serve`` |

A GET opens a session's stream. It passes the checks of headers and views, then the quota of streams.

The SDK is not enough in two places. Its Host check takes ``localhost:x@evil`` for localhost with a port. It answers some
invalid bodies with a dump of pydantic, and others not at all.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from ipaddress import ip_address
from typing import Final, TypeAlias

import anyio
from mcp.server.transport_security import RequestBodyLimitMiddleware
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    JSONRPCMessage,
    JSONRPCRequest,
    RequestId,
)
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.caller import Caller
from bridge.codec import encode, quote
from bridge.errors import InvalidCall, TooMany
from bridge.http.large_bodies import LargeBodies, is_large
from bridge.http.rejection_log import RejectionLog
from bridge.protocol.caller_context import caller_in
from bridge.protocol.capabilities import encode_answer
from bridge.protocol.handlers import ToolServer
from bridge.protocol.jsonrpc import InvalidMessage, is_call, parse
from bridge.protocol.large_arguments import LARGE_ARGUMENTS, LargeArguments
from bridge.protocol.list_splicer import TOOL_LIST_SPLICER, ToolListSplicer
from bridge.protocol.notifications import OPENING, SESSION_HEADER
from bridge.spec import Json

RATE_LIMIT_ERROR: Final = "restbridge.over-rate"
"""Key of the ASGI scope: the ``TooMany`` of a request over its caller's rate limit."""
_LOGGED_HEADERS: Final = ("host", "origin", "content-type")

LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})

# localhost, example.com.:8443, [::1]:80, but not localhost:x@evil
_HOST: Final = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_ORIGIN: Final = re.compile(rf"https?://{_HOST.pattern}")


class ErrorReply(JSONResponse):
    """A reply with a JSON-RPC error, whose ``text`` clients show."""

    def __init__(self, status: int, text: str, code: int, id: RequestId | None) -> None:
        super().__init__({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text}}, status)
        self.text = text


StepUpCheck: TypeAlias = Callable[[JSONRPCRequest, Scope], ErrorReply | None]
"""Returns the challenge if the caller needs a token with more scopes, else None."""


class RequestGuard:
    """An ASGI endpoint around the SDK's for ``server``. Host and Origin must name one of ``hosts``.

    With ``any_address``, Host may be any literal IP address. If the server keeps no sessions, GET and DELETE are refused.
    ``max_body`` is in bytes.
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
        self.stopping = anyio.Event()
        self._app = app
        self.max_body = server.limits.config.body
        self._post = RequestBodyLimitMiddleware(self._serve_body, self.max_body)
        self._server = server
        self._announcer = server.announcer
        self._quotas = server.limits
        self.rejections = rejections
        self._hosts = hosts
        self._any_address = any_address
        self._step_up = step_up
        self._large_bodies = LargeBodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"] = strip_values(scope["headers"])
        headers = Headers(scope=scope)
        if refused := self.check_headers(scope["method"], headers):
            if not self.stopping.is_set():
                self.rejections.report(scope, refused.status_code, rejection_reason(refused, headers))
            await refused(scope, receive, send)
        elif self._announcer.has_other_view(headers.get(SESSION_HEADER, ""), caller_in(scope)):
            # As the SDK answers for an unknown id, so that a caller learns nothing of other views.
            await error_reply(404, "Session not found")(scope, receive, send)
        elif scope["method"] == "POST":
            await self._post(scope, receive, send)
        elif not self._server.keeps_sessions:
            # The SDK would open a stream and never send anything on it.
            only_post = error_reply(405, "This server keeps no sessions; use POST")
            only_post.headers["allow"] = "POST"
            await only_post(scope, receive, send)
        elif scope["method"] == "GET" and (session := headers.get(SESSION_HEADER)):
            try:
                with self._counted_stream(caller_in(scope)):
                    await self._serve_stream(session, scope, receive, send)
            except TooMany as error:
                await self.too_many_reply(error, scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def check_headers(self, method: str, headers: Headers) -> ErrorReply | None:
        """The reply that refuses a request because of its headers, or None."""
        if refused := self.check_host_and_origin(headers):
            return refused
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and media_type != "application/json":
            return error_reply(415, "Content-Type must be application/json")
        if self.stopping.is_set() and method != "DELETE":  # a client may still end its session
            stopping = retry_later_reply(503, "The server is stopping", 1)
            stopping.headers["connection"] = "close"  # a new connection may reach another server
            return stopping
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.max_body:
            return error_reply(413, f"The request body is larger than {self.max_body} bytes")
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

    async def _serve_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a POST. The SDK's ``RequestBodyLimitMiddleware`` has joined its body to one ASGI message."""
        first = await receive()
        if first["type"] != "http.request" or first["more_body"]:
            return  # the client went away
        if not is_large(first["body"]):
            await self._answer(first, scope, receive, send)
            return
        try:
            # A large body over the rate is not parsed, not even for the id of its request.
            if error := rate_limit_error(scope):
                raise error
            large = self._large_bodies.hold(len(first["body"]), caller_in(scope))
        except TooMany as error:
            await self.too_many_reply(error, scope)(scope, receive, send)
            return
        try:
            await self._answer(first, scope, receive, send, large)
        finally:
            large.end_request()

    async def _answer(
        self, first: Message, scope: Scope, receive: Receive, send: Send, large: LargeArguments | None = None
    ) -> None:
        try:
            message, problem = await self._parse(first["body"], scope)
        except InvalidMessage as refused:
            self.rejections.report(scope, 400, refused.kind)
            await error_reply(400, str(refused), refused.code, refused.id)(scope, receive, send)
            return
        except TooMany as error:
            await self.too_many_reply(error, scope)(scope, receive, send)
            return
        if problem:
            await self._refusal_reply(message, problem, scope)(scope, receive, send)
            return
        if is_call(message) and self._step_up and (challenge := self._step_up(message, scope)):
            self.rejections.report(scope, challenge.status_code, challenge.text)
            await challenge(scope, receive, send)
            return
        if is_call(message) and large:
            first = self._without_arguments(message, first, scope, large)
        if isinstance(message, JSONRPCRequest) and message.method == "tools/list":
            scope[TOOL_LIST_SPLICER] = splicer = ToolListSplicer(send)
            send = splicer.send
        replayed = ReplayedBody(first, receive)
        try:
            is_stream = isinstance(message, JSONRPCRequest) and message.method == "subscriptions/listen"
            with self._counted_stream(caller_in(scope)) if is_stream else nullcontext():
                await self._serve(message, scope, replayed, send)
        except TooMany as error:
            id = message.id if isinstance(message, JSONRPCRequest) else None
            await self.too_many_reply(error, scope, id)(scope, receive, send)
        finally:
            replayed.end()
            scope.pop(TOOL_LIST_SPLICER, None)

    def _without_arguments(
        self, message: JSONRPCRequest, first: Message, scope: Scope, large: LargeArguments
    ) -> Message:
        """The ASGI message of a large tools/call without its arguments, for the SDK.

        The SDK would parse them again, in the event loop. Arguments that headers may mirror stay. Arguments that are
        not an object become an empty list, which the SDK refuses in the same way.
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
        frame = {
            "jsonrpc": "2.0",
            "id": message.id,
            "method": message.method,
            "params": {**params, "arguments": shown},
        }
        return {**first, "body": encode(frame)}

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

    async def _serve(self, message: JSONRPCMessage, scope: Scope, receive: Receive, send: Send) -> None:
        session_id, caller = Headers(scope=scope).get(SESSION_HEADER), caller_in(scope)
        match message:
            case JSONRPCRequest(method="initialize") if self._server.keeps_sessions and session_id is None:
                self._quotas.check("sessions", caller)
                await self._open_session(caller, scope, receive, send)
                return
        session = self._announcer.session(session_id or "", caller)
        if session is None:  # modern, or of an unknown session, which the SDK refuses
            await self._app(scope, receive, send)
            return
        try:
            session.in_flight.apply(message)
        except InvalidMessage as refused:
            self.rejections.report(scope, 409, refused.kind)
            await error_reply(409, str(refused), refused.code, refused.id)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            if isinstance(message, JSONRPCRequest):
                session.in_flight.remove(message.id)

    async def _open_session(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the session before the SDK has opened it: other requests come in between.

        ``Announcer`` removes ``OPENING`` from the scope when it takes over the count.
        """
        self._quotas.add("sessions", caller, 1)
        scope[OPENING] = True
        try:
            await self._app(scope, receive, send)
        finally:
            if scope.pop(OPENING, None):
                self._quotas.add("sessions", caller, -1)

    def too_many_reply(self, error: TooMany, scope: Scope, id: RequestId | None = None) -> Response:
        """429 if the caller used up its own quota (RFC 6585 4), 503 if all did together (RFC 9110 15.6.4)."""
        status = 503 if error.is_total else 429
        self.rejections.report(scope, status, str(error))
        return retry_later_reply(status, str(error), error.retry_after, id)

    @contextmanager
    def _counted_stream(self, caller: Caller) -> Iterator[None]:
        self._quotas.check("streams", caller)
        self._quotas.add("streams", caller, 1)
        try:
            yield
        finally:
            self._quotas.add("streams", caller, -1)

    async def _serve_stream(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a session's GET stream until the client leaves or the server stops."""
        is_open = False
        # Without an event store the SDK fails on Last-Event-ID. No event is replayed: only new ones are sent.
        scope["headers"] = [field for field in scope["headers"] if field[0] != b"last-event-id"]

        async def send_and_watch(message: Message) -> None:
            nonlocal is_open
            await send(message)
            if message["type"] == "http.response.start" and message["status"] == 200:
                is_open = True
                self._announcer.stream_opened(session)

        try:
            # When the server stops, the SDK sees a disconnect and ends the stream at once.
            await self._app(scope, lambda: receive_until(self.stopping, receive), send_and_watch)
        finally:
            if is_open:
                self._announcer.stream_closed(session)
        # For the SDK the client has left, so it has not ended the response.
        if is_open and self.stopping.is_set():
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def receive_until(ended: anyio.Event, receive: Receive) -> Message:
    """The next ASGI message, or ``http.disconnect`` as soon as ``ended`` is set."""
    message: Message = {"type": "http.disconnect"}

    async def leave() -> None:
        await ended.wait()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave)
        message = await receive()  # if ``leave`` cancels this, the default is returned
        tasks.cancel_scope.cancel()
    return message


def strip_values(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers without the whitespace around values (RFC 9110 5.5), which httptools keeps."""
    return [(name, value.strip(b" \t")) for name, value in headers]


def rate_limit_error(scope: Scope) -> TooMany | None:
    """The error that ``RateLimitMiddleware`` has left in the scope, if the caller is over its rate limit."""
    error: TooMany | None = scope.get(RATE_LIMIT_ERROR)
    return error


def rejection_reason(refused: ErrorReply, headers: Headers) -> str:
    """One log line: why a request was refused, and the headers that were checked."""
    checked = " ".join(f"{name}={quote(headers[name])}" for name in _LOGGED_HEADERS if name in headers)
    return f"{refused.text} ({checked})"


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
    """An ASGI ``receive`` that returns ``first`` again. After ``end`` it holds no reference to the request.

    The SDK keeps a session's last request until the next one, with everything that it refers to.
    """

    def __init__(self, first: Message, receive: Receive) -> None:
        self._messages = [first]
        self._receive = receive

    async def __call__(self) -> Message:
        return self._messages.pop() if self._messages else await self._receive()

    def end(self) -> None:
        self._messages.clear()
        self._receive = _disconnected


async def _disconnected() -> Message:
    return {"type": "http.disconnect"}


def error_reply(
    status: int, text: str, code: int = INVALID_REQUEST, id: RequestId | None = None
) -> ErrorReply:
    """An ``ErrorReply``; ``code`` is the JSON-RPC error code."""
    return ErrorReply(status, text, code, id)


def retry_later_reply(status: int, text: str, seconds: int, id: RequestId | None = None) -> ErrorReply:
    """An ``ErrorReply`` with Retry-After (RFC 9110 10.2.3)."""
    reply = error_reply(status, text, INTERNAL_ERROR, id)
    reply.headers["retry-after"] = str(seconds)
    return reply
