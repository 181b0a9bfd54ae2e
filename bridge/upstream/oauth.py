"""The token cache: access tokens from an authorization server (RFC 6749 client credentials, RFC 8693 token exchange).

Theory of operation
-------------------

With client credentials one token serves all calls. With token exchange each caller's own token (the subject token) is
exchanged for another; the subject token is sent only to the authorization server, never to an API. The cache has one
entry for each subject token, under its SHA-256.

===========  =================================  ======================================================================
Entry        Condition                          The next call
===========  =================================  ======================================================================
empty        ``token`` is None                  requests a token, and sets ``pending``
fresh        now < ``refresh_at``               uses the token
stale        ``refresh_at`` <= now              requests another. If the server is unavailable or needs more than 2 s,
             and now < ``expires_at``           the old token is used for another 5 s. If it refuses, the call fails.
expired      ``expires_at`` <= now              like empty
===========  =================================  ======================================================================

Only one request per entry runs at a time. Calls that need a token meanwhile wait for ``pending``:

* A token, or an error of the authorization server, goes to all of them.
* If the requesting call is cancelled or runs out of time, ``pending`` is cancelled. One of the waiting calls then
  requests the token, unless it has less than a second left.

If the API answers 401, the token is dropped, and the call is repeated once with a new one. If that is refused as well,
new tokens do not help: for ``_COOLDOWN_SECONDS`` a 401 is returned at once. Any other status ends the cooldown.
"""

import asyncio
import math
import re
import time
from collections import deque
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple
from urllib.parse import urlencode, urlsplit

from bridge.codec import NotJson, decode
from bridge.errors import InvalidCall, NotSent, UnusableReply, UpstreamError
from bridge.events import Listener, TokenRequested
from bridge.exchange import Reply, Request
from bridge.resolved_upstream import Upstream
from bridge.secrets import client_credentials
from bridge.spec import Auth, Json, OAuth2, TokenExchangeAuth
from bridge.upstream.call import AUTHORIZING, Call, Send
from bridge.upstream.http.failures import LATER, OPERATOR
from bridge.upstream.http.reply_reader import Progress

_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
# no blank and no line break, which would end the token in the header, or the header
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_KNOWN_ERRORS: Final = frozenset(
    {
        "access_denied",
        "consent_required",
        "interaction_required",
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "invalid_target",
        "login_required",
        "server_error",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_grant_type",
    }
)
"""Registered error codes (RFC 6749 4.1.2.1 and 5.2, RFC 8693 2.2.2, OpenID Connect Core 3.1.2.6): a model sees no other."""
_CALLER_ERRORS: Final = frozenset(
    {"consent_required", "interaction_required", "invalid_grant", "login_required"}
)
"""Error codes of an exchange that are about the caller's token."""
_LOG_IN: Final = "Tell the user, who may have to log in."
_DEFAULT_LIFETIME_SECONDS: Final = 300.0
"""For a token without ``expires_in``."""
_MAX_LIFETIME_SECONDS: Final = 366 * 86400
_REFRESH_BEFORE_EXPIRY_SECONDS: Final = 30.0
"""How long before its expiry a token is stale, but at most a tenth of its lifetime."""
_REFRESH_RETRY_SECONDS: Final = 5.0
"""How long a stale token is used after a failed refresh before the next one."""
_REFRESH_TIMEOUT_SECONDS: Final = 2.0
"""How long a call waits for a new token while the stale one can still be used."""
_COOLDOWN_SECONDS: Final = 10.0
"""How long no token is requested after the API refused a new one."""
_MAX_RECENT_TOKENS: Final = 3
"""Tokens of one entry that are redacted, including the current one."""
_DEADLINE_MARGIN_SECONDS: Final = 0.05
"""A token request ends so long before its call, which then has time to report why there is no token."""
_MIN_REQUEST_SECONDS: Final = 1.0
"""A waiting call with less time left does not repeat a token request that ran out of time."""
_MAX_CACHED_CALLERS: Final = 2000
"""Entries of one upstream. The entry that was used least recently is dropped first."""


class Token(NamedTuple):
    """``refresh_at`` and ``expires_at`` are on the event loop's clock, in seconds."""

    text: str
    refresh_at: float
    expires_at: float


class NoToken(NotSent):
    """``error`` and ``description`` are from the error response of the authorization server (RFC 6749 5.2)."""

    def __init__(self, code: str, message: str, error: str = "", description: str = "") -> None:
        super().__init__(code, message)
        self.error = error
        self.description = description


@dataclass(slots=True)
class _Entry:
    """The token of one caller; for its states see the head of this module.

    ``pending`` is set while a request runs. ``recent`` are the last tokens: an API may repeat an earlier one in a reply.
    """

    token: Token | None = None
    pending: asyncio.Future[Token | NoToken] | None = None
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=_MAX_RECENT_TOKENS))
    cooldown_until: float = 0.0

    def secrets(self, *used: Token) -> tuple[str, ...]:
        """The tokens to redact in the reply to a call that was sent with ``used``."""
        return tuple(dict.fromkeys((*self.recent, *(token.text for token in used))))


class TokenCache:
    """The tokens for calls to one upstream. They outlive reloads, but not a change of its ``auth``.

    ``send`` sends a token request, which is a call to an upstream of its own.
    """

    def __init__(self, emit: Listener, send: Send) -> None:
        self._emit = emit
        self._send = send
        self._auth: OAuth2 | None = None
        self._entries: dict[bytes, _Entry] = {}

    def authorize(self, call: Call, call_next: Send) -> Awaitable[Reply]:
        """Sends the call with a token, and the reply has the tokens to redact. After a 401 a new token is used.

        Raises ``InvalidCall`` if the caller's own token is needed and missing, and ``NotSent`` if the authorization
        server issues no token.
        """
        return self._authorize(call, call_next) if call.upstream.tokens else call_next(call)

    async def _authorize(self, call: Call, call_next: Send) -> Reply:
        loop, entry, request = asyncio.get_running_loop(), self._entry(call), call.request

        async def send(token: Token) -> Reply:
            credentials = ("Authorization", f"Bearer {token.text}")
            # based on the original request, so that a second token replaces the first
            call.request = request._replace(headers=(*request.headers, credentials))
            call.progress = Progress()
            reply = await call_next(call)
            call.progress = Progress(AUTHORIZING)  # if the API refuses this token, another one is requested
            return reply

        call.progress = Progress(AUTHORIZING)
        token = await self._token(entry, call)
        reply = await send(token)
        if reply.status != 401:
            entry.cooldown_until = 0.0
        if reply.status != 401 or loop.time() < entry.cooldown_until:
            return reply._replace(secrets=entry.secrets(token))
        # A request with a 401 was not carried out (RFC 9110 15.5.2), so it is sent again whatever its method
        if entry.token is token:  # otherwise another call has replaced it
            entry.token = None
        another = await self._token(entry, call)
        reply = await send(another)
        entry.cooldown_until = loop.time() + _COOLDOWN_SECONDS if reply.status == 401 else 0.0
        return reply._replace(secrets=entry.secrets(token, another))

    def _entry(self, call: Call) -> _Entry:
        auth, subject = call.upstream.spec.auth, call.subject
        assert isinstance(auth, OAuth2)
        if auth != self._auth:
            self._auth, self._entries = auth, {}
        key = b""
        if isinstance(auth, TokenExchangeAuth):
            if subject is None:
                message = (
                    "This tool calls its API on behalf of the caller, and the caller sent no access token."
                )
                raise InvalidCall("unknown-caller", f"{message} {_LOG_IN}")
            # a digest, so that the cache holds no tokens of callers
            key = sha256(subject.encode()).digest()
        entry = self._entries.pop(key, None) or _Entry()
        self._entries[key] = entry  # the most recently used entry comes last
        if len(self._entries) > _MAX_CACHED_CALLERS:
            del self._entries[next(iter(self._entries))]
        return entry

    async def _token(self, entry: _Entry, call: Call) -> Token:
        """The cached or pending token; a call that finds neither requests it."""
        loop, pending = asyncio.get_running_loop(), None
        while entry.token is None or entry.token.refresh_at <= loop.time():
            if entry.pending is None:
                # the request that this call waited for was cancelled, perhaps because its time was up
                if pending and call.deadline - loop.time() < _MIN_REQUEST_SECONDS:
                    server = call.upstream.tokens
                    assert server
                    message = f"The {server.server} issued no token in time. {LATER}"
                    raise NoToken("no-token", message)
                return await self._request_token(entry, call)
            pending = entry.pending
            # if this call is cancelled, ``await pending`` would cancel it for all
            await asyncio.wait([pending])
            if not pending.cancelled():
                outcome = pending.result()
                if isinstance(outcome, NoToken):  # one for each call: ``raise`` adds to the traceback
                    raise NoToken(outcome.code, str(outcome))
                return outcome  # even if expired: otherwise each waiting call would request another
        return entry.token

    async def _request_token(self, entry: _Entry, call: Call) -> Token:
        """Request a token. If this call ends first, ``pending`` is cancelled, and a waiting call requests it again."""
        loop, upstream, server = asyncio.get_running_loop(), call.upstream, call.upstream.tokens
        assert server
        entry.pending = pending = loop.create_future()
        began, outcome = time.perf_counter(), "cancelled"
        error = description = ""
        # a stale token, to fall back on
        last = entry.token if entry.token and loop.time() < entry.token.expires_at else None
        try:
            within = _REFRESH_TIMEOUT_SECONDS if last else math.inf
            deadline = min(call.deadline - _DEADLINE_MARGIN_SECONDS, loop.time() + within)
            request = _build_request(upstream.spec.auth, call.subject)
            reply = await self._send(Call(request, server, deadline, repeatable=True, caller=call.caller))
            entry.token = token = _parse(reply, upstream, loop.time())
            entry.recent.append(token.text)
            outcome = "ok"
            pending.set_result(token)
        except UpstreamError as problem:
            failure = problem if isinstance(problem, NoToken) else _no_token(problem, server)
            redactor = server.redactor(*([call.subject] if call.subject else []))
            outcome = failure.code
            error, description = redactor.text(failure.error), redactor.text(failure.description)
            now = loop.time()
            if last and now < last.expires_at and outcome == "no-token":
                entry.token = last._replace(refresh_at=min(now + _REFRESH_RETRY_SECONDS, last.expires_at))
                pending.set_result(entry.token)
                return entry.token
            if problem.code != "timeout":  # waiting calls may have more time left
                pending.set_result(failure)
            raise failure from problem
        else:
            return token
        finally:
            pending.cancel()  # no effect if it has a result
            entry.pending = None
            if error != "circuit-open":  # with that code no request was sent
                self._emit(
                    TokenRequested(upstream.name, outcome, time.perf_counter() - began, error, description)
                )


def _build_request(auth: Auth, subject: str | None) -> Request:
    """RFC 6749 4.4.2, RFC 8693 2.1; the client authenticates by RFC 6749 2.3.1."""
    assert isinstance(auth, OAuth2)
    form = dict(_form(auth, subject))
    headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "application/json")]
    if auth.client_secret is not None and auth.client_authentication == "client_secret_basic":
        credentials = client_credentials(auth.client_id, auth.client_secret)
        headers.append(("Authorization", f"Basic {credentials}"))
    else:  # client_secret_post, or a public client (RFC 6749 3.2.1)
        form["client_id"] = auth.client_id
        if auth.client_secret is not None:
            form["client_secret"] = auth.client_secret
    path = urlsplit(auth.token_url).path
    return Request("POST", auth.token_url, tuple(headers), urlencode(form).encode(), template=path)


def _form(auth: OAuth2, subject: str | None) -> Iterator[tuple[str, str]]:
    if isinstance(auth, TokenExchangeAuth):
        assert subject is not None
        yield "grant_type", _EXCHANGE
        yield "subject_token", subject
        yield "subject_token_type", auth.subject_token_type
        if auth.requested_token_type:
            yield "requested_token_type", auth.requested_token_type
    else:
        yield "grant_type", "client_credentials"
    if auth.scopes:
        yield "scope", " ".join(auth.scopes)
    if auth.audience:
        yield "audience", auth.audience
    if auth.resource:
        yield "resource", auth.resource


def _parse(reply: Reply, upstream: Upstream, received_at: float) -> Token:
    """RFC 6749 5.1 and 5.2; raises ``NoToken``.

    oauthlib's ``parse_token_response`` does not serve. It accepts tokens with line breaks and any ``token_type``, raises
    ``TypeError`` and others for JSON that is not an object, and its errors quote the server.
    """
    server = upstream.tokens
    assert server
    try:
        body = decode(reply.content)
    except NotJson:
        body = None
    if not isinstance(body, dict):
        body = {}
    # not a refusal: a stale token stays in use
    if reply.status == 429 or reply.status >= 500:
        message = (
            f"The {server.server} answered with {reply.status}, so there is no token for this call. {LATER}"
        )
        raise NoToken("no-token", message, str(reply.status))
    if reply.status != 200:
        error, description = body.get("error"), body.get("error_description")
        error = error if isinstance(error, str) else ""
        why = error if error in _KNOWN_ERRORS else reply.status
        is_callers = isinstance(upstream.spec.auth, TokenExchangeAuth) and why in _CALLER_ERRORS
        message = f"The {server.server} issued no token for this call ({why}). {_LOG_IN if is_callers else OPERATOR}"
        raise NoToken(
            "token-refused",
            message,
            error or str(reply.status),
            description if isinstance(description, str) else "",
        )
    text, kind, lifetime = (
        body.get("access_token"),
        body.get("token_type"),
        body.get("expires_in", _DEFAULT_LIFETIME_SECONDS),
    )
    # the type is case-insensitive (RFC 6749 5.1)
    if not isinstance(text, str) or not _TOKEN.fullmatch(text) or str(kind).lower() != "bearer":
        message = f"The {server.server} answered without a valid Bearer token (RFC 6750). {OPERATOR}"
        raise NoToken("no-token", message, "no-bearer-token")
    seconds = _lifetime_seconds(lifetime)
    expires_at = received_at + seconds
    return Token(text, expires_at - min(_REFRESH_BEFORE_EXPIRY_SECONDS, seconds / 10), expires_at)


def _lifetime_seconds(lifetime: Json) -> float:
    """The lifetime of a token from ``expires_in``; some servers write it as a string of digits."""
    # isascii: isdigit accepts "²", which float refuses. float: int refuses more than 4300 digits.
    if isinstance(lifetime, str) and lifetime.isascii() and lifetime.isdigit():
        lifetime = float(lifetime)
    if not isinstance(lifetime, int | float):
        return _DEFAULT_LIFETIME_SECONDS
    return float(max(0, min(lifetime, _MAX_LIFETIME_SECONDS)))


def _no_token(problem: UpstreamError, server: Upstream) -> NoToken:
    if isinstance(problem, UnusableReply):
        message = (
            f"There is no token for this call: the reply of the {server.server} cannot be read. {OPERATOR}"
        )
        return NoToken("no-token", message, problem.code)
    if problem.code == "busy":
        return NoToken(
            "no-token", f"Too many calls wait for a token of the {server.server}. {LATER}", problem.code
        )
    return NoToken("no-token", f"There is no token for this call. {problem}", problem.code)
