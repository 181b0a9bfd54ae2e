"""Requests that are refused: all are counted, and logged with at most a line a second for each status."""

import logging
from typing import Final, NamedTuple

from starlette.types import Scope

from bridge.events import Ear, RequestRefused
from bridge.protocol.notifications import caller_in
from bridge.telemetry.log_output import fit
from bridge.telemetry.log_throttle import Gatherer

_log: Final = logging.getLogger(__name__)


class _Refused(NamedTuple):
    """A request that was refused: whose it was, if that is known, from where, and what was wrong."""

    status: int
    caller: str | None
    client: str
    why: str


class Refusals:
    """Counts and logs them. To be used where the event loop runs."""

    def __init__(self, emit: Ear, pause: float = 1.0) -> None:
        self._emit = emit
        self._gatherer = Gatherer(_write, pause)

    def tell(self, scope: Scope, status: int, why: str, holder: str | None = None) -> None:
        """Why the request of a scope is answered with this status; the text holds no secret.

        ``holder`` is whose key it shows, if that is not valid and so names no caller.
        """
        self._emit(RequestRefused(status))
        caller = holder or caller_in(scope).name
        self._gatherer.add(status, _Refused(status, caller and fit(caller), client_of(scope), why))

    def flush(self) -> None:
        """Log now what would be logged later."""
        self._gatherer.flush()


def _write(refused: _Refused, requests: int) -> None:
    what = "a request" if requests == 1 else f"{requests} requests, the last one"
    whose = f" of {refused.caller}" if refused.caller else ""
    fields = {"event": "refused", "requests": requests, **refused._asdict()}
    if not refused.caller:
        del fields["caller"]
    text = f"refused {what}{whose} from {refused.client} with {refused.status}: {refused.why}"
    _log.warning("%s", text, extra={"fields": fields})


def client_of(scope: Scope) -> str:
    """The address that a request comes from, maybe a proxy's."""
    return (scope.get("client") or ("?",))[0]
