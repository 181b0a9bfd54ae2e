"""The requests to every server, in both protocol eras."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Era = Literal["modern", "handshake"]

ID: Final = "@ID@"
ARGUMENTS: Final = {"category": "tools", "limit": 10}
READY: Final = b'{"jsonrpc": "2.0", "method": "notifications/initialized"}'
_META: Final = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
}
_INITIALIZE: Final = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "1"},
}


@dataclass(frozen=True, slots=True)
class Message:
    """One request to ``/mcp``; ``ID`` in the body stands for the JSON-RPC id."""

    headers: Mapping[str, str]
    body: str

    def with_id(self, id: int) -> bytes:
        return self.body.replace(ID, str(id)).encode()


def message(method: str, params: Mapping[str, Any], headers: Mapping[str, str]) -> Message:
    body = json.dumps({"jsonrpc": "2.0", "id": ID, "method": method, "params": params})
    accept = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    return Message({**accept, **headers}, body.replace(f'"{ID}"', ID))


def modern(method: str, params: Mapping[str, Any]) -> Message:
    headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method}
    name_header = {"Mcp-Name": params["name"]} if "name" in params else {}
    return message(method, {**params, "_meta": _META}, headers | name_header)


def initialize() -> Message:
    return message("initialize", _INITIALIZE, {})


def session_headers(session_id: str) -> dict[str, str]:
    """The headers of a handshake client's requests after the first."""
    return {"Mcp-Session-Id": session_id, "MCP-Protocol-Version": "2025-11-25"}


def result(server: str, response: str, id: int) -> Any:
    """The result of a response, which is JSON or a stream with one event. Raises ``RuntimeError`` for an error."""
    answer = json.loads(response[response.index("{") :])
    if "result" not in answer or answer["id"] != id:
        raise RuntimeError(f"{server} returned {response[:300]}")
    return answer["result"]
