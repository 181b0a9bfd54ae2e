"""Reports each attempt to send a request to tracing, and adds its headers."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol, TypeAlias

from bridge.errors import UpstreamError
from bridge.exchange import Header, Reply, Request
from bridge.resolved_upstream import Upstream
from bridge.upstream.call import Call, Layer, Send
from bridge.upstream.http import failures


class WatchedAttempt(Protocol):
    """One attempt to send a request. ``headers`` are added to the request.

    ``end`` gets the reply, or the error of the deadline. Other errors pass through the context manager.
    """

    @property
    def headers(self) -> tuple[Header, ...]: ...

    def end(self, outcome: Reply | UpstreamError, /) -> None: ...


Watch: TypeAlias = Callable[[Request, Upstream, int], AbstractContextManager[WatchedAttempt]]
"""Called for each attempt to send a request; the number counts attempts from 1."""


def watched(watch: Watch) -> Layer:
    async def send(call: Call, call_next: Send) -> Reply:
        with watch(call.request, call.upstream, call.attempt) as attempt:
            # "traceparent" of a tool file gives way to that of this attempt
            replaced = {name.lower() for name, _ in attempt.headers}
            headers = [header for header in call.request.headers if header[0].lower() not in replaced]
            request = call.request._replace(headers=(*headers, *attempt.headers))
            try:
                # a copy: the next attempt gets headers of its own
                reply = await call_next(replace(call, request=request))
            except asyncio.CancelledError:
                # by the deadline: its layer raises the timeout outside, where the span has ended
                progress = call.progress
                if asyncio.get_running_loop().time() >= call.deadline:
                    attempt.end(failures.out_of_time(call.upstream, progress.phase, sent=progress.sent))
                raise
            attempt.end(reply)
            return reply

    return send
