"""Which request ids are accepted. Does not import the SDK, so the early answers over stdio can use it."""

from typing import Final, TypeGuard

MAX_LENGTH: Final = 256
"""Characters of a string."""
MAX_BITS: Final = 64
"""Bits of an integer."""


def is_id(id: object) -> TypeGuard[int | str]:
    """Whether an id is a short string or integer: it is kept in memory, logged and sent back."""
    return (type(id) is str and len(id) <= MAX_LENGTH) or (type(id) is int and id.bit_length() <= MAX_BITS)
