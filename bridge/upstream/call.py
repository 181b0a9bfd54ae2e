"""A call on its way to an API, and what its layers have in common: see ``client``."""

from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from bridge.exchange import Reply, Request
from bridge.resolved_upstream import Upstream
from bridge.spec import Limits
from bridge.upstream.http.reply_reader import Progress
from bridge.upstream.http.transport import Transport
from bridge.upstream.request_head import PreparedRequest

AUTHORIZING: Final = "getting a token"
"""A phase of ``Progress``."""


@dataclass(frozen=True, slots=True)
class Route:
    """How requests get to an upstream."""

    prepared: PreparedRequest
    transport: Transport


@dataclass(slots=True)
class Call:
    """The arguments of ``Client.send``, and what the layers pass to those within them.

    ``attempt`` counts from 1.
    """

    request: Request
    upstream: Upstream
    deadline: float
    repeatable: bool = False
    tool: tuple[str, Limits] | None = None
    subject: str | None = None
    caller: Hashable = None
    progress: Progress = field(default_factory=Progress)
    route: Route | None = None
    attempt: int = 1


Send: TypeAlias = Callable[[Call], Awaitable[Reply]]
"""Sends a call; raises ``BridgeError``."""
Layer: TypeAlias = Callable[[Call, Send], Awaitable[Reply]]
"""Sends a call by means of the next layer. One that has nothing to do for a call returns ``call_next(call)``.

That spares a coroutine.
"""


def chain(layers: Iterable[Layer], last: Send) -> Send:
    """The first layer calls the second, and so on."""
    send = last
    for layer in reversed(list(layers)):
        send = _before(send, layer)
    return send


# A function of its own: a closure in the loop of ``chain`` would call the layer of the last round.
def _before(call_next: Send, layer: Layer) -> Send:
    def send(call: Call) -> Awaitable[Reply]:
        return layer(call, call_next)

    return send
