"""Sends a request, and returns a complete reply.

Theory of operation
-------------------

A call passes a list of layers (``Client._new_state``), each with the next one as an argument:

================  ============  ====================================================================================
Layer             In            What it does
================  ============  ====================================================================================
circuit breaker   ``circuit``   Fails at once while the upstream's circuit is open.
deadline          ``deadline``  Ends all inner layers when the time of the call is up.
token             ``oauth``     Gets an access token; sends again with a new one after a 401.
slots             ``slots``     Wait for a slot of the tool, then for one of the upstream.
route             ``routes``    Finds the prepared head and the transport for the upstream.
retries           ``retry``     Repeat what is safe to repeat, within a budget.
watch             ``watch``     Reports each attempt to tracing, and adds its headers.
exchange          ``routes``    One request and its reply on one connection (``http.transport``).
================  ============  ====================================================================================

A token request is itself a call through the layers of an upstream of its own (``NAME/tokens``), with its own circuit,
slots and retries. It cannot need a token, so this ends after one level.
"""

import random
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass

from bridge.events import Listener, ignore
from bridge.exchange import Reply, Request
from bridge.resolved_upstream import Upstream
from bridge.spec import Limits
from bridge.upstream.call import Call, Send, chain
from bridge.upstream.circuit import Circuit
from bridge.upstream.deadline import end_at_deadline
from bridge.upstream.http.addresses import Lookup, look_up
from bridge.upstream.http.connection import SETTLE_SECONDS
from bridge.upstream.http.pool import TransportPools
from bridge.upstream.oauth import TokenCache
from bridge.upstream.retry import Retrying
from bridge.upstream.routes import Routes, exchange
from bridge.upstream.slots import Slots, ToolSlots
from bridge.upstream.watch import Watch, watched


@dataclass(frozen=True, slots=True)
class _UpstreamState:
    """The state of one upstream that outlives calls and reloads. ``send`` sends through the layers that use it."""

    circuit: Circuit
    tokens: TokenCache
    slots: Slots
    routes: Routes
    send: Send


class Client:
    """Holds the state that outlives reloads: slots, retry budgets, tokens and circuits by upstream, and connections.

    ``random`` returns 0 to 1, and ``now`` seconds since 1970, both for retries. ``clock`` is in seconds, for circuits.
    ``lookup`` is DNS. ``settle`` is how many seconds a connection is idle before it is used again. So many ``processes``
    divide the limits of upstreams and tools among them.
    """

    def __init__(
        self,
        *,
        emit: Listener = ignore,
        random: Callable[[], float] = random.random,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        lookup: Lookup = look_up,
        watch: Watch | None = None,
        settle: float = SETTLE_SECONDS,
        processes: int = 1,
    ) -> None:
        self._emit = emit
        self._random = random
        self._now = now
        self._clock = clock
        self._watch = [watched(watch)] if watch else []
        self._transports = TransportPools(lookup, settle)
        self._upstreams: dict[str, _UpstreamState] = {}
        self._processes = processes
        self._tools = ToolSlots(processes)

    async def send(
        self,
        request: Request,
        upstream: Upstream,
        *,
        repeatable: bool = False,
        tool: tuple[str, Limits] | None = None,
        subject: str | None = None,
        caller: Hashable = None,
        deadline: float,
    ) -> Reply:
        """The upstream's reply with any status. Redirects are not followed, cookies are not kept.

        ``repeatable`` allows another attempt after the request was sent. ``tool`` is a name and its limits, in addition
        to the upstream's. ``subject`` is the caller's own access token, for a token exchange. ``caller`` identifies the
        caller: slots are shared fairly between callers.
        ``deadline``, on the event loop's clock, covers everything: getting a token, waiting for a slot, connecting,
        retries and reading. Raises ``NotSent``, ``NotAnswered`` and ``UnusableReply``, and ``InvalidCall`` if ``subject`` is needed
        and missing.
        """
        return await self._send(Call(request, upstream, deadline, repeatable, tool, subject, caller))

    def _send(self, call: Call) -> Awaitable[Reply]:
        # Retired ones are closed at the next call of any upstream. That needs no task and no timer.
        if self._transports.retired:
            self._transports.sweep()
        return self._state(call.upstream.name).send(call)

    def retire(self, keep: Iterable[Upstream]) -> None:
        """After a reload: drop the state of all other upstreams, once their calls have ended."""
        kept = [each for upstream in keep for each in (upstream, upstream.tokens) if each]
        self._transports.retire(kept)
        names = {upstream.name for upstream in kept}
        with_circuit = {upstream.name for upstream in kept if upstream.spec.circuit}
        for name, state in self._upstreams.items():
            if name not in with_circuit:  # otherwise metrics would always report it as open
                state.circuit.close(name)
        # States with running calls stay: if the upstream comes back, these calls count for its limits.
        self._upstreams = {
            name: state for name, state in self._upstreams.items() if name in names or not state.slots.is_idle
        }
        for state in self._upstreams.values():
            state.routes.clear()
        self._tools.drop_idle()

    async def aclose(self) -> None:
        """Close every connection; calls that still run fail."""
        self._transports.close()

    def _state(self, name: str) -> _UpstreamState:
        if name not in self._upstreams:
            self._upstreams[name] = self._new_state()
        return self._upstreams[name]

    def _new_state(self) -> _UpstreamState:
        circuit, tokens = Circuit(self._emit, self._clock), TokenCache(self._emit, self._send)
        slots, routes = Slots(self._processes), Routes(self._transports)
        retrying = Retrying(self._random, self._now, self._emit)
        layers = [
            circuit.guard,  # outside of the deadline, as a call that runs out of time is a failure
            end_at_deadline,
            tokens.authorize,  # a call that waits for its token holds no slot
            self._tools.limit,  # a call that waits for its tool holds no slot of the upstream
            slots.limit,
            routes.find,
            retrying.repeat,  # a call keeps its slot between attempts
            *self._watch,
        ]
        return _UpstreamState(circuit, tokens, slots, routes, chain(layers, exchange))
