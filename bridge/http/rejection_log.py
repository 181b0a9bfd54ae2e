"""Counts all refused requests and TLS handshakes, and logs at most one line a second for each status."""

import logging
from typing import Final, NamedTuple

from starlette.types import Scope

from bridge.codec import log_safe
from bridge.events import HandshakeRefused, Listener, RequestRefused
from bridge.protocol.caller_context import caller_in
from bridge.telemetry.log_throttle import LogThrottle

_log: Final = logging.getLogger(__name__)


class _Rejection(NamedTuple):
    """A refused request. ``caller`` is None if it is not known, ``client`` is an IP address."""

    status: int
    caller: str | None
    client: str
    why: str


class _RefusedHandshake(NamedTuple):
    client: str
    why: str


class RejectionLog:
    """Must be created in the event loop. ``pause`` is in seconds."""

    def __init__(self, emit: Listener, pause: float = 1.0) -> None:
        self._emit = emit
        self._throttle = LogThrottle(_write, pause)
        self._handshakes = LogThrottle(_write_handshake, pause)

    def report(self, scope: Scope, status: int, why: str, holder: str | None = None) -> None:
        """Report that a request is refused. ``why`` must hold no secret.

        ``holder`` is the name of an invalid key, which makes no caller.
        """
        self._emit(RequestRefused(status))
        caller = holder or caller_in(scope).name
        self._throttle.add(status, _Rejection(status, caller and log_safe(caller), client_of(scope), why))

    def report_handshake(self, client: str, why: str) -> None:
        """Report that the TLS handshake of the IP address ``client`` failed."""
        self._emit(HandshakeRefused(client))
        self._handshakes.add(None, _RefusedHandshake(client, why))

    def flush(self) -> None:
        """Log now what waits for the next second."""
        self._throttle.flush()
        self._handshakes.flush()


def _write(last: _Rejection, requests: int) -> None:
    what = "a request" if requests == 1 else f"{requests} requests, the last one"
    by = f" of {last.caller}" if last.caller else ""
    fields = {"event": "refused", "requests": requests, **last._asdict()}
    if not last.caller:
        del fields["caller"]
    text = f"refused {what}{by} from {last.client} with {last.status}: {last.why}"
    _log.warning("%s", text, extra={"fields": fields})


def _write_handshake(last: _RefusedHandshake, handshakes: int) -> None:
    what = "a TLS handshake" if handshakes == 1 else f"{handshakes} TLS handshakes, the last one"
    fields = {"event": "handshake", "handshakes": handshakes, **last._asdict()}
    _log.warning("refused %s from %s: %s", what, *last, extra={"fields": fields})


def client_of(scope: Scope) -> str:
    """The IP address of the connection, maybe that of a proxy."""
    return (scope.get("client") or ("?",))[0]
