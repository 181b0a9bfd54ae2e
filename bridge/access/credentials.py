"""Authentication of HTTP requests: API keys, tokens (JWT) of authorization servers, and certificates of clients.

A credential is an API key, a token or a certificate. It is in one of these states:

| State | When | Requests and streams that it opened |
|---|---|---|
| unknown | a token or certificate that was not shown yet, or that was forgotten | none |
| valid | its entry is in the settings file, and it has not expired | run |
| expired | its time is over | are cancelled |
| revoked | its entry, its issuer or the key that signed it is removed or changed | are cancelled |

A request with an ``Authorization`` header is authenticated by that alone, also over a connection with a certificate.

Only the digests of API keys are known. The text of a token is kept while it is valid: some upstreams take another token
in exchange for it. A verified token is cached by its digest, so that it is verified once.

Each credential has a lease. ``CredentialStore`` ends the lease when the credential expires or is revoked. What serves a
request or a stream waits for that.
"""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import chain
from typing import Final, TypeAlias

import anyio

from bridge.access.certificates import AcceptedCertificate, ClientCertificate
from bridge.access.jwt import Fetch, InvalidToken, NoKeys, Token, TokenIssuer, parse_unverified
from bridge.caller import CERTIFICATE_ISSUER, Caller, CredentialLease
from bridge.clock import is_expired
from bridge.events import KeysChanged, Listener, ignore
from bridge.settings import AcceptedClient, ApiKey, Issuer
from bridge.settings import Access as AccessConfig
from bridge.spec import Json
from bridge.view import matches

_MISSING: Final = "No credentials: send Authorization: Bearer with a key or a token"
_NO_NAME: Final = "This client certificate has no name: no URI, no DNS name, no common name"
_NOT_LISTED: Final = "The name of this client certificate is not accepted here"
_EXPIRED: Final = "This client certificate has expired"
INVALID: Final = "This key is unknown, revoked or expired"
_NO_ISSUER_KEYS: Final = "Cannot read the keys of the issuer of this token just now; try again in 10 seconds"
# Sleeps are on a monotonic clock, expiries are not. So a system clock that is set is noticed within an hour.
_MAX_SLEEP_SECONDS: Final = 3600.0
MAX_KNOWN_TOKENS: Final = 2000
MAX_KNOWN_CERTIFICATES: Final = 2000
MAX_KNOWN_TOKEN_CHARACTERS: Final = 2 * 1024**2
"""Past a bound, verified tokens or certificates without an active request are forgotten. They are accepted again when they
are sent again."""


_Entry: TypeAlias = ApiKey | Issuer | AcceptedClient


class NotAuthenticated(Exception):
    """A request without a valid key, token or certificate. The text is for its sender.

    ``error`` is the code of RFC 6750 3.1, None if the request has no credentials. ``key_name`` names the expired key or the
    certificate; it is for the log, not for the sender. ``can_retry``: the same request may succeed later.
    """

    def __init__(
        self, text: str, error: str | None = None, key_name: str | None = None, *, can_retry: bool = False
    ) -> None:
        super().__init__(text)
        self.error = error
        self.key_name = key_name
        self.can_retry = can_retry


@dataclass(slots=True)
class Credential:
    """A key, token or certificate, with the caller that it authenticates. ``active_requests`` counts the requests that run with it."""

    proof: ApiKey | Token | AcceptedCertificate
    caller: Caller
    lease: CredentialLease
    active_requests: int = 0

    @classmethod
    def of(cls, proof: ApiKey | Token | AcceptedCertificate, text: str | None = None) -> "Credential":
        """``text`` is the token itself, for token exchange (RFC 8693)."""
        scopes, lease = frozenset(proof.scopes), CredentialLease()
        if isinstance(proof, Token):
            issuer = proof.issuer.entry.issuer
            caller = Caller(proof.name, scopes, issuer=issuer, claims=proof.claims, token=text, lease=lease)
        elif isinstance(proof, AcceptedCertificate):
            claims: dict[str, Json] = {"iss": CERTIFICATE_ISSUER}
            caller = Caller(proof.name, scopes, issuer=CERTIFICATE_ISSUER, claims=claims, lease=lease)
        else:
            caller = Caller(proof.name, scopes, lease=lease)
        return cls(proof, caller, lease)

    @property
    def is_expired(self) -> bool:
        return is_expired(self.proof.expires)

    @property
    def is_ended(self) -> bool:
        return self.lease.ended.is_set()


class CredentialStore:
    """The keys and tokens that are valid under ``config``. Must be created in the event loop.

    ``fetch`` reads the keys of issuers. ``emit`` receives ``KeysChanged``.
    """

    def __init__(self, config: AccessConfig, fetch: Fetch, emit: Listener = ignore) -> None:
        self._fetch = fetch
        # Until ``replace`` is done: the keys at the start are not reported as added.
        self._emit: Listener = ignore
        self._keys: dict[str, Credential] = {}
        self._tokens: dict[str, Credential] = {}
        self._token_characters = 0
        self._issuers: dict[str, TokenIssuer] = {}
        self._clients: tuple[AcceptedClient, ...] = ()
        self._certificates: dict[ClientCertificate, Credential] = {}
        self._changed = anyio.Event()
        self._next_wakeup = math.inf
        """When ``run`` wakes up next, in seconds since 1970."""
        self.revoked = anyio.Event()
        """Set when a key or an issuer may have expired or been revoked; then replaced by a new event."""
        self.replace(config)
        self._emit = emit

    @property
    def issuers(self) -> tuple[str, ...]:
        """The issuers whose tokens are accepted."""
        return tuple(self._issuers)

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """All keys, also expired ones."""
        return tuple(each.proof for each in self._keys.values() if isinstance(each.proof, ApiKey))

    @property
    def expired(self) -> tuple[str, ...]:
        """The names of expired keys that are still in the settings file."""
        return tuple(key.name for key in self.keys if is_expired(key.expires))

    @property
    def valid_keys(self) -> int:
        """How many keys have not expired."""
        return len(self.keys) - len(self.expired)

    @property
    def next_expiry(self) -> float:
        """When the next key expires, in seconds since 1970; infinite if none does."""
        return min(
            (key.expires for key in self.keys if key.expires and not is_expired(key.expires)),
            default=math.inf,
        )

    def may_grant(self, issuer: str, scopes: Iterable[str]) -> bool:
        """Whether the tokens of an issuer may grant all of these scopes."""
        return issuer in self._issuers and all(map(self._issuers[issuer].entry.may_grant, scopes))

    def replace(self, config: AccessConfig) -> None:
        """Accept these keys and issuers from now on. Credentials that are removed or changed are revoked."""
        self.step_up, self.scopes_supported = config.step_up, config.scopes_supported
        entries_before = self._entries()
        keys_before, self._keys = self._keys, {}
        for key in config.api_keys or ():
            known = keys_before.get(key.sha256)
            # An entry that is not changed keeps its credential, and so its calls and streams.
            self._keys[key.sha256] = kept = known if known and known.proof == key else Credential.of(key)
            if kept.is_expired:
                kept.lease.end()
        # Also those with a new entry, such as other scopes: what they opened has the old ones.
        for digest, credential in keys_before.items():
            if self._keys.get(digest) is not credential:
                credential.lease.end()
        issuers, self._issuers = self._issuers, {}
        for entry in config.jwt or ():
            old = issuers.get(entry.issuer)
            # Otherwise a change of leeway would refuse all tokens while the issuer cannot be reached.
            keys = old.keys if old and old.entry.jwks == entry.jwks else None
            self._issuers[entry.issuer] = (
                old
                if old and old.entry == entry
                else TokenIssuer(entry, self._fetch, self._drop_invalid_tokens, keys=keys)
            )
        self._clients = config.certificates or ()
        self._drop_invalid_tokens()
        self._drop_invalid_certificates()
        self._changed.set()
        self._signal_revoked()
        self._emit_changes(entries_before, self._entries())

    def _entries(self) -> dict[str, _Entry]:
        """The entries of keys, issuers and certificates, by name."""
        issuers = {name: issuer.entry for name, issuer in self._issuers.items()}
        clients = {f"{CERTIFICATE_ISSUER} {client.name}": client for client in self._clients}
        return {key.name: key for key in self.keys} | issuers | clients

    def _emit_changes(self, before: Mapping[str, _Entry], after: Mapping[str, _Entry]) -> None:
        changed = {name for name, entry in after.items() if before.get(name) != entry}
        removed, expired = before.keys() - after.keys(), changed & set(self.expired)
        if changed or removed:
            valid = changed - expired
            self._emit(self.keys_changed(valid - before.keys(), valid & before.keys(), removed, expired))

    def keys_changed(
        self,
        added: Iterable[str] = (),
        changed: Iterable[str] = (),
        removed: Iterable[str] = (),
        expired: Iterable[str] = (),
    ) -> KeysChanged:
        """The event for these changes, with how many keys are valid after them."""
        return KeysChanged(
            added=tuple(sorted(added)),
            changed=tuple(sorted(changed)),
            removed=tuple(sorted(removed)),
            expired=tuple(sorted(expired)),
            valid_keys=self.valid_keys,
            issuers=len(self._issuers),
            certificates=len(self._clients),
        )

    def _signal_revoked(self) -> None:
        self.revoked.set()
        self.revoked = anyio.Event()

    async def run(self) -> None:
        """End the leases of keys and tokens when they expire. Runs until it is cancelled."""
        while True:
            self._changed = anyio.Event()
            now = time.time()
            credentials = [*self._keys.values(), *self._tokens.values(), *self._certificates.values()]
            times = [each.proof.expires for each in credentials if not each.is_ended]
            self._next_wakeup = min(
                [now + _MAX_SLEEP_SECONDS, *(expires for expires in times if expires is not None)]
            )
            with anyio.move_on_after(max(self._next_wakeup - now, 0)):
                await self._changed.wait()
            expired = [each for each in self._keys.values() if each.is_expired and not each.is_ended]
            for credential in expired:
                credential.lease.end()
            self._drop_invalid_tokens()
            self._drop_invalid_certificates()
            self._signal_revoked()
            if expired:
                self._emit(self.keys_changed(expired=[each.proof.name for each in expired]))

    async def refresh_issuers(self, *, at_once: bool = False) -> None:
        """Read the keys of each issuer again, if they are stale or ``at_once``."""
        async with anyio.create_task_group() as tasks:
            for issuer in self._issuers.values():
                tasks.start_soon(partial(issuer.refresh, at_once=at_once))

    async def authenticate(
        self, headers: Iterable[tuple[bytes, bytes]], certificate: ClientCertificate | None = None
    ) -> Credential:
        """The credential in the headers of a request (RFC 6750 2.1), else its certificate; raises ``NotAuthenticated``."""
        values = [value for name, value in headers if name == b"authorization"]
        if certificate and self._clients and not values:
            return self._authenticate_certificate(certificate)
        # Of two fields a proxy in front may have checked the other one.
        if len(values) != 1:
            raise NotAuthenticated(_MISSING)
        scheme, _, key = values[0].strip().partition(b" ")
        key = key.strip()
        if scheme.lower() != b"bearer" or not key:
            raise NotAuthenticated(_MISSING)
        # A lookup by digest needs no constant time: its time tells nothing about the key.
        digest = sha256(key).hexdigest()
        credential = self._keys.get(digest) or self._tokens.get(digest)
        # A token has three parts (RFC 7515 7.1). API keys with two dots were found above.
        if credential is None and self._issuers and key.count(b".") == 2:
            return await self._authenticate_token(key, digest)
        # It may have expired while ``run`` still sleeps.
        if credential is None or credential.is_expired or credential.is_ended:
            raise NotAuthenticated(INVALID, "invalid_token", credential.proof.name if credential else None)
        return credential

    async def _authenticate_token(self, key: bytes, digest: str) -> Credential:
        """Verify a token that is not in the cache."""
        # Cannot fail. A token with characters past ASCII is refused when it is parsed.
        text = key.decode("latin-1")
        try:
            header, name = parse_unverified(text)
            issuer = self._issuers.get(name or "")
            token = await issuer.token(text, header) if issuer else None
        except InvalidToken as problem:
            raise NotAuthenticated(str(problem), "invalid_token") from None
        except NoKeys:
            raise NotAuthenticated(_NO_ISSUER_KEYS, can_retry=True) from None
        if token is None:
            raise NotAuthenticated("The issuer of this token (iss) is unknown here", "invalid_token")
        if self._issuers.get(token.issuer.entry.issuer) is not token.issuer:  # revoked during the await
            raise NotAuthenticated(INVALID, "invalid_token")
        size = self._token_characters + len(text)
        if len(self._tokens) >= MAX_KNOWN_TOKENS or size > MAX_KNOWN_TOKEN_CHARACTERS:
            # Not those with active requests, whose leases must still end.
            self._forget([digest for digest, each in self._tokens.items() if not each.active_requests])
        # ``run`` sleeps until later: it has to be woken up.
        if token.expires < self._next_wakeup:
            self._changed.set()
        if digest not in self._tokens:  # another request may have added it during the await
            self._tokens[digest] = Credential.of(token, text)
            self._token_characters += len(text)
        return self._tokens[digest]

    def _authenticate_certificate(self, certificate: ClientCertificate) -> Credential:
        known = self._certificates.get(certificate)
        if known and not known.is_expired:
            return known
        if certificate.name is None:
            raise NotAuthenticated(_NO_NAME)
        if is_expired(certificate.expires):  # since its handshake
            raise NotAuthenticated(_EXPIRED, key_name=certificate.name)
        scopes = self._scopes_of_certificate(certificate.name)
        if scopes is None:
            raise NotAuthenticated(_NOT_LISTED, key_name=certificate.name)
        if len(self._certificates) >= MAX_KNOWN_CERTIFICATES:
            active = {each: known for each, known in self._certificates.items() if known.active_requests}
            self._certificates = active
        if certificate.expires < self._next_wakeup:
            self._changed.set()
        accepted = AcceptedCertificate(certificate.name, scopes, certificate.expires)
        self._certificates[certificate] = credential = Credential.of(accepted)
        return credential

    def _scopes_of_certificate(self, name: str) -> frozenset[str] | None:
        """The scopes of the caller with this name; None if no entry accepts it."""
        entries = [entry for entry in self._clients if matches(entry.name, name)]
        return frozenset(chain.from_iterable(entry.scopes for entry in entries)) if entries else None

    def _drop_invalid_certificates(self) -> None:
        """End and forget the certificates that have expired, or have other scopes now, or none."""
        for certificate, credential in list(self._certificates.items()):
            scopes = self._scopes_of_certificate(credential.proof.name)
            if credential.is_expired or scopes != credential.proof.scopes:
                credential.lease.end()
                del self._certificates[certificate]

    def _forget(self, digests: Iterable[str]) -> None:
        for digest in digests:
            self._token_characters -= len(self._tokens.pop(digest).caller.token or "")

    def _drop_invalid_tokens(self) -> None:
        """End and forget the tokens that are no longer valid."""
        # A copy, as ``_forget`` removes from the dict.
        for digest, credential in list(self._tokens.items()):
            token = credential.proof
            assert isinstance(token, Token)
            if (
                self._issuers.get(token.issuer.entry.issuer) is not token.issuer
                or not token.is_key_published
                or credential.is_expired
            ):
                credential.lease.end()
                self._forget([digest])
