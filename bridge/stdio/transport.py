"""The stdio transport: one client, one JSON-RPC message on each line.

The SDK's own transport reads in a thread. So it blocks on SIGINT (python-sdk#3551), dies on SIGTERM, and cancels calls in
flight at the end of input. Here the event loop waits for the descriptors.

A line takes one of two paths. What ``protocol/fast_path.py`` recognizes takes the fast path, each request in a task of its
own. Everything else goes to the SDK, whose answers show the protocol version of the client. All unanswered requests are in
``_in_flight``, so that an id is used once at a time and the end waits for the answers.

After early answers, the SDK gets the replayed lines of the ``Handoff`` first. Its answers to these are dropped.
"""

import math
import os
import select
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCRequest,
    JSONRPCResponse,
)

from bridge.codec import encode
from bridge.protocol.fast_path import FastRequest, answer_call, answer_list, recognize, version_in
from bridge.protocol.handlers import ToolServer
from bridge.protocol.in_flight import RequestsInFlight
from bridge.protocol.jsonrpc import MAX_BYTES, InvalidMessage, parse
from bridge.stdio.early_answers import Handoff
from bridge.stdio.framing import LineReader

_CHUNK: Final = 65536
_REFUSAL: Final = ServerMessageMetadata()
"""Marks an error that answers no request in flight, although it may have the id of one."""


@dataclass(frozen=True, slots=True)
class _FastAnswer:
    """An answer of the fast path, encoded. ``running`` is the scope of the request."""

    id: int | str
    line: bytes
    running: anyio.CancelScope


_Inbox: TypeAlias = MemoryObjectSendStream[SessionMessage | Exception]
_ToClient: TypeAlias = MemoryObjectSendStream[SessionMessage | _FastAnswer]
_Outbox: TypeAlias = MemoryObjectReceiveStream[SessionMessage | _FastAnswer]
_NOTHING: Final = Handoff()


async def serve_stdio(
    server: ToolServer,
    source: int,
    sink: int,
    stop: anyio.Event,
    *,
    handoff: Handoff = _NOTHING,
    fast_path: bool = True,
    grace: float = 5.0,
) -> None:
    """Serve until the descriptor ``source`` ends, ``stop`` is set, or the reader of ``sink`` has left.

    In the first two cases calls in flight have ``grace`` seconds to finish. ``handoff`` is the state after early answers.
    Without ``fast_path`` every message goes through the SDK.
    """
    inbox, from_client = anyio.create_memory_object_stream[SessionMessage | Exception]()
    to_client, outbox = anyio.create_memory_object_stream[SessionMessage | _FastAnswer]()
    reading = anyio.CancelScope()
    with _unblocked(sink):
        async with anyio.create_task_group() as tasks:
            pipe = _Pipe(
                server,
                source,
                sink,
                # The SDK closes its end, and ``receive`` closes this one. Only then does ``outbox`` end.
                to_client.clone(),
                handoff=handoff,
                fast_tasks=tasks if fast_path else None,
            )
            tasks.start_soon(pipe.send, outbox, tasks.cancel_scope)
            tasks.start_soon(pipe.receive, inbox, reading, grace)
            tasks.start_soon(_cancel_on, stop, reading)
            tasks.start_soon(_cancel_when_unread, source, sink, tasks.cancel_scope)
            # The SDK's type of the stream is narrower: it sends only its own messages.
            from_server = cast("MemoryObjectSendStream[SessionMessage]", to_client)
            await server.run(from_client, from_server, server.create_initialization_options())
            with anyio.CancelScope(deadline=pipe.deadline):
                await pipe.sent.wait()
            tasks.cancel_scope.cancel()


class _Pipe:
    """Both directions of the connection. Without ``fast_tasks`` there is no fast path."""

    def __init__(
        self,
        server: ToolServer,
        source: int,
        sink: int,
        to_client: _ToClient,
        *,
        handoff: Handoff,
        fast_tasks: TaskGroup | None,
    ) -> None:
        self.sent = anyio.Event()
        self.deadline = math.inf
        self._server = server
        self._source = source
        self._sink = sink
        self._to_client = to_client
        self._handoff = handoff
        self._fast_tasks = fast_tasks
        self._lines = LineReader()
        self._in_flight = RequestsInFlight()
        self._answered = anyio.Event()
        self._version = ""

    async def receive(self, inbox: _Inbox, reading: anyio.CancelScope, grace: float) -> None:
        """Read until the end. Then wait for the answers: closing ``inbox`` makes the SDK cancel what still runs."""
        async with inbox, self._to_client:
            await self._replay(inbox)
            with reading:
                await self._read(inbox)
            self._server.stop(grace)
            # Half a second more than the calls have: those that are cancelled then still get their answers.
            self.deadline = anyio.current_time() + grace + 0.5
            with anyio.CancelScope(deadline=self.deadline):
                while self._in_flight:
                    self._answered = anyio.Event()  # an anyio event cannot be cleared
                    await self._answered.wait()

    async def _replay(self, inbox: _Inbox) -> None:
        """Process the handoff, even if ``stop`` is set already."""
        for line in self._handoff.replayed:
            await inbox.send(SessionMessage(self._parse(line)))
        await self._process(self._lines.feed(self._handoff.unread), inbox)

    async def _read(self, inbox: _Inbox) -> None:
        while chunk := await _read(self._source):
            await self._process(self._lines.feed(chunk), inbox)
        await self._process(self._lines.end(), inbox)

    async def _process(self, lines: Iterable[bytes | None], inbox: _Inbox) -> None:
        for line in lines:
            if line is not None and (not line.strip() or self._starts_fast_request(line)):
                continue
            try:
                message = self._parse(line)
            except InvalidMessage as refused:
                error = ErrorData(code=refused.code, message=str(refused))
                answer = JSONRPCError(jsonrpc="2.0", id=refused.id, error=error)
                await self._to_client.send(SessionMessage(answer, _REFUSAL))
            else:
                await inbox.send(SessionMessage(message))

    def _parse(self, line: bytes | None) -> JSONRPCMessage:
        if line is None:
            raise InvalidMessage(INVALID_REQUEST, f"A message is longer than {MAX_BYTES} bytes")
        message = parse(line)
        # A cancelled request gets no answer (MCP, cancellation), so it is no longer in flight.
        if (cancelled := self._in_flight.apply(message)) is not None:
            self._finish(cancelled)
        if isinstance(message, JSONRPCRequest) and message.method == "initialize":
            self._version = ""  # until the SDK has answered
        return message

    def _starts_fast_request(self, line: bytes) -> bool:
        """Start the request in a line if it can take the fast path. Returns whether it was started."""
        if self._fast_tasks is None:
            return False
        request = recognize(line, self._version, self._server, in_flight=self._in_flight)
        if request is None:
            return False
        # In flight before its task runs: the next line may have the same id, or cancel it.
        self._fast_tasks.start_soon(self._answer, request, self._in_flight.add(request.id))
        return True

    async def _answer(self, request: FastRequest, running: anyio.CancelScope) -> None:
        if request.tool is None:
            line = b"".join(answer_list(request, self._server))
        else:
            line, _ = await answer_call(request, request.tool, self._server, running)
        # ``outbox`` is closed, or ``receive`` has ended: the client has left, or the grace period is over.
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._to_client.send(_FastAnswer(request.id, line, running))

    def _finish(self, id: object) -> None:
        self._in_flight.remove(id)
        self._answered.set()

    async def send(self, outbox: _Outbox, serving: anyio.CancelScope) -> None:
        answered_early = set(self._handoff.answered)
        try:
            await _write(self._sink, self._handoff.unsent)
            async with outbox:
                async for item in outbox:
                    if isinstance(item, _FastAnswer):
                        if self._in_flight.holds(item.id, item.running):  # otherwise it was cancelled
                            await _write(self._sink, item.line + b"\n")
                            self._finish(item.id)
                        continue
                    message = item.message
                    # Not an answer to a request in flight. A refusal of a duplicate has the id of one.
                    if not isinstance(message, JSONRPCResponse | JSONRPCError) or item.metadata is _REFUSAL:
                        await self._write(message)
                        continue
                    if str(message.id) in answered_early:
                        answered_early.discard(str(message.id))
                    else:
                        await self._write(message)
                    self._version = version_in(message) or self._version
                    self._finish(message.id)
        except (BrokenPipeError, ConnectionResetError):
            serving.cancel()  # the client has left
        self.sent.set()

    async def _write(self, message: JSONRPCMessage) -> None:
        # Not ``exclude_none``: an error without an id has "id": null. Params that are not set stay out.
        await _write(self._sink, encode(message.model_dump(by_alias=True, exclude_unset=True)) + b"\n")


async def _read(source: int) -> bytes:
    """The bytes that are available, empty at the end of input."""
    with suppress(PermissionError):  # a regular file: epoll refuses it, and reading it does not block
        await anyio.wait_readable(source)
    try:
        return os.read(source, _CHUNK)
    except ConnectionResetError:  # stdin may be a socket
        return b""


async def _write(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(sink, view) :]
        except BlockingIOError:  # a full pipe, see ``_unblocked``
            await anyio.wait_writable(sink)


async def _cancel_on(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _cancel_when_unread(source: int, sink: int, serving: anyio.CancelScope) -> None:
    """Cancel ``serving`` when the reader of ``sink`` has left, even if there is nothing to write."""
    if not _is_one_way(source, sink):
        return
    await anyio.wait_readable(sink)  # the writing end of a pipe becomes readable only on an error
    poll = select.poll()
    poll.register(sink, 0)  # without events, poll reports only errors and hang-ups
    if poll.poll(0):  # otherwise a socket whose other end was only shut down for writing
        serving.cancel()


@contextmanager
def _unblocked(sink: int) -> Iterator[None]:
    """Make a pipe non-blocking, so that a full one does not stop the loop. A terminal shares its mode with others: no change."""
    if not _is_pipe(sink):
        yield
        return
    os.set_blocking(sink, False)
    try:
        yield
    finally:
        os.set_blocking(sink, True)  # the mode is that of the pipe, which other processes may share


def _is_one_way(source: int, sink: int) -> bool:
    return _is_pipe(sink) and not os.path.sameopenfile(source, sink)


def _is_pipe(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
