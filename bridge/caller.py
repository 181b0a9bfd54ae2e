"""Who calls."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who has shown who they are; ``scopes`` are what they may do."""

    name: str
    scopes: frozenset[str]


def name_of(caller: Caller | None) -> str | None:
    """None where nobody is asked who calls."""
    return caller.name if caller else None
