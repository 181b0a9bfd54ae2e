"""The generic cell rate algorithm (GCRA, ITU-T I.371), by which all rates of callers are limited.

What is limited has one number as its state: the theoretical arrival time of its next event. There is no history. Times are
integers, in nanoseconds: with floats, rounding would refuse the last event of a burst.
"""

from dataclasses import dataclass
from typing import Final

SECOND: Final = 10**9
"""In nanoseconds."""


@dataclass(frozen=True, slots=True)
class Gcra:
    """``burst`` events at once, then one each ``interval``. ``weight`` is how many events an event counts for.

    In any time ``t`` at most ``burst + t / interval`` events conform. ``arrival`` is 0 before the first event.
    """

    interval: int
    burst: int

    def wait(self, arrival: int, time: int, weight: float = 1) -> int:
        """How long from ``time`` until an event conforms, if no other comes before; 0 if it may come now."""
        # It conforms if the arrival after it is at most a burst, ``interval * burst``, ahead of ``time``.
        return max(max(arrival - time, 0) + round(self.interval * weight) - self.interval * self.burst, 0)

    def count(self, arrival: int, time: int, weight: float = 1) -> int:
        """The theoretical arrival time after an event."""
        # Not before ``time``: a pause, however long, allows no more than a burst.
        return max(arrival, time) + round(self.interval * weight)
