"""Points in time, in seconds since 1970."""

import time


def is_expired(expires: float | None) -> bool:
    """Whether the time, in seconds since 1970, has been reached. None never expires."""
    return expires is not None and expires <= time.time()
