"""How long those wait for an answer whose keys do not count: the more of them an address shows, the longer.

A wait takes no processor, which whoever guesses without a pause would take from everybody else. Keys that count never
wait, not even at an address from which others guess; so many may share one, such as a proxy's.
"""

import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

_EVERY: Final = 0.05
"""Seconds between two refusals of an address, if it asks for more."""
_AT_ONCE: Final = 40
_LONGEST: Final = 2.0
"""Seconds; with so many connections that this binds, each has one refusal in it."""
_KNOWN: Final = 1000
_OTHERS: Final = ""
_NETWORK: Final = 64
"""Bits of an IPv6 address that tell its holder from another; the rest is his to choose."""


class Guesses:
    """What was refused lately, by address. Past a thousand addresses all others are one.

    ``now``, ``every`` and ``longest`` are in seconds: ``at_once`` refusals are free, and then one ``every`` so often.
    No wait is longer than ``longest``.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        *,
        every: float | None = None,
        at_once: int = _AT_ONCE,
        longest: float = _LONGEST,
    ) -> None:
        self._now = now
        self._longest = longest
        self._every = every or _EVERY
        self._slack = self._every * at_once
        self._even: dict[str, float] = {}
        """When the last refusal would have been, had they come evenly (the generic cell rate algorithm)."""

    def wait(self, address: str) -> float:
        """Count a refusal; the seconds until it may be told."""
        now, holder = self._now(), _holder(address)
        if holder not in self._even and len(self._even) >= _KNOWN:
            self._even = {each: even for each, even in self._even.items() if even > now}
            if len(self._even) >= _KNOWN:
                holder = _OTHERS
        even = min(max(self._even.get(holder, now), now) + self._every, now + self._slack + self._longest)
        self._even[holder] = even
        return max(even - now - self._slack, 0)


def _holder(address: str) -> str:
    try:
        ip: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return _OTHERS
    if isinstance(ip, IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or int(ip) >> (128 - _NETWORK))
