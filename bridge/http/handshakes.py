"""TLS handshakes of connections that were accepted. Those that fail or take too long are reported.

uvicorn can do neither. So a handshake is a task here, and the connection then is one of uvicorn's, like one without TLS.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

from anyio.abc import TaskGroup

from bridge.http.tls import ServerTls

HANDSHAKE_SECONDS: Final = 10.0
"""From the start of the connection to the end of its handshake."""
_CLOSE_SECONDS: Final = 30.0
"""For the client to read the rest of the last response, and to answer close_notify."""

_REASONS: Final = {
    "HTTP_REQUEST": "the client sends plain HTTP; write https:// in its URL",
    "NO_SHARED_CIPHER": "the client and this server have no cipher in common",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client has no certificate, and http.tls.clientCaFile asks for one",
    "UNSUPPORTED_PROTOCOL": "the client has no TLS 1.2 or later",
    "WRONG_VERSION_NUMBER": "the client does not speak TLS",
}
_TOO_SLOW: Final = "the handshake did not end in time"


class Handshakes:
    """Makes connections with the context that ``tls`` has at that time, each in a task of ``tasks``.

    ``connect`` makes the protocol of a connection. ``on_refused`` gets the client's IP address, and why its handshake failed.
    ``timeout`` is in seconds.
    """

    def __init__(
        self,
        tls: ServerTls,
        on_refused: Callable[[str, str], None],
        connect: Callable[[], asyncio.Protocol],
        tasks: TaskGroup,
        timeout: float = HANDSHAKE_SECONDS,
    ) -> None:
        self._tls = tls
        self._on_refused = on_refused
        self._connect = connect
        self._tasks = tasks
        self._timeout = timeout
        self.running = 0
        """How many handshakes have not ended."""

    def start(self, accepted: socket.socket, client: str) -> None:
        """Begin the handshake on a socket that was accepted from the IP address ``client``."""
        self.running += 1
        self._tasks.start_soon(self._shake_hands, accepted, client)

    async def _shake_hands(self, accepted: socket.socket, client: str) -> None:
        state = self._tls.state
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                self._connect,
                accepted,
                ssl=state.context,
                ssl_handshake_timeout=self._timeout,
                ssl_shutdown_timeout=_CLOSE_SECONDS,
            )
        except ssl.SSLError as error:
            self._on_refused(client, _reason(error))
        except ConnectionAbortedError:  # by asyncio, after the timeout
            self._on_refused(client, _TOO_SLOW)
        except OSError:
            accepted.close()  # the client has left, such as the TCP probe of a load balancer
        else:
            if state is not self._tls.state:  # replaced meanwhile
                self._tls.end_if_untrusted(transport)
        finally:
            self.running -= 1


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of the client is refused: {error.verify_message}"
    reason = str(error.reason)
    words = reason.replace("_", " ").lower()
    if "ALERT" in reason:  # such as TLSV1_ALERT_UNKNOWN_CA
        return f"the client ended the handshake: {words.partition('alert ')[2]}"
    return _REASONS.get(reason, words)
