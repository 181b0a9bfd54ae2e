"""TLS contexts: how an upstream's certificate is verified, and which client certificate we present."""

import ssl

import anyio.to_thread

from bridge.spec import Tls


class TlsContexts:
    """Caches TLS contexts by their settings. A worker thread creates them, as each reads about a hundred files."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[Tls, str], ssl.SSLContext] = {}

    async def get(self, tls: Tls, certificates: str) -> ssl.SSLContext:
        """``certificates`` is a digest of the files' content; raises ``OSError`` for files that cannot be used."""
        key = (tls, certificates)
        if key not in self._contexts:
            # two calls at once may both create it; either serves
            self._contexts[key] = await anyio.to_thread.run_sync(create_context, tls)
        return self._contexts[key]

    def keep(self, wanted: set[tuple[Tls, str]]) -> None:
        """Drop all contexts but these."""
        self._contexts = {key: context for key, context in self._contexts.items() if key in wanted}


def create_context(tls: Tls) -> ssl.SSLContext:
    """TLS 1.2 or later; raises ``OSError`` (``ssl.SSLError`` is one) for files that cannot be used."""
    # without ``cafile``, the authorities of the system are loaded; TLS 1.2 is the minimum since Python 3.10
    context = ssl.create_default_context(cafile=tls.ca_file)
    context.set_alpn_protocols(["http/1.1"])
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    if not tls.verify:
        context.check_hostname = False  # first: with it, CERT_NONE is a ValueError
        context.verify_mode = ssl.CERT_NONE
    return context
