"""The stdio transport: one client, lines of JSON-RPC.

The SDK's own would hold the process on SIGINT (python-sdk#3551), die on SIGTERM and cancel calls
in flight at the end of input, because it reads in a thread. Here the loop waits for the descriptors.
"""

import math
import os
import select
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    PROTOCOL_VERSION_META_KEY,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)
from mcp_types.version import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION

from bridge.caller import Inbound
from bridge.codec import encode
from bridge.protocol import fast_path as plain
from bridge.protocol.capabilities import ALIKE
from bridge.protocol.handlers import CANCELLED, ToolServer
from bridge.protocol.jsonrpc import Refused, parse
from bridge.spec import Json
from bridge.stdio.early_answers import Before
from bridge.stdio.framing import MAX_BYTES, Lines
from bridge.telemetry.log_output import fit
from bridge.tool.compiler import Tool

_CHUNK: Final = 65536
_REFUSAL: Final = ServerMessageMetadata()
"""Marks what answers no request in flight, though it may bear the id of one."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """One that the SDK does not see."""

    id: int | str
    line: bytes


_Inbox: TypeAlias = MemoryObjectSendStream[SessionMessage | Exception]
_ToClient: TypeAlias = MemoryObjectSendStream[SessionMessage | _Answer]
_Outbox: TypeAlias = MemoryObjectReceiveStream[SessionMessage | _Answer]
_Kind: TypeAlias = Literal["initialize", "modern", "other"]
_Step: TypeAlias = Literal["asked", "greeted", "ready"]
_NOTHING: Final = Before()


async def serve_stdio(
    server: ToolServer,
    source: int,
    sink: int,
    stop: anyio.Event,
    *,
    before: Before = _NOTHING,
    express: bool = True,
    grace: float = 5.0,
) -> None:
    """Serve until ``source`` ends, ``stop`` is set, or nobody reads ``sink`` any more.

    In the first two cases calls in flight are answered, within ``grace`` seconds. The client goes on where
    it stood ``before``. Without ``express`` every message goes through the SDK.
    """
    inbox, from_client = anyio.create_memory_object_stream[SessionMessage | Exception]()
    to_client, outbox = anyio.create_memory_object_stream[SessionMessage | _Answer]()
    reading = anyio.CancelScope()
    with _unblocked(sink):
        async with anyio.create_task_group() as tasks:
            wire = _Wire(
                server, source, sink, to_client.clone(), before=before, lane=tasks if express else None
            )
            tasks.start_soon(wire.send, outbox, tasks.cancel_scope)
            tasks.start_soon(wire.receive, inbox, reading, grace)
            tasks.start_soon(_cancel_on, stop, reading)
            tasks.start_soon(_cancel_when_unread, source, sink, tasks.cancel_scope)
            from_server = cast("MemoryObjectSendStream[SessionMessage]", to_client)
            await server.run(from_client, from_server, server.create_initialization_options())
            with anyio.CancelScope(deadline=wire.deadline):
                await wire.sent.wait()
            tasks.cancel_scope.cancel()


class _Wire:
    """Both directions. Plain calls pass the SDK by, each a task of ``lane``, if there is one."""

    def __init__(
        self,
        server: ToolServer,
        source: int,
        sink: int,
        to_client: _ToClient,
        *,
        before: Before,
        lane: TaskGroup | None,
    ) -> None:
        self.sent = anyio.Event()
        self.deadline = math.inf
        self._server = server
        self._source = source
        self._sink = sink
        self._to_client = to_client
        self._before = before
        self._lane = lane
        self._lines = Lines()
        self._calls: dict[str, _Kind] = {}  # requests that are not answered yet, by their ids
        self._taken: dict[str, anyio.CancelScope] = {}  # those that the SDK does not see
        self._answered = anyio.Event()
        self._era: Literal["unknown", "handshake", "modern"] = "unknown"
        self._steps: set[_Step] = set()

    async def receive(self, inbox: _Inbox, reading: anyio.CancelScope, grace: float) -> None:
        """Closing ``inbox`` ends the server, which cancels what still runs: so it waits for the answers."""
        async with inbox, self._to_client:
            await self._catch_up(inbox)
            with reading:
                await self._read(inbox)
            self._server.stop(grace)
            self.deadline = anyio.current_time() + grace + 0.5
            with anyio.CancelScope(deadline=self.deadline):
                while self._calls:
                    self._answered = anyio.Event()
                    await self._answered.wait()

    async def _catch_up(self, inbox: _Inbox) -> None:
        """With what was said before, and also then taken if it is time to stop."""
        for line in self._before.heard:
            await inbox.send(SessionMessage(self._admit(line)))
        await self._take(self._lines.feed(self._before.unread), inbox)

    async def _read(self, inbox: _Inbox) -> None:
        while chunk := await _read(self._source):
            await self._take(self._lines.feed(chunk), inbox)
        await self._take(self._lines.end(), inbox)

    async def _take(self, lines: Iterable[bytes | None], inbox: _Inbox) -> None:
        for line in lines:
            if line is not None and (not line.strip() or self._is_taken(line)):
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
                self._calls[str(id)] = kind = _kind(message)
                if kind == "initialize":
                    self._steps = {"asked"}
            case JSONRPCNotification(method="notifications/cancelled", params={"requestId": id}):
                if call := self._taken.pop(str(id), None):
                    call.cancel()
                self._settle(id)  # a cancelled request is not answered
            case JSONRPCNotification(method="notifications/initialized") if "asked" in self._steps:
                self._shake_hands("ready")
        return message

    def _shake_hands(self, step: _Step) -> None:
        """What was said before comes all at once: the client is ready before the SDK has greeted it."""
        self._steps.add(step)
        if self._steps >= {"greeted", "ready"}:
            self._era = "handshake"

    # --- the express lane ---

    def _is_taken(self, line: bytes) -> bool:
        """Whether a line is a plain call, which then runs."""
        if self._lane is None or self._era not in ("handshake", "modern") or b'"tools/call"' not in line:
            return False
        request = plain.request(line)
        if request is None or request.method != "tools/call" or str(request.id) in self._calls:
            return False
        params = request.params
        if self._era == "modern" and not plain.is_envelope(LATEST_MODERN_VERSION, params.pop("_meta", None)):
            return False
        call = plain.call(params, self._server)
        if call is None:
            return False
        self._calls[str(request.id)] = "other"
        self._taken[str(request.id)] = scope = anyio.CancelScope()
        self._lane.start_soon(self._answer, request.id, *call, scope)
        return True

    async def _answer(
        self, id: int | str, tool: Tool, arguments: dict[str, Json], scope: anyio.CancelScope
    ) -> None:
        try:
            version = LATEST_MODERN_VERSION if self._era == "modern" else LATEST_HANDSHAKE_VERSION
            inbound = Inbound(id=fit(id))
            result = await self._server.call_plain(tool, arguments, inbound, version, scope)
            line = plain.answer(id, result)
        except MCPError as error:
            if error.error.code == CANCELLED:
                return  # its id may be that of another one by now
            line = plain.refusal(id, error)
        self._taken.pop(str(id), None)
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # nobody is left to be answered
            await self._to_client.send(_Answer(id, line))

    # --- what leaves ---

    def _settle(self, id: object, answer: JSONRPCMessage | None = None) -> None:
        """A request is done; by the SDK's answer, in which era the client speaks, which the SDK holds it to."""
        match answer, self._calls.pop(str(id), None):
            case JSONRPCResponse(result={"protocolVersion": version}), "initialize" if version in ALIKE:
                self._shake_hands("greeted")
            case JSONRPCResponse(), "modern":
                self._era = "modern"
        self._answered.set()

    async def send(self, outbox: _Outbox, serving: anyio.CancelScope) -> None:
        missed = set(self._before.answered)
        try:
            await _write(self._sink, self._before.unsent)
            async with outbox:
                async for item in outbox:
                    if isinstance(item, _Answer):
                        await _write(self._sink, item.line + b"\n")
                        self._settle(item.id)
                        continue
                    message = item.message
                    if not isinstance(message, JSONRPCResponse | JSONRPCError) or item.metadata is _REFUSAL:
                        await self._write(message)
                    elif str(message.id) in missed:
                        missed.discard(str(message.id))
                        self._settle(message.id, message)
                    else:
                        await self._write(message)
                        self._settle(message.id, message)
        except (BrokenPipeError, ConnectionResetError):
            serving.cancel()  # nobody is left to be answered
        self.sent.set()

    async def _write(self, message: JSONRPCMessage) -> None:
        await _write(self._sink, encode(message.model_dump(by_alias=True, exclude_unset=True)) + b"\n")


def _kind(request: JSONRPCRequest) -> _Kind:
    if request.method == "initialize":
        return "initialize"
    meta = (request.params or {}).get("_meta")
    is_modern = isinstance(meta, dict) and meta.get(PROTOCOL_VERSION_META_KEY) == LATEST_MODERN_VERSION
    return "modern" if is_modern else "other"


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
