import json
from typing import Any

import pytest
from mcp_types import methods

from bridge.caller import ANONYMOUS, Caller
from bridge.protocol.capabilities import PAGE_SIZE
from bridge.protocol.handlers import ToolServer
from bridge.protocol.tool_list_cache import MAX_KEPT_BYTES
from bridge.registry import Registry, Snapshot
from bridge.upstream.client import Client
from tests.test_registry import tool

VERSIONS = ("2025-06-18", "2025-11-25", "2026-07-28")


def server_of(*names: str, **fields: Any) -> ToolServer:
    tools = [tool(name, scopes=[name], **fields) for name in names]
    return ToolServer(Registry(Snapshot(tools)), Client(), lambda _: None)


def listed(server: ToolServer, caller: Caller, version: str = VERSIONS[-1]) -> list[str]:
    result = json.loads(server.listing(version, caller, 1))
    assert methods.serialize_server_result("tools/list", version, {"resultType": "complete", **result})
    return [each["name"] for each in result["tools"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_caller_gets_a_list_of_its_own_tools(version: str) -> None:
    server = server_of("a", "b", "c")
    assert listed(server, ANONYMOUS, version) == ["a", "b", "c"]
    for scopes in ([], ["b"], ["c", "a"], ["a", "b", "c", "x"]):
        assert listed(server, Caller("ann", frozenset(scopes)), version) == sorted(set(scopes) - {"x"})


def test_a_list_after_a_reload_holds_the_new_tools() -> None:
    registry = Registry(Snapshot([tool("a"), tool("b")]))
    server = ToolServer(registry, Client(), lambda _: None)
    before = server.listing(VERSIONS[0], ANONYMOUS, 1)
    registry.replace(Snapshot([registry.current.by_name["a"], tool("b", title="Other"), tool("c")]))
    after = json.loads(server.listing(VERSIONS[0], ANONYMOUS, 2))["tools"]
    assert json.loads(before)["tools"][0] == after[0]
    assert [(each["name"], each.get("title")) for each in after] == [("a", None), ("b", "Other"), ("c", None)]


def test_a_long_list_says_where_the_next_page_begins() -> None:
    names = [f"t{number:04}" for number in range(PAGE_SIZE + 1)]
    server = ToolServer(Registry(Snapshot(tool(name) for name in names)), Client(), lambda _: None)
    result = json.loads(server.listing(VERSIONS[-1], ANONYMOUS, 1))
    assert [each["name"] for each in result["tools"]] == names[:PAGE_SIZE]
    assert result["nextCursor"] == names[PAGE_SIZE - 1]


def test_lists_of_any_number_of_callers_take_bounded_memory() -> None:
    names = [f"t{bit}" for bit in range(10)]
    server = server_of(*names, description="x" * 10_000)
    for number in range(1000):
        scopes = frozenset(name for bit, name in enumerate(names) if number >> bit & 1)
        assert listed(server, Caller("ann", scopes)) == sorted(scopes)
    kept = server._list_cache._pages.values()
    assert sum(map(len, kept)) == server._list_cache._kept_bytes <= MAX_KEPT_BYTES


def test_one_list_is_kept_however_long_it_is() -> None:
    server = server_of(*(f"t{number}" for number in range(60)), description="x" * 100_000)
    first = server.listing(VERSIONS[-1], ANONYMOUS, 1)
    assert len(first) > MAX_KEPT_BYTES
    assert server.listing(VERSIONS[-1], ANONYMOUS, 2) is first
    assert listed(server, Caller("ann", frozenset())) == []
    assert len(server._list_cache._pages) == 1
