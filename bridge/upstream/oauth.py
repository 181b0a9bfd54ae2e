"""Tokens that calls need: got from an authorization server, kept, and got anew (RFC 6749, RFC 8693).

One of the bridge's own for all calls, or one for each token that a caller shows. What a caller shows goes to the
authorization server alone, never to an API.
"""

import asyncio
import math
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import urlencode, urlsplit

from bridge.codec import NotJson, decode
from bridge.errors import InvalidCall, NotSent, UnusableReply, UpstreamError
from bridge.events import Ear, TokenAsked
from bridge.exchange import Reply, Request
from bridge.secrets import Upstream, client_credentials
from bridge.spec import Auth, Json, OAuth2, TokenExchangeAuth
from bridge.upstream.http.failures import LATER, OPERATOR

Ask: TypeAlias = Callable[[Request, Upstream, float], Awaitable[Reply]]
"""Sends a request of ours, in the time that there is for a call, and in so many seconds; raises ``UpstreamError``."""

_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_ERRORS: Final = frozenset(
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
"""Words that mean something (RFC 6749 5.2, RFC 8693 2.2.2): no other is shown to a model."""
_OF_THE_CALLER: Final = frozenset(
    {"consent_required", "interaction_required", "invalid_grant", "login_required"}
)
"""Words that mean the token that the caller shows, in an exchange."""
_LOG_IN: Final = "Tell the user, who may have to log in."
_LIFE: Final = 300.0
"""Seconds that a token is taken to live of which nothing is said."""
_MAX_LIFE_SECONDS: Final = 366 * 86400
_EARLY: Final = 30.0
"""Seconds before its end from which on another token is asked for, but no more than a tenth of its life."""
_AGAIN: Final = 5.0
"""Seconds after which that is tried again, where the server gives none just then; until its end the last one serves on."""
_SOON: Final = 2.0
"""Seconds that a call waits for another token while the last one could serve."""
_VAIN: Final = 10.0
"""Seconds for which an API that did not take a new token either is not offered another."""
_RECENT_TOKENS: Final = 3
"""Tokens of one caller that are redacted, the last one among them."""
_LEAST: Final = 1.0
"""Seconds that a call must have left to ask once more, where another one had no answer in its time."""
_MOST: Final = 2000
"""Callers whose tokens are kept, of one upstream; those of others are got again."""


class Token(NamedTuple):
    """From when on another one is asked for, and when it ends, on the event loop's clock in seconds."""

    text: str
    stale: float
    ends: float


class NoToken(NotSent):
    """``error`` and ``said`` are the authorization server's own words (RFC 6749 5.2)."""

    def __init__(self, code: str, message: str, error: str = "", said: str = "") -> None:
        super().__init__(code, message)
        self.error = error
        self.said = said


@dataclass(slots=True)
class _Kept:
    """The token of one caller; while one is ``coming``, all calls that need it wait, and get it or the reason for none.

    ``recent`` are the last tokens that were got, as an API may show the one before in its reply.
    ``vain_until``: the API did not take the last one that was got anew either, and until then none is.
    """

    token: Token | None = None
    coming: asyncio.Future[Token | NoToken] | None = None
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=_RECENT_TOKENS))
    vain_until: float = 0.0

    def secrets(self, *used: Token) -> tuple[str, ...]:
        """What to redact in the reply to a call that was sent with ``used``."""
        return tuple(dict.fromkeys((*self.recent, *(token.text for token in used))))


class Tokens:
    """The tokens for calls to one upstream; they outlive reloads, but not a change of its ``auth``."""

    def __init__(self, emit: Ear) -> None:
        self._emit = emit
        self._auth: OAuth2 | None = None
        self._kept: dict[bytes, _Kept] = {}

    async def send(
        self,
        upstream: Upstream,
        subject: str | None,
        call: Callable[[str], Awaitable[Reply]],
        ask: Ask,
        deadline: float,
    ) -> tuple[Reply, tuple[str, ...]]:
        """The reply to a call that is made with a token, and the tokens to redact: another is used if the first is refused.

        ``subject`` is the token that the caller shows, ``deadline`` is on the event loop's clock. Raises ``InvalidCall``
        if there is no subject and one is needed, and ``NotSent`` if the authorization server gives no token, besides
        what ``call`` raises.
        """
        loop, kept = asyncio.get_running_loop(), self._of(upstream, subject)

        async def get() -> Token:
            return await self._token(kept, upstream, subject, ask, deadline)

        token = await get()
        reply = await call(token.text)
        if reply.status != 401:
            kept.vain_until = 0.0
        if reply.status != 401 or loop.time() < kept.vain_until:
            return reply, kept.secrets(token)
        if kept.token is token:
            kept.token = None
        another = await get()
        reply = await call(another.text)
        kept.vain_until = loop.time() + _VAIN if reply.status == 401 else 0.0
        return reply, kept.secrets(token, another)

    def _of(self, upstream: Upstream, subject: str | None) -> _Kept:
        auth = upstream.spec.auth
        assert isinstance(auth, OAuth2)
        if auth != self._auth:
            self._auth, self._kept = auth, {}
        key = b""
        if isinstance(auth, TokenExchangeAuth):
            if subject is None:
                message = (
                    "This tool calls its API in the name of who shows a token of theirs, and none was shown."
                )
                raise InvalidCall("unknown-caller", f"{message} {_LOG_IN}")
            key = sha256(subject.encode()).digest()
        kept = self._kept.pop(key, None) or _Kept()
        self._kept[key] = kept  # those that were used last stand last
        if len(self._kept) > _MOST:
            del self._kept[next(iter(self._kept))]
        return kept

    async def _token(
        self, kept: _Kept, upstream: Upstream, subject: str | None, ask: Ask, deadline: float
    ) -> Token:
        """The one that is kept, or is coming; whoever finds neither asks for it."""
        loop, coming = asyncio.get_running_loop(), None
        while kept.token is None or kept.token.stale <= loop.time():
            if kept.coming is None:
                if coming and deadline - loop.time() < _LEAST:
                    server = upstream.tokens
                    assert server
                    message = f"The {server.server} gave no token in time. {LATER}"
                    raise NoToken("no-token", message)
                return await self._asked(kept, upstream, subject, ask)
            coming = kept.coming
            await asyncio.wait([coming])
            if not coming.cancelled():
                outcome = coming.result()
                if isinstance(outcome, NoToken):
                    raise NoToken(outcome.code, str(outcome))
                return outcome  # even if it has ended already: all would ask, one after another
        return kept.token

    async def _asked(self, kept: _Kept, upstream: Upstream, subject: str | None, ask: Ask) -> Token:
        """One that is asked for now; if this call ends before it comes, one that waits asks again."""
        loop, server = asyncio.get_running_loop(), upstream.tokens
        assert server
        kept.coming = coming = loop.create_future()
        began, outcome = time.perf_counter(), "cancelled"
        error = said = ""
        last = kept.token if kept.token and loop.time() < kept.token.ends else None
        try:
            reply = await ask(_request(upstream.spec.auth, subject), server, _SOON if last else math.inf)
            kept.token = token = _read(reply, upstream, loop.time())
            kept.recent.append(token.text)
            outcome = "ok"
            coming.set_result(token)
        except UpstreamError as problem:
            told = problem if isinstance(problem, NoToken) else _unreached(problem, server)
            redactor = server.redactor(*([subject] if subject else []))
            outcome = told.code
            error, said = redactor.text(told.error), redactor.text(told.said)
            now = loop.time()
            if last and now < last.ends and outcome == "no-token":
                kept.token = last._replace(stale=min(now + _AGAIN, last.ends))
                coming.set_result(kept.token)
                return kept.token
            if problem.code != "timeout":  # others who wait may have more time
                coming.set_result(told)
            raise told from problem
        else:
            return token
        finally:
            coming.cancel()
            kept.coming = None
            if error != "circuit-open":  # the server was not asked
                self._emit(TokenAsked(upstream.name, outcome, time.perf_counter() - began, error, said))


def _request(auth: Auth, subject: str | None) -> Request:
    """RFC 6749 4.4.2, RFC 8693 2.1; who asks is shown as RFC 6749 2.3.1 says."""
    assert isinstance(auth, OAuth2)
    form = dict(_form(auth, subject))
    headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "application/json")]
    if auth.client_secret is not None and auth.client_authentication == "client_secret_basic":
        credentials = client_credentials(auth.client_id, auth.client_secret)
        headers.append(("Authorization", f"Basic {credentials}"))
    else:
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


def _read(reply: Reply, upstream: Upstream, now: float) -> Token:
    """RFC 6749 5.1 and 5.2; raises ``NoToken``."""
    server = upstream.tokens
    assert server
    try:
        words = decode(reply.content)
    except NotJson:
        words = None
    if not isinstance(words, dict):
        words = {}
    if reply.status == 429 or reply.status >= 500:
        message = (
            f"The {server.server} answers with {reply.status}, and there is no token for this call. {LATER}"
        )
        raise NoToken("no-token", message, str(reply.status))
    if reply.status != 200:
        error, said = words.get("error"), words.get("error_description")
        error = error if isinstance(error, str) else ""
        why = error if error in _ERRORS else reply.status
        is_theirs = isinstance(upstream.spec.auth, TokenExchangeAuth) and why in _OF_THE_CALLER
        message = (
            f"The {server.server} gives no token for this call ({why}). {_LOG_IN if is_theirs else OPERATOR}"
        )
        raise NoToken(
            "token-refused", message, error or str(reply.status), said if isinstance(said, str) else ""
        )
    text, kind, life = words.get("access_token"), words.get("token_type"), words.get("expires_in", _LIFE)
    if not isinstance(text, str) or not _TOKEN.fullmatch(text) or str(kind).lower() != "bearer":
        message = f"The {server.server} gives no Bearer token (RFC 6750) that could be used. {OPERATOR}"
        raise NoToken("no-token", message, "no-bearer-token")
    seconds = _seconds(life)
    return Token(text, now + seconds - min(_EARLY, seconds / 10), now + seconds)


def _seconds(life: Json) -> float:
    """How long a token is valid, as ``expires_in`` says it; some servers write it as a text of digits."""
    if isinstance(life, str) and life.isascii() and life.isdigit():
        life = float(life)
    if not isinstance(life, int | float):
        return _LIFE
    return float(max(0, min(life, _MAX_LIFE_SECONDS)))


def _unreached(problem: UpstreamError, server: Upstream) -> NoToken:
    if isinstance(problem, UnusableReply):
        what = f"what the {server.server} answers cannot be read. {OPERATOR}"
        return NoToken("no-token", f"There is no token for this call: {what}", problem.code)
    if problem.code == "busy":
        return NoToken("no-token", f"Too many wait for a token of the {server.server}. {LATER}", problem.code)
    return NoToken("no-token", f"There is no token for this call. {problem}", problem.code)
