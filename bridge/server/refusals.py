"""Requests that are refused, in the log: a line a second at most, for whoever sends them must not flood it."""

import logging
import time
from typing import Final

from starlette.types import Scope

_log: Final = logging.getLogger(__name__)
_PAUSE: Final = 1.0


class Refusals:
    """Counts what came since its last line."""

    def __init__(self) -> None:
        self._since = 0
        self._told = 0.0

    def tell(self, scope: Scope, status: int, why: str) -> None:
        """Why the request of a scope is answered with this status; the text holds no secret."""
        self._since += 1
        now = time.monotonic()
        if now - self._told >= _PAUSE:
            what = "a request" if self._since == 1 else f"{self._since} requests, the last one"
            client = (scope.get("client") or ("?",))[0]
            fields = {
                "event": "refused",
                "requests": self._since,
                "client": client,
                "status": status,
                "why": why,
            }
            _log.warning(
                "refused %s from %s with %d: %s", what, client, status, why, extra={"fields": fields}
            )
            self._told, self._since = now, 0
