"""Leaves an API alone that fails again and again, and tries now and then whether it is there again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from bridge.errors import NotAnswered, NotSent
from bridge.events import CircuitChanged, Ear
from bridge.exchange import Reply
from bridge.secrets import Upstream

_AWAY: Final = frozenset(
    {"connect-refused", "connect-timeout", "connect-failed", "dns-failed", "proxy-failed"}
)
_STATUSES: Final = (502, 503, 504)
"""What a gateway says of an API that is not there."""


class Circuit:
    """The breaker of one upstream: open after so many calls in a row that failed, and closed by one that does not.

    While it is open no call is made for a while; then one is, and until that has ended no other. ``now`` is in seconds.
    """

    def __init__(self, emit: Ear, now: Callable[[], float]) -> None:
        self._emit = emit
        self._now = now
        self._failures = 0
        self._until: float | None = None
        self._is_trying = False

    @contextmanager
    def passing(self, upstream: Upstream) -> Iterator[Callable[[Reply], None]]:
        """One call, which says what it was answered; raises ``NotSent`` if it may not be made."""
        words, tries = upstream.spec.circuit, False
        assert words
        if self._until is not None:
            left = self._until - self._now()
            if left > 0 or self._is_trying:
                wait = f"{max(1, round(left))} s" if left > 0 else "a moment"
                message = f"The {upstream.server} failed {self._failures} times in a row, and is left alone for now."
                raise NotSent("circuit-open", f"{message} Please try again in {wait}.")
            self._is_trying = tries = True
        is_well: bool | None = None

        def answered(reply: Reply) -> None:
            nonlocal is_well
            is_well = reply.status not in _STATUSES

        try:
            yield answered
        except NotSent as problem:
            is_well = False if problem.code in _AWAY or problem.code.startswith("tls-") else None
            raise
        except NotAnswered:
            is_well = False
            raise
        finally:
            self._is_trying = self._is_trying and not tries
            if is_well is False:
                self._failed(upstream, words.failures, words.open_for)
            elif is_well:
                self.close(upstream.name)

    def _failed(self, upstream: Upstream, most: int, open_for: float) -> None:
        self._failures += 1
        if self._failures >= most:
            was_closed, self._until = self._until is None, self._now() + open_for
            if was_closed:
                self._emit(CircuitChanged(upstream.name, is_open=True, failures=self._failures))

    def close(self, name: str) -> None:
        """Leave the upstream of that name alone no more."""
        if self._until is not None:
            self._emit(CircuitChanged(name, is_open=False, failures=self._failures))
        self._failures, self._until = 0, None
