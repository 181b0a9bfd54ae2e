"""Requests of one caller begin one by one, a turn of the event loop apart.

A call takes several turns of the loop, between which it waits for its API or its client. A caller with many connections
would fill each turn with as many requests as it has connections, and every other call would take that much longer for each
of its own turns. So no turn begins more than one request of a caller. What has begun is not held up.
"""

from asyncio import Future, get_running_loop
from collections import deque
from collections.abc import Hashable


class FairStart:
    """The requests that wait to begin, by caller; a caller is known for the turns in which it has some."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Future[None]]] = {}

    async def turn(self, caller: Hashable) -> None:
        """Wait until a request of this caller may begin."""
        loop, waiting = get_running_loop(), self._waiting.get(caller)
        if waiting is None:
            self._waiting[caller] = deque()
            loop.call_soon(self._begin_next, caller)
            return
        turn = loop.create_future()
        waiting.append(turn)
        await turn

    def _begin_next(self, caller: Hashable) -> None:
        waiting = self._waiting[caller]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():  # its client may have left
                turn.set_result(None)
                get_running_loop().call_soon(self._begin_next, caller)
                return
        del self._waiting[caller]
