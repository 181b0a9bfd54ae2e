"""How an upstream's certificate is checked, and which one we show."""

import ssl

import anyio.to_thread

from bridge.spec import Tls


class Contexts:
    """TLS contexts by their settings: each is built once, in a worker thread (it reads some hundred files)."""

    def __init__(self) -> None:
        self._built: dict[tuple[Tls, str], ssl.SSLContext] = {}

    async def get(self, tls: Tls, certificates: str) -> ssl.SSLContext:
        """``certificates`` stands for what is in the files; raises ``OSError`` for files that cannot be used."""
        key = (tls, certificates)
        if key not in self._built:
            self._built[key] = await anyio.to_thread.run_sync(context, tls)
        return self._built[key]

    def keep(self, wanted: set[tuple[Tls, str]]) -> None:
        """Forget the others."""
        self._built = {key: built for key, built in self._built.items() if key in wanted}


def context(tls: Tls) -> ssl.SSLContext:
    """TLS 1.2 or later; raises ``OSError`` (``ssl.SSLError`` is one) for files that cannot be used."""
    made = ssl.create_default_context(cafile=tls.ca_file)
    made.set_alpn_protocols(["http/1.1"])
    if tls.cert_file:
        made.load_cert_chain(tls.cert_file, tls.key_file)
    if not tls.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made
