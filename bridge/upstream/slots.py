"""Concurrency limits: a call takes a slot, or waits for one. Slots are shared fairly between callers.

A free slot goes to the waiting caller with the fewest running calls. If several have equally few, it goes to the first in
the queue of callers; a caller who gets a slot moves to the end of the queue. So a caller with hundreds of waiting calls does not delay the others.

A caller with a name gets at most three quarters of the slots. So calls that hang until their deadline leave some free.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Hashable
from types import TracebackType
from typing import Final

from bridge.errors import NotSent
from bridge.exchange import Reply
from bridge.spec import Limits
from bridge.upstream.call import Call, Send

MAX_WAITING_CALLS: Final = 1000
"""Waiting calls of one upstream or tool; further calls are refused at once."""


class Slots:
    """The running and the waiting calls of one upstream or tool, by caller.

    They outlive reloads: each call brings the current limits, which apply from then on. So many ``processes`` divide them
    among them; each has its part, rounded up.
    """

    def __init__(self, processes: int = 1) -> None:
        self._processes = processes
        self._used = 0
        self._concurrency = 1
        self._running: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        """The queue of callers, each with its waiting calls."""
        self._waiting_calls = 0

    @property
    def is_idle(self) -> bool:
        return self._used == 0

    async def limit(self, call: Call, call_next: Send) -> Reply:
        """The layer for the limits of an upstream; raises ``NotSent`` (busy)."""
        async with Slot(self, call.upstream.spec.limits, call.caller):
            return await call_next(call)

    async def acquire(self, limits: Limits, caller: Hashable = None) -> None:
        """Wait for a slot; raises ``NotSent`` (busy) if none is free within ``limits.queue``, or too many calls wait."""
        self._concurrency = -(-limits.concurrency // self._processes)
        self._serve_waiting()  # a reload may have raised the limit
        # No call is overtaken: callers that still wait have all the slots that they may have, or none is free
        if self._used < self._concurrency and self._has_room(caller):
            self._start(caller)
            return
        if self._waiting_calls >= MAX_WAITING_CALLS:
            raise _busy(f"and {MAX_WAITING_CALLS} more are waiting")
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(waiter)
        self._waiting_calls += 1
        try:
            async with asyncio.timeout(limits.queue):
                await waiter
        except (TimeoutError, asyncio.CancelledError) as end:
            self._withdraw(waiter, caller)
            if isinstance(end, TimeoutError):
                raise _busy(f"and none ended within {limits.queue:g} s") from end
            raise

    def release(self, caller: Hashable = None) -> None:
        """Free the slot of a call of this caller."""
        self._used -= 1
        self._running[caller] -= 1
        if not self._running[caller]:
            del self._running[caller]
        self._serve_waiting()

    def _has_room(self, caller: Hashable) -> bool:
        """Whether a caller may use one more slot; callers without a name may use all."""
        return caller is None or self._running.get(caller, 0) < max(1, self._concurrency * 3 // 4)

    def _start(self, caller: Hashable) -> None:
        self._used += 1
        self._running[caller] = self._running.get(caller, 0) + 1

    def _serve_waiting(self) -> None:
        while self._waiting and self._used < self._concurrency:
            # The dict is the queue of callers: ``min`` takes the first of equals, ``pop`` moves it to the end
            callers = list(filter(self._has_room, self._waiting))
            if not callers:
                return
            caller = min(callers, key=lambda caller: self._running.get(caller, 0))
            waiters = self._waiting.pop(caller)
            waiter = waiters.popleft()
            self._waiting_calls -= 1
            if waiters:
                self._waiting[caller] = waiters
            if not waiter.done():  # its task was cancelled, and has not run since
                waiter.set_result(None)
                self._start(caller)

    def _withdraw(self, waiter: asyncio.Future[None], caller: Hashable) -> None:
        if not waiter.cancelled():  # the slot was assigned at the same moment
            self.release(caller)
        # it is not in the queue if ``_serve_waiting`` has dropped it already
        elif waiter in (waiters := self._waiting.get(caller, deque())):
            waiters.remove(waiter)
            self._waiting_calls -= 1
            if not waiters:
                del self._waiting[caller]


def _busy(why: str) -> NotSent:
    return NotSent("busy", f"Too many calls to this API are running, {why}. Please try again later.")


class ToolSlots:
    """The slots of all tools that have limits of their own."""

    def __init__(self, processes: int = 1) -> None:
        self._processes = processes
        self._tools: dict[str, Slots] = {}

    def limit(self, call: Call, call_next: Send) -> Awaitable[Reply]:
        """Raises ``NotSent`` (busy)."""
        return call_next(call) if call.tool is None else self._limit(call, call_next, *call.tool)

    async def _limit(self, call: Call, call_next: Send, name: str, limits: Limits) -> Reply:
        async with Slot(self._tools.setdefault(name, Slots(self._processes)), limits, call.caller):
            return await call_next(call)

    def drop_idle(self) -> None:
        """After a reload: some of the tools may be gone."""
        self._tools = {name: slots for name, slots in self._tools.items() if not slots.is_idle}


class Slot:
    """Holds a slot during an ``async with``."""

    def __init__(self, slots: Slots, limits: Limits, caller: Hashable = None) -> None:
        self._slots = slots
        self._limits = limits
        self._caller = caller

    async def __aenter__(self) -> None:
        await self._slots.acquire(self._limits, self._caller)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots.release(self._caller)
