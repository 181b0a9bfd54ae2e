"""Who may come in over HTTP: whoever holds a key or a token that counts now.

Of keys the digests are known alone; tokens are kept while they count, as some APIs take others in exchange. What one
opened, a stream above all, ends when it does.
"""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Final

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken

from bridge.access.jwt import Fetch, InvalidToken, NoKeys, Token, TokenIssuer, unverified
from bridge.caller import Caller, Stay
from bridge.events import Ear, KeysChanged, ignore
from bridge.settingsfile import Access as AccessWords
from bridge.settingsfile import ApiKey, Issuer, is_past

_MISSING: Final = "Show who you are: Authorization: Bearer, and a key or a token"
_TWICE: Final = "Show one key: there is more than one Authorization header"
INVALID: Final = "This key is not known here, or counts no more"
_LATER: Final = "The keys of the issuer of this token cannot be read just now; try again in 10 seconds"
_FOREVER: Final = 3600.0
MAX_KNOWN_TOKENS: Final = 2000
MAX_KNOWN_TOKEN_CHARACTERS: Final = 2 * 1024**2
"""Verified tokens that are kept. Past either bound those with no open request are forgotten, and verified again when shown."""


class Refused(Exception):
    """A request without a key or a token that counts; the text is for its sender.

    ``error`` is as RFC 6750 3.1 has it; none for who shows nothing. ``holder`` is whose key it was, which the sender
    is not told. ``later``: it may count in a while.
    """

    def __init__(
        self, text: str, error: str | None = None, holder: str | None = None, *, later: bool = False
    ) -> None:
        super().__init__(text)
        self.error = error
        self.holder = holder
        self.later = later


@dataclass(slots=True)
class Holder:
    """Who holds a key or a token, until that is withdrawn or expires; ``visits`` are requests that it let in."""

    proof: ApiKey | Token
    caller: Caller
    user: AuthenticatedUser
    stay: Stay
    visits: int = 0

    @classmethod
    def of(cls, proof: ApiKey | Token, text: str | None = None) -> "Holder":
        """``text`` is the token itself, by which others may be got."""
        scopes, who, stay = frozenset(proof.scopes), proof.name, Stay()
        if isinstance(proof, Token):
            issuer = proof.issuer.entry.issuer
            caller = Caller(proof.name, scopes, issuer=issuer, claims=proof.claims, token=text, stay=stay)
            who = f"{issuer} {proof.name}"  # no key's name has a blank
        else:
            caller = Caller(proof.name, scopes, stay=stay)
        # The SDK binds sessions to the user, and asks nothing of the token itself.
        user = AuthenticatedUser(AccessToken(token="", client_id=who, scopes=[]))
        return cls(proof, caller, user, stay)

    @property
    def is_over(self) -> bool:
        return is_past(self.proof.expires)

    @property
    def has_left(self) -> bool:
        return self.stay.over.is_set()


class Access:
    """Whose keys and tokens count now, as ``words`` say; must be made where the event loop runs.

    ``fetch`` reads the keys of issuers.
    """

    def __init__(self, words: AccessWords, fetch: Fetch, emit: Ear = ignore) -> None:
        self._fetch = fetch
        self._emit: Ear = ignore
        self._keys: dict[str, Holder] = {}
        self._tokens: dict[str, Holder] = {}
        self._token_characters = 0
        self._issuers: dict[str, TokenIssuer] = {}
        self._changed = anyio.Event()
        self._awaited = math.inf
        self.departed = anyio.Event()
        """Set, and another one, when a key or an issuer counts no more."""
        self.replace(words)
        self._emit = emit

    @property
    def issuers(self) -> tuple[str, ...]:
        """Those whose tokens count."""
        return tuple(self._issuers)

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """All, those that have expired among them."""
        return tuple(holder.proof for holder in self._keys.values() if isinstance(holder.proof, ApiKey))

    @property
    def expired(self) -> tuple[str, ...]:
        """The names of keys that count no more, and are there still."""
        return tuple(key.name for key in self.keys if is_past(key.expires))

    @property
    def counting(self) -> int:
        """How many keys count now."""
        return len(self.keys) - len(self.expired)

    @property
    def next_expiry(self) -> float:
        """When the next key expires, in seconds since 1970; infinite where none does."""
        return min(
            (key.expires for key in self.keys if key.expires and not is_past(key.expires)), default=math.inf
        )

    def may_grant(self, issuer: str, scopes: Iterable[str]) -> bool:
        """Whether tokens of an issuer may give all of these scopes."""
        return issuer in self._issuers and all(map(self._issuers[issuer].entry.may_grant, scopes))

    def knows(self, caller: Caller) -> bool:
        """Whether a key has that name, or there is that issuer, who may know of the name."""
        if caller.issuer is not None:
            return caller.issuer in self._issuers
        return any(key.name == caller.name and not is_past(key.expires) for key in self.keys)

    def replace(self, words: AccessWords) -> None:
        """Let these count from now on; what those opened ends that are another or no more among them."""
        self.step_up, self.scopes_supported = words.step_up, words.scopes_supported
        standing = self._standing()
        before, self._keys = self._keys, {}
        for key in words.api_keys or ():
            known = before.get(key.sha256)
            self._keys[key.sha256] = holder = known if known and known.proof == key else Holder.of(key)
            if holder.is_over:
                holder.stay.end()
        kept = {id(holder) for holder in self._keys.values()}
        for holder in before.values():
            if id(holder) not in kept:
                holder.stay.end()
        issuers, self._issuers = self._issuers, {}
        for entry in words.jwt or ():
            old = issuers.get(entry.issuer)
            keys = old.keys if old and old.entry.jwks == entry.jwks else None
            self._issuers[entry.issuer] = (
                old if old and old.entry == entry else TokenIssuer(entry, self._fetch, self._weed, keys=keys)
            )
        self._weed()
        self._changed.set()
        self._leave()
        self._tell(standing, self._standing())

    def _standing(self) -> dict[str, ApiKey | Issuer]:
        """Keys and issuers, by their names."""
        issuers = {name: issuer.entry for name, issuer in self._issuers.items()}
        return {key.name: key for key in self.keys} | issuers

    def _tell(self, before: Mapping[str, ApiKey | Issuer], after: Mapping[str, ApiKey | Issuer]) -> None:
        others = {name for name, entry in after.items() if before.get(name) != entry}
        removed, expired = before.keys() - after.keys(), others & set(self.expired)
        if others or removed:
            counting = others - expired
            self._emit(self.told(counting - before.keys(), counting & before.keys(), removed, expired))

    def told(
        self,
        added: Iterable[str] = (),
        changed: Iterable[str] = (),
        removed: Iterable[str] = (),
        expired: Iterable[str] = (),
    ) -> KeysChanged:
        """How many count now, after these changes."""
        return KeysChanged(
            added=tuple(sorted(added)),
            changed=tuple(sorted(changed)),
            removed=tuple(sorted(removed)),
            expired=tuple(sorted(expired)),
            counting=self.counting,
            issuers=len(self._issuers),
        )

    def _leave(self) -> None:
        self.departed.set()
        self.departed = anyio.Event()

    async def run(self) -> None:
        """End what expired keys and tokens have opened; ends when it is cancelled."""
        while True:
            self._changed = anyio.Event()
            now = time.time()
            holders = [*self._keys.values(), *self._tokens.values()]
            times = [holder.proof.expires for holder in holders if not holder.has_left]
            self._awaited = min([now + _FOREVER, *(expires for expires in times if expires is not None)])
            with anyio.move_on_after(max(self._awaited - now, 0)):
                await self._changed.wait()
            expired = [holder for holder in self._keys.values() if holder.is_over and not holder.has_left]
            for holder in expired:
                holder.stay.end()
            self._weed()
            self._leave()
            if expired:
                self._emit(self.told(expired=[holder.proof.name for holder in expired]))

    async def freshen(self, *, at_once: bool = False) -> None:
        """Read the keys of issuers again, of each as seldom as that will do, or now."""
        async with anyio.create_task_group() as tasks:
            for issuer in self._issuers.values():
                tasks.start_soon(partial(issuer.freshen, at_once=at_once))

    async def holder(self, headers: Iterable[tuple[bytes, bytes]]) -> Holder:
        """Who sends a request with these headers; raises ``Refused``."""
        shown = [value for name, value in headers if name == b"authorization"]
        if not shown:
            raise Refused(_MISSING)
        scheme, _, key = shown[0].strip().partition(b" ")
        key = key.strip()
        if len(shown) > 1:
            raise Refused(_TWICE)
        if scheme.lower() != b"bearer" or not key:
            raise Refused(_MISSING)
        digest = sha256(key).hexdigest()
        holder = self._keys.get(digest) or self._tokens.get(digest)
        if holder is None and self._issuers and key.count(b".") == 2:
            return await self._of_token(key, digest)
        if holder is None or holder.is_over or holder.has_left:
            raise Refused(INVALID, "invalid_token", holder.proof.name if holder else None)
        return holder

    async def _of_token(self, key: bytes, digest: str) -> Holder:
        """Who shows a token for the first time."""
        text = key.decode("latin-1")
        try:
            header, name = unverified(text)
            issuer = self._issuers.get(name or "")
            token = await issuer.token(text, header) if issuer else None
        except InvalidToken as problem:
            raise Refused(str(problem), "invalid_token") from None
        except NoKeys:
            raise Refused(_LATER, later=True) from None
        if token is None:
            raise Refused("This token is of an issuer that is not known here", "invalid_token")
        if self._issuers.get(token.issuer.entry.issuer) is not token.issuer:  # it was withdrawn meanwhile
            raise Refused(INVALID, "invalid_token")
        size = self._token_characters + len(text)
        if len(self._tokens) >= MAX_KNOWN_TOKENS or size > MAX_KNOWN_TOKEN_CHARACTERS:
            self._forget([digest for digest, holder in self._tokens.items() if not holder.visits])
        if token.expires < self._awaited:
            self._changed.set()
        if digest not in self._tokens:  # another request may have shown it meanwhile
            self._tokens[digest] = Holder.of(token, text)
            self._token_characters += len(text)
        return self._tokens[digest]

    def _forget(self, digests: Iterable[str]) -> None:
        for digest in digests:
            self._token_characters -= len(self._tokens.pop(digest).caller.token or "")

    def _weed(self) -> None:
        """End and forget the tokens that are no longer valid."""
        for digest, holder in list(self._tokens.items()):
            token = holder.proof
            assert isinstance(token, Token)
            if (
                self._issuers.get(token.issuer.entry.issuer) is not token.issuer
                or not token.counts
                or holder.is_over
            ):
                holder.stay.end()
                self._forget([digest])
