"""JSON-RPC messages of clients."""

from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]


META: Json = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}


INITIALIZED: Json = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def request(method: str, id: Any = 1, **params: Any) -> Json:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def initialize(version: str = "2025-11-25") -> Json:
    who = {"name": "test", "version": "1"}
    return request("initialize", 0, protocolVersion=version, capabilities={}, clientInfo=who)


def call(name: str, id: Any = 1, **params: Any) -> Json:
    return request("tools/call", id, name=name, arguments={}, **params)


def cancel(id: Any) -> Json:
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}
