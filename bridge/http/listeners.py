"""Listening sockets for HTTP."""

import errno
import socket
from contextlib import suppress
from typing import Final

from bridge.address import Address

_MAX_UNACKNOWLEDGED_MILLISECONDS: Final = 30_000
"""If a client acknowledges no data for this time, the operating system closes the connection."""
_BACKLOG: Final = 2048
"""Connections that may wait to be accepted."""


def bind(address: Address) -> socket.socket:
    """A socket that listens on an address. Raises ``OSError`` with a message for the operator."""
    try:
        return _bind(address)
    except OSError as error:
        advice = "; choose another port" if error.errno == errno.EADDRINUSE else ""
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}{advice}") from error


def _bind(address: Address) -> socket.socket:
    family, kind, protocol, _, socket_address = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
    )[0]
    # asyncio sets TCP_NODELAY only if the socket has its protocol. Without it, responses take 40 ms.
    listener = socket.socket(family, kind, protocol)
    try:
        # Otherwise a restart fails while connections of the last process are in TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(AttributeError):  # only Linux has it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _MAX_UNACKNOWLEDGED_MILLISECONDS)
        listener.bind(socket_address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def inherited(descriptor: int) -> socket.socket:
    """The listening socket that this process got from its parent."""
    found = socket.socket(fileno=descriptor)
    # macOS does not tell the protocol.
    return socket.socket(found.family, found.type, socket.IPPROTO_TCP, found.detach())
