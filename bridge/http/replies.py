"""Replies that refuse a request: a JSON-RPC error, whose text clients show."""

from typing import Final

from mcp_types import INTERNAL_ERROR, INVALID_REQUEST, RequestId
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from bridge.codec import quote
from bridge.protocol.session_id import SESSION_HEADER

_FINAL_STATUSES: Final = frozenset({401, 403, 404})
"""Clients expect these in a session: they log in, or open another session."""
_LOGGED_HEADERS: Final = ("host", "origin", "content-type")


class ErrorReply(JSONResponse):
    """A reply with a JSON-RPC error, whose ``text`` clients show. To a POST of a session, most get the status 200."""

    def __init__(self, status: int, text: str, code: int, id: RequestId | None) -> None:
        super().__init__({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text}}, status)
        self.text = text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.status_code not in _FINAL_STATUSES and scope["method"] == "POST" and _has_session(scope):
            self.status_code = 200
        await super().__call__(scope, receive, send)


def error_reply(
    status: int, text: str, code: int = INVALID_REQUEST, id: RequestId | None = None
) -> ErrorReply:
    """An ``ErrorReply``; ``code`` is the JSON-RPC error code."""
    return ErrorReply(status, text, code, id)


def retry_later_reply(status: int, text: str, seconds: int, id: RequestId | None = None) -> ErrorReply:
    """An ``ErrorReply`` with Retry-After (RFC 9110 10.2.3)."""
    reply = error_reply(status, text, INTERNAL_ERROR, id)
    reply.headers["retry-after"] = str(seconds)
    return reply


def stopping_reply(id: RequestId | None) -> ErrorReply:
    reply = retry_later_reply(503, "The server is stopping", 1, id)
    reply.headers["connection"] = "close"  # a new connection may reach another server
    return reply


def rejection_reason(refused: ErrorReply, headers: Headers) -> str:
    """One log line: why a request was refused, and the headers that were checked."""
    checked = " ".join(f"{name}={quote(headers[name])}" for name in _LOGGED_HEADERS if name in headers)
    return f"{refused.text} ({checked})"


def _has_session(scope: Scope) -> bool:
    return any(name == SESSION_HEADER.encode() for name, _ in scope["headers"])
