"""Delays the answers to requests with invalid credentials: the more an address sends, the longer each waits.

A delay costs no CPU time, so that an address that guesses keys does not slow down other callers. Requests with valid
credentials are never delayed, also if they share an address (such as a proxy's) with others that guess.
"""

import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from bridge.access.gcra import SECOND, Gcra

_INTERVAL_SECONDS: Final = 0.05
"""Between two refusals of one address, once its burst is used up."""
_BURST: Final = 40
"""Refusals without a delay."""
_MAX_DELAY_SECONDS: Final = 2.0
"""With so many connections that this applies, each connection gets one refusal in this time."""
_MAX_TRACKED_ADDRESSES: Final = 1000
# Neither is an address, so that they share the dict with addresses.
_OTHERS: Final = ""
_HEAVY: Final = " heavy"
_IPV6_PREFIX_BITS: Final = 64
"""The holder of an IPv6 network chooses the other bits of an address."""


class AddressThrottle:
    """Counts refusals by address. Past ``_MAX_TRACKED_ADDRESSES`` all other addresses count as one.

    ``burst`` refusals are not delayed, then one is sent each ``interval``. No delay is longer than ``max_delay``. Both
    are in seconds.
    """

    def __init__(
        self,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        *,
        interval: float = _INTERVAL_SECONDS,
        burst: int = _BURST,
        max_delay: float = _MAX_DELAY_SECONDS,
    ) -> None:
        self._clock_ns = clock_ns
        self._max_delay = round(max_delay * SECOND)
        self._rate = Gcra(round(interval * SECOND), burst)
        self._arrivals: dict[str, int] = {}
        """The theoretical arrival time of each network's next refusal."""

    def wait(self, address: str, weight: float = 1) -> float:
        """Count ``weight`` refusals; returns the delay in seconds.

        Refusals with a weight above 1 are counted apart: they do not delay the health checks of their address.
        """
        now, key = self._clock_ns(), _network(address) + _HEAVY * (weight > 1)
        if key not in self._arrivals and len(self._arrivals) >= _MAX_TRACKED_ADDRESSES:
            # An arrival in the past is the same as none, so nothing is lost.
            self._arrivals = {each: arrival for each, arrival in self._arrivals.items() if arrival > now}
            if len(self._arrivals) >= _MAX_TRACKED_ADDRESSES:
                key = _OTHERS
        arrival = self._arrivals.get(key, now)
        wait = self._rate.wait(arrival, now, weight)
        delay = min(wait, self._max_delay)
        # Less what lies past the longest delay: otherwise an address would wait for all refusals that it ever got.
        self._arrivals[key] = self._rate.count(arrival, now, weight) - (wait - delay)
        return delay / SECOND


def _network(address: str) -> str:
    try:
        ip: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        # "?": getpeername() finds no address if the client has already gone.
        return _OTHERS
    if isinstance(ip, IPv4Address):
        return str(ip)
    # On a socket for both versions the address of an IPv4 client is ::ffff:10.0.0.1.
    return str(ip.ipv4_mapped or int(ip) >> (128 - _IPV6_PREFIX_BITS))
