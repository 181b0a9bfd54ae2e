"""In front of everything else: every request shows a key or a token, but for a few that are open."""

from collections.abc import Callable
from typing import Final

import anyio
from mcp_types import INVALID_REQUEST
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.access.credentials import INVALID, Access, Refused
from bridge.access.throttle import Guesses
from bridge.http.admin_routes import HEALTHY, READY
from bridge.http.fair_start import FairStart
from bridge.http.rejection_log import Refusals, client_of
from bridge.http.request_guard import ErrorReply, error_reply, later_reply, receive_until, told
from bridge.http.resource_metadata import Resource
from bridge.protocol.notifications import come_from

_OPEN_EVERY: Final = 0.0007
_OPEN_AT_ONCE: Final = 20
"""Seconds between two answers to one address that need no key, past so many at once: 50 connections that ask on and on
wait 35 ms."""
_OPEN_LONGEST: Final = 0.5
"""Less than the second that a probe of Kubernetes waits."""
_BODY_FIELDS: Final = (b"content-length", b"transfer-encoding")


class Door:
    """An ASGI app in front of ``app``: nobody comes past without a key or a token that counts.

    With ``resource``, a request without one is told where to get a token, and so is everybody who asks. ``check_host``
    refuses requests that name another server; these are told nothing else. Who tries again and again waits for the answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        resource: Resource | None,
        refusals: Refusals,
        check_host: Callable[[Headers], ErrorReply | None],
        *,
        guesses: Guesses | None = None,
        open_answers: Guesses | None = None,
    ) -> None:
        self._app = app
        self._check_host = check_host
        self._access = access
        self._resource = resource
        self._refusals = refusals
        self._guesses = guesses or Guesses()
        self._starts = FairStart()
        self._open = open_answers or Guesses(every=_OPEN_EVERY, at_once=_OPEN_AT_ONCE, longest=_OPEN_LONGEST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if app := self._without_key(scope):
            if wait := self._open.wait(client_of(scope)):
                await anyio.sleep(wait)
            await app(scope, receive, send)
            return
        try:
            holder = await self._access.holder(scope["headers"])
        except Refused as refused:
            reply: Response | None = self._misdirected(scope)
            if reply is None:
                reply = self._challenge(refused)
                self._refusals.tell(scope, reply.status_code, str(refused), refused.holder)
            if not refused.later and (wait := self._guesses.wait(client_of(scope))):
                await _let_wait(wait, scope, receive)
            await reply(scope, receive, send)
            return
        scope["user"] = holder.user
        come_from(holder.caller, scope)
        visit = _Visit(holder.stay.over, receive, send)
        holder.visits += 1  # from now on the token is not forgotten, and ends what it opens
        try:
            await self._starts.turn(holder.caller.identity)
            await self._app(scope, visit.receive, visit.send)
        finally:
            holder.visits -= 1
        if holder.stay.over.is_set():
            await visit.close(scope, self._challenge(Refused(INVALID, "invalid_token")))

    def _without_key(self, scope: Scope) -> ASGIApp | None:
        """What answers requests for a path that is open to all."""
        if scope["path"] in (HEALTHY, READY):
            return self._app
        if self._resource and self._resource.is_asked(scope["path"]):
            return self._misdirected(scope) or self._resource.answer(self._access.issuers)
        return None

    def _misdirected(self, scope: Scope) -> ErrorReply | None:
        """What a request is answered that names another server: it learns nothing of this one."""
        headers = Headers(scope=scope)
        reply = self._check_host(headers)
        if reply:
            self._refusals.tell(scope, reply.status_code, told(reply, headers))
        return reply

    def _challenge(self, refused: Refused) -> Response:
        """RFC 6750 3: what is missing, or why what was shown does not count; RFC 9728 5.1: where to get a token."""
        if refused.later:
            return later_reply(503, str(refused), 10)
        words = ['realm="restbridge"']
        if refused.error:
            words += [f'error="{refused.error}"', f'error_description="{refused}"']
        if self._resource:
            words += self._resource.challenge()
        response = error_reply(401, str(refused), INVALID_REQUEST)
        response.headers["WWW-Authenticate"] = f"Bearer {', '.join(words)}"
        return response


async def _let_wait(seconds: float, scope: Scope, receive: Receive) -> None:
    """As long as the client does, if it sends no body: to receive one is to read it."""
    if any(name in _BODY_FIELDS for name, _ in scope["headers"]):
        await anyio.sleep(seconds)
        return
    with anyio.move_on_after(seconds):
        while (await receive())["type"] != "http.disconnect":
            pass


class _Visit:
    """A request and its reply, which end with the key: to the app the client then looks like one that leaves."""

    def __init__(self, over: anyio.Event, receive: Receive, send: Send) -> None:
        self._over = over
        self._receive = receive
        self._send = send
        self._has_begun = False
        self._is_answered = False
        self._is_open = False

    async def receive(self) -> Message:
        if not self._has_begun:  # the body is there, or is coming
            self._has_begun = True
            first = await self._receive()
            return {"type": "http.disconnect"} if self._over.is_set() else first
        return await receive_until(self._over, self._receive)

    async def send(self, message: Message) -> None:
        self._is_answered = True
        self._is_open = message["type"] == "http.response.start" or message.get("more_body", False)
        await self._send(message)

    async def close(self, scope: Scope, challenge: Response) -> None:
        """What the app left open or unanswered, as it saw nobody there, is ended."""
        if not self._is_answered:
            await challenge(scope, self._receive, self._send)
        elif self._is_open:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
