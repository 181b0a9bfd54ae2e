"""The reply to one POST: a stream of events if its request takes longer than ``_OPEN_SECONDS``.

The headers go out then, before the answer is known. A client whose POST ends before its headers takes the whole server for
broken: most of them then end, and never call again. With the headers, only this request fails. Clients of 2025-11-25 also get
an event without data. Its id says which request of which process the stream belongs to. If the connection is lost, the
client opens the stream again with this id, and ``notification_stream`` answers that request with an error.
"""

import asyncio
import secrets
from typing import Final, TypeAlias
from urllib.parse import quote, unquote

import anyio
from mcp_types import RequestId
from starlette.types import Message, Receive, Send

from bridge.codec import NotJson, decode, encode
from bridge.protocol.request_id import is_id
from bridge.protocol.session_id import SESSION_HEADER

_Headers: TypeAlias = list[tuple[bytes, bytes]]

_OPEN_SECONDS: Final = 0.05
"""Most calls end sooner. Only after this the stream opens, and the connection is watched for a client that leaves."""
PING_SECONDS: Final = 15.0
"""Pause between two comments that keep a connection alive, as in the SDK."""
PING: Final = b": ping\r\n\r\n"
_PROCESS: Final = secrets.token_urlsafe(8)
"""Names this process in ids of events."""

_EVENT: Final = b"event: message\r\ndata: "
_END: Final = b"\r\n\r\n"
_JSON: Final = [(b"content-type", b"application/json")]
STREAM_HEADERS: Final = [
    (b"cache-control", b"no-cache, no-transform"),
    (b"content-type", b"text/event-stream"),
    (b"x-accel-buffering", b"no"),
]
_STREAM_START: Final = {"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS}


def opening_event(version: str, id: RequestId) -> bytes:
    """The first event of a stream, empty for clients that cannot read an event without data (before 2025-11-25)."""
    if version != "2025-11-25":
        return b""
    return b"id: p.%s.%s\r\ndata: \r\n\r\n" % (_PROCESS.encode(), quote(encode(id), safe="").encode())


def interrupted_request(event_id: str) -> RequestId | None:
    """The id of the request whose stream began with this event, or None."""
    kind, _, rest = event_id.partition(".")
    if kind != "p":
        return None
    try:
        id = decode(unquote(rest.partition(".")[2]).encode())
    except NotJson:
        return None
    return id if is_id(id) else None


def event(data: bytes) -> bytes:
    return b"".join((_EVENT, data, _END))


async def send_event(send: Send, *parts: bytes, session_id: str = "") -> None:
    """Send one event as a whole reply. ``session_id`` is that of a new session."""
    headers = (
        [*STREAM_HEADERS, (SESSION_HEADER.encode(), session_id.encode())] if session_id else STREAM_HEADERS
    )
    await _send_whole(send, 200, headers, (_EVENT, *parts, _END))


async def send_json(send: Send, *parts: bytes, status: int = 200) -> None:
    """Send JSON as a whole reply."""
    await _send_whole(send, status, _JSON, parts)


async def _send_whole(send: Send, status: int, headers: _Headers, parts: tuple[bytes, ...]) -> None:
    length = (b"content-length", b"%d" % sum(map(len, parts)))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    # In parts: to join a long list would take as long as to send it.
    for number, part in enumerate(parts, 1):
        await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})


class ReplyStream:
    """Opens the stream, and watches the client while its request runs.

    ``opening`` is the first event. A reply whose stream has not opened may be sent as JSON instead. ``leaving`` is cancelled
    when the client leaves; without it the request goes on.
    """

    def __init__(
        self, receive: Receive, send: Send, opening: bytes = b"", leaving: anyio.CancelScope | None = None
    ) -> None:
        self.is_open = False
        self._receive = receive
        self._send = send
        self._opening = opening
        self._leaving = leaving
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(_OPEN_SECONDS, self._start)

    def _start(self) -> None:
        # No detached task: the request that made this object calls ``end`` in any case, which cancels and
        # awaits it. A task group would cost each call 15 times the CPU of the timer, which seldom fires.
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        await self.open()
        while True:
            with anyio.move_on_after(PING_SECONDS):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
                if self._leaving:
                    self._leaving.cancel()
                return  # also if the request goes on: nobody reads further pings
            await self._write(PING)

    async def open(self) -> None:
        if not self.is_open:
            self.is_open = True
            try:
                await self._send(_STREAM_START)
            except asyncio.CancelledError:  # by ``end``: the client has not read an earlier response yet
                self.is_open = False
                raise
            if self._opening:
                await self._write(self._opening)

    async def _write(self, data: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def event(self, data: bytes) -> None:
        """Send an event before the answer."""
        await self.open()
        await self._write(event(data))

    async def end(self) -> None:
        """Stop watching. After this no ping is sent, so the answer can be written."""
        self._timer.cancel()
        if self._task:
            self._task.cancel()
            # Shielded: otherwise a request that is cancelled meanwhile would leave the task behind.
            with anyio.CancelScope(shield=True):
                await asyncio.wait([self._task])

    async def answer(self, data: bytes) -> None:
        """Send the last event and end the stream. Without ``data``, only end it."""
        if self.is_open:
            await self._write(event(data) if data else b"", more=False)
        elif data:
            # In one message, as ``ToolListSplicer`` expects it.
            await _send_whole(self._send, 200, STREAM_HEADERS, (event(data),))
        else:
            await self._send(_STREAM_START)
            await self._write(b"", more=False)


class EarlyHeaders:
    """An ASGI ``send`` for a reply of the SDK. If its headers are not there after ``_OPEN_SECONDS``, a stream begins.

    JSON that the SDK sends after that becomes an event of the stream. The SDK itself waits 15 seconds.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_early = False
        self._is_json = False
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(_OPEN_SECONDS, self._start)

    def _start(self) -> None:
        self._is_early = True
        self._task = asyncio.ensure_future(self._send(_STREAM_START))  # no detached task: see ``ReplyStream``

    async def send(self, message: Message) -> None:
        self._timer.cancel()
        if message["type"] == "http.response.start" and self._is_early:
            self._is_json = (b"content-type", b"application/json") in message["headers"]
            return
        if self._task:
            await asyncio.wait([self._task])  # it may not have begun to send the headers
        if self._is_json and message["body"]:
            message = {**message, "body": event(message["body"])}
        await self._send(message)

    async def end(self) -> None:
        """Must be called when the reply is complete, or will not be."""
        self._timer.cancel()
        if self._task:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([self._task])
