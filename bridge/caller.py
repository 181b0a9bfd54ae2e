"""Who calls."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who has shown who they are; ``scopes`` are what they may do."""

    name: str
    scopes: frozenset[str]
