"""Sends a request and answers with a whole reply: limits, auth, connection, bounded read, retry."""

import asyncio
import random
import time
from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

import httpx

from bridge.errors import UpstreamError
from bridge.events import Ear, RequestRetried, ignore
from bridge.exchange import Header, Reply, Request
from bridge.secrets import Upstream
from bridge.spec import Limits
from bridge.upstream.circuit import Circuit
from bridge.upstream.http import failures
from bridge.upstream.http.addresses import Lookup, look_up
from bridge.upstream.http.connection import SETTLE_SECONDS
from bridge.upstream.http.pool import Pools
from bridge.upstream.http.reply_reader import Progress
from bridge.upstream.http.transport import Transport
from bridge.upstream.oauth import Tokens
from bridge.upstream.request_head import Outgoing
from bridge.upstream.retry import Retrying, reason
from bridge.upstream.slots import Slots, Turn

_PREPARING: Final = "getting a token"
_TO_TELL: Final = 0.05
"""Seconds by which asking for a token ends before the call does, which then says why there is none."""
_ROADS: Final = 256
"""Ways to one upstream that are kept; reloads leave some behind that nobody goes any more."""


@dataclass(slots=True)
class _Standing:
    """What is known of one upstream beyond a call and a reload.

    ``roads`` lead to it, by the identity of the ``Upstream``: tools with a timeout of their own have their own.
    """

    slots: Slots
    retrying: Retrying
    tokens: Tokens
    circuit: Circuit
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
    tool: tuple[str, Limits] | None
    caller: Hashable
    progress: Progress = field(default_factory=Progress)


class Sending(Protocol):
    """One request as it is sent; ``headers`` go with it, and ``end`` hears what came of it."""

    @property
    def headers(self) -> tuple[Header, ...]: ...

    def end(self, outcome: Reply | UpstreamError, /) -> None: ...


Watch: TypeAlias = Callable[[Request, Upstream, int], AbstractContextManager[Sending]]
"""Watches each request that is sent; the number counts attempts from 1."""


class Client:
    """Holds all that outlives a reload: limits and retry budgets by upstream, and pools of connections.

    ``random`` answers from 0 to 1 and ``now`` seconds since 1970, for retries; ``clock`` is in seconds, for circuits;
    ``lookup`` is DNS; ``watch`` sees each request leave; ``settle`` is how many seconds a connection is idle before it is
    used again.
    """

    def __init__(
        self,
        *,
        emit: Ear = ignore,
        random: Callable[[], float] = random.random,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        lookup: Lookup = look_up,
        watch: Watch | None = None,
        settle: float = SETTLE_SECONDS,
    ) -> None:
        self._emit = emit
        self._random = random
        self._now = now
        self._clock = clock
        self._watch = watch
        self._pools = Pools(lookup, settle)
        self._upstreams: dict[str, _Standing] = {}
        self._tools: dict[str, Slots] = {}

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
        """The upstream's reply, whatever its status; no redirect is followed, no cookie kept.

        ``repeatable`` allows another attempt after the first was sent. ``tool`` is a name and limits that
        come on top of the upstream's. ``subject`` is the token that the caller shows, to get one for the upstream.
        ``caller`` tells callers apart: they take turns where calls wait.
        ``deadline``, on anyio's clock, holds for everything: getting that, waiting for a turn, connecting, retries,
        reading. Raises ``NotSent``, ``NotAnswered`` and ``UnusableReply``, and ``InvalidCall`` where a caller's token
        is needed and there is none.
        """
        if self._pools.retired:
            await self._pools.sweep()
        standing = self._standing(upstream.name)
        standing.retrying.earn()
        call = _Call(request, upstream, repeatable, deadline, tool, caller)
        if upstream.spec.circuit is None:
            return await self._in_time(call, standing, subject)
        with standing.circuit.passing(upstream) as answered:
            reply = await self._in_time(call, standing, subject)
            answered(reply)
            return reply

    async def _in_time(self, call: _Call, standing: _Standing, subject: str | None) -> Reply:
        upstream = call.upstream
        try:
            async with asyncio.timeout_at(call.deadline):
                if upstream.tokens:
                    return await self._with_token(call, standing, subject)
                return await self._in_turns(call, standing)
        except TimeoutError as error:
            phase, sent = call.progress.phase, call.progress.sent
            slow = upstream.tokens if phase == _PREPARING and upstream.tokens else upstream
            raise failures.out_of_time(slow, phase, sent=sent) from error

    def retire(self, keep: Iterable[Upstream]) -> None:
        """After a reload: let go of what belongs to none of these upstreams, once its calls have ended."""
        kept = [each for upstream in keep for each in (upstream, upstream.tokens) if each]
        self._pools.retire(kept)
        names = {upstream.name for upstream in kept}
        breaking = {upstream.name for upstream in kept if upstream.spec.circuit}
        for name, standing in self._upstreams.items():
            if name not in breaking:
                standing.circuit.close(name)
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
            retrying = Retrying(self._random, self._now)
            circuit = Circuit(self._emit, self._clock)
            self._upstreams[name] = _Standing(Slots(), retrying, Tokens(self._emit), circuit)
        return self._upstreams[name]

    async def _with_token(self, call: _Call, standing: _Standing, subject: str | None) -> Reply:
        request = call.request

        async def ask(request: Request, server: Upstream, within: float) -> Reply:
            deadline = min(call.deadline - _TO_TELL, asyncio.get_running_loop().time() + within)
            return await self.send(request, server, repeatable=True, caller=call.caller, deadline=deadline)

        async def send(token: str) -> Reply:
            credentials = ("Authorization", f"Bearer {token}")
            call.request = request._replace(headers=(*request.headers, credentials))
            call.progress = Progress()
            reply = await self._in_turns(call, standing)
            call.progress = Progress(_PREPARING)  # should this one be refused
            return reply

        call.progress = Progress(_PREPARING)
        reply, tokens = await standing.tokens.send(call.upstream, subject, send, ask, call.deadline)
        return reply._replace(secrets=tokens)

    async def _in_turns(self, call: _Call, standing: _Standing) -> Reply:
        if call.tool is None:
            return await self._in_turn(call, standing)
        name, limits = call.tool
        async with Turn(self._tools.setdefault(name, Slots()), limits, call.caller):
            return await self._in_turn(call, standing)

    async def _in_turn(self, call: _Call, standing: _Standing) -> Reply:
        async with Turn(standing.slots, call.upstream.spec.limits, call.caller):
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
            outcome = await self._attempt(call, road, attempt)
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

    async def _attempt(self, call: _Call, road: _Road, number: int) -> Reply | UpstreamError:
        if self._watch is None:
            return await _sent(call, road, call.request)
        with self._watch(call.request, call.upstream, number) as sending:
            names = {name.lower() for name, _ in sending.headers}
            own = [header for header in call.request.headers if header[0].lower() not in names]
            request = call.request._replace(headers=(*own, *sending.headers))
            try:
                outcome = await _sent(call, road, request)
            except asyncio.CancelledError:
                if asyncio.get_running_loop().time() >= call.deadline:
                    sending.end(failures.out_of_time(call.upstream, call.progress.phase, sent=True))
                raise
            sending.end(outcome)
        return outcome


async def _sent(call: _Call, road: _Road, request: Request) -> Reply | UpstreamError:
    """One attempt; what another one may mend is answered, not raised."""
    try:
        message = road.outgoing.message(request, fresh=not call.repeatable)
        return await road.pool.send(message, call.progress)
    except httpx.TransportError as fault:
        return failures.answer(fault, call.upstream, sent=call.progress.sent)
