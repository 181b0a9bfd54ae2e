"""Sends a request and answers with a whole reply: limits, auth, connection, bounded read, retry."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import httpx

from bridge.errors import UpstreamError
from bridge.events import Ear, Event, RequestRetried
from bridge.exchange import Reply, Request
from bridge.secrets import Upstream
from bridge.spec import Limits
from bridge.upstream import failures
from bridge.upstream.addresses import Lookup, look_up
from bridge.upstream.incoming import Progress
from bridge.upstream.limits import Slots, Turn
from bridge.upstream.outgoing import Outgoing
from bridge.upstream.pools import Pools
from bridge.upstream.retry import Retrying, reason
from bridge.upstream.transport import Transport

_ROADS: Final = 256
"""Ways to one upstream that are kept; reloads leave some behind that nobody goes any more."""


def ignore(event: Event) -> None:
    """The ear that hears nothing."""


@dataclass(slots=True)
class _Standing:
    """What is known of one upstream beyond a call and a reload.

    ``roads`` lead to it, by the identity of the ``Upstream``: tools with a timeout of their own have their own.
    """

    slots: Slots
    retrying: Retrying
    roads: dict[int, "_Road"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Road:
    """The way to an upstream."""

    outgoing: Outgoing
    pool: Transport


@dataclass(slots=True)
class _Call:
    request: Request
    upstream: Upstream
    repeatable: bool
    deadline: float
    progress: Progress = field(default_factory=Progress)


class Client:
    """Holds all that outlives a reload: limits and retry budgets by upstream, and pools of connections.

    ``random`` answers from 0 to 1 and ``now`` seconds since 1970, for retries; ``lookup`` is DNS.
    """

    def __init__(
        self,
        *,
        emit: Ear = ignore,
        random: Callable[[], float] = random.random,
        now: Callable[[], float] = time.time,
        lookup: Lookup = look_up,
    ) -> None:
        self._emit = emit
        self._random = random
        self._now = now
        self._pools = Pools(lookup)
        self._upstreams: dict[str, _Standing] = {}
        self._tools: dict[str, Slots] = {}

    async def send(
        self,
        request: Request,
        upstream: Upstream,
        *,
        repeatable: bool = False,
        tool: tuple[str, Limits] | None = None,
        deadline: float,
    ) -> Reply:
        """The upstream's reply, whatever its status; no redirect is followed, no cookie kept.

        ``repeatable`` allows another attempt after the first was sent. ``tool`` is a name and limits that
        come on top of the upstream's. ``deadline``, on anyio's clock, holds for everything: waiting for a
        turn, connecting, retries, reading. Raises ``NotSent``, ``NotAnswered`` and ``UnusableReply``.
        """
        if self._pools.retired:
            await self._pools.sweep()
        standing = self._standing(upstream.name)
        standing.retrying.earn()
        call = _Call(request, upstream, repeatable, deadline)
        try:
            async with asyncio.timeout_at(deadline):
                if tool is None:
                    return await self._in_turn(call, standing)
                name, limits = tool
                async with Turn(self._tools.setdefault(name, Slots()), limits):
                    return await self._in_turn(call, standing)
        except TimeoutError as error:
            seconds = upstream.spec.timeout.total
            sent = call.progress.sent
            raise failures.out_of_time(seconds, call.progress.phase, upstream.place, sent=sent) from error

    def retire(self, keep: Iterable[Upstream]) -> None:
        """After a reload: let go of what belongs to none of these upstreams, once its calls have ended."""
        kept = list(keep)
        self._pools.retire(kept)
        names = {upstream.name for upstream in kept}
        self._upstreams = {
            name: standing
            for name, standing in self._upstreams.items()
            if name in names or not standing.slots.idle
        }
        for standing in self._upstreams.values():
            standing.roads.clear()
        self._tools = {name: slots for name, slots in self._tools.items() if not slots.idle}

    async def aclose(self) -> None:
        """Close every connection; calls that still run fail."""
        await self._pools.aclose()

    def _standing(self, name: str) -> _Standing:
        if name not in self._upstreams:
            self._upstreams[name] = _Standing(Slots(), Retrying(self._random, self._now))
        return self._upstreams[name]

    async def _in_turn(self, call: _Call, standing: _Standing) -> Reply:
        async with Turn(standing.slots, call.upstream.spec.limits):
            call.progress.phase = "connecting"
            road = await self._road(call.upstream, standing)
            road.pool.calls += 1
            try:
                return await self._attempts(call, road, standing.retrying)
            finally:
                road.pool.calls -= 1

    async def _road(self, upstream: Upstream, standing: _Standing) -> _Road:
        road = standing.roads.get(id(upstream))
        if road is None:
            road = _Road(Outgoing(upstream), await self._pools.get(upstream))
            if len(standing.roads) >= _ROADS:
                standing.roads.clear()
            standing.roads[id(upstream)] = road
        return road

    async def _attempts(self, call: _Call, road: _Road, retrying: Retrying) -> Reply:
        retries = call.upstream.spec.retries
        attempt = 1
        while True:
            outcome = await _attempt(call, road)
            left = call.deadline - asyncio.get_running_loop().time()
            wait = retrying.wait(outcome, attempt, retries, left, repeatable=call.repeatable)
            if wait is None:
                break
            self._emit(RequestRetried(call.upstream.name, attempt, reason(outcome), wait))
            await asyncio.sleep(wait)
            attempt += 1
        try:
            if isinstance(outcome, UpstreamError):
                raise outcome
            return outcome
        finally:
            del outcome  # an error that its own traceback holds would stay until the collector comes


async def _attempt(call: _Call, road: _Road) -> Reply | UpstreamError:
    """One attempt; what another one may mend is answered, not raised."""
    try:
        message = road.outgoing.message(call.request, fresh=not call.repeatable)
        return await road.pool.send(message, call.progress)
    except httpx.TransportError as fault:
        return failures.answer(fault, call.upstream.place, sent=call.progress.sent)
