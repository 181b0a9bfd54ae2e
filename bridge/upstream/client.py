"""Sends a request and answers with a whole reply: limits, auth, connection, bounded read, retry."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

import httpx

from bridge.errors import UpstreamError
from bridge.events import Ear, Event, RequestRetried
from bridge.exchange import Header, Reply, Request
from bridge.secrets import Upstream
from bridge.spec import BODY_METHODS, Limits
from bridge.upstream import auth, failures
from bridge.upstream.addresses import Lookup, look_up
from bridge.upstream.decoding import Content
from bridge.upstream.limits import Slots, Turn
from bridge.upstream.pools import Pools
from bridge.upstream.retry import Retrying, reason
from bridge.upstream.transport import USER_AGENT, Progress, Transport

_DEFAULTS: Final[tuple[Header, ...]] = (("User-Agent", USER_AGENT), ("Accept-Encoding", "gzip"))
_url = lru_cache(maxsize=1024)(httpx.URL)


def ignore(event: Event) -> None:
    """The ear that hears nothing."""


@dataclass(frozen=True, slots=True)
class _Standing:
    """What is known of one upstream beyond a call and a reload."""

    slots: Slots
    retrying: Retrying


@dataclass(frozen=True, slots=True)
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
        await self._pools.sweep()
        standing = self._standing(upstream.name)
        standing.retrying.earn()
        call = _Call(request, upstream, repeatable, deadline)
        try:
            async with (
                asyncio.timeout_at(deadline),
                self._turn_of(tool),
                Turn(standing.slots, upstream.spec.limits),
            ):
                call.progress.phase = "connecting"
                pool = await self._pools.get(upstream)
                pool.calls += 1
                try:
                    return await self._attempts(call, pool, standing.retrying)
                finally:
                    pool.calls -= 1
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
        self._tools = {name: slots for name, slots in self._tools.items() if not slots.idle}

    async def aclose(self) -> None:
        """Close every connection; calls that still run fail."""
        await self._pools.aclose()

    def _standing(self, name: str) -> _Standing:
        if name not in self._upstreams:
            self._upstreams[name] = _Standing(Slots(), Retrying(self._random, self._now))
        return self._upstreams[name]

    def _turn_of(self, tool: tuple[str, Limits] | None) -> AbstractAsyncContextManager[None]:
        if tool is None:
            return nullcontext()
        name, limits = tool
        return Turn(self._tools.setdefault(name, Slots()), limits)

    async def _attempts(self, call: _Call, pool: Transport, retrying: Retrying) -> Reply:
        retries = call.upstream.spec.retries
        attempt = 1
        while True:
            outcome = await _attempt(call, pool)
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


def as_sent(request: Request, upstream: Upstream) -> Request:
    """The request with all the headers and credentials that it leaves with, for people to read."""
    sending = _sending(_Call(request, upstream, repeatable=False, deadline=0))
    target: bytes = sending.extensions["target"]
    headers = tuple((name.decode(), value.decode("latin-1")) for name, value in sending.headers.raw)
    return replace(request, url=upstream.origin + target.decode(), headers=headers)


async def _attempt(call: _Call, pool: Transport) -> Reply | UpstreamError:
    """One attempt; what another one may mend is answered, not raised."""
    try:
        response = await pool.handle_async_request(_sending(call))
        return await _read(response, call.upstream.spec.max_bytes)
    except httpx.TransportError as fault:
        return failures.answer(fault, call.upstream.place, sent=call.progress.sent)


def _sending(call: _Call) -> httpx.Request:
    """The request as it leaves, with the upstream's headers and its auth.

    httpx is given a stream: it then adds no header of its own, and leaves the URL's path alone.
    """
    request, spec, origin = call.request, call.upstream.spec, call.upstream.origin
    path = request.url.removeprefix(spec.base_url)
    if not request.url.startswith(spec.base_url) or path[:1] not in ("", "/", "?"):
        raise httpx.LocalProtocolError("unsafe-request")
    target = request.url.removeprefix(origin)
    sending = httpx.Request(
        request.method,
        _url(origin),
        headers=_headers(request, call.upstream),
        stream=httpx.ByteStream(request.content or b""),
        extensions={
            "target": (target if target.startswith("/") else f"/{target}").encode(),
            "progress": call.progress,
            "timeout": {"connect": spec.timeout.connect},
            "fresh": not call.repeatable,
        },
    )
    return next(auth.flow(spec.auth).auth_flow(sending))


def _headers(request: Request, upstream: Upstream) -> list[tuple[bytes, bytes]]:
    """What frames the request, then the tool's headers over the upstream's over ours."""
    headers = [("Host", upstream.origin.partition("://")[2])]
    if request.content is not None or request.method in BODY_METHODS:  # RFC 9110 8.6
        headers.append(("Content-Length", str(len(request.content or b""))))
    headers += request.headers
    for defaults in (upstream.spec.headers.items(), _DEFAULTS):
        present = {name.lower() for name, _ in headers}
        headers += [(name, str(value)) for name, value in defaults if name.lower() not in present]
    return [(name.encode(), value.encode("latin-1")) for name, value in headers]


async def _read(response: httpx.Response, limit: int) -> Reply:
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)
    try:
        headers = _texts(response.headers.raw)
        codings = f"{headers.get('content-encoding', '')},{headers.get('transfer-encoding', '')}"
        content = Content(limit, codings, response.status_code)
        async for data in stream:
            content.feed(data)
        complete: bool = response.extensions["complete"]
        return Reply(response.status_code, headers, content.finish(), complete)
    finally:
        await stream.aclose()


def _texts(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers as texts: UTF-8 where they are, else Latin-1, which any bytes are (RFC 9110 5.5)."""
    headers: dict[str, str] = {}
    for key, data in raw:
        name = key.decode("latin-1").lower()
        try:
            value = data.decode()
        except UnicodeDecodeError:
            value = data.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
