"""A transport (with its connection pool) for each origin, tls and proxy. A retired one is closed after its last call."""

import ssl
from collections.abc import Iterable
from typing import TypeAlias

import httpx

from bridge.resolved_upstream import Upstream
from bridge.spec import Tls
from bridge.upstream.http import failures
from bridge.upstream.http.addresses import Lookup
from bridge.upstream.http.tls import TlsContexts
from bridge.upstream.http.transport import Transport

_Key: TypeAlias = tuple[str, Tls, str, str | None]


class TransportPools:
    """Each transport has its own connections and its own resolver: one that hangs delays no other."""

    def __init__(self, lookup: Lookup, settle: float) -> None:
        self._lookup = lookup
        self._settle = settle
        self._tls_contexts = TlsContexts()
        self._transports: dict[_Key, Transport] = {}
        self.retired: list[Transport] = []
        """Those that ``sweep`` closes after their last call."""

    async def get(self, upstream: Upstream) -> Transport:
        """The transport for an upstream; raises ``NotSent`` if its certificate files cannot be used."""
        key = _key(upstream)
        transport = self._transports.get(key)
        if transport is None:
            context = await self._context(upstream) if upstream.origin.startswith("https:") else None
            # It has no connections yet: if another call created one during the await, it is dropped.
            created = Transport(upstream.origin, upstream.spec.proxy, context, self._lookup, self._settle)
            transport = self._transports.setdefault(key, created)
        return transport

    async def _context(self, upstream: Upstream) -> ssl.SSLContext:
        try:
            return await self._tls_contexts.get(upstream.spec.tls, upstream.certificates)
        except OSError as error:
            fault = httpx.ConnectError("tls-files")
            raise failures.upstream_error(fault, upstream, sent=False) from error

    def retire(self, keep: Iterable[Upstream]) -> None:
        """Retire the transports of all other upstreams."""
        wanted = {_key(upstream) for upstream in keep}
        self.retired += [transport for key, transport in self._transports.items() if key not in wanted]
        self._transports = {key: transport for key, transport in self._transports.items() if key in wanted}
        self._tls_contexts.keep({(tls, certificates) for _, tls, certificates, _ in wanted})

    def sweep(self) -> None:
        """Close the retired transports whose last call has ended."""
        ended = [transport for transport in self.retired if transport.active_calls == 0]
        self.retired = [transport for transport in self.retired if transport.active_calls]
        for transport in ended:
            transport.close()

    def close(self) -> None:
        """Close every transport; calls that still run fail."""
        self.retire([])
        retired, self.retired = self.retired, []
        for transport in retired:  # without ``sweep``, which waits for calls
            transport.close()


def _key(upstream: Upstream) -> _Key:
    return (upstream.origin, upstream.spec.tls, upstream.certificates, upstream.spec.proxy)
