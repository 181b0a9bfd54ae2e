"""The fast path: answers the plainest tools/call and tools/list without the SDK, over both transports.

``recognize`` decides from the bytes of a request and the protocol version of its client. What it does not take goes to the SDK,
so the SDK writes every error that is not about a call. ``tests/protocol/test_fast_path.py`` has cases for each row. It
sends them to the fast path and to the SDK alone, and compares the answers. ``tests/http/test_fast_path_middleware.py`` does
the same with random requests.

| Request | Taken | Why the answer equals the SDK's |
|---|---|---|
| tools/call | yes | same ``ToolServer.call``; ``encode_result`` adds what the SDK adds for a version |
| tools/call that fails | yes | the same ``isError`` result or ``MCPError`` |
| tools/call of an alias | yes | same look-up in the same snapshot |
| tools/list | yes | the same page; the SDK writes each definition of ``ToolListCache`` for the version |
| tools/call of a tool that is unknown or not plain | no | |
| tools/call with other params, a progress token or trace context | no | |
| tools/list with a cursor | no | |
| any other method | no | |
| an id in flight, or no valid id | no | |
| not one JSON object with the keys of JSON-RPC, or with a lone surrogate | no | |
| ``_meta`` of a modern request is missing, invalid or for another version | no | |
| ``_meta`` in a request of the handshake era | no | |
| a handshake version before 2025-06-18 | no | |
| over stdio, before the handshake or the first modern answer | no | |

| Client | Its version is known by | The client leaves |
|---|---|---|
| modern, HTTP | ``MCP-Protocol-Version``, which ``_meta`` must repeat | the call is cancelled |
| handshake, HTTP with a session | the session id | the call goes on |
| handshake, HTTP without a session | ``MCP-Protocol-Version`` | the call is cancelled |
| either, stdio | ``version_in`` the SDK's answers: the SDK then enforces it | the call is cancelled |
"""

from collections.abc import Container
from functools import lru_cache
from typing import Final, NamedTuple

import anyio
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    JSONRPCMessage,
    JSONRPCResponse,
    methods,
)
from pydantic import ValidationError

from bridge.caller import ANONYMOUS, Caller, Inbound
from bridge.codec import NotJson, decode, encode, log_safe
from bridge.exchange import RawHeaders
from bridge.protocol.capabilities import MODERN_VERSION, SAME_SHAPE_VERSIONS, answer_parts, encode_answer
from bridge.protocol.handlers import ToolServer
from bridge.protocol.jsonrpc import has_too_many_values
from bridge.protocol.request_id import is_id
from bridge.spec import Json
from bridge.tool.compiler import Tool

_MAX_META_BYTES: Final = 4096
"""Size of a ``_meta`` up to which the result of its check is cached."""
_KEY_SETS: Final = ({"jsonrpc", "id", "method", "params"}, {"jsonrpc", "id", "method"})
_REQUIRED_META: Final = frozenset({PROTOCOL_VERSION_META_KEY, CLIENT_CAPABILITIES_META_KEY})


class FastRequest(NamedTuple):
    """A request that takes the fast path. Without ``tool`` it is a tools/list. ``name`` is the tool's name or alias."""

    id: int | str
    version: str
    caller: Caller
    name: str
    tool: Tool | None
    arguments: dict[str, Json]


def recognize(
    body: bytes,
    version: str,
    server: ToolServer,
    caller: Caller = ANONYMOUS,
    in_flight: Container[int | str] = (),
) -> FastRequest | None:
    """The request in ``body``, or None if it is for the SDK. ``version`` is empty while the transport does not know it."""
    is_modern = version == MODERN_VERSION
    # A cheap test first, as the SDK decodes again. "tools\/call" is valid too, and left to the SDK.
    if not (is_modern or version in SAME_SHAPE_VERSIONS) or b'"tools/' not in body:
        return None
    request = parse_request(body)
    if request is None or request[0] in in_flight:
        return None
    id, method, params = request
    # A handshake request keeps its ``_meta`` here, and so has a parameter that sends it to the SDK.
    if is_modern and not _is_envelope(params.pop("_meta", None)):
        return None
    if method == "tools/list" and not params:
        return FastRequest(id, version, caller, "", None, {})
    call = _find_call(params, server, caller) if method == "tools/call" else None
    return FastRequest(id, version, caller, *call) if call else None


def _find_call(
    params: dict[str, Json], server: ToolServer, caller: Caller
) -> tuple[str, Tool, dict[str, Json]] | None:
    name, arguments = params.get("name"), params.get("arguments", {})
    if not params.keys() <= {"name", "arguments"} or type(name) is not str or type(arguments) is not dict:
        return None
    tool = server.visible_tools(caller).find(name)
    return (name, tool, arguments) if tool and tool.is_plain else None


def parse_request(body: bytes) -> tuple[int | str, str, dict[str, Json]] | None:
    """Id, method and params of a request: no unknown keys, a short id, no lone surrogate."""
    # ``decode`` would replace a lone surrogate, which the SDK's path refuses. A valid pair, such as
    # "\ud83d\ude00", has the same first characters, and goes to the SDK too.
    if not body.startswith(b"{") or b"\\ud" in body or b"\\uD" in body or has_too_many_values(body):
        return None
    try:
        frame = decode(body)
    except NotJson:
        return None
    if type(frame) is not dict or frame.keys() not in _KEY_SETS or frame["jsonrpc"] != "2.0":
        return None
    id, method, params = frame["id"], frame["method"], frame.get("params", {})
    if not is_id(id) or type(method) is not str or type(params) is not dict:
        return None
    return id, method, params


def _is_envelope(meta: Json) -> bool:
    """Whether the ``_meta`` of a modern request holds valid client info, and nothing else."""
    if type(meta) is not dict:
        return False
    # The text is the key of the cache, since a dict has no hash. A client sends the same ``_meta`` each time.
    text = encode(meta)
    return len(text) <= _MAX_META_BYTES and _is_valid_envelope(text)


@lru_cache(maxsize=256)
def _is_valid_envelope(meta: bytes) -> bool:
    envelope = decode(meta)
    if not _REQUIRED_META <= envelope.keys() <= _REQUIRED_META | {CLIENT_INFO_META_KEY}:
        return False
    if envelope[PROTOCOL_VERSION_META_KEY] != MODERN_VERSION:
        return False
    # The SDK's model of ``_meta`` is the same for tools/list, and only ``_meta`` is in doubt here.
    try:
        methods.validate_client_request("tools/call", MODERN_VERSION, {"name": "x", "_meta": envelope})
    except ValidationError:
        return False
    return True


def version_in(answer: JSONRPCMessage) -> str:
    """The version that an answer of the SDK shows, or "". The result of initialize names it, modern results have a type."""
    match answer:
        case JSONRPCResponse(result={"protocolVersion": str(version)}):
            return version
        case JSONRPCResponse(result={"resultType": str()}):
            return MODERN_VERSION
    return ""


def answer_list(request: FastRequest, server: ToolServer) -> tuple[bytes, bytes, bytes]:
    """The answer in three parts."""
    return answer_parts(request.id, server.listing(request.version, request.caller, request.id))


async def answer_call(
    request: FastRequest, tool: Tool, server: ToolServer, running: anyio.CancelScope, headers: RawHeaders = ()
) -> tuple[bytes, int]:
    """The answer to a call of ``tool``, and the code if it is an error, else 0. ``running`` cancels it."""
    inbound = Inbound(request.caller, log_safe(request.id), headers)
    try:
        result = await server.call_encoded(tool, request.arguments, inbound, request.version, running)
    except MCPError as problem:
        error = encode(problem.error.model_dump(mode="json", exclude_none=True))
        return b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (encode(request.id), error), problem.code
    return encode_answer(request.id, result), 0
