"""What an HTTP request passes before the SDK sees it, and what of its life the SDK does not show.

Host and Origin are checked exactly: the SDK's own check takes ``localhost:x@evil`` for a port of
localhost. Bodies are checked for what the SDK answers with a dump of pydantic, or not at all.
"""

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from ipaddress import ip_address
from typing import Final, TypeAlias

import anyio
from mcp.server.transport_security import RequestBodyLimitMiddleware
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    JSONRPCMessage,
    JSONRPCNotification,
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
from bridge.http.rejection_log import Refusals
from bridge.protocol import fast_path as plain
from bridge.protocol.jsonrpc import Refused, is_call, parse
from bridge.protocol.notifications import ARGUMENTS, OPENING, SESSION_HEADER, Announcer, caller_in
from bridge.stdio.framing import MAX_BYTES

RefuseCall: TypeAlias = Callable[[JSONRPCRequest, InvalidCall | TooMany, Scope], bytes]
"""Makes the result of a tools/call that is not made."""

CallKey: TypeAlias = tuple[str, str | None, str | None, str]

_COUNTED: Final = "restbridge.counted"
"""What the scope of a request has that was counted: None, or ``TooMany``."""
_JUDGED: Final = ("host", "origin", "content-type")

LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})

_HOST: Final = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_ORIGIN: Final = re.compile(rf"https?://{_HOST.pattern}")


class ErrorReply(JSONResponse):
    """A reply whose ``text`` clients show, as it is a JSON-RPC error, too."""

    def __init__(self, status: int, text: str, code: int, id: RequestId | None) -> None:
        super().__init__({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text}}, status)
        self.text = text


StepUpCheck: TypeAlias = Callable[[JSONRPCRequest, Scope], ErrorReply | None]
"""What a tools/call is answered whose caller should get another token first, if it is one."""


class Gate:
    """An ASGI endpoint around the SDK's; ``names`` are the hosts as which it may be addressed.

    ``calls`` are those in flight, each as ``call_key`` has it. ``refuse_call`` and ``step_up`` answer calls that are not made.
    ``alone_reads_arguments`` says whether the SDK can do without those of a call. Without ``sessions`` there is nothing
    to get or to delete.
    """

    def __init__(
        self,
        app: ASGIApp,
        announcer: Announcer,
        refusals: Refusals,
        names: Collection[str],
        *,
        any_address: bool,
        refuse_call: RefuseCall,
        alone_reads_arguments: Callable[[str, Caller], bool],
        step_up: StepUpCheck | None = None,
        sessions: bool = True,
        max_body: int = MAX_BYTES,
    ) -> None:
        self.stopping = anyio.Event()
        self.calls: set[CallKey] = set()
        self._app = app
        self.max_body = max_body
        self._post = RequestBodyLimitMiddleware(self._post_whole, max_body)
        self._announcer = announcer
        self._limits = announcer.limits
        self.refusals = refusals
        self._names = names
        self._any_address = any_address
        self._sessions = sessions
        self._refuse_call = refuse_call
        self._alone_reads_arguments = alone_reads_arguments
        self._step_up = step_up
        self._large_bodies = LargeBodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # RFC 9110 5.5: blanks around a value are no part of it; httptools leaves them there.
        scope["headers"] = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        headers = Headers(scope=scope)
        if refused := self.refusal(scope["method"], headers):
            if not self.stopping.is_set():
                self.refusals.tell(scope, refused.status_code, told(refused, headers))
            await refused(scope, receive, send)
        elif self._announcer.is_elsewhere(headers.get(SESSION_HEADER, ""), caller_in(scope)):
            await error_reply(404, "Session not found")(scope, receive, send)
        elif scope["method"] == "POST":
            await self._post(scope, receive, send)
        elif error := self.over_rate(scope):
            await self._too_many(error, scope)(scope, receive, send)
        elif not self._sessions:
            # The SDK would open a stream on which it never says anything.
            only_post = error_reply(405, "Only POST is answered: there are no sessions here")
            only_post.headers["allow"] = "POST"
            await only_post(scope, receive, send)
        elif scope["method"] == "GET" and (session := headers.get(SESSION_HEADER)):
            try:
                with self._one_stream(caller_in(scope)):
                    await self._stream(session, scope, receive, send)
            except TooMany as error:
                await self._too_many(error, scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def refusal(self, method: str, headers: Headers) -> ErrorReply | None:
        """What a request is answered that may not come in."""
        if stranger := self.stranger(headers):
            return stranger
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and media_type != "application/json":
            return error_reply(415, "Content-Type must be application/json")
        if self.stopping.is_set() and method != "DELETE":
            stopping = later_reply(503, "The server is stopping", 1)
            stopping.headers["connection"] = "close"  # the next one may reach a server that does not
            return stopping
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.max_body:
            return error_reply(413, f"The body of a request may have {self.max_body} bytes")
        return None

    def stranger(self, headers: Headers) -> ErrorReply | None:
        """The same for one that means another server, or comes from another one's page."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_here(hosts[0]):
            return error_reply(421, "The Host header names another server")
        if any(_name(_ORIGIN, origin) not in self._names for origin in headers.getlist("origin")):
            return error_reply(403, "This Origin may not call this server")
        return None

    def _is_here(self, host: str) -> bool:
        name = _name(_HOST, host)
        return name in self._names or (self._any_address and _is_address(name))

    async def _post_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One message, whose body is whole: the SDK's limit above has gathered it."""
        first = await receive()
        if first["type"] != "http.request" or first["more_body"]:
            return  # the client went away
        try:
            message, problem = await self._parsed(first["body"], scope)
        except Refused as refused:
            self.refusals.tell(scope, 400, str(refused))
            await error_reply(400, str(refused), refused.code, refused.id)(scope, receive, send)
            return
        except TooMany as error:
            await self._too_many(error, scope)(scope, receive, send)
            return
        if problem:
            await self._refused(message, problem, scope)(scope, receive, send)
            return
        if is_call(message) and self._step_up and (challenge := self._step_up(message, scope)):
            self.refusals.tell(scope, challenge.status_code, challenge.text)
            await challenge(scope, receive, send)
            return
        if is_call(message) and is_large(first["body"]):
            first = self._without_arguments(message, first, scope)
        again = Again(first, receive)
        try:
            is_stream = isinstance(message, JSONRPCRequest) and message.method == "subscriptions/listen"
            with self._one_stream(caller_in(scope)) if is_stream else nullcontext():
                await self._serve(message, scope, again, send)
        except TooMany as error:
            id = message.id if isinstance(message, JSONRPCRequest) else None
            await self._too_many(error, scope, id)(scope, receive, send)
        finally:
            again.end()
            scope.pop(ARGUMENTS, None)

    def _without_arguments(self, message: JSONRPCRequest, first: Message, scope: Scope) -> Message:
        """A large tools/call as the SDK has to see it: it would parse the arguments again, in the event loop."""
        params = message.params or {}
        name, arguments = params.get("name"), params.get("arguments")
        if not (
            isinstance(name, str)
            and isinstance(arguments, dict)
            and self._alone_reads_arguments(name, caller_in(scope))
        ):
            return first
        scope[ARGUMENTS] = arguments
        frame = {
            "jsonrpc": "2.0",
            "id": message.id,
            "method": message.method,
            "params": {**params, "arguments": {}},
        }
        return {**first, "body": encode(frame)}

    def over_rate(self, scope: Scope) -> TooMany | None:
        """Count a request, once; what is wrong if its caller sends too many."""
        if _COUNTED not in scope:
            scope[_COUNTED] = None
            try:
                self._limits.count_request(caller_in(scope))
            except TooMany as error:
                scope[_COUNTED] = error
        over_rate: TooMany | None = scope[_COUNTED]
        return over_rate

    async def _parsed(self, body: bytes, scope: Scope) -> tuple[JSONRPCMessage, InvalidCall | TooMany | None]:
        """The message in a body, and why it is not served, if it is not.

        Raises ``Refused`` where there is none, and ``TooMany`` where that is known before anything large is parsed.
        """
        over_rate = self.over_rate(scope)
        if not is_large(body):
            return parse(body), over_rate
        if over_rate:
            raise over_rate
        return await self._large_bodies.parse(body, caller_in(scope))

    def _refused(self, message: JSONRPCMessage, problem: InvalidCall | TooMany, scope: Scope) -> Response:
        """A call is refused with a result, which models read; anything else with an error."""
        if is_call(message):
            result = self._refuse_call(message, problem, scope)
            return Response(plain.answer(message.id, result), media_type="application/json")
        assert isinstance(problem, TooMany)
        return self._too_many(problem, scope, message.id if isinstance(message, JSONRPCRequest) else None)

    async def _serve(self, message: JSONRPCMessage, scope: Scope, receive: Receive, send: Send) -> None:
        session, caller = Headers(scope=scope).get(SESSION_HEADER), caller_in(scope)
        match message:
            case JSONRPCRequest(method="initialize") if self._sessions and session is None:
                self._limits.check("sessions", caller)
                await self._open(caller, scope, receive, send)
                return
            case JSONRPCNotification(method="notifications/cancelled", params={"requestId": id}) if session:
                self._announcer.cancel(session, caller, id)  # what the SDK does not know of
        if session is None or not isinstance(message, JSONRPCRequest):
            await self._app(scope, receive, send)
        elif (call := call_key(session, caller, message.id)) in self.calls:
            # The SDK would give the answer of the first to the second, and none to the first.
            text = "A request with this id is still in flight"
            self.refusals.tell(scope, 409, text)
            await error_reply(409, text, INVALID_REQUEST, message.id)(scope, receive, send)
        else:
            self.calls.add(call)
            try:
                await self._app(scope, receive, send)
            finally:
                self.calls.discard(call)

    async def _open(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        """A session, which counts from now on: others come before the SDK has made it."""
        self._limits.add("sessions", caller, 1)
        scope[OPENING] = True
        try:
            await self._app(scope, receive, send)
        finally:
            if scope.pop(OPENING, None):
                self._limits.add("sessions", caller, -1)

    def _too_many(self, error: TooMany, scope: Scope, id: RequestId | None = None) -> Response:
        """RFC 6585 4; of all callers together RFC 9110 15.6.4."""
        status = 503 if error.in_all else 429
        self.refusals.tell(scope, status, str(error))
        return later_reply(status, str(error), error.retry_after, id)

    @contextmanager
    def _one_stream(self, caller: Caller) -> Iterator[None]:
        self._limits.check("streams", caller)
        self._limits.add("streams", caller, 1)
        try:
            yield
        finally:
            self._limits.add("streams", caller, -1)

    async def _stream(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        """A handshake session's GET stream: the announcer learns when it is open; stopping ends it."""
        opened = False
        # The SDK fails on it without an event store. Nothing is replayed: the stream begins with what comes next.
        scope["headers"] = [field for field in scope["headers"] if field[0] != b"last-event-id"]

        async def watched(message: Message) -> None:
            nonlocal opened
            await send(message)
            if message["type"] == "http.response.start" and message["status"] == 200:
                opened = True
                self._announcer.stream_opened(session)

        try:
            # To the SDK a server that stops looks like a client that leaves: its stream ends at once.
            await self._app(scope, lambda: receive_until(self.stopping, receive), watched)
        finally:
            if opened:
                self._announcer.stream_closed(session)
        if opened and self.stopping.is_set():
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def receive_until(ended: anyio.Event, receive: Receive) -> Message:
    """What comes next; once something has ended, that the client has left."""
    message: Message = {"type": "http.disconnect"}

    async def leave() -> None:
        await ended.wait()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave)
        message = await receive()
        tasks.cancel_scope.cancel()
    return message


def told(refused: ErrorReply, headers: Headers) -> str:
    """Why a request was refused, and by what it was judged, on one line."""
    judged = " ".join(f"{name}={quote(headers[name])}" for name in _JUDGED if name in headers)
    return f"{refused.text} ({judged})"


def _name(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.fullmatch(text.lower())
    return match["name"].removesuffix(".") if match else ""


def _is_address(name: str) -> bool:
    """DNS cannot rebind a literal address: a browser sends it only where a person or a page wrote it."""
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def call_key(session: str, caller: Caller, request_id: RequestId) -> CallKey:
    """A request in a session, of whoever says to have that, whatever they may do by now."""
    return session, caller.name, caller.issuer, str(request_id)


class Again:
    """``receive`` as if nothing had been received yet; after its ``end`` it holds on to nothing.

    The SDK keeps a session's last request, and so all that this one could reach, until the next comes.
    """

    def __init__(self, first: Message, receive: Receive) -> None:
        self._messages = [first]
        self._receive = receive

    async def __call__(self) -> Message:
        return self._messages.pop() if self._messages else await self._receive()

    def end(self) -> None:
        self._messages.clear()
        self._receive = _gone


async def _gone() -> Message:
    return {"type": "http.disconnect"}


def error_reply(
    status: int, text: str, code: int = INVALID_REQUEST, id: RequestId | None = None
) -> ErrorReply:
    """The same; the error is an invalid request, if nothing else is said."""
    return ErrorReply(status, text, code, id)


def later_reply(status: int, text: str, seconds: int, id: RequestId | None = None) -> ErrorReply:
    """The same for one that may come again after some seconds (RFC 9110 10.2.3)."""
    reply = error_reply(status, text, INTERNAL_ERROR, id)
    reply.headers["retry-after"] = str(seconds)
    return reply
