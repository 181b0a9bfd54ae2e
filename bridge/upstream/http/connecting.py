"""Opens connections to one origin: TCP to its address or to its proxy, the proxy's tunnel, TLS.

``aiohappyeyeballs`` connects to the addresses that ``Resolver`` has checked. asyncio's ``create_connection`` would look
the host up again without the check, and that of uvloop tries addresses one after another.
"""

import asyncio
import socket
import ssl
from base64 import b64encode
from contextlib import ExitStack
from typing import Final
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

import httpx
from aiohappyeyeballs import AddrInfoType, pop_addr_infos_interleave, start_connection

from bridge import __version__
from bridge.egress import host_refusal
from bridge.upstream.http.addresses import AddressRefusedError, Lookup, Resolver
from bridge.upstream.http.reply_reader import Progress, ReplyReader

USER_AGENT: Final = f"restbridge/{__version__}"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_NEXT_ADDRESS_SECONDS: Final = 0.25
"""How long an address is tried alone before the next one is tried as well (RFC 8305 5)."""


class Connector:
    """Opens connections to ``origin``, directly or through ``proxy`` (an http URL, optionally with user and password).

    ``context`` is that of an https origin, and None for http.
    """

    def __init__(
        self, origin: str, proxy: str | None, context: ssl.SSLContext | None, lookup: Lookup
    ) -> None:
        target, peer = urlsplit(origin), urlsplit(proxy or origin)
        names = [url.hostname or "" for url in (target, peer)]
        self._is_refused = any(host_refusal(name, is_proxied=proxy is not None) for name in names)
        self._context = context
        self._server_name = names[0] if context else None
        self._port = peer.port or _DEFAULT_PORTS[peer.scheme]
        self._resolver = Resolver(lookup, names[1], self._port)
        self._tunnel_request = _tunnel_request(target, proxy) if proxy and context else b""

    async def connect(self) -> asyncio.Transport:
        """An open connection; raises ``OSError``, or ``httpx.ProxyError`` with a code of ``failures``."""
        if self._is_refused:
            raise AddressRefusedError
        infos = [_address_info(address, self._port) for address in await self._resolver.addresses()]
        with ExitStack() as on_error:
            tcp, opening = await self._open(infos)
            on_error.callback(tcp.abort)
            transport = await self._through_tunnel(tcp, opening) if self._tunnel_request else tcp
            # This reads what has arrived: it must not answer the first request (RFC 9112 9.2). Otherwise
            # asyncio would read it after that request was written. So would uvloop with bytes that came
            # together with the end of the handshake (uvloop #418).
            await asyncio.sleep(0)
            # None if the server has reset the connection
            peer = transport and transport.get_extra_info("peername")
            if not transport or not peer or transport.is_closing() or opening.has_unexpected_data:
                raise ConnectionAbortedError("it was closed before a request was sent")
            on_error.pop_all()
        self._resolver.prefer(peer[0])
        return transport

    async def _open(self, infos: list[AddrInfoType]) -> tuple[asyncio.Transport, "_OpeningProtocol"]:
        """TCP to one of the addresses, and TLS unless a tunnel comes first."""
        loop = asyncio.get_running_loop()
        context, name = (None, None) if self._tunnel_request else (self._context, self._server_name)
        while True:
            sock = await start_connection(infos, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS)
            try:
                # If this is cancelled, uvloop before 0.23 closes the descriptor twice. By then it may be
                # that of another call (uvloop #738). ``pyproject.toml`` excludes these versions.
                return await loop.create_connection(
                    _OpeningProtocol, sock=sock, ssl=context, server_hostname=name
                )
            except OSError:  # this server answers, but not in TLS; another one may
                pop_addr_infos_interleave(infos)
                if not infos:
                    raise

    async def _through_tunnel(
        self, tcp: asyncio.Transport, opening: "_OpeningProtocol"
    ) -> asyncio.Transport | None:
        """CONNECT (RFC 9110 9.3.6), and TLS with the origin. None if the connection was lost after the handshake."""
        assert self._context
        # no content, whatever Content-Length says: behind the head of a 2xx is the tunnel
        opening.reader = reader = ReplyReader(0, Progress(), has_content=False)
        tcp.write(self._tunnel_request)
        try:
            status = (await reader.received).status
        except httpx.TransportError as error:
            raise httpx.ProxyError("proxy-failed") from error
        finally:
            opening.reader = None
            reader.close()
        if status == 407:
            raise httpx.ProxyError("proxy-failed credentials")
        if not 200 <= status <= 299:
            raise httpx.ProxyError(f"proxy-failed status {status}")
        loop = asyncio.get_running_loop()
        return await loop.start_tls(tcp, opening, self._context, server_hostname=self._server_name)


class _OpeningProtocol(asyncio.Protocol):
    """The protocol of a connection until its first request. ``reader`` is set while a proxy answers to CONNECT."""

    def __init__(self) -> None:
        self.reader: ReplyReader | None = None
        self.has_unexpected_data = False

    def data_received(self, data: bytes) -> None:
        if self.reader:
            self.reader.feed(data)
        else:
            self.has_unexpected_data = True

    def connection_lost(self, error: Exception | None) -> None:
        if self.reader:
            self.reader.connection_lost(error)


def proxy_authorization(proxy: str) -> str:
    """The header line with the user and password of a proxy's URL; empty if there are none (RFC 7617)."""
    url = urlsplit(proxy)
    if not url.username:
        return ""
    pair = b"%s:%s" % (unquote_to_bytes(url.username), unquote_to_bytes(url.password or ""))
    return f"Proxy-Authorization: Basic {b64encode(pair).decode()}\r\n"


def _tunnel_request(target: SplitResult, proxy: str) -> bytes:
    # CONNECT has no default port (RFC 9110 9.3.6, whose example has no port in Host)
    authority = target.netloc if target.port else f"{target.netloc}:{_DEFAULT_PORTS[target.scheme]}"
    head = f"CONNECT {authority} HTTP/1.1\r\nHost: {target.netloc}\r\nUser-Agent: {USER_AGENT}\r\n"
    return f"{head}{proxy_authorization(proxy)}\r\n".encode()


def _address_info(address: str, port: int) -> AddrInfoType:
    """Like a result of ``getaddrinfo``."""
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
