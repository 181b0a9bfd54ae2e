"""The stdio transport: one client, lines of JSON-RPC.

The SDK's own would hold the process on SIGINT (python-sdk#3551), die on SIGTERM and cancel calls
in flight at the end of input, because it reads in a thread. Here the loop waits for the descriptors.
"""

import math
import os
import select
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeAlias

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)

from bridge.codec import encode
from bridge.server.frames import MAX_BYTES, Lines, Refused, parse
from bridge.server.handlers import ToolServer

_CHUNK: Final = 65536
_REFUSAL: Final = ServerMessageMetadata()
"""Marks what answers no request in flight, though it may bear the id of one."""

_Inbox: TypeAlias = MemoryObjectSendStream[SessionMessage | Exception]
_Outbox: TypeAlias = MemoryObjectReceiveStream[SessionMessage]


@contextmanager
def private_stdio() -> Iterator[tuple[int, int]]:
    """Descriptors of stdin and stdout that nobody else knows; a stray print goes to stderr meanwhile."""
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    try:
        yield source, sink
    finally:
        sys.stdout.flush()
        os.dup2(source, 0)
        os.dup2(sink, 1)
        os.close(source)
        os.close(sink)


async def serve_stdio(
    server: ToolServer, source: int, sink: int, stop: anyio.Event, *, grace: float = 5.0
) -> None:
    """Serve until ``source`` ends, ``stop`` is set, or nobody reads ``sink`` any more.

    In the first two cases calls in flight are answered, within ``grace`` seconds.
    """
    inbox, from_client = anyio.create_memory_object_stream[SessionMessage | Exception]()
    to_client, outbox = anyio.create_memory_object_stream[SessionMessage]()
    wire = _Wire(server, source, sink, to_client.clone())
    reading = anyio.CancelScope()
    with _unblocked(sink):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wire.send, outbox, tasks.cancel_scope)
            tasks.start_soon(wire.receive, inbox, reading, grace)
            tasks.start_soon(_cancel_on, stop, reading)
            tasks.start_soon(_cancel_when_unread, source, sink, tasks.cancel_scope)
            await server.run(from_client, to_client, server.create_initialization_options())
            with anyio.CancelScope(deadline=wire.deadline):
                await wire.sent.wait()
            tasks.cancel_scope.cancel()


class _Wire:
    """Both directions; ``_calls`` holds the ids of requests that are not answered yet."""

    def __init__(
        self, server: ToolServer, source: int, sink: int, to_client: MemoryObjectSendStream[SessionMessage]
    ) -> None:
        self.sent = anyio.Event()
        self.deadline = math.inf
        self._server = server
        self._source = source
        self._sink = sink
        self._to_client = to_client
        self._calls: set[str] = set()
        self._answered = anyio.Event()

    async def receive(self, inbox: _Inbox, reading: anyio.CancelScope, grace: float) -> None:
        """Closing ``inbox`` ends the server, which cancels what still runs: so it waits for the answers."""
        async with inbox, self._to_client:
            with reading:
                await self._read(inbox)
            self._server.stop(grace)
            self.deadline = anyio.current_time() + grace + 0.5
            with anyio.CancelScope(deadline=self.deadline):
                while self._calls:
                    self._answered = anyio.Event()
                    await self._answered.wait()

    async def _read(self, inbox: _Inbox) -> None:
        lines = Lines()
        while chunk := await _read(self._source):
            await self._take(lines.feed(chunk), inbox)
        await self._take(lines.end(), inbox)

    async def _take(self, lines: Iterable[bytes | None], inbox: _Inbox) -> None:
        for line in lines:
            if line is not None and not line.strip():
                continue
            try:
                message = self._admit(line)
            except Refused as refused:
                error = ErrorData(code=refused.code, message=str(refused))
                answer = JSONRPCError(jsonrpc="2.0", id=refused.id, error=error)
                await self._to_client.send(SessionMessage(answer, _REFUSAL))
            else:
                await inbox.send(SessionMessage(message))

    def _admit(self, line: bytes | None) -> JSONRPCMessage:
        if line is None:
            raise Refused(INVALID_REQUEST, f"A message is longer than {MAX_BYTES} bytes")
        match message := parse(line):
            case JSONRPCRequest(id=id):
                if str(id) in self._calls:
                    raise Refused(INVALID_REQUEST, "A request with this id is still in flight", id)
                self._calls.add(str(id))
            case JSONRPCNotification(method="notifications/cancelled", params={"requestId": id}):
                self._settle(id)  # a cancelled request is not answered
        return message

    def _settle(self, id: object) -> None:
        self._calls.discard(str(id))
        self._answered.set()

    async def send(self, outbox: _Outbox, serving: anyio.CancelScope) -> None:
        try:
            async with outbox:
                async for item in outbox:
                    message = item.message
                    line = encode(message.model_dump(by_alias=True, exclude_unset=True)) + b"\n"
                    await _write(self._sink, line)
                    if isinstance(message, JSONRPCResponse | JSONRPCError) and item.metadata is not _REFUSAL:
                        self._settle(message.id)
        except (BrokenPipeError, ConnectionResetError):
            serving.cancel()  # nobody is left to be answered
        self.sent.set()


async def _read(source: int) -> bytes:
    """What is there, empty at the end."""
    with suppress(PermissionError):  # a regular file: it cannot be waited for, nor does it block
        await anyio.wait_readable(source)
    try:
        return os.read(source, _CHUNK)
    except ConnectionResetError:
        return b""


async def _write(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(sink, view) :]
        except BlockingIOError:
            await anyio.wait_writable(sink)


async def _cancel_on(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _cancel_when_unread(source: int, sink: int, serving: anyio.CancelScope) -> None:
    """Notice that the reader of ``sink`` has gone even while there is nothing to write."""
    if not _is_one_way(source, sink):
        return
    await anyio.wait_readable(sink)  # never true of a pipe's writing end, but for an error
    poll = select.poll()
    poll.register(sink, 0)
    if poll.poll(0):  # else a socket whose other end only said that it will not write
        serving.cancel()


@contextmanager
def _unblocked(sink: int) -> Iterator[None]:
    """Writing to a full pipe must not stop the loop; a terminal shares its mode with others and keeps it."""
    if not _is_pipe(sink):
        yield
        return
    os.set_blocking(sink, False)
    try:
        yield
    finally:
        os.set_blocking(sink, True)


def _is_one_way(source: int, sink: int) -> bool:
    return _is_pipe(sink) and not os.path.sameopenfile(source, sink)


def _is_pipe(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
