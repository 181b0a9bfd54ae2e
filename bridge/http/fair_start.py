"""Requests of one caller start one by one, two turns of the event loop apart.

A call takes several turns of the loop: it waits for its API and its client. Without a limit, a caller with 100 connections
could start 100 requests in one turn, and each turn of every other call would take that much longer. So each caller starts
at most one request in every second turn. Requests that have started are not delayed.
"""

from asyncio import Future, get_running_loop
from collections import deque
from collections.abc import Hashable


class FairStart:
    """Which callers started a request in the last two turns, and their waiting requests."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Future[None]] | None] = {}
        """By caller; None while no request waits, which is usual. A caller that is not a key may start at once."""

    async def wait_for_turn(self, caller: Hashable) -> None:
        """Wait until a request of this caller may start."""
        loop = get_running_loop()
        if caller in self._waiting:
            turn = loop.create_future()
            turns = self._waiting[caller] = self._waiting[caller] or deque()
            turns.append(turn)
            await turn
            return
        # Nothing is scheduled while no request starts: an idle server does nothing.
        if not self._waiting:
            loop.call_soon(self._skip_turn)
        self._waiting[caller] = None

    def _skip_turn(self) -> None:
        """Let one turn of the loop pass without a start."""
        get_running_loop().call_soon(self._start_next)

    def _start_next(self) -> None:
        self._waiting = {
            caller: turns for caller, turns in self._waiting.items() if turns and _start_one(turns)
        }
        if self._waiting:
            get_running_loop().call_soon(self._skip_turn)


def _start_one(turns: deque[Future[None]]) -> bool:
    """Start the first request whose client has not left; return whether there was one."""
    while turns:
        turn = turns.popleft()
        if not turn.done():  # otherwise its request was cancelled
            turn.set_result(None)
            return True
    return False
