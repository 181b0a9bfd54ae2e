"""The tokens of authorization servers (JWT): whose one is, and the keys that sign them, which come and go.

RFC 7519 and RFC 9068 for tokens, RFC 7517 for keys. No key that an issuer and a caller share is ever used.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import anyio
import jwt
from jwt.utils import base64url_decode

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
_FILE_PAUSE: Final = 1.0
_LONGEST: Final = 8 * 1024
_NONE: Final[frozenset[str]] = frozenset()
_TYPES: Final = frozenset({"jwt", "at+jwt"})
"""What kinds of tokens may call themselves (typ), if they say it at all (RFC 9068 4, RFC 8725 3.11)."""
_MAX_MOMENT: Final = 2**53
"""Seconds since 1970, and past any date."""
_KEYCLOAK_TYPES: Final = frozenset({"id", "refresh", "offline", "logout"})
"""What Keycloak's tokens of other kinds have as a claim typ; all of them have JWT in the header."""
_KINDS: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""What kind of key signs by an algorithm, as that begins (RFC 7518 3.1)."""
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
"""Three parts in base64url without padding (RFC 7515 2, 7.1): else one token could be shown as several texts."""
_PUBLIC_MEMBERS: Final = ("kty", "kid", "alg", "use", "key_ops", "n", "e", "crv", "x", "y")
"""All that is kept of a key. From ``d`` of an RSA key PyJWT would compute the prime factors: seconds for a large ``n``."""
_MAX_MODULUS_CHARACTERS: Final = 2732
"""Base64url characters of an RSA key's ``n``: 16384 bits, the most that OpenSSL verifies with, after a zero byte."""
_JWT: Final = jwt.PyJWT(options={"enforce_minimum_key_length": True})
_TEXTS: Final[Mapping[type[jwt.PyJWTError], str]] = {
    jwt.ExpiredSignatureError: "This token has expired",
    jwt.ImmatureSignatureError: "This token does not count yet",
    jwt.InvalidAudienceError: "This token is for another server: its aud is not one that counts here",
    jwt.InvalidSignatureError: "The signature of this token is wrong",
    jwt.InvalidAlgorithmError: "This token is signed in a way that does not count here",
    jwt.InvalidKeyError: "The key of this token cannot be used, or is too short",
}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key of an issuer; ``members`` are those of ``_PUBLIC_MEMBERS`` that it has (RFC 7517 4, RFC 7518 6)."""

    members: Mapping[str, Json]
    _built: dict[str, jwt.PyJWK] = field(default_factory=dict, compare=False, repr=False)

    def build(self, algorithm: str) -> jwt.PyJWK:
        """The key as PyJWT has it, built once for each algorithm; raises ``jwt.PyJWTError``."""
        if algorithm not in self._built:
            self._built[algorithm] = jwt.PyJWK(dict(self.members), algorithm)
        return self._built[algorithm]


Keys: TypeAlias = tuple[PublicKey, ...]


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
    key: PublicKey

    @property
    def counts(self) -> bool:
        """Whether its key is still one of its issuer's."""
        return self.issuer.has(self.key)


class TokenIssuer:
    """One authorization server, as ``entry`` says; ``fetch`` reads its keys, and ``now`` is in seconds.

    ``changed`` is called when it has other keys. ``keys`` are those that were last there.
    """

    def __init__(
        self,
        entry: Issuer,
        fetch: Fetch,
        changed: Callable[[], None],
        *,
        now: Callable[[], float] = anyio.current_time,
        keys: Keys | None = None,
    ) -> None:
        self.entry = entry
        self.keys = keys
        self._fetch = fetch
        self._changed = changed
        self._now = now
        self._fresh, self._pause = (_FRESH, _PAUSE) if "://" in entry.jwks else (0.0, _FILE_PAUSE)
        self._read_at: float | None = None
        self._reading = anyio.Lock()
        self._told: str | None = None

    def has(self, key: PublicKey) -> bool:
        return self.keys is not None and key in self.keys

    async def freshen(self, *, at_once: bool = False) -> None:
        """Read the keys if it is time to, or now."""
        await self._read(0 if at_once else self._fresh)

    async def token(self, text: str, header: Mapping[str, Any]) -> Token:
        """What a token with this header says; raises ``InvalidToken`` and ``NoKeys``.

        A header's own keys, or addresses of keys (``jwk``, ``jku``, ``x5c``, ``x5u``), are never used.
        """
        algorithm = str(header.get("alg"))
        if algorithm not in self.entry.algorithms:
            raise InvalidToken(_TEXTS[jwt.InvalidAlgorithmError])
        key = await self._key(header.get("kid"), algorithm)
        try:
            if key.members.get("alg", algorithm) != algorithm:
                raise jwt.InvalidAlgorithmError
            claims = _JWT.decode(
                text,
                key.build(algorithm),
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
        _check_kind(header, claims)
        expires = self._expiry(claims) + self.entry.leeway
        return Token(self, name, self._scopes(claims), expires, claims, key)

    def _expiry(self, claims: Mapping[str, Any]) -> float:
        """When a token ends, in seconds since 1970 (RFC 7519 2, NumericDate)."""
        for claim in ("exp", "nbf", "iat"):
            moment = claims.get(claim, 0)
            if type(moment) not in (int, float) or not 0 <= moment < _MAX_MOMENT:
                raise InvalidToken(f"In this token {claim} is no time")
        ends, most = float(claims["exp"]), self.entry.max_lifetime
        if ends - claims.get("iat", time.time()) > most + self.entry.leeway:
            raise InvalidToken(
                f"This token is valid for more than {most:.0f} seconds, the most that is accepted"
            )
        return ends

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        names = [self.entry.scopes] if self.entry.scopes else ["scope", "scp"]
        said: Json = next((claims[name] for name in names if name in claims), [])
        words = said.split() if isinstance(said, str) else said
        if not isinstance(words, list):
            return _NONE
        return frozenset(word for word in words if isinstance(word, str) and self.entry.may_grant(word))

    async def _key(self, kid: object, algorithm: str) -> PublicKey:
        """One that is there is not waited for; of others the issuer is asked."""
        if found := self._known(kid, algorithm):
            return found
        for pause in (self._fresh, self._pause):
            await self._read(pause)
            if self.keys is None:
                raise NoKeys(self.entry.issuer)
            if found := self._known(kid, algorithm):
                return found
        raise InvalidToken("This token is signed by a key that its issuer does not have")

    def _known(self, kid: object, algorithm: str) -> PublicKey | None:
        fitting = [key for key in self.keys or () if key.members.get("kty") == _KINDS[algorithm[:2]]]
        if kid is not None:
            return next((key for key in fitting if key.members.get("kid") == kid), None)
        if len(fitting) > 1:
            raise InvalidToken("This token does not name its key (kid), and its issuer has several")
        return fitting[0] if fitting else None

    async def _read(self, pause: float) -> None:
        """Read the keys unless that was tried less than ``pause`` seconds ago."""
        async with self._reading:
            if self.keys is None:
                pause = self._pause
            if self._read_at is not None and self._now() - self._read_at < pause:
                return
            try:
                keys = _usable(await self._fetch(self.entry.jwks))
            except OSError as problem:
                meanwhile = (
                    "those that it had count on" if self.keys else "until then none of its tokens counts"
                )
                self._tell(logging.WARNING, f"{problem}; {meanwhile}")
                return
            finally:
                self._read_at = self._now()
            self._tell(logging.INFO, f"{len(keys)} count")
            is_other, self.keys = keys != self.keys, keys
            if is_other:
                self._changed()

    def _tell(self, level: int, text: str) -> None:
        """What was not told last."""
        if text != self._told:
            _log.log(level, "keys of %s: %s", self.entry.issuer, text)
        self._told = text


def unverified(text: str) -> tuple[Mapping[str, Any], str | None]:
    """The header of a token and its issuer, as it says; raises ``InvalidToken`` for what is no token."""
    if len(text) > _LONGEST:
        raise InvalidToken("This token is too long")
    header = claims = None
    if _COMPACT.fullmatch(text):
        with suppress(ValueError):
            header, claims = (decode(base64url_decode(part)) for part in text.split(".")[:2])
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise InvalidToken("This token cannot be read")
    _check_header(header)
    issuer = claims.get("iss")
    return header, issuer if isinstance(issuer, str) else None


def _check_header(header: Mapping[str, Any]) -> None:
    """Raises ``InvalidToken`` for what is no access token, as its header says, or asks for more than is known here."""
    if "crit" in header or "b64" in header:
        raise InvalidToken("This token has a critical header (crit), and none is known here")
    kind = header.get("typ")
    if kind is not None and str(kind).lower().removeprefix("application/") not in _TYPES:
        raise InvalidToken("This is no access token: its typ is neither at+jwt nor JWT")
    if not isinstance(header.get("kid", ""), str):
        raise InvalidToken("In this token kid is no text")


def _check_kind(header: Mapping[str, Any], claims: Mapping[str, Any]) -> None:
    """The same by its claims: many servers write JWT into the header of every kind (RFC 8725 2.8)."""
    if "cnf" in claims:  # RFC 7800, RFC 8705 3, RFC 9449 6
        raise InvalidToken("This token is bound to a key (cnf), and was shown without a proof of that key")
    is_known_kind = str(header.get("typ")).lower().endswith("at+jwt")
    is_id = (
        "at_hash" in claims
        or "c_hash" in claims
        or ("nonce" in claims and not claims.keys() & {"scope", "scp"})
    )
    is_other = "events" in claims or str(claims.get("typ")).lower() in _KEYCLOAK_TYPES
    if is_other or (is_id and not is_known_kind):
        raise InvalidToken("This is no access token: its claims are those of an ID token or another kind")


def _usable(content: bytes) -> Keys:
    """The keys for signatures of a key set, without private members; raises ``OSError`` if it is none."""
    try:
        found = decode(content)
    except NotJson:
        found = None
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list):
        raise OSError("found no key set (RFC 7517): an object whose keys is a list")
    return tuple(
        PublicKey({name: key[name] for name in _PUBLIC_MEMBERS if name in key})
        for key in keys
        if isinstance(key, dict) and _is_for_signatures(key)
    )


def _is_for_signatures(key: Mapping[str, Json]) -> bool:
    """By its use (RFC 7517 4.2 and 4.3) and its size."""
    operations, modulus = key.get("key_ops", ["verify"]), key.get("n")
    if isinstance(modulus, str) and len(modulus) > _MAX_MODULUS_CHARACTERS:
        return False
    return key.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
