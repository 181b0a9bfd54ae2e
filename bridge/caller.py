"""The caller of a request: name, scopes, view and credential."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import anyio

from bridge.exchange import RawHeaders
from bridge.spec import Json
from bridge.view import View

CERTIFICATE_ISSUER: Final = "certificate"
"""The issuer of callers that a client certificate names. So they differ from keys and tokens with the same name."""


class CredentialLease:
    """Lasts until its credential expires or is revoked: then ``ended`` is set, and the scopes in ``running`` are cancelled.

    Must be created in the event loop.
    """

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.running: set[anyio.CancelScope] = set()

    def end(self) -> None:
        # A call that is cancelled looks here for the reason.
        self.ended.set()
        # The set does not change meanwhile: tasks leave it when the event loop runs them.
        for scope in self.running:
            scope.cancel()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, with which rights, and through which view.

    Without access control there is no name, and ``scopes`` is None: all tools may be called. ``issuer`` and ``claims`` are
    those of the ``token``, None and empty for an API key; ``CERTIFICATE_ISSUER`` for a certificate. The same name from two issuers is two callers.
    ``placeholders`` maps those of tool files (``$caller``, ``$caller.CLAIM``) to their values. The ``lease`` is None without
    access control and on the command line.
    """

    name: str | None = None
    scopes: frozenset[str] | None = None
    view: View | None = None
    issuer: str | None = None
    # Not compared: with another token it is the same caller. Not in repr, which a log may show.
    claims: Mapping[str, Json] = field(default_factory=dict, compare=False, repr=False)
    token: str | None = field(default=None, compare=False, repr=False)
    lease: CredentialLease | None = field(default=None, compare=False, repr=False)
    placeholders: Mapping[str, Json] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Here, and not for each call. ``object.__setattr__``, as the dataclass is frozen.
        claims = {f"$caller.{name}": claim for name, claim in self.claims.items()}
        name = {} if self.name is None else {"$caller": self.name}
        object.__setattr__(self, "placeholders", claims | name)

    @property
    def identity(self) -> tuple[str | None, str] | None:
        """The issuer and the name, which together are unique; None for all callers without a name."""
        return None if self.name is None else (self.issuer, self.name)


ANONYMOUS: Final = Caller()
"""The caller where there is no access control, such as over stdio."""


class Inbound(NamedTuple):
    """The request of a client that a call comes from. Its ``id`` is safe to log."""

    caller: Caller = ANONYMOUS
    id: str | None = None
    headers: RawHeaders = ()


NO_CALLER: Final = Inbound()
"""For calls that no client's request has caused."""
