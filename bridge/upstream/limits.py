"""How many calls run at a time; the others wait for their turn."""

import asyncio
from collections import deque
from types import TracebackType

from bridge.errors import NotSent
from bridge.spec import Limits


class Slots:
    """The calls that run under one name, and those that wait, first come, first served.

    It outlives reloads: whoever comes brings the limits that count from then on.
    """

    def __init__(self) -> None:
        self._taken = 0
        self._concurrency = 1
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def idle(self) -> bool:
        return self._taken == 0

    async def take(self, limits: Limits) -> None:
        """Wait for a turn; raises ``NotSent`` (busy) if none comes within ``limits.queue``."""
        self._concurrency = limits.concurrency
        self._call_up()
        if self._taken < self._concurrency:
            self._taken += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(limits.queue):
                await turn
        except (TimeoutError, asyncio.CancelledError) as end:
            self._withdraw(turn)
            if isinstance(end, TimeoutError):
                raise NotSent(
                    "busy",
                    f"Too many calls to this API are running, and none ended within {limits.queue:g} s. "
                    "Please try again later.",
                ) from end
            raise

    def give(self) -> None:
        self._taken -= 1
        self._call_up()

    def _call_up(self) -> None:
        while self._waiting and self._taken < self._concurrency:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._taken += 1

    def _withdraw(self, turn: asyncio.Future[None]) -> None:
        if not turn.cancelled():  # it had come at that very moment
            self.give()
        elif turn in self._waiting:
            self._waiting.remove(turn)


class Turn:
    """A slot for the length of an ``async with``."""

    def __init__(self, slots: Slots, limits: Limits) -> None:
        self._slots = slots
        self._limits = limits

    async def __aenter__(self) -> None:
        await self._slots.take(self._limits)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots.give()
