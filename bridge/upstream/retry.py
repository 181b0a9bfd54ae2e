"""Whether a request goes out once more, and when."""

import re
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Final

from bridge.errors import NotSent, UpstreamError
from bridge.exchange import Reply
from bridge.spec import Retries

_PASSING: Final = frozenset({"connect-refused", "connect-failed", "dns-failed", "proxy-failed"})
"""What may be over in a moment. A time-out to connect is not: TCP itself has tried three times by then."""
_FIRST: Final = 0.1
_DAY: Final = 86400.0
_LONGEST: Final = 2.0
_SAVED: Final = 10.0
_EARNED: Final = 0.2
_HTTP_DATE: Final = re.compile(r"(?a)[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT")


class Retrying:
    """The retries of one upstream.

    They are bounded also in all: each call earns a fifth of one, so that an upstream that is down gets
    no more than 1.2 times its load. ``random`` answers from 0 to 1, ``now`` seconds since 1970.
    """

    def __init__(self, random: Callable[[], float], now: Callable[[], float]) -> None:
        self._random = random
        self._now = now
        self._budget = _SAVED

    def earn(self) -> None:
        """For every call that begins."""
        self._budget = min(_SAVED, self._budget + _EARNED)

    def wait(
        self, outcome: Reply | UpstreamError, attempt: int, retries: Retries, left: float, *, repeatable: bool
    ) -> float | None:
        """Seconds to wait before the next attempt; None if there is none.

        ``attempt`` counts from 1, ``left`` is in seconds until the deadline.
        """
        if attempt > retries.max or self._budget < 1:
            return None
        if not _is_worth_another(outcome, retries, repeatable=repeatable):
            return None
        wait: float = min(_LONGEST, _FIRST * 2 ** (attempt - 1)) * (0.5 + self._random() / 2)
        if isinstance(outcome, Reply):
            wait = max(wait, retry_after(outcome.headers.get("retry-after", ""), self._now()) or 0)
        if wait >= left:
            return None
        self._budget -= 1
        return wait


def reason(outcome: Reply | UpstreamError) -> str:
    """Why there is another attempt: an error code, or ``status-503``."""
    return f"status-{outcome.status}" if isinstance(outcome, Reply) else outcome.code


def _is_worth_another(outcome: Reply | UpstreamError, retries: Retries, *, repeatable: bool) -> bool:
    if isinstance(outcome, Reply):
        return repeatable and outcome.status in retries.statuses
    if outcome.is_lasting:
        return False
    if isinstance(outcome, NotSent):
        return outcome.code in _PASSING
    return repeatable and outcome.code in (*_PASSING, "reply-cut")


def retry_after(value: str, now: float) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110 10.2.3), 0 to a day; None if it says nothing valid."""
    if value.isascii() and value.isdigit():
        return min(float(value), _DAY)
    if not _HTTP_DATE.fullmatch(value):
        return None
    try:
        return min(max(0.0, parsedate_to_datetime(value).timestamp() - now), _DAY)
    except ValueError:
        return None
