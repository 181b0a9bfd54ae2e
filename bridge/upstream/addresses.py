"""Names become addresses here, and some addresses are never contacted."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from threading import Thread
from typing import Final, TypeAlias

from aiohttp.abc import AbstractResolver, ResolveResult

Lookup: TypeAlias = Callable[[str, int], list[str]]
"""Host and port to addresses, blocking; raises ``OSError``, or ``ValueError`` for what is no name."""

_KEEP: Final = 10.0
"""Seconds for which a look-up's answer is used."""

_REFUSED: Final = tuple(
    ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local: AWS, GCP, Azure, DigitalOcean and others serve credentials here
        "fe80::/10",  # link-local
        "100.100.100.200/32",  # Alibaba Cloud metadata
        "168.63.129.16/32",  # Azure's wire server
        "192.0.0.192/32",  # Oracle Cloud metadata
        "fd00:ec2::/32",  # AWS metadata, time and credentials over IPv6
        "fd20:ce::254/128",  # Google Cloud metadata
        "fd00:42::42/128",  # Scaleway metadata
    )
)
_NAT64: Final = ip_network("64:ff9b::/96")


class AddressRefusedError(OSError):
    """A name leads to an address that is never contacted."""


def is_refused(address: str) -> bool:
    """Whether an address is link-local or serves cloud metadata, also as IPv6 wraps it (RFC 4291, 6052, 3056)."""
    parsed = ip_address(address.partition("%")[0])
    return any(form in network for form in _forms(parsed) for network in _REFUSED)


def is_refused_literal(host: str) -> bool:
    """``is_refused`` for the host of a URL; a name is not, its addresses are checked when it is looked up."""
    try:
        return is_refused(host.strip("[]"))
    except ValueError:
        return False


def _forms(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """The address, and the IPv4 one that it stands for."""
    if isinstance(address, IPv4Address):
        return [address]
    nat64 = IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
    return [address, *(form for form in (address.ipv4_mapped, address.sixtofour, nat64) if form)]


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
        self._under_way: asyncio.Future[list[str] | Exception] | None = None
        self._found: list[str] = []
        self._until = 0.0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Every address of a host; raises ``AddressRefusedError`` if one of them is never contacted."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._until:
            self._found = await self._look_up(loop, host, port)
            self._until = loop.time() + _KEEP
        if any(is_refused(address) for address in self._found):
            raise AddressRefusedError
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self._found
        ]

    async def _look_up(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[str]:
        if self._under_way is None or self._under_way.done():
            self._under_way = loop.create_future()
            work = (loop, self._under_way, host, port)
            Thread(target=self._work, args=work, name=f"look-up of {host}", daemon=True).start()
        outcome = await asyncio.shield(self._under_way)  # a caller who gives up leaves it to the others
        if isinstance(outcome, list) and outcome:
            return outcome
        raise OSError("no address")

    def _work(
        self,
        loop: asyncio.AbstractEventLoop,
        answer: asyncio.Future[list[str] | Exception],
        host: str,
        port: int,
    ) -> None:
        outcome: list[str] | Exception
        try:
            outcome = self._lookup(host, port)
        except (OSError, ValueError) as error:
            outcome = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(answer.set_result, outcome)

    async def close(self) -> None:
        """Nothing is held."""
