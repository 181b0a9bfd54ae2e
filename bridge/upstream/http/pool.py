"""Pools of connections, by origin, tls and proxy; one that is not wanted any more ends with its last call."""

import ssl
from collections.abc import Iterable
from typing import TypeAlias

import httpx

from bridge.secrets import Upstream
from bridge.spec import Tls
from bridge.upstream.http import failures
from bridge.upstream.http.addresses import Lookup, Resolver
from bridge.upstream.http.tls import Contexts
from bridge.upstream.http.transport import Transport

_Key: TypeAlias = tuple[str, Tls, str, str | None]


class Pools:
    """Each pool has its own connections and its own resolver: what is stuck in one is stuck there alone."""

    def __init__(self, lookup: Lookup, settle: float) -> None:
        self._lookup = lookup
        self._settle = settle
        self._contexts = Contexts()
        self._pools: dict[_Key, Transport] = {}
        self.retired: list[Transport] = []
        """Those that ``sweep`` is to close once their last call has ended."""

    async def get(self, upstream: Upstream) -> Transport:
        """The pool for an upstream; raises ``NotSent`` if its certificate files cannot be used."""
        key = _key(upstream)
        pool = self._pools.get(key)
        if pool is None:
            context = await self._context(upstream) if upstream.origin.startswith("https:") else None
            resolver = Resolver(self._lookup)
            made = Transport(upstream.origin, upstream.spec.proxy, context, resolver, self._settle)
            pool = self._pools.setdefault(key, made)  # another call may have been faster
        return pool

    async def _context(self, upstream: Upstream) -> ssl.SSLContext:
        try:
            return await self._contexts.get(upstream.spec.tls, upstream.certificates)
        except OSError as error:
            fault = httpx.ConnectError("tls-files")
            raise failures.answer(fault, upstream, sent=False) from error

    def retire(self, keep: Iterable[Upstream]) -> None:
        """Take out the pools of all other upstreams."""
        wanted = {_key(upstream) for upstream in keep}
        self.retired += [pool for key, pool in self._pools.items() if key not in wanted]
        self._pools = {key: pool for key, pool in self._pools.items() if key in wanted}
        self._contexts.keep({(tls, certificates) for _, tls, certificates, _ in wanted})

    async def sweep(self) -> None:
        """Close the retired pools whose last call has ended."""
        ended = [pool for pool in self.retired if pool.calls == 0]
        self.retired = [pool for pool in self.retired if pool.calls]
        for pool in ended:
            await pool.aclose()

    async def aclose(self) -> None:
        """Close every pool, also under calls."""
        self.retire([])
        retired, self.retired = self.retired, []
        for pool in retired:
            await pool.aclose()


def _key(upstream: Upstream) -> _Key:
    return (upstream.origin, upstream.spec.tls, upstream.certificates, upstream.spec.proxy)
