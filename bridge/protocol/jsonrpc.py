"""Parses bytes from a client into one JSON-RPC message, and refuses what would cost much memory or time."""

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

_MAX_CONTAINERS: Final = 50_000
"""Arrays and objects in a message: a few megabytes of empty ones would take seconds to parse."""
_MAX_COMMAS: Final = 600_000
"""Arguments of 1 MiB, the maximum, hold fewer. 2 million values would take 0.1 s to parse."""
MAX_OTHER_BYTES: Final = 64 * 1024
"""Bytes of a message other than tools/call, and characters of a tools/call apart from its arguments."""
_MAX_OTHER_VALUES: Final = 512
"""Values in a message apart from the arguments of a tools/call. Clients send about 30.

The SDK keeps the whole message of an open request and of a session's ``initialize``, with its unknown keys.
"""


class InvalidMessage(Exception):
    """The bytes are no valid message. ``code`` is the JSON-RPC error code, ``id`` the request's if it is known.

    ``kind`` is the text for the log: it quotes nothing that the client sent.
    """

    def __init__(
        self, code: int, message: str, id: RequestId | None = None, *, kind: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.id = id
        self.kind = kind or message


def parse(data: bytes) -> JSONRPCMessage:
    """The one message in ``data``. Raises ``InvalidMessage``, also for a batch (removed in MCP 2025-06-18).

    Lone surrogates stay in the message: the check of the arguments refuses them.
    """
    # Before decoding: the limit is on what decoding costs.
    if has_too_many_values(data):
        limits = f"{_MAX_CONTAINERS} opening brackets and braces, and {_MAX_COMMAS} commas"
        raise InvalidMessage(INVALID_REQUEST, f"A message may have at most {limits}")
    try:
        data.decode()  # the decoder would replace bytes that are not UTF-8
        frame = decode(data, keep_surrogates=True)
    except UnicodeDecodeError:
        raise InvalidMessage(PARSE_ERROR, "Parse error: the message is not UTF-8") from None
    except NotJson as problem:
        kind = f"Parse error: {problem.kind}"
        raise InvalidMessage(PARSE_ERROR, f"Parse error: {problem}", kind=kind) from None
    if not isinstance(frame, dict):
        raise InvalidMessage(INVALID_REQUEST, "Expected one JSON-RPC message; batches are not supported")
    id = frame.get("id")
    if not is_id(id):
        id = None
    _require_small_frame(frame, len(data), id)
    try:
        message = jsonrpc_message_adapter.validate_python(frame)
    except ValidationError:
        raise InvalidMessage(
            INVALID_REQUEST, "Not a JSON-RPC 2.0 request, notification or response", id
        ) from None
    # The model of a notification ignores unknown keys, so it also accepts a request with the id null or 1.5.
    # Nobody would answer that.
    if isinstance(message, JSONRPCNotification) and "id" in frame:
        raise InvalidMessage(INVALID_REQUEST, "The id of a request must be a string or an integer")
    return message


def _require_small_frame(frame: dict[str, Json], size: int, id: RequestId | None) -> None:
    """Raise ``InvalidMessage`` for a long id, or for much content outside of arguments, which tools check."""
    # In Python, true is an int. As an id it has the wrong type, which ``parse`` reports.
    if id is None and isinstance(frame.get("id"), str | int) and type(frame["id"]) is not bool:
        text = f"The id of a request may have at most {MAX_LENGTH} characters or {MAX_BITS} bits"
        raise InvalidMessage(INVALID_REQUEST, text)
    params = frame.get("params")
    if frame.get("method") == "tools/call":
        if isinstance(params, dict):
            params = {name: value for name, value in params.items() if name != "arguments"}
    elif size > MAX_OTHER_BYTES:
        raise InvalidMessage(
            INVALID_REQUEST, f"Only tools/call may be larger than {MAX_OTHER_BYTES} bytes", id
        )
    if not _is_small_frame({**frame, "params": params}):
        text = (
            f"A message may hold at most {_MAX_OTHER_VALUES} values and {MAX_OTHER_BYTES} characters, "
            f"and integers of {MAX_BITS} bits, apart from the arguments of tools/call"
        )
        raise InvalidMessage(INVALID_REQUEST, text, id)


def _is_small_frame(frame: dict[str, Json]) -> bool:
    waiting: list[Json] = [frame]
    values = characters = 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            characters += len(value)
        elif isinstance(value, dict):
            values += len(value)
            # Otherwise a list of a million values would be copied before it is refused.
            if values <= _MAX_OTHER_VALUES:
                characters += sum(map(len, value))
                waiting += value.values()
        elif isinstance(value, list):
            values += len(value)
            if values <= _MAX_OTHER_VALUES:
                waiting += value
        elif type(value) is int and value.bit_length() > MAX_BITS:
            return False  # it may have thousands of digits, and counts as one value without characters
        if values > _MAX_OTHER_VALUES or characters > MAX_OTHER_BYTES:
            return False
    return True


def has_too_many_values(data: bytes) -> bool:
    """Whether a message may hold too many values. Brackets, braces and commas inside of texts count too."""
    # A shorter message has too few bytes for that many brackets: most messages are not counted.
    return len(data) > _MAX_CONTAINERS and (
        data.count(b"[") + data.count(b"{") > _MAX_CONTAINERS or data.count(b",") > _MAX_COMMAS
    )


def is_call(message: JSONRPCMessage) -> TypeGuard[JSONRPCRequest]:
    return isinstance(message, JSONRPCRequest) and message.method == "tools/call"


MAX_BYTES: Final = 4 * 1024**2
"""Size of a message, on every transport."""
