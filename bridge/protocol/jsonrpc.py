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
from bridge.protocol.request_id import MAX_BITS, MAX_LENGTH, is_id
from bridge.spec import Json

_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_MOST: Final = 50_000
"""Lists and objects: a few megabytes of empty ones would take seconds to read."""
_MAX_COMMAS: Final = 600_000
"""More than stand in arguments of 1 MiB, which tools take at most; 2 million values would take 0.1 s to read."""
_MAX_OTHER_BYTES: Final = 64 * 1024
"""Bytes of a message that is no tools/call, and characters of what a tools/call holds apart from its arguments."""
_MAX_OTHER_VALUES: Final = 512
"""Values that a message may hold apart from the arguments of a tools/call. Clients send some 30.

The SDK keeps what it reads of a session and of an open request, with all that nobody asks for.
"""


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
    if not is_id(id):
        id = None
    _require_lean(frame, len(data), id)
    try:
        message = jsonrpc_message_adapter.validate_python(frame, by_name=False)
    except ValidationError:
        raise Refused(INVALID_REQUEST, "Not a JSON-RPC 2.0 request, notification or response", id) from None
    if isinstance(message, JSONRPCNotification) and "id" in frame:
        raise Refused(INVALID_REQUEST, "The id of a request must be a string or an integer")
    return message


def _require_lean(frame: dict[str, Json], size: int, id: RequestId | None) -> None:
    """Refuse a message with a long id, or that holds much apart from arguments, which tools check."""
    if id is None and isinstance(frame.get("id"), str | int) and type(frame["id"]) is not bool:
        text = f"The id of a request may have {MAX_LENGTH} characters, or {MAX_BITS} bits"
        raise Refused(INVALID_REQUEST, text)
    params = frame.get("params")
    if frame.get("method") == "tools/call":
        if isinstance(params, dict):
            params = {name: value for name, value in params.items() if name != "arguments"}
    elif size > _MAX_OTHER_BYTES:
        raise Refused(INVALID_REQUEST, f"Only tools/call may have more than {_MAX_OTHER_BYTES} bytes", id)
    if not _is_lean({**frame, "params": params}):
        text = (
            f"A message may hold {_MAX_OTHER_VALUES} values and {_MAX_OTHER_BYTES} characters, "
            f"and integers of {MAX_BITS} bits, apart from the arguments of tools/call"
        )
        raise Refused(INVALID_REQUEST, text, id)


def _is_lean(frame: dict[str, Json]) -> bool:
    waiting: list[Json] = [frame]
    values = characters = 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            characters += len(value)
        elif isinstance(value, dict):
            values += len(value)
            if values <= _MAX_OTHER_VALUES:
                characters += sum(map(len, value))
                waiting += value.values()
        elif isinstance(value, list):
            values += len(value)
            if values <= _MAX_OTHER_VALUES:
                waiting += value
        elif type(value) is int and value.bit_length() > MAX_BITS:
            return False
        if values > _MAX_OTHER_VALUES or characters > _MAX_OTHER_BYTES:
            return False
    return True


def is_too_rich(data: bytes) -> bool:
    """Whether a message may hold more values than are read; texts with brackets, braces and commas look like these."""
    return len(data) > _MOST and (
        data.count(b"[") + data.count(b"{") > _MOST or data.count(b",") > _MAX_COMMAS
    )


def is_call(message: JSONRPCMessage) -> TypeGuard[JSONRPCRequest]:
    """Whether a message is a tools/call."""
    return isinstance(message, JSONRPCRequest) and message.method == "tools/call"
