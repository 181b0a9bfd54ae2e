"""Requires a key, token or client certificate on every request, except for probes and resource metadata.

An authenticated request then passes ``FairStart`` (the requests of one caller start one by one), the rate limit, the views,
and the fast path or ``RequestGuard``. When its credential is revoked or expires, its calls and streams end (``CredentialLease``):

| State when the lease ends | What the client gets |
|---|---|
| no reply has started | 401 with a challenge |
| the reply has started | its end |
| the reply is complete | nothing more |
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import anyio
from mcp_types import INVALID_REQUEST
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.access.credentials import INVALID, CredentialStore, NotAuthenticated
from bridge.access.throttle import AddressThrottle
from bridge.http.admin_routes import HEALTHY, READY
from bridge.http.connection import CLIENT_CERTIFICATE
from bridge.http.fair_start import FairStart
from bridge.http.rejection_log import RejectionLog, client_of
from bridge.http.replies import ErrorReply, error_reply, rejection_reason, retry_later_reply
from bridge.http.request_guard import receive_until
from bridge.http.resource_metadata import Resource
from bridge.protocol.caller_context import set_caller

_OPEN_INTERVAL_SECONDS: Final = 0.0007
"""Between two open requests of one address, after a burst of ``_OPEN_BURST``. 50 busy connections wait 35 ms each."""
_OPEN_BURST: Final = 20
_OPEN_MAX_WAIT_SECONDS: Final = 0.5
"""Less than the second that a Kubernetes probe waits."""
_USUAL_HEAD_BYTES: Final = 4096
"""A request head of this size counts once for a throttle, one of twice the size counts twice."""
_FIELD_OVERHEAD_BYTES: Final = 32
"""What each header field adds to the size of the head, as in RFC 9113 6.5.2."""
_BODY_FIELDS: Final = (b"content-length", b"transfer-encoding")


@dataclass(frozen=True, slots=True)
class Throttles:
    """Delays by client address: of answers to failed attempts, and of answers to requests that need no credential."""

    failed: AddressThrottle = field(default_factory=AddressThrottle)
    open: AddressThrottle = field(
        default_factory=lambda: AddressThrottle(
            interval=_OPEN_INTERVAL_SECONDS, burst=_OPEN_BURST, max_delay=_OPEN_MAX_WAIT_SECONDS
        )
    )


class AuthenticationMiddleware:
    """An ASGI app in front of ``app``, which gets only requests with a valid key or token.

    With ``resource``, the 401 challenge names the resource metadata, which is open to all. ``check_host`` refuses requests
    for another server before anything else is revealed.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: CredentialStore,
        resource: Resource | None,
        rejections: RejectionLog,
        check_host: Callable[[Headers], ErrorReply | None],
        *,
        throttles: Throttles | None = None,
    ) -> None:
        self._app = app
        self._check_host = check_host
        self._access = access
        self._resource = resource
        self._rejections = rejections
        self._throttles = throttles or Throttles()
        self._starts = FairStart()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if app := self._open_app(scope):
            if wait := self._throttles.open.wait(client_of(scope), _weight(scope)):
                await anyio.sleep(wait)
            await app(scope, receive, send)
            return
        try:
            credential = await self._access.authenticate(scope["headers"], scope.get(CLIENT_CERTIFICATE))
        except NotAuthenticated as refused:
            reply: Response | None = self._misdirected(scope)
            if reply is None:
                reply = self._challenge(refused)
                self._rejections.report(scope, reply.status_code, str(refused), refused.key_name)
            # No delay if the issuer's keys cannot be read: that is no failed attempt of the client.
            if not refused.can_retry and (
                wait := self._throttles.failed.wait(client_of(scope), _weight(scope))
            ):
                await _delay(wait, scope, receive)
            await reply(scope, receive, send)
            return
        set_caller(credential.caller, scope)
        leased = _LeasedRequest(credential.lease.ended, receive, send)
        credential.active_requests += 1  # while this is positive, the credential store keeps the token
        try:
            await self._starts.wait_for_turn(credential.caller.identity)
            await self._app(scope, leased.receive, leased.send)
        finally:
            credential.active_requests -= 1
        # The app has been told that the client left, so it has sent no reply, or not the end of one.
        if credential.lease.ended.is_set():
            await leased.close(scope, self._challenge(NotAuthenticated(INVALID, "invalid_token")))

    def _open_app(self, scope: Scope) -> ASGIApp | None:
        """The app that answers if the path needs no credential, otherwise None."""
        if scope["path"] in (HEALTHY, READY):
            return self._app
        if self._resource and self._resource.is_metadata_path(scope["path"]):
            return self._misdirected(scope) or self._resource.answer(self._access.issuers)
        return None

    def _misdirected(self, scope: Scope) -> ErrorReply | None:
        """The reply to a request for another server: it reveals nothing about this one."""
        headers = Headers(scope=scope)
        reply = self._check_host(headers)
        if reply:
            self._rejections.report(scope, reply.status_code, rejection_reason(reply, headers))
        return reply

    def _challenge(self, refused: NotAuthenticated) -> Response:
        """401: why the credential is refused (RFC 6750 3), and where to get a token (RFC 9728 5.1). 503 if it cannot be checked yet."""
        if refused.can_retry:
            return retry_later_reply(503, str(refused), 10)
        params = ['realm="restbridge"']
        # A request without credentials gets no error code (RFC 6750 3.1).
        if refused.error:
            params += [f'error="{refused.error}"', f'error_description="{refused}"']
        if self._resource:
            params += self._resource.challenge()
        response = error_reply(401, str(refused), INVALID_REQUEST)
        response.headers["WWW-Authenticate"] = f"Bearer {', '.join(params)}"
        return response


def _weight(scope: Scope) -> float:
    """How many requests a request counts for, at least 1. The time to parse a head grows with its size."""
    size = len(scope["path"]) + sum(
        len(name) + len(value) + _FIELD_OVERHEAD_BYTES for name, value in scope["headers"]
    )
    return max(size / _USUAL_HEAD_BYTES, 1)


async def _delay(seconds: float, scope: Scope, receive: Receive) -> None:
    """Wait, but no longer than the client stays. With a body that cannot be seen without reading it."""
    if any(name in _BODY_FIELDS for name, _ in scope["headers"]):
        await anyio.sleep(seconds)
        return
    with anyio.move_on_after(seconds):
        while (await receive())["type"] != "http.disconnect":
            pass


class _LeasedRequest:
    """A request whose lease may end: the app then receives ``http.disconnect``."""

    def __init__(self, lease_ended: anyio.Event, receive: Receive, send: Send) -> None:
        self._lease_ended = lease_ended
        self._receive = receive
        self._send = send
        self._has_received = False
        self._is_answered = False
        self._is_open = False

    async def receive(self) -> Message:
        if not self._has_received:  # the body is buffered, or on its way: no task group is needed
            self._has_received = True
            first = await self._receive()
            return {"type": "http.disconnect"} if self._lease_ended.is_set() else first
        return await receive_until(self._lease_ended, self._receive)

    async def send(self, message: Message) -> None:
        self._is_answered = True
        self._is_open = message["type"] == "http.response.start" or message.get("more_body", False)
        await self._send(message)

    async def close(self, scope: Scope, challenge: Response) -> None:
        """Send the challenge if the app has sent no reply, or end the reply that it left open."""
        if not self._is_answered:
            await challenge(scope, self._receive, self._send)
        elif self._is_open:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
