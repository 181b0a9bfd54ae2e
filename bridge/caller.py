"""Who calls, and what of the tools is there for them."""

from dataclasses import dataclass
from typing import Final

from bridge.settingsfile import View


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls; ``scopes`` are what they may do, ``view`` is what they have chosen to see.

    Where nobody is asked who calls, there is no name, and scopes of None bind nobody. ``issuer`` is who says
    so, of those who show a token: a name means nothing beside another one.
    """

    name: str | None = None
    scopes: frozenset[str] | None = None
    view: View | None = None
    issuer: str | None = None

    def is_same(self, other: "Caller") -> bool:
        """Whether it is the same one at the same place, whatever they may do by now."""
        return (self.name, self.issuer, self.view) == (other.name, other.issuer, other.view)


ANYBODY: Final = Caller()
