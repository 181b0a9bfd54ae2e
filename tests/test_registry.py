import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.caller import ANONYMOUS, Caller
from bridge.registry import MAX_CACHED_SCOPE_SETS, MAX_CACHED_VIEWS, Change, Registry, Snapshot
from bridge.secrets import Sources
from bridge.spec import Json, ToolSpec, UpstreamSpec
from bridge.tool.compiler import Tool, compile_tool, compile_upstream
from bridge.toolfiles.loader import load_once
from bridge.toolfiles.place import Directories
from bridge.view import View

ROOT = Path(__file__).parents[1]


def tool(name: str, **keys: Json) -> Tool:
    written = {"description": "Try.", "request": {"method": "GET", "url": "https://api.example/x"}, **keys}
    return compile_tool(name, ToolSpec.model_validate(written), None, Sources({}))[0]


def test_tools_are_listed_by_name_and_found_by_alias() -> None:
    snapshot = Snapshot([tool("b", aliases=["old_b"]), tool("a")])
    assert [each.name for each in snapshot.tools] == ["a", "b"]
    assert snapshot.find("old_b") is snapshot.find("b") is snapshot.tools[1]
    assert snapshot.find("c") is None


def test_a_tool_requires_the_scopes_of_its_upstream_and_a_change_of_them_is_visible() -> None:
    def guarded(*scopes: str) -> Tool:
        spec = {"baseUrl": "https://api.example", "auth": {"type": "none"}, "scopes": scopes}
        upstream = compile_upstream("api", UpstreamSpec.model_validate(spec), Sources({}))
        written = {"description": "Try.", "request": {"method": "GET", "url": "/x"}, "scopes": ["b"]}
        return compile_tool("a", ToolSpec.model_validate(written), upstream, Sources({}))[0]

    snapshot = Snapshot([guarded("shop")])
    assert snapshot.scopes == {"shop", "b"}
    assert not snapshot.seen_by(Caller("ann", frozenset({"b"}))).tools
    assert snapshot.seen_by(Caller("ann", frozenset({"b", "shop"}))).find("a")
    assert Registry(snapshot).replace(Snapshot([guarded("other")])).visible


def test_a_swap_returns_what_changed() -> None:
    kept, gone, edited = tool("kept"), tool("gone"), tool("edited")
    registry = Registry(Snapshot([kept, gone, edited]))
    change = registry.replace(Snapshot([kept, tool("edited", title="Edited"), tool("new")]))
    assert change == Change(
        added=("new",), changed=("edited",), removed=("gone",), visible=True, rerouted=True
    )


def test_a_change_that_clients_cannot_see_is_not_visible() -> None:
    registry = Registry(Snapshot([tool("a")]))
    change = registry.replace(Snapshot([tool("a", timeout="3s", response={"jmespath": "id"})]))
    assert (change.changed, change.visible) == (("a",), False)


def test_a_call_keeps_the_snapshot_that_it_started_with() -> None:
    registry = Registry(Snapshot([tool("a")]))
    taken = registry.current
    registry.replace(Snapshot())
    assert taken.find("a")
    assert registry.current.tools == ()


def test_a_caller_sees_the_tools_whose_scopes_it_has() -> None:
    snapshot = Snapshot(
        [tool("all"), tool("one", scopes=["a"], aliases=["uno"]), tool("two", scopes=["a", "b"])]
    )

    def seen(*scopes: str) -> list[str]:
        visible = snapshot.seen_by(Caller("ann", frozenset(scopes)))
        assert (visible.find("uno") is None) is ("a" not in scopes)
        return [each.name for each in visible.tools]

    assert seen() == ["all"]
    assert seen("b", "c") == ["all"]
    assert seen("a") == ["all", "one"]
    assert seen("a", "b", "c") == ["all", "one", "two"]
    assert snapshot.seen_by(ANONYMOUS) is snapshot
    ann, bob = Caller("ann", frozenset({"a", "x"})), Caller("bob", frozenset({"a", "y"}))
    assert snapshot.seen_by(ann) is snapshot.seen_by(bob)


def test_the_tools_visible_with_a_set_of_scopes_are_cached_for_few_sets() -> None:
    tools = [tool(f"t{bit}", scopes=[f"s{bit}"]) for bit in range(10)]
    snapshot = Snapshot(tools)
    first = snapshot.seen_by(Caller("ann", frozenset({"s0"})))
    for number in range(1000):
        scopes = frozenset(f"s{bit}" for bit in range(10) if number >> bit & 1)
        seen = snapshot.seen_by(Caller("bob", scopes))
        assert seen.find("t9") is (tools[9] if "s9" in scopes else None)
        assert [each.name for each in seen.tools] == sorted(f"t{scope[1:]}" for scope in scopes)
    assert len(snapshot._by_scopes) == MAX_CACHED_SCOPE_SETS
    assert first.find("t0") is tools[0]  # dropped from the cache, and still usable


def test_the_tools_in_a_view_are_cached_for_few_views() -> None:
    snapshot = Snapshot([tool("a"), tool("b")])
    first = snapshot.seen_by(Caller(view=View(tools=("a",))))
    for number in range(MAX_CACHED_VIEWS):
        view = View(tools=("b", f"n{number}"))
        assert [each.name for each in snapshot.seen_by(Caller(view=view)).tools] == ["b"]
        assert snapshot.seen_by(Caller(view=view)) is snapshot.seen_by(Caller(view=view))
    assert len(snapshot._by_view) == MAX_CACHED_VIEWS
    assert snapshot.seen_by(Caller(view=View(tools=("a",)))) is not first


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ({"tools": ["get_*"]}, ["get_a", "get_b"]),
        ({"tools": ["get_?", "s*"], "without": ["*_b"]}, ["get_a", "set_c"]),
        ({"tags": ["x", "z"]}, ["get_a", "set_c"]),
        ({"tools": ["get_b"], "tags": ["z"]}, ["get_b", "set_c"]),
        ({"tools": ["*"]}, ["get_a", "get_b", "set_c"]),
        ({"tools": ["GET_*", "get", "g[!a-z"], "tags": ["X"]}, []),
    ],
)
def test_a_view_shows_tools_by_name_or_tag(patterns: dict[str, list[str]], names: list[str]) -> None:
    tools = [tool("get_a", tags=["x"]), tool("get_b"), tool("set_c", tags=["y", "z"], scopes=["s"])]
    view, snapshot = View.model_validate(patterns), Snapshot(tools)
    assert [each.name for each in snapshot.seen_by(Caller(view=view)).tools] == names
    allowed = Caller("ann", frozenset(), view)
    assert [each.name for each in snapshot.seen_by(allowed).tools] == [n for n in names if n != "set_c"]
    registry = Registry(view=view)
    assert list(registry.replace(snapshot).added) == names


def test_the_digest_depends_only_on_what_the_list_has() -> None:
    a, b, c = tool("a"), tool("b"), tool("c")
    both = Snapshot([a, b])
    assert re.fullmatch("[0-9a-f]{16}", both.digest)
    assert Snapshot([b], Snapshot([a])).digest == Snapshot((), Snapshot([c, b, a]), [c]).digest == both.digest
    assert Snapshot([tool("b", timeout="3s"), tool("a", response={"jmespath": "id"})]).digest == both.digest
    assert Snapshot().digest == "0" * 16
    others = [Snapshot(), Snapshot([a]), Snapshot([b]), Snapshot([a, c]), Snapshot([a, tool("b", title="B")])]
    assert len({both.digest, *(each.digest for each in others)}) == 6


def test_callers_who_see_the_same_tools_get_the_same_digest() -> None:
    snapshot = Snapshot([tool("a"), tool("b", scopes=["x"]), tool("c", scopes=["y"], tags=["t"])])
    without_c = Snapshot([tool("a"), tool("b")])
    for caller in (
        Caller("ann", frozenset({"x"})),
        Caller("bob", frozenset({"x", "z"})),
        Caller(view=View(tools=("a", "b"))),
        Caller("cid", frozenset({"x"}), View(tools=("*",))),
    ):
        for _ in range(2):
            assert snapshot.seen_by(caller).digest == without_c.digest
    assert snapshot.seen_by(Caller("dan", frozenset())).digest == Snapshot([tool("a")]).digest
    assert snapshot.seen_by(ANONYMOUS).digest == snapshot.digest != without_c.digest


@pytest.mark.slow
def test_the_digest_is_the_same_in_every_process() -> None:
    code = (
        "from bridge.secrets import Sources; from bridge.toolfiles.loader import load_once; "
        "from bridge.toolfiles.place import Directories; "
        "print(load_once(Directories(('tools.d',)), Sources({'SHOP_API_KEY': 'x' * 20})).snapshot.digest)"
    )
    digests = {
        subprocess.check_output(
            [sys.executable, "-c", code], cwd=ROOT, text=True, env=os.environ | {"PYTHONHASHSEED": seed}
        ).strip()
        for seed in ("1", "2", "3")
    }
    loaded = load_once(Directories((str(ROOT / "tools.d"),)), Sources({"SHOP_API_KEY": "y" * 20}))
    assert digests == {loaded.snapshot.digest} != {Snapshot().digest}


def test_a_change_of_tags_is_visible() -> None:
    registry = Registry(Snapshot([tool("a", tags=["a", "b"])]))
    assert not registry.replace(Snapshot([tool("a", tags=["b", "a"])])).visible
    assert registry.replace(Snapshot([tool("a", tags=["b"])])).visible


def test_a_change_of_scopes_is_visible() -> None:
    registry = Registry(Snapshot([tool("a", scopes=["a", "b"])]))
    assert not registry.replace(Snapshot([tool("a", scopes=["b", "a"])])).visible
    assert registry.replace(Snapshot([tool("a", scopes=["b"])])).visible


def test_read_only_leaves_out_tools_whose_method_is_not_safe() -> None:
    def with_method(method: str) -> Tool:
        return tool(method.lower(), request={"method": method, "url": "https://api.example/x"})

    registry = Registry(read_only=True)
    change = registry.replace(
        Snapshot(map(with_method, ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")))
    )
    assert change.added == ("get", "head", "options")
    assert registry.current.find("delete") is None
