"""Which ids of requests are taken. The module needs no SDK, so that the first answers over stdio can ask it."""

from typing import Final, TypeGuard

MAX_LENGTH: Final = 256
"""Characters of a text."""
MAX_BITS: Final = 64
"""Bits of an integer."""


def is_id(id: object) -> TypeGuard[int | str]:
    """Whether an id is a text or an integer, and short: it is held, compared, logged and written back."""
    return (type(id) is str and len(id) <= MAX_LENGTH) or (type(id) is int and id.bit_length() <= MAX_BITS)
