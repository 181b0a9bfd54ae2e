"""Rate limits and concurrency limits: for each caller, and for all callers together.

A request past a limit is refused. The message says which limit it is, and when to try again.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeAlias

from bridge.access.gcra import SECOND, Gcra
from bridge.access.incoming_bytes import IncomingBytes
from bridge.caller import Caller
from bridge.errors import TooMany
from bridge.events import QuotaKind
from bridge.settings import Bounds, TotalLimits
from bridge.settings import Limits as LimitsConfig

UNBOUNDED: Final = LimitsConfig.model_validate({"total": TotalLimits(calls=None, results=None, streams=None)})
"""For stdio: its only client is the parent of this process."""

_DESCRIPTIONS: Final[Mapping[QuotaKind, tuple[str, int]]] = {
    "calls": ("calls at a time", 1),
    "results": ("bytes of results that wait to be read", 10),
    "streams": ("streams", 60),
}
"""QuotaKind → its name in messages, and the seconds after which a client should try again."""
_TOTAL: Final = "in all"
_BURST_DIVISOR: Final = 6
"""A sixth of the requests of a minute may come at once."""
_MIN_TRACKED_CALLERS: Final = 1000
"""Up to this number, callers without usage are not forgotten."""


@dataclass(slots=True)
class _Usage:
    """What one caller uses, or all callers. ``next_arrival`` is the ``arrival`` of ``Gcra``."""

    amounts: dict[QuotaKind, int] = field(default_factory=lambda: dict.fromkeys(_DESCRIPTIONS, 0))
    next_arrival: int = 0


_Quota: TypeAlias = tuple[_Usage, Bounds, str]
"""A usage, its limits, and whose they are, for messages."""


class Quotas:
    """Counts what callers use, against ``config``. All callers without a name count as one."""

    def __init__(
        self, config: LimitsConfig | None = None, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.config = config or LimitsConfig()
        self.incoming_bytes = IncomingBytes(self.config.body)
        self._per_caller = self.config.per_caller
        # The defaults leave room for other callers. Next to callers without a name there are none.
        written = self._per_caller.written
        self._anonymous_bounds = None if written == Bounds() else written
        self._has_rate = bool(self.config.total.rate or self._per_caller.rate)
        self._clock_ns = clock_ns
        self._total = _Usage()
        self._total_quota: tuple[_Quota, ...] = ((self._total, self.config.total, _TOTAL),)
        self._usages: dict[tuple[str | None, str] | None, _Usage] = {}
        self._max_tracked = _MIN_TRACKED_CALLERS

    def count_request(self, caller: Caller) -> None:
        """Count a request of any kind. Past the rate limit raises ``TooMany``, and does not count it."""
        if not self._has_rate:
            return
        # All limits are checked before one is counted: a refused request counts for none.
        now, quotas = self._clock_ns(), self._quotas(caller)
        for usage, bounds, owner in quotas:
            # A caller's own limit comes first in ``quotas``, so that it is the one that the message names.
            if bounds.rate and (wait := _gcra(bounds.rate).wait(usage.next_arrival, now)):
                limit = f"{bounds.rate} {owner}, {_gcra(bounds.rate).burst} of them at once"
                seconds = _divide_up(wait, SECOND)
                raise _too_many("requests in a minute", limit, seconds, is_total=owner == _TOTAL)
        for usage, bounds, _ in quotas:
            if bounds.rate:
                usage.next_arrival = _gcra(bounds.rate).count(usage.next_arrival, now)

    def begin_call(self, caller: Caller) -> None:
        """Count a call, which ends with ``add("calls", caller, -1)``; raises ``TooMany``."""
        quotas = self._quotas(caller)
        _require_room("results", quotas)
        _require_room("calls", quotas)
        for usage, *_ in quotas:
            usage.amounts["calls"] += 1

    def add(self, kind: QuotaKind, caller: Caller, number: int) -> None:
        """Change a usage by ``number``, which may be negative. No limit is checked."""
        for usage, *_ in self._quotas(caller):
            usage.amounts[kind] += number

    @contextmanager
    def hold(self, kind: QuotaKind, caller: Caller) -> Iterator[None]:
        """Count one of ``kind`` until the end of the block. Raises ``TooMany``."""
        _require_room(kind, self._quotas(caller))
        self.add(kind, caller, 1)
        try:
            yield
        finally:
            self.add(kind, caller, -1)

    @property
    def usage(self) -> Mapping[QuotaKind, int]:
        """What all callers use at the moment."""
        return {kind: self._total.amounts[kind] for kind in _DESCRIPTIONS}

    def _quotas(self, caller: Caller) -> tuple[_Quota, ...]:
        identity = caller.identity
        bounds = self._anonymous_bounds if identity is None else self._per_caller
        if bounds is None:
            return self._total_quota
        usage = self._usages.get(identity)
        if usage is None:
            # With tokens there may be any number of names.
            if len(self._usages) >= self._max_tracked:
                self._forget_unused()
            usage = self._usages[identity] = _Usage()
        return ((usage, bounds, "for each caller"), *self._total_quota)

    def _forget_unused(self) -> None:
        """Forget callers without usage. It runs again when twice as many are tracked, so that its cost stays small."""
        now = self._clock_ns()
        # An arrival in the past is the same as none, so nothing is lost.
        kept = {
            identity: usage
            for identity, usage in self._usages.items()
            if any(usage.amounts.values()) or usage.next_arrival > now
        }
        self._usages = kept
        self._max_tracked = max(_MIN_TRACKED_CALLERS, 2 * len(kept))


def _require_room(kind: QuotaKind, quotas: tuple[_Quota, ...]) -> None:
    for usage, bounds, owner in quotas:
        bound = getattr(bounds, kind)
        if bound is not None and usage.amounts[kind] >= bound:
            name, wait = _DESCRIPTIONS[kind]
            raise _too_many(name, f"{bound} {owner}", wait, is_total=owner == _TOTAL)


@lru_cache
def _gcra(rate: int) -> Gcra:
    """The algorithm for so many requests in a minute."""
    # Rounded up: a shorter interval would allow more than ``rate``.
    return Gcra(_divide_up(60 * SECOND, rate), max(rate // _BURST_DIVISOR, 1))


def _divide_up(number: int, divisor: int) -> int:
    return -(-number // divisor)


def _too_many(what: str, limit: str, wait: int, *, is_total: bool) -> TooMany:
    seconds = f"{wait} second{'' if wait == 1 else 's'}"
    text = f"Too many {what}: at most {limit}. Try again in {seconds}."
    return TooMany("too-many-calls", text, wait, is_total=is_total)
