"""The circuit breaker of an upstream.

=========  ===========================  ==============================================================================
State      ``_open_until``              Calls
=========  ===========================  ==============================================================================
closed     None                         are made. After ``failures`` failed calls in a row the circuit opens.
open       in the future                fail at once with ``circuit-open``.
half-open  past                         One call, the probe, is made; others fail at once. The circuit closes if the
                                        probe succeeds, and opens for another ``openFor`` if it fails.
=========  ===========================  ==============================================================================

A call fails if the server cannot be reached, does not answer completely in time, or answers 502, 503 or 504. A call
that ends for another reason, such as no free slot, changes nothing.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from bridge.errors import NotAnswered, NotSent
from bridge.events import CircuitChanged, Listener
from bridge.exchange import Reply
from bridge.resolved_upstream import Upstream
from bridge.upstream.call import Call, Send

# without "timeout": a call that was not sent may have waited for a slot all the time
_UNREACHABLE_CODES: Final = frozenset(
    {"connect-refused", "connect-timeout", "connect-failed", "dns-failed", "proxy-failed"}
)
_FAILURE_STATUSES: Final = (502, 503, 504)
"""A gateway answers with these if its API is down."""


class Circuit:
    """The circuit breaker of one upstream, which outlives reloads."""

    def __init__(self, emit: Listener, clock: Callable[[], float]) -> None:
        self._emit = emit
        self._clock = clock
        self._failures = 0
        self._open_until: float | None = None
        self._is_probing = False

    def guard(self, call: Call, call_next: Send) -> Awaitable[Reply]:
        """Raises ``NotSent`` if the circuit is open."""
        return self._guard(call, call_next) if call.upstream.spec.circuit else call_next(call)

    async def _guard(self, call: Call, call_next: Send) -> Reply:
        upstream, spec, is_probe = call.upstream, call.upstream.spec.circuit, False
        assert spec
        if self._open_until is not None:
            left = self._open_until - self._clock()
            if left > 0 or self._is_probing:
                wait = f"{max(1, round(left))} s" if left > 0 else "a moment"
                message = f"The {upstream.server} failed {self._failures} times in a row, so no calls are made for now."
                raise NotSent("circuit-open", f"{message} Please try again in {wait}.")
            self._is_probing = is_probe = True
        # stays None for a call that says nothing about the server: cancelled, or without a slot or a token
        is_success: bool | None = None
        try:
            reply = await call_next(call)
            is_success = reply.status not in _FAILURE_STATUSES
        except NotSent as problem:
            is_success = (
                False if problem.code in _UNREACHABLE_CODES or problem.code.startswith("tls-") else None
            )
            raise
        except NotAnswered:
            is_success = False
            raise
        else:
            return reply
        finally:
            # A call that began before the circuit opened may end during the probe of another call.
            self._is_probing = self._is_probing and not is_probe
            if is_success is False:
                self._failed(upstream, spec.failures, spec.open_for)
            elif is_success:
                self.close(upstream.name)

    def _failed(self, upstream: Upstream, max_failures: int, open_for: float) -> None:
        self._failures += 1
        if self._failures >= max_failures:
            # If it is open already, the probe failed, or a call that began before: ``openFor`` begins again.
            was_closed, self._open_until = self._open_until is None, self._clock() + open_for
            if was_closed:
                self._emit(CircuitChanged(upstream.name, is_open=True, failures=self._failures))

    def close(self, name: str) -> None:
        """Allow calls again; ``name`` is the upstream's."""
        if self._open_until is not None:
            self._emit(CircuitChanged(name, is_open=False, failures=self._failures))
        self._failures, self._open_until = 0, None
