"""Small parts of messages."""

from typing import Final

MAX_QUOTED_CHARACTERS: Final = 300
"""Of text from a server or a client in one log line."""


def count(number: int, noun: str) -> str:
    """``1 tool``, ``2 tools``, ``no tools``."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
