"""Bytes of requests that are there in part. A caller who sends much must leave room for others.

| bound | who is refused past it |
|---|---|
| ``MAX_BYTES`` in all | the largest request of the caller who sends the most; all without a name are one caller |
| ``MAX_BYTES_PER_CALLER`` of one with a name | the largest request of that caller |

Small requests are not refused: they cost less than a connection.
"""

from collections import defaultdict
from typing import Final, Protocol

from bridge.caller import Caller
from bridge.http.request_head import Rejection

MAX_BYTES: Final = 48 * 1024**2
MAX_BYTES_PER_CALLER: Final = MAX_BYTES // 4
SMALL: Final = 16 * 1024
"""Bytes of a request up to which it is not refused."""

_TOO_MANY: Final = Rejection(503, "Too many bytes of requests are on their way; try again later.")
_TOO_MANY_OF_CALLER: Final = Rejection(
    429, "Too many bytes of your requests are on their way; try again later."
)


class Sender(Protocol):
    """A connection that sends a request."""

    def refuse(self, rejection: Rejection) -> None:
        """Answer with the rejection, and hold nothing."""


class Arriving:
    """What each connection has sent of requests that are not whole. ``body`` is what one request may have."""

    def __init__(self, body: int) -> None:
        self.total = 0
        self._most_of_caller = max(MAX_BYTES_PER_CALLER, body)
        self._whose: dict[Sender, Caller] = {}
        self._sizes: defaultdict[object, dict[Sender, int]] = defaultdict(dict)
        self._totals: defaultdict[object, int] = defaultdict(int)

    def hold(self, sender: Sender, caller: Caller, size: int) -> None:
        """From now on ``sender`` has sent ``size`` bytes, and is ``caller``, as far as that is known."""
        self.forget(sender)
        if not size:
            return
        who = caller.identity
        self._whose[sender] = caller
        self._sizes[who][sender] = size
        self._totals[who] += size
        self.total += size
        if caller.name is not None and self._totals[who] > self._most_of_caller:
            self._refuse_largest(who, _TOO_MANY_OF_CALLER)
        if self.total > MAX_BYTES:
            self._refuse_largest(max(self._totals, key=self._totals.__getitem__), _TOO_MANY)

    def forget(self, sender: Sender) -> None:
        """Its request is whole, or refused."""
        caller = self._whose.pop(sender, None)
        if caller is None:
            return
        who = caller.identity
        size = self._sizes[who].pop(sender)
        self.total -= size
        self._totals[who] -= size
        if not self._sizes[who]:
            del self._sizes[who], self._totals[who]

    def _refuse_largest(self, who: object, rejection: Rejection) -> None:
        sizes = self._sizes[who]
        largest = max(sizes, key=sizes.__getitem__)
        if sizes[largest] > SMALL:
            largest.refuse(rejection)
