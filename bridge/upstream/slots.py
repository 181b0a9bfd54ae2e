"""How many calls run at a time; others wait, and a free slot goes to the caller who has the fewest.

So a caller with hundreds of waiting calls does not hold up another's: whichever slot is free next goes to a caller with
fewer running calls, and between callers with equally many, to the one who has waited longer for a slot. And a caller with
a name never has more than three quarters of the slots: calls that hang until their deadline leave room for others.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Hashable
from types import TracebackType
from typing import Final

from bridge.errors import NotSent
from bridge.spec import Limits

MAX_WAITING_CALLS: Final = 1000
"""Calls that wait under one name; of more, each is refused at once."""


class Slots:
    """The calls that run under one name, and those that wait, each with the key of its caller.

    It outlives reloads: whoever comes brings the limits that apply from then on.
    """

    def __init__(self) -> None:
        self._taken = 0
        self._concurrency = 1
        self._running: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        """By caller; a caller who was served last stands last."""
        self._waiting_calls = 0

    @property
    def idle(self) -> bool:
        return self._taken == 0

    async def take(self, limits: Limits, caller: Hashable = None) -> None:
        """Wait for a slot; raises ``NotSent`` (busy) if none is free within ``limits.queue``, or too many wait."""
        self._concurrency = limits.concurrency
        self._serve_waiting()
        if self._taken < self._concurrency and self._has_share(caller):
            self._start(caller)
            return
        if self._waiting_calls >= MAX_WAITING_CALLS:
            raise _busy(f"and {MAX_WAITING_CALLS} more wait")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        self._waiting_calls += 1
        try:
            async with asyncio.timeout(limits.queue):
                await turn
        except (TimeoutError, asyncio.CancelledError) as end:
            self._withdraw(turn, caller)
            if isinstance(end, TimeoutError):
                raise _busy(f"and none ended within {limits.queue:g} s") from end
            raise

    def give(self, caller: Hashable = None) -> None:
        """Free the slot of a call of this caller."""
        self._taken -= 1
        self._running[caller] -= 1
        if not self._running[caller]:
            del self._running[caller]
        self._serve_waiting()

    def _has_share(self, caller: Hashable) -> bool:
        """Whether a caller may have one more of the slots; nobody shares them with callers without a name."""
        return caller is None or self._running[caller] < max(1, self._concurrency * 3 // 4)

    def _start(self, caller: Hashable) -> None:
        self._taken += 1
        self._running[caller] += 1

    def _serve_waiting(self) -> None:
        while self._waiting and self._taken < self._concurrency:
            callers = list(filter(self._has_share, self._waiting))
            if not callers:
                return
            caller = min(callers, key=self._running.__getitem__)
            turns = self._waiting.pop(caller)
            turn = turns.popleft()
            self._waiting_calls -= 1
            if turns:
                self._waiting[caller] = turns
            if not turn.done():
                turn.set_result(None)
                self._start(caller)

    def _withdraw(self, turn: asyncio.Future[None], caller: Hashable) -> None:
        if not turn.cancelled():  # it had come at that very moment
            self.give(caller)
        elif turn in (turns := self._waiting.get(caller, deque())):
            turns.remove(turn)
            self._waiting_calls -= 1
            if not turns:
                del self._waiting[caller]


def _busy(why: str) -> NotSent:
    return NotSent("busy", f"Too many calls to this API are running, {why}. Please try again later.")


class Turn:
    """A slot for the length of an ``async with``."""

    def __init__(self, slots: Slots, limits: Limits, caller: Hashable = None) -> None:
        self._slots = slots
        self._limits = limits
        self._caller = caller

    async def __aenter__(self) -> None:
        await self._slots.take(self._limits, self._caller)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots.give(self._caller)
