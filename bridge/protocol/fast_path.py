"""What is plain: a request in the shape in which clients send nearly every one, and the answer to it.

Only such a request may pass the SDK by. Whatever is odd about it in any way is the SDK's to judge.
"""

from functools import lru_cache
from typing import Final, NamedTuple

from mcp.shared.exceptions import MCPError
from mcp_types import methods
from pydantic import ValidationError

from bridge.caller import ANYBODY, Caller
from bridge.codec import NotJson, decode, encode
from bridge.protocol.handlers import ToolServer
from bridge.protocol.jsonrpc import is_too_rich
from bridge.protocol.request_id import is_id
from bridge.spec import Json
from bridge.tool.compiler import Tool

_LARGEST: Final = 4096
"""Bytes of a ``_meta``: many are remembered."""
_KEYS: Final = ({"jsonrpc", "id", "method", "params"}, {"jsonrpc", "id", "method"})
_PREFIX: Final = "io.modelcontextprotocol/"
_NEEDED: Final = frozenset({f"{_PREFIX}protocolVersion", f"{_PREFIX}clientCapabilities"})


class Request(NamedTuple):
    """A JSON-RPC request whose params are an object."""

    id: int | str
    method: str
    params: dict[str, Json]


def request(body: bytes) -> Request | None:
    """One whole request, with no word that does not belong there, a short id, and no lone surrogate."""
    if not body.startswith(b"{") or b"\\ud" in body or b"\\uD" in body or is_too_rich(body):
        return None
    try:
        frame = decode(body)
    except NotJson:
        return None
    if type(frame) is not dict or frame.keys() not in _KEYS or frame["jsonrpc"] != "2.0":
        return None
    id, method, params = frame["id"], frame["method"], frame.get("params", {})
    if not is_id(id) or type(method) is not str or type(params) is not dict:
        return None
    return Request(id, method, params)


def call(
    params: dict[str, Json], server: ToolServer, caller: Caller = ANYBODY
) -> tuple[Tool, dict[str, Json]] | None:
    """The tool that somebody's tools/call is for, and its arguments."""
    name, arguments = params.get("name"), params.get("arguments", {})
    if not params.keys() <= {"name", "arguments"} or type(name) is not str or type(arguments) is not dict:
        return None
    tool = server.seen(caller).find(name)
    return (tool, arguments) if tool and tool.is_plain else None


def is_envelope(version: str, meta: Json) -> bool:
    """Whether a modern request's ``_meta`` says who calls and by which version, rightly, and nothing else."""
    if type(meta) is not dict:
        return False
    text = encode(meta)
    return len(text) <= _LARGEST and _is_envelope(version, text)


@lru_cache(maxsize=256)
def _is_envelope(version: str, meta: bytes) -> bool:
    envelope = decode(meta)
    if not _NEEDED <= envelope.keys() <= _NEEDED | {f"{_PREFIX}clientInfo"}:
        return False
    if envelope[f"{_PREFIX}protocolVersion"] != version:
        return False
    try:
        methods.validate_client_request("tools/call", version, {"name": "x", "_meta": envelope})
    except ValidationError:
        return False
    return True


def parts(id: int | str, result: bytes) -> tuple[bytes, bytes, bytes]:
    """An answer, not put together yet: of a long list that would take as long as to send it."""
    return b'{"jsonrpc":"2.0","id":%s,"result":' % encode(id), result, b"}"


def answer(id: int | str, result: bytes) -> bytes:
    return b"".join(parts(id, result))


def refusal(id: int | str, error: MCPError) -> bytes:
    told = encode(error.error.model_dump(mode="json", exclude_none=True))
    return b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (encode(id), told)
