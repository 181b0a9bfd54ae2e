import pytest

from bridge.caller import ANYBODY, Caller
from bridge.registry import MAX_KEPT_SCOPE_SETS, Change, Registry, Snapshot
from bridge.secrets import Sources
from bridge.settingsfile import View
from bridge.spec import Json, ToolSpec, UpstreamSpec
from bridge.tool.compiler import Tool, compile_tool, compile_upstream


def tool(name: str, **words: Json) -> Tool:
    written = {"description": "Try.", "request": {"method": "GET", "url": "https://api.example/x"}, **words}
    return compile_tool(name, ToolSpec.model_validate(written), None, Sources({}))[0]


def test_tools_are_listed_by_name_and_found_by_alias() -> None:
    snapshot = Snapshot([tool("b", aliases=["old_b"]), tool("a")])
    assert [each.name for each in snapshot.tools] == ["a", "b"]
    assert snapshot.find("old_b") is snapshot.find("b") is snapshot.tools[1]
    assert snapshot.find("c") is None


def test_scopes_of_an_upstream_are_needed_for_its_tools_and_are_seen_when_they_change() -> None:
    def guarded(*scopes: str) -> Tool:
        words = {"baseUrl": "https://api.example", "auth": {"type": "none"}, "scopes": scopes}
        upstream = compile_upstream("api", UpstreamSpec.model_validate(words), Sources({}))
        written = {"description": "Try.", "request": {"method": "GET", "url": "/x"}, "scopes": ["b"]}
        return compile_tool("a", ToolSpec.model_validate(written), upstream, Sources({}))[0]

    snapshot = Snapshot([guarded("shop")])
    assert snapshot.scopes == {"shop", "b"}
    assert not snapshot.seen_by(Caller("ann", frozenset({"b"}))).tools
    assert snapshot.seen_by(Caller("ann", frozenset({"b", "shop"}))).find("a")
    assert Registry(snapshot).replace(Snapshot([guarded("other")])).visible


def test_a_swap_answers_what_changed() -> None:
    kept, gone, edited = tool("kept"), tool("gone"), tool("edited")
    registry = Registry(Snapshot([kept, gone, edited]))
    change = registry.replace(Snapshot([kept, tool("edited", title="Edited"), tool("new")]))
    assert change == Change(
        added=("new",), changed=("edited",), removed=("gone",), visible=True, rerouted=True
    )


def test_what_clients_do_not_see_is_no_visible_change() -> None:
    registry = Registry(Snapshot([tool("a")]))
    change = registry.replace(Snapshot([tool("a", timeout="3s", response={"jmespath": "id"})]))
    assert (change.changed, change.visible) == (("a",), False)


def test_a_call_keeps_the_snapshot_that_it_took() -> None:
    registry = Registry(Snapshot([tool("a")]))
    taken = registry.current
    registry.replace(Snapshot())
    assert taken.find("a")
    assert registry.current.tools == ()


def test_a_caller_sees_what_asks_for_no_scope_that_it_lacks() -> None:
    snapshot = Snapshot(
        [tool("all"), tool("one", scopes=["a"], aliases=["uno"]), tool("two", scopes=["a", "b"])]
    )

    def seen(*scopes: str) -> list[str]:
        there = snapshot.seen_by(Caller("ann", frozenset(scopes)))
        assert (there.find("uno") is None) is ("a" not in scopes)
        return [each.name for each in there.tools]

    assert seen() == ["all"]
    assert seen("b", "c") == ["all"]
    assert seen("a") == ["all", "one"]
    assert seen("a", "b", "c") == ["all", "one", "two"]
    assert snapshot.seen_by(ANYBODY) is snapshot
    caller, like = Caller("ann", frozenset({"a", "x"})), Caller("bob", frozenset({"a", "y"}))
    assert snapshot.seen_by(caller) is snapshot.seen_by(like)


def test_callers_with_any_number_of_scope_sets_leave_few_lists_behind() -> None:
    tools = [tool(f"t{bit}", scopes=[f"s{bit}"]) for bit in range(10)]
    snapshot = Snapshot(tools)
    first = snapshot.seen_by(Caller("ann", frozenset({"s0"})))
    for number in range(1000):
        scopes = frozenset(f"s{bit}" for bit in range(10) if number >> bit & 1)
        seen = snapshot.seen_by(Caller("bob", scopes))
        assert seen.find("t9") is (tools[9] if "s9" in scopes else None)
        assert [each.name for each in seen.tools] == sorted(f"t{scope[1:]}" for scope in scopes)
    assert len(snapshot._by_scopes) == MAX_KEPT_SCOPE_SETS
    assert first.find("t0") is tools[0]  # whoever holds one may go on with it


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ({"tools": ["get_*"]}, ["get_a", "get_b"]),
        ({"tools": ["get_?", "s*"], "without": ["*_b"]}, ["get_a", "set_c"]),
        ({"tags": ["x", "z"]}, ["get_a", "set_c"]),
        ({"tools": ["get_b"], "tags": ["z"]}, ["get_b", "set_c"]),
        ({"tools": ["*"]}, ["get_a", "get_b", "set_c"]),
        ({"tools": ["GET_*", "get", "g[!a-z"], "tags": ["X"]}, []),
    ],
)
def test_a_view_shows_tools_by_name_or_tag(words: dict[str, list[str]], names: list[str]) -> None:
    tools = [tool("get_a", tags=["x"]), tool("get_b"), tool("set_c", tags=["y", "z"], scopes=["s"])]
    view, snapshot = View.model_validate(words), Snapshot(tools)
    assert [each.name for each in snapshot.seen_by(Caller(view=view)).tools] == names
    allowed = Caller("ann", frozenset(), view)
    assert [each.name for each in snapshot.seen_by(allowed).tools] == [n for n in names if n != "set_c"]
    registry = Registry(view=view)
    assert list(registry.replace(snapshot).added) == names


def test_other_tags_are_a_visible_change() -> None:
    registry = Registry(Snapshot([tool("a", tags=["a", "b"])]))
    assert not registry.replace(Snapshot([tool("a", tags=["b", "a"])])).visible
    assert registry.replace(Snapshot([tool("a", tags=["b"])])).visible


def test_other_scopes_are_a_visible_change() -> None:
    registry = Registry(Snapshot([tool("a", scopes=["a", "b"])]))
    assert not registry.replace(Snapshot([tool("a", scopes=["b", "a"])])).visible
    assert registry.replace(Snapshot([tool("a", scopes=["b"])])).visible


def test_read_only_leaves_out_what_may_change_something() -> None:
    def of(method: str) -> Tool:
        return tool(method.lower(), request={"method": method, "url": "https://api.example/x"})

    registry = Registry(read_only=True)
    change = registry.replace(Snapshot(map(of, ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"))))
    assert change.added == ("get", "head", "options")
    assert registry.current.find("delete") is None
