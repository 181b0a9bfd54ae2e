"""The GET stream of a session: tells a client of the handshake era that its list of tools changed.

No process keeps what the client knows: the client itself sends it. The id of each event begins with the digest of the list
that it announces.

| Opened with | What the client knows |
|---|---|
| ``Last-Event-ID`` of such an event | the list with this digest |
| none, within ``_FRESH_SECONDS`` after the handshake | the list with the digest in the session id |
| none, later | nothing certain: it is notified at once |
| ``Last-Event-ID`` of the reply to a POST | its request gets an error, and the stream ends |

The last row is a client whose connection was lost while it waited for an answer (MCP 2025-11-25, resumability).

A session may have any number of streams. When the server stops, streams end. For versions before 2025-11-25 they are broken
off instead: some clients of that time open a stream again only then. Newer Python clients give up after two broken streams.
"""

import re
import secrets
import time
from collections.abc import Callable
from typing import Final

import anyio
from mcp_types import INTERNAL_ERROR
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from bridge.codec import encode
from bridge.http.reply_stream import (
    PING,
    PING_SECONDS,
    STREAM_HEADERS,
    event,
    interrupted_request,
    send_event,
)
from bridge.protocol.caller_context import caller_in
from bridge.protocol.notifications import LIST_CHANGED, Announcer
from bridge.protocol.session_id import Session

BREAK_OFF: Final = "restbridge.break-off"
"""Key of the ASGI scope: a function that closes the connection without an end of the response."""
_REOPENS_ENDED_STREAMS: Final = "2025-11-25"
"""The protocol version whose clients open a stream again that has ended (MCP 2025-11-25, Streamable HTTP)."""
_FRESH_SECONDS: Final = 5
_RETRY: Final = b"retry: 3000\r\n"
"""Milliseconds until the client opens a broken stream again."""
_EVENT: Final = event(encode({"jsonrpc": "2.0", "method": LIST_CHANGED}))
_EVENT_ID: Final = re.compile(r"([0-9a-f]{16})\.[A-Za-z0-9_-]+")
_INTERRUPTED: Final = (
    "The connection was lost before this request was answered. A call may have been carried out: "
    "check that before you repeat it."
)


class NotificationStreams:
    """Serves the GET streams of all sessions. ``stop`` ends them."""

    def __init__(self, announcer: Announcer) -> None:
        self._announcer = announcer
        self._is_stopping = False

    def stop(self) -> None:
        self._is_stopping = True
        self._announcer.changed.set()

    async def serve(self, session: Session, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a stream until the client leaves or the server stops."""
        last_id = Headers(scope=scope).get("last-event-id", "")
        if (id := interrupted_request(last_id)) is not None:
            error = {"code": INTERNAL_ERROR, "message": _INTERRUPTED}
            await send_event(send, encode({"jsonrpc": "2.0", "id": id, "error": error}))
            return
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_at_disconnect, receive, tasks.cancel_scope)
            await self._notify(session, _known_digest(session, last_id), scope, send)
            if session.version == _REOPENS_ENDED_STREAMS:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                break_off: Callable[[], None] = scope[BREAK_OFF]
                break_off()  # the task then sees the client leave

    async def _notify(self, session: Session, told: str, scope: Scope, send: Send) -> None:
        """Send events until the server stops."""
        caller = caller_in(scope)
        retry = _RETRY
        if session.version == _REOPENS_ENDED_STREAMS:  # older clients cannot read an event without data
            await _write(send, retry + b"\r\n")
            retry = b""
        while not self._is_stopping:
            changed, digest = self._announcer.changed, self._announcer.digest(caller)
            if digest != told:
                id = f"{digest}.{secrets.token_urlsafe(6)}".encode()
                await _write(send, b"%sid: %s\r\n%s" % (retry, id, _EVENT))
                told, retry = digest, b""
            with anyio.move_on_after(PING_SECONDS) as pause:
                await changed.wait()
            if pause.cancelled_caught:
                await _write(send, PING)


def _known_digest(session: Session, last_event_id: str) -> str:
    """The digest of the list that the client knows, empty if that is not certain."""
    if match := _EVENT_ID.fullmatch(last_event_id):
        return match[1]
    return session.digest if time.time() <= session.opened_at + _FRESH_SECONDS else ""


async def _write(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _cancel_at_disconnect(receive: Receive, serving: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    serving.cancel()
