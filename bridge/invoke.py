"""One call, from start to end: prepare, send, evaluate.

| step | what it does | where |
|---|---|---|
| ``prepare`` | checks the arguments and builds the request | the event loop, or a worker thread if that takes long |
| ``send`` | sends the request; the only step that waits for the API | the event loop |
| ``evaluate`` | makes the result of the reply | the event loop, or a worker thread if that takes long |

Each step raises a ``BridgeError`` that says whose fault it is. Every call ends with one ``CallFinished``.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from secrets import token_hex
from typing import Final, TypeVar

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar

from bridge import codec
from bridge.caller import NO_CALLER, Inbound
from bridge.errors import BridgeError, UnusableReply
from bridge.events import CallFinished, CallStarted, Listener
from bridge.exchange import Reply, Request
from bridge.spec import Json, may_change
from bridge.tool.compiler import Tool
from bridge.tool.evaluate import accepts, evaluate, failure
from bridge.tool.prepare import prepare
from bridge.tool.projection.projection import Unfinished
from bridge.tool.result.content import Result
from bridge.tool.schema.arguments import Unchecked
from bridge.upstream.client import Client
from bridge.upstream.http import failures

_LARGE_REPLY: Final = 64 * 1024
"""Bytes of a reply past which it is evaluated in a worker thread."""
_RICH_REPLY: Final = 5_000
"""Values of a reply past which it is, at any size."""
_THREADS: Final = 2
"""Worker threads for arguments and replies. Each may hold the interpreter's lock for some 25 ms, and the event loop
waits for all of them in turn."""

# A RunVar, as a limiter belongs to one event loop. Not anyio's default limiter: 40 threads would share the GIL.
_workers: Final = RunVar[anyio.CapacityLimiter]("restbridge_workers")
_T = TypeVar("_T")


@dataclass(slots=True)
class _Call:
    """A call and how far it has come. Times are in seconds.

    ``deadline`` is on the event loop's clock, ``began`` on that of ``time.perf_counter``. ``id`` is that of its ``CallStarted``.
    """

    tool: Tool
    client: Client
    emit: Listener
    inbound: Inbound
    deadline: float
    began: float = field(default_factory=time.perf_counter)
    id: str | None = None
    reply: Reply | None = None
    outcome: str = "fault"  # remains if an exception of our own ends the call
    answered: int = 0
    is_empty: bool = False
    is_abandoned: bool = False
    """Nobody waits for its worker thread any longer."""

    def checkpoint(self) -> None:
        """Raises ``_Abandoned``, which ends the work of a worker thread."""
        if self.is_abandoned:
            raise _Abandoned


class _Abandoned(Exception):
    """Ends a worker thread whose result nobody waits for. Nobody sees this exception either."""


async def invoke(
    tool: Tool,
    arguments: dict[str, Json],
    client: Client,
    emit: Listener,
    inbound: Inbound = NO_CALLER,
) -> Result:
    """Call a tool. ``arguments`` are emptied once the request is built.

    A ``BridgeError`` becomes an error result; no other exception is caught. ``CallFinished`` is emitted in any case,
    also when the call is cancelled. ``CallStarted`` comes before a request is sent that may change something.
    """
    with _recorded(tool, client, emit, inbound) as call:
        try:
            request = await _send(call, arguments)
            result = await _evaluate(call, request)
            call.outcome = "ok"
        except BridgeError as error:
            call.outcome = error.code
            call.is_empty = isinstance(error, UnusableReply) and error.is_empty
            result = failure(tool, error, call.reply)
        call.answered = sum(map(_size, result.content))
    return result


async def fetch(
    tool: Tool, arguments: dict[str, Json], client: Client, emit: Listener, inbound: Inbound
) -> Reply:
    """The reply of a call as it came, whatever its status; emits what ``invoke`` emits. Raises ``BridgeError``."""
    with _recorded(tool, client, emit, inbound) as call:
        try:
            await _send(call, arguments)
        except BridgeError as error:
            call.outcome = error.code
            raise
        assert call.reply
        status = call.reply.status
        call.outcome = "ok" if accepts(tool, status) else f"http-{status}"
    return call.reply


@contextmanager
def _recorded(tool: Tool, client: Client, emit: Listener, inbound: Inbound) -> Iterator[_Call]:
    """A call whose end is emitted."""
    deadline = asyncio.get_running_loop().time() + tool.upstream.spec.timeout.total
    call = _Call(tool, client, emit, inbound, deadline)
    try:
        yield call
    except anyio.get_cancelled_exc_class():
        call.outcome = "cancelled"
        raise
    finally:
        emit(_finished(call))


async def _send(call: _Call, arguments: dict[str, Json]) -> Request:
    """Prepare and send; the reply is then in ``call``, whatever its status. Answers what was sent."""
    tool, inbound = call.tool, call.inbound
    try:
        request = prepare(tool, arguments, inbound, quick=True).request
    except Unchecked:  # too much to check on the event loop; in a thread it begins again
        late = failures.out_of_time(tool.upstream, "checking the arguments", sent=False)
        request = (await _in_thread(partial(prepare, tool, arguments, inbound), call, late)).request
    arguments.clear()  # those of many open calls would take much memory
    if may_change(request.method):
        _emit_start(call)
    call.reply = await call.client.send(
        request,
        tool.upstream,
        repeatable=tool.repeatable,
        tool=(tool.name, tool.spec.limits) if tool.spec.limits else None,
        subject=inbound.caller.token,
        caller=inbound.caller.identity,
        deadline=call.deadline,
    )
    return request


async def _evaluate(call: _Call, request: Request) -> Result:
    reply = call.reply
    assert reply
    # The wall clock: Retry-After of the reply may be a date.
    work = partial(evaluate, call.tool, request, reply, now=time.time())
    if len(reply.content) <= _LARGE_REPLY and codec.estimate_values(reply.content) <= _RICH_REPLY:
        with suppress(Unfinished, Unchecked):  # a projection or a check that takes too long here
            result, call.is_empty = work(quick=True)
            return result
    message = f"The API answered {reply.status}, and time ran out while its reply was read."
    late = UnusableReply("timeout", message, advice="Ask for less of it at a time.")
    result, call.is_empty = await _in_thread(partial(work, checkpoint=call.checkpoint), call, late)
    return result


async def _in_thread(work: Callable[[], _T], call: _Call, late: BridgeError) -> _T:
    """The result of ``work`` in a worker thread; raises ``late`` at the deadline.

    Nobody waits for the thread after that. Its work ends at its next checkpoint.
    """
    try:
        limiter = _workers.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_THREADS)
        _workers.set(limiter)
    with anyio.CancelScope(deadline=call.deadline):  # at the deadline it swallows the cancellation
        try:
            return await to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)
        except anyio.get_cancelled_exc_class():
            call.is_abandoned = True
            raise
    raise late


def _emit_start(call: _Call) -> None:
    """Announce a call that may change something; raises what a listener raises to prevent it."""
    call.id, tool, inbound = token_hex(8), call.tool, call.inbound
    call.emit(
        CallStarted(
            tool.name,
            tool.spec.request.method,
            tool.upstream.name,
            call.id,
            caller=inbound.caller.name,
            request=inbound.id,
            issuer=inbound.caller.issuer,
        )
    )


def _finished(call: _Call) -> CallFinished:
    tool, reply, inbound = call.tool, call.reply, call.inbound
    return CallFinished(
        tool.name,
        call.outcome,
        time.perf_counter() - call.began,
        tool.upstream.name,
        reply.status if reply else None,
        empty=call.is_empty,
        caller=inbound.caller.name,
        request=inbound.id,
        issuer=inbound.caller.issuer,
        method=tool.spec.request.method,
        read=len(reply.content) if reply else 0,
        answered=call.answered,
        call=call.id,
    )


def _size(block: Mapping[str, Json]) -> int:
    """The characters of what a block holds; nearly always, and much faster, its bytes."""
    return len(block.get("text") or block.get("data") or "")
