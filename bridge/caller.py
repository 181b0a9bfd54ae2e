"""Who calls, and what of the tools is there for them; and the requests that they call with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import anyio

from bridge.exchange import RawHeaders
from bridge.settingsfile import View
from bridge.spec import Json


class Stay:
    """How long somebody may be here: until what let them in counts no more; then ``running`` ends, too.

    Must be made where the event loop runs.
    """

    def __init__(self) -> None:
        self.over = anyio.Event()
        self.running: set[anyio.CancelScope] = set()

    def end(self) -> None:
        self.over.set()
        for scope in self.running:
            scope.cancel()


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls; ``scopes`` are what they may do, ``view`` is what they have chosen to see.

    Where nobody is asked who calls, there is no name, and scopes of None bind nobody. ``issuer`` is who says
    so, of those who show a ``token``: a name means nothing beside another one; ``claims`` is what that says.
    ``known`` has the name and the claims by the names that tool files have for them. Who has a ``stay`` may be sent away.
    """

    name: str | None = None
    scopes: frozenset[str] | None = None
    view: View | None = None
    issuer: str | None = None
    claims: Mapping[str, Json] = field(default_factory=dict, compare=False, repr=False)
    token: str | None = field(default=None, compare=False, repr=False)
    stay: Stay | None = field(default=None, compare=False, repr=False)
    known: Mapping[str, Json] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Derive ``known``."""
        known = {f"$caller.{name}": claim for name, claim in self.claims.items()}
        object.__setattr__(self, "known", known if self.name is None else known | {"$caller": self.name})

    @property
    def identity(self) -> tuple[str | None, str] | None:
        """The issuer and the name, which tell callers apart; None for all those without a name."""
        return None if self.name is None else (self.issuer, self.name)

    def is_same(self, other: "Caller") -> bool:
        """Whether it is the same one at the same place, whatever they may do by now."""
        return (self.name, self.issuer, self.view) == (other.name, other.issuer, other.view)


ANYBODY: Final = Caller()


class Inbound(NamedTuple):
    """The request of a client that a call comes from; its ``id`` is fit for a log."""

    caller: Caller = ANYBODY
    id: str | None = None
    headers: RawHeaders = ()


UNTOLD: Final = Inbound()
"""One of which nothing is known."""
