"""Names become addresses here. If one of the addresses in use is refused by ``egress``, the name is not contacted."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Final, NamedTuple, TypeAlias

from aiohttp.abc import AbstractResolver, ResolveResult

from bridge.egress import address_refusal

Lookup: TypeAlias = Callable[[str, int], list[str]]
"""Host and port to addresses, blocking; raises ``OSError``, or ``ValueError`` for what is no name."""

_KEEP: Final = 10.0
"""Seconds for which a look-up's answer is used."""
_MAX_ADDRESSES: Final = 64
"""Addresses of one answer that are used; what follows is dropped."""


class _Found(NamedTuple):
    """The answer of a look-up; ``is_refused`` if one of the addresses is never contacted."""

    addresses: list[str]
    is_refused: bool


class AddressRefusedError(OSError):
    """A name leads to an address that is never contacted."""


def look_up(host: str, port: int) -> list[str]:
    """Ask the operating system."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Resolver(AbstractResolver):
    """Looks one pool's host up, one look-up at a time, in a thread of its own.

    A look-up that hangs holds up this pool alone, and neither another one's nor the end of the process
    (an executor's threads are waited for).
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._under_way: asyncio.Future[_Found | Exception] | None = None
        self._found = _Found([], is_refused=False)
        self._until = 0.0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a host; raises ``AddressRefusedError`` if one of them is never contacted."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._until:
            self._found = await self._look_up(loop, host, port)
            self._until = loop.time() + _KEEP
        if self._found.is_refused:
            raise AddressRefusedError
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self._found.addresses
        ]

    def prefer(self, address: str) -> None:
        """Put an address first until the next look-up: a dead one before it costs each connection 0.25 s."""
        if address in self._found.addresses:
            self._found.addresses.sort(key=lambda each: each != address)

    async def _look_up(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> _Found:
        if self._under_way is None or self._under_way.done():
            self._under_way = loop.create_future()
            work = (loop, self._under_way, host, port)
            Thread(target=self._work, args=work, name=f"look-up of {host}", daemon=True).start()
        outcome = await asyncio.shield(self._under_way)  # a caller who gives up leaves it to the others
        if isinstance(outcome, _Found) and outcome.addresses:
            return outcome
        raise OSError("no address")

    def _work(
        self,
        loop: asyncio.AbstractEventLoop,
        answer: asyncio.Future[_Found | Exception],
        host: str,
        port: int,
    ) -> None:
        outcome: _Found | Exception
        try:
            addresses = self._lookup(host, port)[:_MAX_ADDRESSES]
            # here, once, and not for each connection: each of many addresses takes some 20 µs
            outcome = _Found(addresses, is_refused=any(map(address_refusal, addresses)))
        except (OSError, ValueError) as error:
            outcome = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(answer.set_result, outcome)

    async def close(self) -> None:
        """Nothing is held."""
