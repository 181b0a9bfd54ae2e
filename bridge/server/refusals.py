"""Requests that are refused: all are counted, and told of in the log with a line a second at most.

Whoever sends them must not flood it.
"""

import logging
import time
from typing import Final

from starlette.types import Scope

from bridge.events import Ear, RequestRefused

_log: Final = logging.getLogger(__name__)
_PAUSE: Final = 1.0


class Refusals:
    """For each status the log says how many came since its last line."""

    def __init__(self, emit: Ear) -> None:
        self._emit = emit
        self._since: dict[int, int] = {}
        self._told: dict[int, float] = {}

    def tell(self, scope: Scope, status: int, why: str) -> None:
        """Why the request of a scope is answered with this status; the text holds no secret."""
        self._emit(RequestRefused(status))
        since, now = self._since.get(status, 0) + 1, time.monotonic()
        if now - self._told.get(status, -_PAUSE) < _PAUSE:
            self._since[status] = since
            return
        self._told[status], self._since[status] = now, 0
        what = "a request" if since == 1 else f"{since} requests, the last one"
        client = client_of(scope)
        fields = {"event": "refused", "requests": since, "client": client, "status": status, "why": why}
        text = "refused %s from %s with %d: %s"
        _log.warning(text, what, client, status, why, extra={"fields": fields})


def client_of(scope: Scope) -> str:
    """The address that a request comes from, maybe a proxy's."""
    return (scope.get("client") or ("?",))[0]
