"""Who may come in over HTTP: in front of everything else, every request shows a key, but for two that ask how the bridge is.

Of keys the digests are known alone. What a key opened, a stream above all, ends when the key does.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from typing import Final

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp_types import INVALID_REQUEST
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.caller import Caller
from bridge.server.announce import come_from
from bridge.server.gate import receive_until
from bridge.server.operator import HEALTHY, READY
from bridge.settingsfile import ApiKey

_log: Final = logging.getLogger(__name__)

_CHALLENGE: Final = 'Bearer realm="restbridge"'
_MISSING: Final = "Show who you are: Authorization: Bearer KEY"
_TWICE: Final = "Show one key: there is more than one Authorization header"
_INVALID: Final = "This key is not known here, or counts no more"
_PAUSE: Final = 1.0
"""Seconds between two lines of the log about refusals, however many there are."""
_FOREVER: Final = 3600.0


class Refused(Exception):
    """A request without a key that counts; the text is for its sender."""


@dataclass(slots=True)
class Holder:
    """Who holds a key, until it is withdrawn or expires."""

    key: ApiKey
    caller: Caller
    user: AuthenticatedUser
    ended: anyio.Event = field(default_factory=anyio.Event)

    @classmethod
    def of(cls, key: ApiKey) -> "Holder":
        # The SDK binds sessions to the user, and asks nothing of the token itself.
        user = AuthenticatedUser(AccessToken(token="", client_id=key.name, scopes=list(key.scopes)))
        return cls(key, Caller(key.name, frozenset(key.scopes)), user)


class Access:
    """The keys that count now; must be made where the event loop runs."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._holders: dict[str, Holder] = {}
        self._changed = anyio.Event()
        self._refused = 0
        self._told = 0.0
        self.replace(keys)

    def replace(self, keys: Iterable[ApiKey]) -> None:
        """Let these count from now on; what those opened ends that are another or no more among them."""
        before, self._holders = self._holders, {}
        for key in keys:
            known = before.get(key.sha256)
            self._holders[key.sha256] = known if known and known.key == key else Holder.of(key)
        kept = {id(holder) for holder in self._holders.values()}
        for holder in before.values():
            if id(holder) not in kept:
                holder.ended.set()
        self._changed.set()

    async def run(self) -> None:
        """End what expired keys have opened; ends when it is cancelled."""
        while True:
            self._changed = anyio.Event()
            now = time.time()
            times = [holder.key.expires for holder in self._holders.values() if not holder.ended.is_set()]
            next_one = min((expires for expires in times if expires is not None), default=now + _FOREVER)
            with anyio.move_on_after(min(max(next_one - now, 0), _FOREVER)):
                await self._changed.wait()
            for holder in self._holders.values():
                if is_over(holder.key):
                    holder.ended.set()

    def holder(self, headers: Iterable[tuple[bytes, bytes]]) -> Holder:
        """Who sends a request with these headers; raises ``Refused``."""
        shown = [value for name, value in headers if name == b"authorization"]
        if not shown:
            raise Refused(_MISSING)
        scheme, _, key = shown[0].strip().partition(b" ")
        if len(shown) > 1:
            raise Refused(_TWICE)
        if scheme.lower() != b"bearer":
            raise Refused(_MISSING)
        digest = sha256(key.strip()).hexdigest()
        holder = self._holders.get(digest) if key.strip() else None
        if holder is None or not compare_digest(holder.key.sha256, digest) or is_over(holder.key):
            raise Refused(_INVALID)
        return holder

    def tell_of_refusal(self, scope: Scope) -> None:
        """Log it, together with those since the last line: who tries keys must not flood the log."""
        self._refused += 1
        now = time.monotonic()
        if now - self._told >= _PAUSE:
            times = "a request" if self._refused == 1 else f"{self._refused} requests"
            client = scope.get("client") or ("?",)
            _log.warning("refused %s without a key that counts, the last from %s", times, client[0])
            self._told, self._refused = now, 0


def is_over(key: ApiKey) -> bool:
    """Whether it has expired."""
    return key.expires is not None and key.expires <= time.time()


class Door:
    """An ASGI app in front of ``app``: nobody comes past without a key."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in (HEALTHY, READY):
            await self._app(scope, receive, send)
            return
        try:
            holder = self._access.holder(scope["headers"])
        except Refused as refused:
            self._access.tell_of_refusal(scope)
            await _challenge(str(refused))(scope, receive, send)
            return
        scope["user"] = holder.user
        come_from(holder.caller, scope)
        visit = _Visit(holder.ended, receive, send)
        await self._app(scope, visit.receive, visit.send)
        if holder.ended.is_set():
            await visit.close(scope)


class _Visit:
    """A request and its reply, which end with the key: to the app the client then looks like one that leaves."""

    def __init__(self, ended: anyio.Event, receive: Receive, send: Send) -> None:
        self._ended = ended
        self._receive = receive
        self._send = send
        self._has_begun = False
        self._is_answered = False
        self._is_open = False

    async def receive(self) -> Message:
        if not self._has_begun:  # the body is there, or is coming
            self._has_begun = True
            return await self._receive()
        return await receive_until(self._ended, self._receive)

    async def send(self, message: Message) -> None:
        self._is_answered = True
        self._is_open = message["type"] == "http.response.start" or message.get("more_body", False)
        await self._send(message)

    async def close(self, scope: Scope) -> None:
        """What the app left open or unanswered, as it saw nobody there, is ended."""
        if not self._is_answered:
            await _challenge(_INVALID)(scope, self._receive, self._send)
        elif self._is_open:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _challenge(text: str) -> JSONResponse:
    """RFC 6750 3: what is missing, or that what was shown does not count."""
    challenge = f'{_CHALLENGE}, error="invalid_token"' if text is _INVALID else _CHALLENGE
    body = {"jsonrpc": "2.0", "id": None, "error": {"code": INVALID_REQUEST, "message": text}}
    return JSONResponse(body, 401, {"WWW-Authenticate": challenge})
