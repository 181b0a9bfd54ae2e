"""Limits the bytes of requests that have arrived in part. One caller cannot take the memory of all others.

| Limit | What is refused past it |
|---|---|
| ``MAX_BYTES`` in total | the largest request of the caller that has sent the most; all callers without a name count as one |
| ``MAX_BYTES_PER_CALLER``, for callers with a name | the largest request of that caller |

Requests up to ``SMALL`` are not refused: they cost less than a connection.
"""

from collections import defaultdict
from typing import Final, Protocol

from bridge.caller import Caller

MAX_BYTES: Final = 48 * 1024**2
MAX_BYTES_PER_CALLER: Final = MAX_BYTES // 4
SMALL: Final = 16 * 1024
"""In bytes."""

_TOO_MANY: Final = (503, "Too many bytes of unfinished requests; try again later.")
_TOO_MANY_OF_CALLER: Final = (429, "Too many bytes of your unfinished requests; try again later.")


class Sender(Protocol):
    """A connection that sends a request."""

    def refuse(self, status: int, text: str) -> None:
        """Answer with this status, and free the memory of the request."""


class IncomingBytes:
    """Counts the bytes of unfinished requests, by connection. One body may have ``max_body`` bytes."""

    def __init__(self, max_body: int) -> None:
        self.total = 0
        # With a larger ``limits.body``, a body that is allowed must fit into the share.
        self._max_of_caller = max(MAX_BYTES_PER_CALLER, max_body)
        # Under which caller each connection counts: ``forget`` must take its bytes from the same one.
        self._callers: dict[Sender, Caller] = {}
        self._sizes: defaultdict[object, dict[Sender, int]] = defaultdict(dict)
        self._totals: defaultdict[object, int] = defaultdict(int)

    def hold(self, sender: Sender, caller: Caller, size: int) -> None:
        """Set what ``sender`` has sent to ``size`` bytes. ``caller`` may change once its credentials are read."""
        self.forget(sender)
        if not size:
            return
        identity = caller.identity
        self._callers[sender] = caller
        self._sizes[identity][sender] = size
        self._totals[identity] += size
        self.total += size
        if caller.name is not None and self._totals[identity] > self._max_of_caller:
            self._refuse_largest(identity, _TOO_MANY_OF_CALLER)
        # Last: the refusal above may already have freed enough.
        if self.total > MAX_BYTES:
            self._refuse_largest(max(self._totals, key=self._totals.__getitem__), _TOO_MANY)

    def forget(self, sender: Sender) -> None:
        """The request of ``sender`` is complete or refused."""
        caller = self._callers.pop(sender, None)
        if caller is None:
            return
        identity = caller.identity
        size = self._sizes[identity].pop(sender)
        self.total -= size
        self._totals[identity] -= size
        if not self._sizes[identity]:
            del self._sizes[identity], self._totals[identity]

    def _refuse_largest(self, identity: object, rejection: tuple[int, str]) -> None:
        sizes = self._sizes[identity]
        largest = max(sizes, key=sizes.__getitem__)
        if sizes[largest] > SMALL:
            # It calls ``forget``. It may be another connection than the one that has just sent.
            largest.refuse(*rejection)
