"""Retries: whether a request is sent again, and when."""

import asyncio
from collections.abc import Callable
from typing import Final

from bridge.errors import NotSent, UpstreamError
from bridge.events import Listener, RequestRetried, ignore
from bridge.exchange import Reply, retry_after
from bridge.spec import Retries
from bridge.upstream.call import Call, Send

_TRANSIENT_CODES: Final = frozenset({"connect-refused", "connect-failed", "dns-failed", "proxy-failed"})
"""Errors that may be gone after a moment. A connect timeout is none: TCP itself has tried three times by then."""
_FIRST_WAIT_SECONDS: Final = 0.1
_MAX_WAIT_SECONDS: Final = 2.0
_MAX_BUDGET: Final = 10.0
_BUDGET_PER_REQUEST: Final = 0.2


class Retrying:
    """The retry budget of one upstream.

    Each request adds a fifth of a retry. So an upstream that is down gets at most 1.2 times its usual load.
    ``random`` returns 0 to 1, and ``now`` seconds since 1970.
    """

    def __init__(
        self, random: Callable[[], float], now: Callable[[], float], emit: Listener = ignore
    ) -> None:
        self._random = random
        self._now = now
        self._emit = emit
        self._budget = _MAX_BUDGET

    def earn(self) -> None:
        """To be called once for every request that may be repeated, but not for its repetitions."""
        self._budget = min(_MAX_BUDGET, self._budget + _BUDGET_PER_REQUEST)

    async def repeat(self, call: Call, call_next: Send) -> Reply:
        """Repeats what is safe to repeat, within the budget; raises the last error."""
        self.earn()
        call.attempt = 1  # after a 401 the token layer sends the same call again
        while True:
            outcome: Reply | UpstreamError
            try:
                outcome = await call_next(call)
            except UpstreamError as error:
                outcome = error
            left = call.deadline - asyncio.get_running_loop().time()
            retries = call.upstream.spec.retries
            wait = self.wait(outcome, call.attempt, retries, left, repeatable=call.repeatable)
            if wait is None:
                break
            self._emit(RequestRetried(call.upstream.name, call.attempt, _reason(outcome), wait))
            await asyncio.sleep(wait)
            call.attempt += 1
        try:
            if isinstance(outcome, UpstreamError):
                raise outcome
            return outcome
        finally:
            del outcome  # breaks a cycle: the traceback of the error holds this frame, which holds the error

    def wait(
        self, outcome: Reply | UpstreamError, attempt: int, retries: Retries, left: float, *, repeatable: bool
    ) -> float | None:
        """Seconds to wait before the next attempt; None if there is none.

        ``attempt`` counts from 1, ``left`` is in seconds until the deadline.
        """
        if attempt > retries.max or self._budget < 1:
            return None
        if not _is_retryable(outcome, retries, repeatable=repeatable):
            return None
        # jitter, so that calls that failed together are not repeated together
        wait: float = min(_MAX_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2 ** (attempt - 1)) * (
            0.5 + self._random() / 2
        )
        if isinstance(outcome, Reply):
            wait = max(wait, retry_after(outcome.headers.get("retry-after", ""), self._now()) or 0)
        if wait >= left:  # the last reply or error says more than a timeout would
            return None
        self._budget -= 1
        return wait


def _reason(outcome: Reply | UpstreamError) -> str:
    """The reason for a retry: an error code, or ``status-503``."""
    return f"status-{outcome.status}" if isinstance(outcome, Reply) else outcome.code


def _is_retryable(outcome: Reply | UpstreamError, retries: Retries, *, repeatable: bool) -> bool:
    if isinstance(outcome, Reply):
        return repeatable and outcome.status in retries.statuses
    if outcome.is_permanent:
        return False
    if isinstance(outcome, NotSent):  # safe for every method
        return outcome.code in _TRANSIENT_CODES
    # a connection error that is not NotSent: an earlier attempt of this call was sent
    return repeatable and outcome.code in (*_TRANSIENT_CODES, "reply-cut")
