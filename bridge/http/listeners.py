"""The sockets that HTTP is served on."""

import errno
import socket
from contextlib import suppress
from typing import Final

from bridge.address import Address

_UNREAD: Final = 30_000
"""Milliseconds for which a client may take nothing of what it is sent; then the system ends the connection."""
_BACKLOG: Final = 2048


def bind(address: Address, *, shared: bool = False, listens: bool = True) -> socket.socket:
    """A socket at an address, which it keeps even if it does not listen.

    One that is ``shared`` leaves room for others that are: the system spreads connections over those that
    listen. Raises ``OSError``, whose text says what to do.
    """
    try:
        return _bind(address, shared=shared, listens=listens)
    except OSError as error:
        advice = "; choose another port" if error.errno == errno.EADDRINUSE else ""
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}{advice}") from error


def _bind(address: Address, *, shared: bool, listens: bool) -> socket.socket:
    family, kind, protocol, _, there = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
    )[0]
    # With its protocol named: asyncio sets TCP_NODELAY only then, and replies take 40 ms without.
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with suppress(AttributeError):  # Linux has it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD)
        listener.bind(there)
        if listens:
            listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
