"""Requests that are refused: all are counted, and told of in the log, with a line a second at most for each status.

Whoever sends them must not flood it.
"""

import logging
from asyncio import get_running_loop
from dataclasses import dataclass
from typing import Final

from starlette.types import Scope

from bridge.events import Ear, RequestRefused
from bridge.server.announce import caller_in
from bridge.server.logs import fit

_log: Final = logging.getLogger(__name__)
_PAUSE: Final = 1.0


@dataclass(slots=True)
class _Held:
    """Requests that no line has told of yet: how many, and of the last one whose it was, from where, and what was wrong."""

    status: int
    requests: int = 0
    caller: str | None = None
    client: str = ""
    why: str = ""

    def tell(self) -> None:
        what = "a request" if self.requests == 1 else f"{self.requests} requests, the last one"
        whose = f" of {self.caller}" if self.caller else ""
        fields = {
            "event": "refused",
            "requests": self.requests,
            "client": self.client,
            "status": self.status,
            "why": self.why,
        }
        if self.caller:
            fields["caller"] = self.caller
        text = f"refused {what}{whose} from {self.client} with {self.status}: {self.why}"
        _log.warning("%s", text, extra={"fields": fields})


class Refusals:
    """Tells of the first at once, and then of all together that come in a ``pause`` of so many seconds.

    To be used where the event loop runs.
    """

    def __init__(self, emit: Ear, pause: float = _PAUSE) -> None:
        self._emit = emit
        self._pause = pause
        self._held: dict[int, _Held] = {}
        """By the statuses of which a line was written in this pause."""

    def tell(self, scope: Scope, status: int, why: str, holder: str | None = None) -> None:
        """Why the request of a scope is answered with this status; the text holds no secret.

        ``holder`` is whose key it shows, if that does not count and so names no caller.
        """
        self._emit(RequestRefused(status))
        is_pause = status in self._held
        held = self._held.setdefault(status, _Held(status))
        caller = holder or caller_in(scope).name
        held.requests += 1
        held.caller, held.client, held.why = caller and fit(caller), client_of(scope), why
        if not is_pause:
            self._say(held)

    def flush(self) -> None:
        """Tell now of what would be told later."""
        while self._held:
            _, held = self._held.popitem()
            if held.requests:
                held.tell()

    def _say(self, held: _Held) -> None:
        held.tell()
        self._held[held.status] = _Held(held.status)
        get_running_loop().call_later(self._pause, self._go_on, held.status)

    def _go_on(self, status: int) -> None:
        held = self._held.pop(status, None)
        if held and held.requests:
            self._say(held)


def client_of(scope: Scope) -> str:
    """The address that a request comes from, maybe a proxy's."""
    return (scope.get("client") or ("?",))[0]
