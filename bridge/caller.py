"""Who calls, and what of the tools is there for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bridge.settingsfile import View
from bridge.spec import Json


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls; ``scopes`` are what they may do, ``view`` is what they have chosen to see.

    Where nobody is asked who calls, there is no name, and scopes of None bind nobody. ``issuer`` is who says
    so, of those who show a token: a name means nothing beside another one; ``claims`` is what that says.
    """

    name: str | None = None
    scopes: frozenset[str] | None = None
    view: View | None = None
    issuer: str | None = None
    claims: Mapping[str, Json] = field(default_factory=dict, compare=False, repr=False)

    @property
    def known(self) -> Mapping[str, Json]:
        """The name and the claims, by the names that tool files have for them."""
        if self.name is None:
            return {}
        return {"$caller": self.name} | {f"$caller.{name}": claim for name, claim in self.claims.items()}

    def is_same(self, other: "Caller") -> bool:
        """Whether it is the same one at the same place, whatever they may do by now."""
        return (self.name, self.issuer, self.view) == (other.name, other.issuer, other.view)


ANYBODY: Final = Caller()
