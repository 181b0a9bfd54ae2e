"""DNS: look-ups of host names. A name is refused if one of its addresses is refused by ``egress``."""

import asyncio
import math
import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from threading import Thread
from typing import Final, NamedTuple, TypeAlias

from bridge.egress import address_refusal

Lookup: TypeAlias = Callable[[str, int], list[str]]
"""Host and port to IP addresses, blocking; raises ``OSError``, or ``ValueError`` for an invalid name."""

_CACHE_SECONDS: Final = 10.0
"""How long the result of a look-up is used."""
_MAX_ADDRESSES: Final = 64
"""Addresses of one result that are used; the others are dropped."""


class _Result(NamedTuple):
    """The result of a look-up; ``is_refused`` if one of the addresses is refused."""

    addresses: list[str]
    is_refused: bool


class AddressRefusedError(OSError):
    """A host is refused, or resolves to an address that is."""


class NoAddressError(OSError):
    """A name does not resolve to an address."""


def look_up(host: str, port: int) -> list[str]:
    """The operating system's look-up."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Resolver:
    """Looks up ``host``, that of one connection pool. One look-up runs at a time, in a daemon thread.

    A look-up that hangs delays only this pool. It does not delay the end of the process, as the threads of an executor
    would: Python joins these.
    """

    def __init__(self, lookup: Lookup, host: str, port: int) -> None:
        self._lookup = lookup
        self._host = host
        self._port = port
        self._pending: asyncio.Future[_Result | Exception] | None = None
        self._result = _Result([], is_refused=False)
        self._fresh_until = 0.0
        if _is_address(host):
            self._result = _checked([host])
            self._fresh_until = math.inf

    async def addresses(self) -> list[str]:
        """The addresses of the host; raises ``AddressRefusedError`` if one of them is refused, and ``NoAddressError``."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._fresh_until:
            self._result = await self._look_up(loop)
            self._fresh_until = loop.time() + _CACHE_SECONDS
        if self._result.is_refused:
            raise AddressRefusedError
        return self._result.addresses

    def prefer(self, address: str) -> None:
        """Try this address first until the next look-up: a dead one before it costs each connection 0.25 s."""
        # the sort is stable: the others keep the order of DNS
        self._result.addresses.sort(key=lambda each: each != address)

    async def _look_up(self, loop: asyncio.AbstractEventLoop) -> _Result:
        if self._pending is None or self._pending.done():
            self._pending = loop.create_future()
            args = (loop, self._pending)
            Thread(target=self._run, args=args, name=f"look-up of {self._host}", daemon=True).start()
        # shielded: a call that is cancelled does not cancel the look-up for the others
        outcome = await asyncio.shield(self._pending)
        if isinstance(outcome, _Result) and outcome.addresses:
            return outcome
        raise NoAddressError

    def _run(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[_Result | Exception]) -> None:
        outcome: _Result | Exception
        try:
            outcome = _checked(self._lookup(self._host, self._port)[:_MAX_ADDRESSES])
        except (OSError, ValueError) as error:
            # ValueError: the UnicodeError of a name that IDNA cannot encode, such as one with an empty label
            outcome = error
        # never ``set_exception``: asyncio would log an error that no call waits for any longer
        with suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(future.set_result, outcome)


def _checked(addresses: list[str]) -> _Result:
    """Once a look-up, not once a connection: an address takes about 20 µs."""
    return _Result(addresses, is_refused=any(map(address_refusal, addresses)))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
