"""One call, start to end: a row of named steps."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from secrets import token_hex
from typing import Final, Literal, TypeVar

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar

from bridge.caller import UNTOLD, Inbound
from bridge.errors import BridgeError, NotAnswered, StatusError, UnusableReply
from bridge.events import CallFinished, CallStarted, Ear
from bridge.exchange import Reply, Request
from bridge.redaction import Redactor
from bridge.spec import Json, may_change
from bridge.tool.compiler import Tool
from bridge.tool.projection.projection import MAX_STEPS, QUICK_STEPS, Unfinished, is_nothing
from bridge.tool.request.headers import forwarded
from bridge.tool.result import bounds, content
from bridge.tool.result.content import Result
from bridge.tool.result.errors import error_result, status_error
from bridge.tool.schema.arguments import Unchecked
from bridge.upstream.client import Client
from bridge.upstream.http import failures
from bridge.upstream.retry import retry_after

_LARGE: Final = 128 * 1024
"""Replies past this many bytes are read in a worker thread, and what a projection does not soon finish."""
_THREADS: Final = 2
"""Worker threads for checking arguments and reading replies. Each may hold the interpreter's lock for some 25 ms,
and the event loop waits for all of them in turn."""

_workers: Final = RunVar[anyio.CapacityLimiter]("restbridge_workers")
_T = TypeVar("_T")


@dataclass(slots=True)
class _Course:
    """How far a call has come; ``data`` is JSON of what the result was to be made of, if that failed.

    ``deadline`` is on anyio's clock, ``began`` on that of ``time.perf_counter``. ``call`` is the id of its
    ``CallStarted``.
    ``empty``: the projection found nothing but null. ``left``: nobody waits for its worker thread any longer.
    """

    emit: Ear
    inbound: Inbound
    deadline: float
    began: float = field(default_factory=time.perf_counter)
    call: str | None = None
    reply: Reply | None = None
    data: str | None = None
    empty: bool = False
    left: bool = False

    def look(self) -> None:
        """Raises ``_Left``, which ends the work of a worker thread."""
        if self.left:
            raise _Left


class _Left(Exception):
    """Nobody waits for what a worker thread does, so nobody sees this either."""


async def invoke(
    tool: Tool,
    arguments: Mapping[str, Json],
    client: Client,
    emit: Ear,
    inbound: Inbound = UNTOLD,
) -> Result:
    """Call a tool, as somebody asks in a request.

    A ``BridgeError`` becomes a result that tells of it, and nothing else is caught.

    ``CallFinished`` is emitted in any case, also when the call is cancelled. ``CallStarted`` comes before it,
    if a request of the call may change something and is sent.
    """
    course, outcome = _begin(tool, emit, inbound), "fault"
    result = None
    try:
        result = await _answer(tool, arguments, client, course)
        outcome = "ok"
    except BridgeError as error:
        outcome = error.code
        executed = _executed(tool, error, course.reply)
        result = error_result(
            error,
            executed=executed,
            data=course.data,
            redactor=_redactor(tool, course.reply),
            invisible=tool.spec.response.invisible,
        )
    except anyio.get_cancelled_exc_class():
        outcome = "cancelled"
        raise
    finally:
        emit(_finished(tool, course, outcome, result))
    return result


async def fetch(
    tool: Tool, arguments: Mapping[str, Json], client: Client, emit: Ear, inbound: Inbound
) -> Reply:
    """The reply of a call as it came, whatever its status; emits what ``invoke`` emits. Raises ``BridgeError``."""
    course, outcome = _begin(tool, emit, inbound), "fault"
    try:
        _, reply = await _ask(tool, arguments, client, course)
        course.reply, outcome = reply, "ok" if _is_valid(tool, reply.status) else f"http-{reply.status}"
    except BridgeError as error:
        outcome = error.code
        raise
    except anyio.get_cancelled_exc_class():
        outcome = "cancelled"
        raise
    finally:
        emit(_finished(tool, course, outcome))
    return reply


def _begin(tool: Tool, emit: Ear, inbound: Inbound) -> _Course:
    return _Course(emit, inbound, asyncio.get_running_loop().time() + tool.upstream.spec.timeout.total)


def _start(tool: Tool, course: _Course) -> None:
    """Announces a call that may change something; raises what a listener raises to prevent it."""
    course.call, inbound = token_hex(8), course.inbound
    course.emit(
        CallStarted(
            tool.name,
            tool.spec.request.method,
            tool.upstream.name,
            course.call,
            caller=inbound.caller.name,
            request=inbound.id,
            issuer=inbound.caller.issuer,
        )
    )


def _finished(tool: Tool, course: _Course, outcome: str, result: Result | None = None) -> CallFinished:
    reply, inbound = course.reply, course.inbound
    return CallFinished(
        tool.name,
        outcome,
        time.perf_counter() - course.began,
        tool.upstream.name,
        reply.status if reply else None,
        empty=course.empty,
        caller=inbound.caller.name,
        request=inbound.id,
        issuer=inbound.caller.issuer,
        method=tool.spec.request.method,
        read=len(reply.content) if reply else 0,
        answered=sum(map(_size, result.content)) if result is not None else 0,
        call=course.call,
    )


async def _ask(
    tool: Tool, arguments: Mapping[str, Json], client: Client, course: _Course
) -> tuple[Request, Reply]:
    """What a call sends, and the reply as it came, whatever its status; raises ``BridgeError``."""
    inbound = course.inbound
    try:
        request = _built(tool, arguments, inbound, quick=True)
    except Unchecked:
        build = partial(_built, tool, arguments, inbound)
        late = failures.out_of_time(tool.upstream, "checking the arguments", sent=False)
        request = await _in_thread(build, course, late)
    if names := tool.upstream.spec.forward_headers:
        sent_on = forwarded(names, inbound.headers, request.headers)
        request = request._replace(headers=(*request.headers, *sent_on))
    if may_change(request.method):
        _start(tool, course)
    reply = await client.send(
        request,
        tool.upstream,
        repeatable=tool.repeatable,
        tool=(tool.name, tool.spec.limits) if tool.spec.limits else None,
        subject=inbound.caller.token,
        caller=inbound.caller.identity,
        deadline=course.deadline,
    )
    return request, reply


def _built(tool: Tool, arguments: Mapping[str, Json], inbound: Inbound, *, quick: bool = False) -> Request:
    return tool.request.build(tool.arguments.check(arguments, quick=quick), inbound.caller.known)


async def _in_thread(work: Callable[[], _T], course: _Course, late: BridgeError) -> _T:
    """The result of ``work`` in a worker thread; raises ``late`` at the deadline.

    The thread is not waited for then: its work ends when it next looks at the course.
    """
    try:
        limiter = _workers.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_THREADS)
        _workers.set(limiter)
    with anyio.CancelScope(deadline=course.deadline):
        try:
            return await to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)
        except anyio.get_cancelled_exc_class():
            course.left = True
            raise
    raise late


async def _answer(tool: Tool, arguments: Mapping[str, Json], client: Client, course: _Course) -> Result:
    request, course.reply = await _ask(tool, arguments, client, course)
    reply = course.reply
    read = partial(_read, tool, request, reply, course)
    if len(reply.content) <= _LARGE:
        with suppress(Unfinished, Unchecked):
            return read(quick=True)
    message = f"The API answered {reply.status}, and time ran out while its reply was read."
    advice = "Ask for less of it at a time."
    return await _in_thread(read, course, UnusableReply("timeout", message, advice=advice))


def _read(tool: Tool, request: Request, reply: Reply, course: _Course, *, quick: bool = False) -> Result:
    """The reply as the tool file wants it seen, without secrets.

    ``quick``: raises ``Unfinished`` or ``Unchecked`` where that takes long.
    """
    steps = QUICK_STEPS if quick else MAX_STEPS
    response, redactor = tool.spec.response, _redactor(tool, reply).watched(course.look)
    keeps_base64 = response.content == "blocks"
    if response.invisible == "strip":  # first: what is left could be a secret
        reply = content.stripped(reply)
    reply = content.redacted(reply, redactor, steps=steps, keeps_base64=keeps_base64)
    if not _is_valid(tool, reply.status):
        wait = retry_after(reply.headers.get("retry-after", ""), time.time())
        raise status_error(
            reply,
            tool.spec.errors,
            tool.error_projections,
            request,
            retry_after=wait,
            redactor=redactor,
            invisible=response.invisible,
            steps=steps,
        )
    is_whole = response.from_ == "reply" or tool.spec.request.method == "HEAD"
    if not is_whole and not tool.output and (not tool.projection or not reply.content):
        return content.of_reply(
            reply, response, tool=tool.name, narrowing=tool.arguments.optional, redactor=redactor
        )
    value = content.whole(reply) if is_whole else content.document(reply)
    if tool.projection:
        value = content.projected(
            tool.projection,
            value,
            redactor,
            steps=steps,
            size=None if is_whole else len(reply.content),
            keeps_base64=keeps_base64,
        )
        course.empty = is_nothing(value)
    if tool.output is None:
        result = content.of_value(value, response, narrowing=tool.arguments.optional, redactor=redactor)
    else:
        try:
            structured = tool.output.structured(value, quick=quick)
        except UnusableReply:
            course.data, _ = bounds.within(value, response.max_bytes, response.invisible)
            raise
        result = content.of_structured(structured, response, narrowing=tool.arguments.optional)
    return content.of_nothing(result, reply.status, safe=tool.read_only) if course.empty else result


def _redactor(tool: Tool, reply: Reply | None) -> Redactor:
    """What takes the upstream's secrets out, and the tokens that were got for this call."""
    return tool.upstream.redactor(*(reply.secrets if reply else ()))


def _is_valid(tool: Tool, status: int) -> bool:
    return any(low <= status <= high for low, high in tool.spec.response.valid_status)


def _executed(tool: Tool, error: BridgeError, reply: Reply | None) -> int | Literal["unknown"] | None:
    """The status that says that an unsafe request was carried out, although the call failed.

    A server that failed may have failed half-way, and a gateway does not know (RFC 9110 15.6).
    """
    if tool.read_only:
        return None
    match error:
        case UnusableReply():
            status = reply.status if reply else error.status
            return status if status and _is_valid(tool, status) else "unknown"
        case NotAnswered() | StatusError(status=408 | 500 | 502 | 504):
            return "unknown"
    return None


def _size(block: Mapping[str, Json]) -> int:
    """The characters of what a block holds; nearly always, and much faster, its bytes."""
    return len(block.get("text") or block.get("data") or "")
