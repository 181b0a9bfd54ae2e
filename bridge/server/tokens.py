"""The tokens of authorization servers (JWT): whose one is, and the keys that sign them, which come and go.

RFC 7519 and RFC 9068 for tokens, RFC 7517 for keys. No key that an issuer and a caller share is ever used.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import anyio
import jwt

from bridge.codec import NotJson, decode
from bridge.settingsfile import Issuer
from bridge.spec import Json

Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]
"""What is at an https address or a file's path; raises ``OSError``, whose text is shown, where there is nothing."""

_log: Final = logging.getLogger(__name__)

_FRESH: Final = 600.0
"""Seconds after which keys are read again."""
_PAUSE: Final = 10.0
"""Seconds between two readings, however many tokens name keys that are not there."""
_LONGEST: Final = 8 * 1024
_JWT: Final = jwt.PyJWT(options={"enforce_minimum_key_length": True})
_TEXTS: Final[Mapping[type[jwt.PyJWTError], str]] = {
    jwt.ExpiredSignatureError: "This token has expired",
    jwt.ImmatureSignatureError: "This token does not count yet",
    jwt.InvalidAudienceError: "This token is for another server: its aud is not one that counts here",
    jwt.InvalidSignatureError: "The signature of this token is wrong",
    jwt.InvalidAlgorithmError: "This token is signed in a way that does not count here",
    jwt.InvalidKeyError: "The key of this token cannot be used, or is too short",
}


class InvalidToken(Exception):
    """A token that does not count; the text is for whoever shows it."""


class NoKeys(Exception):
    """The keys of an issuer could not be read so far."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says that counts; ``expires`` is in seconds since 1970, ``key`` is what had signed it."""

    issuer: "TokenIssuer"
    name: str
    scopes: frozenset[str]
    expires: float
    claims: Mapping[str, Json]
    key: Mapping[str, Json]

    @property
    def counts(self) -> bool:
        """Whether its key is still one of its issuer's."""
        return self.issuer.has(self.key)


class TokenIssuer:
    """One authorization server, as ``entry`` says; ``fetch`` reads its keys, and ``now`` is in seconds."""

    def __init__(self, entry: Issuer, fetch: Fetch, now: Callable[[], float] = anyio.current_time) -> None:
        self.entry = entry
        self._fetch = fetch
        self._now = now
        self._fresh, self._pause = (_FRESH, _PAUSE) if "://" in entry.jwks else (0.0, 0.0)
        self._keys: dict[str | None, dict[str, Json]] | None = None
        self._read_at: float | None = None
        self._reading = anyio.Lock()

    def has(self, key: Mapping[str, Json]) -> bool:
        return self._keys is not None and self._keys.get(_kid(key)) == key

    async def freshen(self) -> bool:
        """Read the keys if it is time to; whether they are others now."""
        return await self._read(self._fresh)

    async def token(self, text: str, header: Mapping[str, Any]) -> Token:
        """What a token with this header says; raises ``InvalidToken`` and ``NoKeys``."""
        key = await self._key(header.get("kid"))
        algorithm = str(header.get("alg"))
        try:
            if algorithm not in self.entry.algorithms or key.get("alg", algorithm) != algorithm:
                raise jwt.InvalidAlgorithmError
            claims = _JWT.decode(
                text,
                jwt.PyJWK(dict(key), algorithm),
                [algorithm],
                audience=self.entry.audience,
                issuer=self.entry.issuer,
                leeway=self.entry.leeway,
                options={"require": ["exp", "iss", "aud", self.entry.name]},
            )
        except jwt.MissingRequiredClaimError as problem:
            raise InvalidToken(f"This token has no {problem.claim}") from None
        except jwt.PyJWTError as problem:
            raise InvalidToken(_TEXTS.get(type(problem), "This token cannot be read")) from None
        name = claims[self.entry.name]
        if not isinstance(name, str) or not name:
            raise InvalidToken(f"In this token {self.entry.name} is no text")
        expires = float(claims["exp"]) + self.entry.leeway
        return Token(self, name, self._scopes(claims), expires, claims, key)

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        names = [self.entry.scopes] if self.entry.scopes else ["scope", "scp"]
        said: Json = next((claims[name] for name in names if name in claims), [])
        words = said.split() if isinstance(said, str) else said
        return (
            frozenset(word for word in words if isinstance(word, str))
            if isinstance(words, list)
            else frozenset()
        )

    async def _key(self, kid: object) -> Mapping[str, Json]:
        for pause in (self._fresh, self._pause):
            await self._read(pause)
            keys = self._keys
            if keys is None:
                raise NoKeys(self.entry.issuer)
            if kid is None and len(keys) == 1:
                return next(iter(keys.values()))
            if isinstance(kid, str) and kid in keys:
                return keys[kid]
        raise InvalidToken("This token is signed by a key that its issuer does not have")

    async def _read(self, pause: float) -> bool:
        """Read the keys unless that was tried less than ``pause`` seconds ago; whether they are others now."""
        async with self._reading:
            if self._keys is None:
                pause = self._pause
            if self._read_at is not None and self._now() - self._read_at < pause:
                return False
            self._read_at = self._now()
            try:
                keys = _usable(await self._fetch(self.entry.jwks))
            except OSError as problem:
                last = "what was last there counts on" if self._keys else "no token of it counts until then"
                _log.warning("keys of %s: %s; %s", self.entry.issuer, problem, last)
                return False
            is_other, self._keys = keys != self._keys, keys
            if is_other:
                _log.info("keys of %s: %d count", self.entry.issuer, len(keys))
            return is_other


def unverified(text: str) -> tuple[Mapping[str, Any], str | None]:
    """The header of a token and its issuer, as it says; raises ``InvalidToken`` for what is no token."""
    if len(text) > _LONGEST:
        raise InvalidToken("This token is too long")
    try:
        parts = jwt.decode_complete(text, options={"verify_signature": False})
    except (jwt.PyJWTError, RecursionError):
        raise InvalidToken("This token cannot be read") from None
    issuer = parts["payload"].get("iss")
    return parts["header"], issuer if isinstance(issuer, str) else None


def _usable(content: bytes) -> dict[str | None, dict[str, Json]]:
    """The keys for signatures of a key set, by their ids; raises ``OSError`` if it is none."""
    try:
        found = decode(content)
    except NotJson:
        found = None
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list):
        raise OSError("found no key set (RFC 7517): an object whose keys is a list")
    return {_kid(key): key for key in keys if isinstance(key, dict) and key.get("use", "sig") == "sig"}


def _kid(key: Mapping[str, Json]) -> str | None:
    kid = key.get("kid")
    return kid if isinstance(kid, str) else None
