"""The listening socket that systemd passes to a service (sd_listen_fds(3)): it stays open while the service is restarted."""

import os
import socket
from collections.abc import MutableMapping
from typing import Final

from bridge.address import Address
from bridge.errors import StartError
from bridge.http.listeners import inherited

_FIRST_DESCRIPTOR: Final = 3
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def activated_listener(
    environment: MutableMapping[str, str], descriptor: int = _FIRST_DESCRIPTOR
) -> socket.socket | None:
    """The socket that systemd has passed to this process, None without one. Its variables are removed.

    Raises ``StartError`` if it is not one TCP socket that listens.
    """
    process, number, _ = [environment.pop(name, None) for name in _VARIABLES]
    if process != str(os.getpid()):  # it was meant for a parent of this process, or there is none
        return None
    if number != "1":
        raise StartError(
            f"systemd passed {number} sockets, expected one; leave one ListenStream= in the unit"
        )
    listener = inherited(descriptor)
    is_tcp = listener.family in (socket.AF_INET, socket.AF_INET6) and listener.type == socket.SOCK_STREAM
    if not (is_tcp and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)):
        listener.close()
        raise StartError(
            "systemd passed a socket that does not listen on a TCP port; write ListenStream=[HOST:]PORT, and "
            "Accept=no"
        )
    listener.set_inheritable(False)
    return listener


def address_of(listener: socket.socket) -> Address:
    """Where a socket listens."""
    return Address(*listener.getsockname()[:2])
