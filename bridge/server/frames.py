"""Bytes from a client become one JSON-RPC message, or the error that they earn."""

import json
import re
from typing import Final, TypeGuard

from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from bridge.codec import NotJson, decode

_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_MOST: Final = 50_000
"""Lists and objects: a few megabytes of empty ones would take seconds to read."""
_MAX_COMMAS: Final = 600_000
"""More than stand in arguments of 1 MiB, which tools take at most; 2 million values would take 0.1 s to read."""


class Refused(Exception):
    """No message; ``code`` is JSON-RPC's, ``id`` the request's where it could be read."""

    def __init__(self, code: int, message: str, id: RequestId | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.id = id


def parse(data: bytes) -> JSONRPCMessage:
    """The one message in ``data``; raises ``Refused``. Batches left the protocol with 2025-06-18.

    Lone surrogates stay, for the check of the arguments to refuse.
    """
    if is_too_rich(data):
        limits = f"{_MOST} opening brackets and braces, and {_MAX_COMMAS} commas"
        raise Refused(INVALID_REQUEST, f"A message may have {limits}")
    try:
        text = data.decode()
        frame = decode(data)
    except UnicodeDecodeError:
        raise Refused(PARSE_ERROR, "Parse error: it is not UTF-8") from None
    except NotJson as problem:
        raise Refused(PARSE_ERROR, f"Parse error: {problem}") from None
    if _SURROGATE.search(text):  # a lone one would have been replaced
        frame = json.loads(text.removeprefix("\ufeff"))
    if not isinstance(frame, dict):
        raise Refused(INVALID_REQUEST, "Expected one JSON-RPC message; batches are not supported")
    id = frame.get("id")
    if isinstance(id, bool) or not isinstance(id, str | int):
        id = None
    try:
        message = jsonrpc_message_adapter.validate_python(frame, by_name=False)
    except ValidationError:
        raise Refused(INVALID_REQUEST, "Not a JSON-RPC 2.0 request, notification or response", id) from None
    if isinstance(message, JSONRPCNotification) and "id" in frame:
        raise Refused(INVALID_REQUEST, "The id of a request must be a string or an integer")
    return message


def is_too_rich(data: bytes) -> bool:
    """Whether a message may hold more values than are read; texts with brackets, braces and commas look like these."""
    return len(data) > _MOST and (
        data.count(b"[") + data.count(b"{") > _MOST or data.count(b",") > _MAX_COMMAS
    )


def is_call(message: JSONRPCMessage) -> TypeGuard[JSONRPCRequest]:
    """Whether a message is a tools/call."""
    return isinstance(message, JSONRPCRequest) and message.method == "tools/call"
