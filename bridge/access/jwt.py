"""The tokens of authorization servers (JWT, RFC 7519 and RFC 9068), and the keys that sign them (RFC 7517).

The keys of an issuer are read when the first token needs them, and cached.

| Keys | Read again |
|---|---|
| from a URL | after ``_MAX_KEY_AGE_SECONDS``; if a token names an unknown key, after ``_MIN_READ_INTERVAL_SECONDS`` |
| from a file | at each poll; if a token names an unknown key, after ``_MIN_FILE_READ_INTERVAL_SECONDS`` |
| of both kinds | when a reload is requested |

So tokens with unknown keys cannot cause a read each. If a read fails, the keys of the last read stay valid. When a key
is removed, the tokens that it signed are revoked. Symmetric keys (HS256 and others) are never accepted.
"""

import logging
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import anyio
import jwt

from bridge.codec import NotJson, decode
from bridge.settings import Issuer
from bridge.spec import Json

Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]
"""Reads an https URL or the path of a file; raises ``OSError``, whose text is shown."""

_log: Final = logging.getLogger(__name__)

_MAX_KEY_AGE_SECONDS: Final = 600.0
_MIN_READ_INTERVAL_SECONDS: Final = 10.0
_MIN_FILE_READ_INTERVAL_SECONDS: Final = 1.0
_MAX_TOKEN_CHARACTERS: Final = 8 * 1024
_NO_SCOPES: Final[frozenset[str]] = frozenset()
_ACCESS_TOKEN_TYPES: Final = frozenset({"jwt", "at+jwt"})
"""The header typ of an access token, if it has one (RFC 9068 4, RFC 8725 3.11)."""
_MAX_NUMERIC_DATE: Final = 2**53
"""In seconds since 1970: the largest integer that a float holds exactly."""
_KEYCLOAK_TYPES: Final = frozenset({"id", "refresh", "offline", "logout"})
"""The claim typ of Keycloak's tokens that are not access tokens. The header typ of all of its tokens is JWT."""
_KEY_TYPES: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""First two letters of an algorithm → the kty of its keys (RFC 7518 3.1)."""
# PyJWT accepts padding (https://github.com/jpadilla/pyjwt/issues/1209).
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
"""Three parts in base64url without padding (RFC 7515 2, 7.1): with padding, one token would have several spellings."""
_PUBLIC_MEMBERS: Final = ("kty", "kid", "alg", "use", "key_ops", "n", "e", "crv", "x", "y")
"""Other members are dropped. From ``d`` of an RSA key PyJWT would compute the prime factors: seconds for a large ``n``."""
_MAX_MODULUS_CHARACTERS: Final = 2732
"""Base64url characters of an RSA key's ``n``: 16384 bits, the maximum of OpenSSL, after a zero byte."""
# Without the option PyJWT only warns of a short key, such as RSA with 1024 bits (RFC 7518 3.3).
_JWT: Final = jwt.PyJWT(options={"enforce_minimum_key_length": True})
_TEXTS: Final[Mapping[type[jwt.PyJWTError], str]] = {
    jwt.ExpiredSignatureError: "This token has expired",
    jwt.ImmatureSignatureError: "This token is not valid yet (nbf)",
    jwt.InvalidAudienceError: "This token is for another server: its aud is not accepted here",
    jwt.InvalidSignatureError: "The signature of this token is wrong",
    jwt.InvalidAlgorithmError: "The signature algorithm of this token (alg) is not accepted here",
    jwt.InvalidKeyError: "The key of this token cannot be used, or is too short",
}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key of an issuer. ``members`` holds only ``_PUBLIC_MEMBERS`` (RFC 7517 4, RFC 7518 6)."""

    members: Mapping[str, Json]
    # Not compared: a key that is read again is the same key, and the tokens that it signed stay valid.
    _built: dict[str, jwt.PyJWK] = field(default_factory=dict, compare=False, repr=False)

    def build(self, algorithm: str) -> jwt.PyJWK:
        """The key for PyJWT, built once for each algorithm; raises ``jwt.PyJWTError``."""
        if algorithm not in self._built:
            self._built[algorithm] = jwt.PyJWK(dict(self.members), algorithm)
        return self._built[algorithm]


Keys: TypeAlias = tuple[PublicKey, ...]


class InvalidToken(Exception):
    """A token that is not accepted. The text is for its sender."""


class NoKeys(Exception):
    """The keys of an issuer were never read successfully."""


@dataclass(frozen=True, slots=True)
class Token:
    """A verified token. ``expires`` is in seconds since 1970, ``key`` is the key that signed it."""

    issuer: "TokenIssuer"
    name: str
    scopes: frozenset[str]
    expires: float
    claims: Mapping[str, Json]
    key: PublicKey

    @property
    def is_key_published(self) -> bool:
        """Whether its issuer still publishes the key that signed it."""
        return self.issuer.has(self.key)


class TokenIssuer:
    """The authorization server of one ``entry``. ``fetch`` reads its keys, ``clock`` is in seconds.

    ``on_changed`` is called when its keys have changed. ``keys`` are those of an earlier read.
    """

    def __init__(
        self,
        entry: Issuer,
        fetch: Fetch,
        on_changed: Callable[[], None],
        *,
        clock: Callable[[], float] = anyio.current_time,
        keys: Keys | None = None,
    ) -> None:
        self.entry = entry
        self.keys = keys
        self._fetch = fetch
        self._on_changed = on_changed
        self._clock = clock
        is_url = "://" in entry.jwks
        # Each poll calls ``refresh``. A file costs little to read, so each poll reads it.
        self._max_age = _MAX_KEY_AGE_SECONDS if is_url else 0.0
        self._min_interval = _MIN_READ_INTERVAL_SECONDS if is_url else _MIN_FILE_READ_INTERVAL_SECONDS
        self._read_at: float | None = None
        self._reading = anyio.Lock()
        self._last_logged: str | None = None

    def has(self, key: PublicKey) -> bool:
        return self.keys is not None and key in self.keys

    async def refresh(self, *, at_once: bool = False) -> None:
        """Read the keys again, if they are stale or ``at_once``."""
        await self._read(0 if at_once else self._max_age)

    async def token(self, text: str, header: Mapping[str, Any]) -> Token:
        """Verify the token ``text``, whose header is ``header``; raises ``InvalidToken`` and ``NoKeys``.

        Keys or URLs of keys in the header (``jwk``, ``jku``, ``x5c``, ``x5u``) are ignored.
        """
        # Before anything else: an algorithm that the token chooses must not select its key (RFC 8725 3.1).
        # ``_KEY_TYPES`` has no entry for others, such as none and HS256.
        algorithm = str(header.get("alg"))
        if algorithm not in self.entry.algorithms:
            raise InvalidToken(_TEXTS[jwt.InvalidAlgorithmError])
        key = await self._key(header.get("kid"), algorithm)
        try:
            # PyJWK ignores the key's own alg (RFC 7517 4.4) if it is given another.
            if key.members.get("alg", algorithm) != algorithm:
                raise jwt.InvalidAlgorithmError
            claims = _JWT.decode(
                text,
                key.build(algorithm),
                [algorithm],
                audience=self.entry.audience,
                issuer=self.entry.issuer,
                leeway=self.entry.leeway,
                # PyJWT checks exp only if it is there: without it a token would never expire.
                options={"require": ["exp", "iss", "aud", self.entry.name]},
            )
        except jwt.MissingRequiredClaimError as problem:
            raise InvalidToken(f"This token has no {problem.claim}") from None
        # Texts of PyJWT are not shown: some of them quote the key.
        except jwt.PyJWTError as problem:
            raise InvalidToken(_TEXTS.get(type(problem), "This token cannot be read")) from None
        # Of sub PyJWT checks only that it is a string, of other claims nothing.
        name = claims[self.entry.name]
        if not isinstance(name, str) or not name:
            raise InvalidToken(f"In this token {self.entry.name} is not a string")
        _check_kind(header, claims)
        # PyJWT accepts the token until then, so its lease does not end earlier.
        expires = self._expiry(claims) + self.entry.leeway
        return Token(self, name, self._scopes(claims), expires, claims, key)

    def _expiry(self, claims: Mapping[str, Any]) -> float:
        """When the token expires, in seconds since 1970 (RFC 7519 2, NumericDate)."""
        # PyJWT converts with int(), which accepts "9999999999" and true.
        for claim in ("exp", "nbf", "iat"):
            seconds = claims.get(claim, 0)
            # ``type``, not ``isinstance``: bool is a subclass of int. The bound: float(10**400) overflows.
            if type(seconds) not in (int, float) or not 0 <= seconds < _MAX_NUMERIC_DATE:
                raise InvalidToken(f"In this token {claim} is not a valid time")
        expires, maximum = float(claims["exp"]), self.entry.max_lifetime
        # Without iat the lifetime counts from now.
        if expires - claims.get("iat", time.time()) > maximum + self.entry.leeway:
            raise InvalidToken(f"This token is valid for more than {maximum:.0f} seconds, the maximum here")
        return expires

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        # scope is a string (RFC 9068 2.2.3). Microsoft Entra writes scp as a string, Okta as a list.
        names = [self.entry.scopes] if self.entry.scopes else ["scope", "scp"]
        claim: Json = next((claims[name] for name in names if name in claims), [])
        scopes = claim.split() if isinstance(claim, str) else claim
        # Not None: that would allow all tools.
        if not isinstance(scopes, list):
            return _NO_SCOPES
        return frozenset(scope for scope in scopes if isinstance(scope, str) and self.entry.may_grant(scope))

    async def _key(self, kid: object, algorithm: str) -> PublicKey:
        """The key that signed a token. If it is unknown, keys are read again; tokens with a cached key do not wait for that."""
        found = self._cached_key(kid, algorithm)
        if found is None:
            await self._read(self._min_interval)
            if self.keys is None:
                raise NoKeys(self.entry.issuer)
            found = self._cached_key(kid, algorithm)
        if found is None:
            raise InvalidToken("This token is signed by a key that its issuer does not have")
        return found

    def _cached_key(self, kid: object, algorithm: str) -> PublicKey | None:
        key_type = _KEY_TYPES[algorithm[:2]]
        candidates = [key for key in self.keys or () if key.members.get("kty") == key_type]
        # Keys of different types may share a kid (RFC 7517 4.5).
        if kid is not None:
            return next((key for key in candidates if key.members.get("kid") == kid), None)
        # A token must name its key if its issuer has several (OpenID Connect Core 10.1).
        if len(candidates) > 1:
            raise InvalidToken("This token does not name its key (kid), and its issuer has several")
        return candidates[0] if candidates else None

    async def _read(self, max_age: float) -> None:
        """Read the keys, unless the last attempt was less than ``max_age`` seconds ago."""
        # One read at a time. Requests that waited for it find that it was just made.
        async with self._reading:
            if self.keys is None:
                # All tokens are refused: a failed first read is repeated soon, not after ten minutes.
                max_age = min(max_age, self._min_interval)
            if self._read_at is not None and self._clock() - self._read_at < max_age:
                return
            try:
                keys = _usable_keys(await self._fetch(self.entry.jwks))
            except OSError as problem:
                effect = "the keys of the last read stay valid" if self.keys else "its tokens are rejected"
                self._log_once(logging.WARNING, f"{problem}; {effect}")
                return
            finally:
                # From its end: otherwise, after a slow read, each request that waited would read again.
                self._read_at = self._clock()
            self._log_once(logging.INFO, f"{len(keys)} valid")
            # Replaced first: ``on_changed`` asks ``has`` which tokens are still valid.
            is_changed, self.keys = keys != self.keys, keys
            if is_changed:
                self._on_changed()

    def _log_once(self, level: int, text: str) -> None:
        """Log the text, unless the last line was the same."""
        if text != self._last_logged:
            _log.log(level, "keys of %s: %s", self.entry.issuer, text)
        self._last_logged = text


def parse_unverified(text: str) -> tuple[Mapping[str, Any], str | None]:
    """The header of a token and its claim iss, not verified yet; raises ``InvalidToken`` if it cannot be parsed."""
    if len(text) > _MAX_TOKEN_CHARACTERS:
        raise InvalidToken("This token is too long")
    # Parsed strictly, before PyJWT parses them again: it takes the last of two equal names, and NaN.
    header = claims = None
    # urlsafe_b64decode skips characters that are not in its alphabet.
    if _COMPACT.fullmatch(text):
        # Of base64 (binascii.Error) and JSON (NotJson).
        with suppress(ValueError):
            header, claims = (decode(_from_base64url(part)) for part in text.split(".")[:2])
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise InvalidToken("This token cannot be read")
    _check_header(header)
    issuer = claims.get("iss")
    return header, issuer if isinstance(issuer, str) else None


def _from_base64url(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))  # without padding (RFC 7515 2)


def _check_header(header: Mapping[str, Any]) -> None:
    """Raises ``InvalidToken`` if the header has an unsupported extension, or is not that of an access token."""
    # An extension that is not understood must be refused (RFC 7515 4.1.11). b64 is one (RFC 7797).
    if "crit" in header or "b64" in header:
        raise InvalidToken("This token has a critical header (crit), which is not supported")
    kind = header.get("typ")
    # "application/at+jwt" is "AT+JWT": the prefix may be absent, case is ignored (RFC 7515 4.1.9).
    if kind is not None and str(kind).lower().removeprefix("application/") not in _ACCESS_TOKEN_TYPES:
        raise InvalidToken("This is not an access token: its typ is neither at+jwt nor JWT")
    # A string (RFC 7515 4.1.4). Null is refused too: it would count as absent.
    if not isinstance(header.get("kid", ""), str):
        raise InvalidToken("In this token kid is not a string")


def _check_kind(header: Mapping[str, Any], claims: Mapping[str, Any]) -> None:
    """Raises ``InvalidToken`` if the claims are not those of an access token.

    The header does not suffice: many servers write the typ JWT for every kind of token (RFC 8725 2.8).
    """
    if "cnf" in claims:  # RFC 7800, RFC 8705 3, RFC 9449 6
        raise InvalidToken("This token is bound to a key (cnf), and was sent without proof of that key")
    is_access_token = str(header.get("typ")).lower().endswith("at+jwt")
    # at_hash and c_hash are claims of ID tokens (OpenID Connect Core 3.3.2.11). So is nonce, but Keycloak
    # writes it into access tokens too. Those have a scope.
    is_id_token = (
        "at_hash" in claims
        or "c_hash" in claims
        or ("nonce" in claims and not claims.keys() & {"scope", "scp"})
    )
    # A security event (RFC 8417), such as a logout token of OpenID Connect.
    is_other = "events" in claims or str(claims.get("typ")).lower() in _KEYCLOAK_TYPES
    if is_other or (is_id_token and not is_access_token):
        raise InvalidToken("This is not an access token: its claims are those of an ID token or another kind")


def _usable_keys(content: bytes) -> Keys:
    """The signature keys of a key set, without private members; raises ``OSError`` if it is not a key set.

    ``jwt.PyJWKSet`` does not serve. It raises ``TypeError`` if ``alg`` of one key is a list, and refuses an empty set, which
    revokes all tokens. It also computes with private members, and uses an RSA key without ``alg`` for RS256 only.
    """
    try:
        found = decode(content)
    except NotJson:
        found = None
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list):
        raise OSError("found no key set, expected an object whose keys is a list (RFC 7517)")
    return tuple(
        PublicKey({name: key[name] for name in _PUBLIC_MEMBERS if name in key})
        for key in keys
        if isinstance(key, dict) and _is_for_signatures(key)
    )


def _is_for_signatures(key: Mapping[str, Json]) -> bool:
    """Whether its use (RFC 7517 4.2), its operations (4.3) and its size allow to verify signatures."""
    operations, modulus = key.get("key_ops", ["verify"]), key.get("n")
    if isinstance(modulus, str) and len(modulus) > _MAX_MODULUS_CHARACTERS:
        return False
    return key.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
