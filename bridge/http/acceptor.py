"""Accepts connections on a listening socket that several processes may share.

Theory of operation
-------------------

Workers inherit one listening socket. The system wakes all that wait for it. The first one to run could take a whole burst of
connections, which then stay with it. So each worker writes its number of open connections into a table in shared memory:

====================================================  ============================================================
The worker that wakes up has                          It
====================================================  ============================================================
at most an eighth more connections than any other     accepts, until it has more than that
more connections                                      first leaves the others ``_HOLD_SECONDS`` to accept
====================================================  ============================================================

After the pause it accepts what is still there, so a worker that hangs delays connections by a millisecond each.
A process without a table accepts all that wait.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Final

import anyio

from bridge.http.connection_table import Share
from bridge.http.handshakes import Handshakes

_HOLD_SECONDS: Final = 0.001
_RETRY_SECONDS: Final = 1.0
"""After an error, such as no free file descriptor. asyncio waits as long."""
_IS_GONE: Final = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EAGAIN})
"""accept(2): the client has left, or another process has accepted it."""

_log: Final = logging.getLogger(__name__)


class Acceptor:
    """Accepts connections on ``listener``, which must not block, until ``run`` is cancelled.

    ``connect`` makes the protocol of a connection, ``count`` returns the number of open connections. With ``handshakes``,
    these make the connections, over TLS.
    """

    def __init__(
        self,
        listener: socket.socket,
        connect: Callable[[], asyncio.Protocol],
        count: Callable[[], int],
        share: Share | None = None,
        handshakes: Handshakes | None = None,
    ) -> None:
        self._listener = listener
        self._connect = connect
        self._count = count
        self._share = share
        self._handshakes = handshakes

    async def run(self) -> None:
        try:
            while True:
                await anyio.wait_readable(self._listener)
                if self._exceeds_share():
                    await anyio.sleep(_HOLD_SECONDS)
                await self._accept_share()
        finally:
            if self._share:
                self._share.end()

    def _exceeds_share(self) -> bool:
        waiting = self._handshakes.running if self._handshakes else 0
        return self._share is not None and self._share.exceeds(self._count() + waiting)

    async def _accept_share(self) -> None:
        """Accept one connection that waits, and more as long as they belong to this process."""
        try:
            while True:
                client, address = self._listener.accept()
                if self._handshakes:
                    self._handshakes.start(client, str(address[0]))
                else:
                    await self._serve(client)
                if self._exceeds_share():
                    return
        except OSError as error:
            if error.errno not in _IS_GONE:
                _log.error("cannot accept a connection: %s", error.strerror)
                await anyio.sleep(_RETRY_SECONDS)

    async def _serve(self, client: socket.socket) -> None:
        try:
            with anyio.CancelScope(shield=True):  # it would be lost if accepting ends now
                await asyncio.get_running_loop().connect_accepted_socket(self._connect, client)
        except OSError:  # macOS refuses options of a socket whose client has left
            client.close()
