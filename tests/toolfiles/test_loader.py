import gc
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.diagnostics import CODES, Mark
from bridge.registry import Registry
from bridge.secrets import Sources
from bridge.spec import ToolSpec
from bridge.toolfiles import resolution as claims
from bridge.toolfiles.check.parsed import Words, tool_words
from bridge.toolfiles.loaded import Loaded, ToolFile, UpstreamFile
from bridge.toolfiles.loader import load, load_once
from bridge.toolfiles.watch.debounce import Settling
from bridge.toolfiles.watch.scan import Content, Directories, Owner, Place

REQUEST = "request: {method: GET, url: /x}\n"
TOOL = f"description: Get a thing.\nupstream: shop\n{REQUEST}"
FREE = "description: Get a thing.\nrequest: {method: GET, url: http://localhost:1/x}\n"
SHOP = "baseUrl: http://localhost:1\nauth: {type: none}\n"
KEYED = 'baseUrl: http://localhost:1\nauth: {type: http, scheme: bearer, credentials: "${env:SHOP_KEY}"}\n'
BROKEN = "description: [\n"
ADVICE = "move the file there, or take another name"


class Desk:
    """Files in memory, loaded again and again, each time after the last."""

    def __init__(self, *, keep: bool = True, upstreams: str | None = None, **environ: str) -> None:
        self.environ = environ
        self.sources = Sources(self.environ)
        self.directories = Directories(("tools.d",), upstreams)
        self.keep = keep
        self.contents: dict[Place, Content] = {}
        self.loaded = Loaded()

    def load(self, **files: str | None) -> dict[str, str]:
        """Change files (``a`` is a.yaml, ``a_upstream`` is a.upstream.yaml; None removes), then load.

        Answers the state of each file.
        """
        for name, text in files.items():
            place = self.place(name)
            self.contents.pop(place, None)
            if text is not None:
                self.contents[place] = text.encode()
        self.loaded = load(self.directories, self.contents, self.sources, self.loaded, keep=self.keep)
        return {file.place.relative.removesuffix(".yaml"): file.state for file in self.loaded.files}

    def place(self, name: str) -> Place:
        return Place(0, f"{name.replace('_upstream', '.upstream')}.yaml", "tools.d")

    @property
    def names(self) -> list[str]:
        return [tool.name for tool in self.loaded.snapshot.tools]

    @property
    def codes(self) -> list[str]:
        return [diagnostic.code for diagnostic in self.loaded.diagnostics]

    def description(self, name: str) -> str:
        tool = self.loaded.snapshot.find(name)
        assert tool
        return tool.spec.description


def test_only_what_changed_becomes_another_tool() -> None:
    desk = Desk()
    desk.load(a=TOOL, b=TOOL, c=FREE, shop_upstream=SHOP)
    a, b, c = desk.loaded.snapshot.tools
    desk.load(b=TOOL.replace("Get", "Fetch"))
    assert desk.loaded.snapshot.find("a") is a
    assert desk.loaded.snapshot.find("b") is not b
    assert desk.loaded.snapshot.find("c") is c


def test_a_load_that_changes_nothing_is_the_one_before() -> None:
    desk = Desk()
    desk.load(a=TOOL, b=BROKEN, shop_upstream=SHOP)
    before = desk.loaded
    desk.load(a=str(TOOL))
    assert desk.loaded is before


def test_a_comment_leaves_what_clients_see() -> None:
    desk = Desk()
    desk.load(a=FREE)
    registry = Registry(desk.loaded.snapshot)
    desk.load(a=f"{FREE}# a comment\n")
    assert not registry.replace(desk.loaded.snapshot).visible


def test_another_upstream_recompiles_its_tools_alone() -> None:
    desk = Desk()
    desk.load(a=TOOL, b=FREE, shop_upstream=SHOP)
    a, b = desk.loaded.snapshot.tools
    desk.load(shop_upstream=SHOP.replace(":1", ":2"))
    assert desk.loaded.snapshot.find("b") is b
    tool = desk.loaded.snapshot.find("a")
    assert tool is not a
    assert tool
    assert tool.upstream.spec.base_url == "http://localhost:2"


def test_a_comment_in_an_upstream_recompiles_nothing() -> None:
    desk = Desk()
    desk.load(a=TOOL, shop_upstream=SHOP)
    (tool,) = desk.loaded.snapshot.tools
    desk.load(shop_upstream=f"{SHOP}# a comment\n")
    assert desk.loaded.snapshot.tools == (tool,)
    assert desk.loaded.snapshot.tools[0] is tool


# --- broken files ---


def test_a_broken_edit_keeps_the_tool_that_worked() -> None:
    desk = Desk()
    desk.load(a=FREE)
    (tool,) = desk.loaded.snapshot.tools
    for broken in (BROKEN, FREE.replace("GET", "get"), FREE.replace("/x", "/{id}"), ""):
        assert desk.load(a=broken) == {"a": "kept"}
        assert desk.loaded.snapshot.tools[0] is tool
        assert desk.loaded.last_good(desk.place("a")) == FREE.encode()
    assert desk.load(a=FREE.replace("Get", "Fetch")) == {"a": "good"}
    assert desk.description("a") == "Fetch a thing."


def test_a_broken_edit_withdraws_the_tool_if_told_to() -> None:
    desk = Desk(keep=False)
    desk.load(a=FREE, b=FREE)
    assert desk.load(a=BROKEN) == {"a": "broken", "b": "good"}
    assert desk.names == ["b"]


def test_a_new_broken_file_is_just_absent() -> None:
    desk = Desk()
    assert desk.load(a=BROKEN, b=FREE) == {"a": "broken", "b": "good"}
    assert desk.names == ["b"]
    assert desk.loaded.last_good(desk.place("a")) is None
    assert desk.loaded.last_good(desk.place("c")) is None


def test_what_is_broken_is_named_by_its_first_error() -> None:
    desk = Desk()
    desk.load(a="title: 5\ncolour: red\n", b=FREE.replace("thing", "thing " * 300), c=BROKEN)
    assert desk.loaded.broken == ("tools.d/a.yaml:1:1", "tools.d/c.yaml:2:1")


def test_a_deleted_file_withdraws_its_tool() -> None:
    desk = Desk()
    desk.load(a=FREE, b=FREE)
    assert desk.load(a=None) == {"b": "good"}
    assert desk.names == ["b"]


def test_a_readable_enabled_false_withdraws_even_a_broken_file() -> None:
    desk = Desk()
    desk.load(a=FREE)
    for rest in (FREE, BROKEN, "title: 5\n", "a: 1\na: 2\n"):
        assert desk.load(a=f"enabled: false\n{rest}") == {"a": "disabled"}
        assert desk.names == []
    assert desk.load(a=f"enabled: true\n{BROKEN}") == {"a": "broken"}
    assert desk.names == []


# --- upstreams ---


def test_a_broken_upstream_keeps_its_last_good_one() -> None:
    desk = Desk()
    desk.load(a=TOOL, shop_upstream=SHOP)
    tools = desk.loaded.snapshot.tools
    for broken in (BROKEN, SHOP.replace("none", "some"), SHOP.replace("localhost:1", "localhost:x")):
        assert desk.load(shop_upstream=broken) == {"a": "good", "shop.upstream": "kept"}
        assert desk.loaded.snapshot.tools[0] is tools[0]
    assert desk.load(b=TOOL) == {"a": "good", "b": "good", "shop.upstream": "kept"}


def test_a_broken_upstream_withdraws_its_tools_if_told_to() -> None:
    desk = Desk(keep=False)
    desk.load(a=TOOL, b=FREE, shop_upstream=SHOP)
    assert desk.load(shop_upstream=BROKEN) == {"a": "blocked", "b": "good", "shop.upstream": "broken"}
    assert desk.names == ["b"]


def test_a_new_broken_upstream_is_the_only_one_to_complain() -> None:
    desk = Desk()
    assert desk.load(a=TOOL, shop_upstream=BROKEN) == {"a": "blocked", "shop.upstream": "broken"}
    assert desk.codes == ["yaml-syntax"]
    assert desk.load(shop_upstream=SHOP) == {"a": "good", "shop.upstream": "good"}


def test_a_deleted_upstream_withdraws_its_tools_with_an_error_at_each() -> None:
    desk = Desk()
    desk.load(a=TOOL, b=TOOL, c=FREE, shop_upstream=SHOP)
    assert desk.load(shop_upstream=None) == {"a": "broken", "b": "broken", "c": "good"}
    assert desk.codes == ["unknown-upstream", "unknown-upstream"]
    assert desk.names == ["c"]
    assert desk.load(shop_upstream=SHOP) == {"a": "good", "b": "good", "c": "good", "shop.upstream": "good"}


KEY = "auth: {type: apiKey, in: header, name: X-Key, value: secret-key}"


def test_what_does_not_compile_against_a_newer_upstream_is_withdrawn() -> None:
    desk = Desk()
    desk.load(a=TOOL.replace("url: /x", "url: /x, headers: {X-Key: mine}"), b=TOOL, shop_upstream=SHOP)
    assert desk.load(shop_upstream=SHOP.replace("auth: {type: none}", KEY)) == {
        "a": "broken",
        "b": "good",
        "shop.upstream": "good",
    }
    assert desk.names == ["b"]


def test_a_kept_tool_runs_on_the_newest_upstream_or_not_at_all() -> None:
    desk = Desk()
    desk.load(a=TOOL.replace("url: /x", "url: /x, headers: {X-Key: mine}"), shop_upstream=SHOP)
    desk.load(a=BROKEN)
    assert desk.load(shop_upstream=SHOP.replace(":1", ":2")) == {"a": "kept", "shop.upstream": "good"}
    (tool,) = desk.loaded.snapshot.tools
    assert tool.upstream.spec.base_url == "http://localhost:2"
    desk.load(shop_upstream=SHOP.replace("auth: {type: none}", KEY))
    assert desk.names == []


def test_a_tool_may_change_its_upstream() -> None:
    desk = Desk()
    desk.load(a=TOOL, shop_upstream=SHOP, crm_upstream=SHOP.replace(":1", ":2"))
    desk.load(a=TOOL.replace("shop", "crm"))
    (tool,) = desk.loaded.snapshot.tools
    assert tool.upstream.name == "crm"


def test_at_start_none_of_two_upstreams_of_one_name_is_used() -> None:
    desk = Desk()
    files = {"a/shop_upstream": SHOP, "b/shop_upstream": SHOP, "a": TOOL}
    broken = {"a/shop.upstream": "broken", "b/shop.upstream": "broken"}
    assert desk.load(**files) == {"a": "blocked", **broken}
    assert [each.message for each in desk.loaded.diagnostics] == [
        "the upstream shop is tools.d/b/shop.upstream.yaml, too; rename one of the two",
        "the upstream shop is tools.d/a/shop.upstream.yaml, too; rename one of the two",
    ]
    assert desk.load(**{"a/shop_upstream": None}) == {"a": "good", "b/shop.upstream": "good"}


def test_an_upstream_name_stays_with_its_holder_and_the_next_takes_over() -> None:
    desk = Desk()
    files = {"b/shop_upstream": SHOP.replace(":1", ":2"), "a": TOOL}
    assert desk.load(**files) == {"a": "good", "b/shop.upstream": "good"}
    assert desk.load(**{"a/shop_upstream": SHOP}) == {
        "a": "good",
        "a/shop.upstream": "broken",
        "b/shop.upstream": "good",
    }
    assert desk.codes == ["duplicate-upstream"]
    assert desk.load(**{"b/shop_upstream": None}) == {"a": "good", "a/shop.upstream": "good"}
    (tool,) = desk.loaded.snapshot.tools
    assert tool.upstream.spec.base_url == "http://localhost:1"


# --- secrets ---


def test_tools_of_an_upstream_without_its_secret_wait_for_it() -> None:
    desk = Desk()
    assert desk.load(a=TOOL, b=FREE, shop_upstream=KEYED) == {
        "a": "waiting",
        "b": "good",
        "shop.upstream": "waiting",
    }
    assert desk.names == ["b"]
    (told,) = desk.loaded.diagnostics
    assert (told.code, told.severity, told.source) == ("unset-secret", "warning", None)
    assert "SHOP_KEY" in told.message
    assert desk.loaded.broken == ()
    desk.environ["SHOP_KEY"] = "correct-horse"
    assert desk.load() == {"a": "good", "b": "good", "shop.upstream": "good"}
    assert desk.names == ["a", "b"]


def test_tools_are_checked_while_a_secret_is_not_set() -> None:
    desk = Desk()
    desk.load(a=TOOL.replace("/x", "/{id}"), shop_upstream=KEYED)
    assert desk.loaded.files[0].state == "broken"
    assert "unset-secret" in desk.codes
    assert len(desk.codes) == 2


def test_a_secret_that_changes_reaches_the_tools() -> None:
    desk = Desk(SHOP_KEY="first-secret")
    desk.load(a=TOOL, shop_upstream=KEYED)
    desk.environ["SHOP_KEY"] = "second-secret"
    desk.load()
    (tool,) = desk.loaded.snapshot.tools
    assert "second-secret" in tool.upstream.secrets


def test_a_newer_upstream_without_its_secret_ends_the_older_one() -> None:
    desk = Desk()
    desk.load(a=TOOL, shop_upstream=SHOP)
    assert desk.load(shop_upstream=KEYED) == {"a": "waiting", "shop.upstream": "waiting"}
    assert desk.load(shop_upstream=BROKEN) == {"a": "blocked", "shop.upstream": "broken"}


# --- names ---


def named(name: str, *aliases: str) -> str:
    return f"name: {name}\naliases: [{', '.join(aliases)}]\n{FREE}"


def messages(desk: Desk) -> list[str]:
    return [diagnostic.message for diagnostic in desk.loaded.diagnostics]


def test_at_start_a_name_goes_to_the_file_whose_file_name_it_is() -> None:
    desk = Desk()
    files = {"aaa/x": named("pay"), "billing/pay": FREE, "c": named("c", "pay")}
    assert desk.load(**files) == {"aaa/x": "broken", "billing/pay": "good", "c": "broken"}
    held = "the name pay is held by tools.d/billing/pay.yaml; rename one of the two"
    assert messages(desk) == [held, held]


def test_at_start_a_name_that_is_the_file_name_of_none_or_of_two_goes_to_none() -> None:
    desk = Desk()
    assert desk.load(b=named("get"), a=named("get")) == {"a": "broken", "b": "broken"}
    assert messages(desk) == [
        "tools.d/b.yaml claims the name get, too, so no file has it; rename one of the two",
        "tools.d/a.yaml claims the name get, too, so no file has it; rename one of the two",
    ]
    files = {"a/pay": FREE, "b/pay": FREE, "pay": named("other", "pay")}
    assert set(Desk().load(**files).values()) == {"broken"}
    assert desk.load(b=None) == {"a": "good"}


@pytest.mark.parametrize("text", [BROKEN, "name: pay\n", TOOL])
def test_a_file_that_serves_no_tool_keeps_its_file_name_all_the_same(text: str) -> None:
    desk = Desk()
    state = desk.load(pay=text, x=named("pay"))
    assert state["x"] == "broken"
    message = "the name pay is the file name of tools.d/pay.yaml; rename one of the two"
    assert message in messages(desk)
    assert desk.load(pay="enabled: false\n") == {"pay": "disabled", "x": "good"}


def test_a_name_that_comes_free_goes_to_none_of_two_that_wait_for_it() -> None:
    desk = Desk()
    desk.load(a=named("get"))
    assert desk.load(b=named("get"), c=named("get")) == {"a": "good", "b": "broken", "c": "broken"}
    assert desk.load(a=None) == {"b": "broken", "c": "broken"}
    assert desk.load(c=named("fetch")) == {"b": "good", "c": "good"}


def test_only_files_in_their_folder_may_have_the_names_that_are_kept_for_it() -> None:
    desk = Desk()
    owners = (Owner("billing_*", "billing"), Owner("*_pay", "billing/more"))
    desk.directories = replace(desk.directories, owners=owners)
    files = {
        "billing/billing_get": FREE,
        "billing/more/billing_pay": FREE,
        "billing/billing_pay": FREE,
        "other/billing_get": FREE,
        "billing_x": BROKEN,
        "other/x": named("x", "billing_y"),
    }
    assert desk.load(**files) == {
        "billing/billing_get": "good",
        "billing/billing_pay": "broken",
        "billing/more/billing_pay": "good",
        "billing_x": "broken",
        "other/billing_get": "broken",
        "other/x": "broken",
    }
    foreign = [str(each) for each in desk.loaded.diagnostics if each.code == "foreign-name"]
    assert [line.partition(": error: the name ")[::2] for line in foreign] == [
        (f"tools.d/{place}", f"{name} is for files in {folder} alone; {ADVICE} [foreign-name]")
        for place, name, folder in (
            ("billing/billing_pay.yaml:1:1", "billing_pay", "billing/more"),
            ("other/billing_get.yaml:1:1", "billing_get", "billing"),
            ("other/x.yaml:2:11", "billing_y", "billing"),
        )
    ]


def test_names_may_be_kept_for_a_whole_tools_directory() -> None:
    owner = Owner("billing_*", "teams/billing", "teams/billing")
    directories = Directories(("teams/billing", "teams/other"), owners=(owner,))
    contents: dict[Place, Content] = {
        Place(0, "billing_a.yaml", "teams/billing"): FREE.encode(),
        Place(1, "billing/billing_b.yaml", "teams/other"): FREE.encode(),
    }
    loaded = load(directories, contents, Sources({}))
    assert [tool.name for tool in loaded.snapshot.tools] == ["billing_a"]
    assert [each.code for each in loaded.diagnostics] == ["foreign-name"]


def test_later_the_holder_keeps_a_name_and_the_next_takes_over_when_it_goes() -> None:
    desk = Desk()
    desk.load(b=named("get"))
    assert desk.load(a=named("get")) == {"a": "broken", "b": "good"}
    assert desk.load(b=named("fetch")) == {"a": "good", "b": "good"}
    assert desk.load(c=named("get")) == {"a": "good", "b": "good", "c": "broken"}
    assert desk.load(a=None) == {"b": "good", "c": "good"}


def test_the_holder_keeps_a_name_also_while_its_file_is_broken() -> None:
    desk = Desk()
    desk.load(b=named("get"))
    assert desk.load(b=BROKEN, a=named("get")) == {"a": "broken", "b": "kept"}


def test_a_tool_that_asks_for_a_held_name_serves_on_under_its_own() -> None:
    desk = Desk()
    desk.load(a=named("one"), b=named("two"))
    assert desk.load(a=named("two")) == {"a": "kept", "b": "good"}
    assert desk.names == ["one", "two"]
    assert desk.load(a=named("one", "two")) == {"a": "kept", "b": "good"}
    assert desk.names == ["one", "two"]


def test_a_tool_without_a_last_good_one_asks_in_vain_for_a_held_alias() -> None:
    desk = Desk(keep=False)
    desk.load(a=named("one", "old"), b=named("two"))
    assert desk.load(b=named("two", "old")) == {"a": "good", "b": "broken"}
    assert desk.names == ["one"]


def test_two_tools_may_swap_their_names_at_once_and_one_after_the_other() -> None:
    desk = Desk()
    desk.load(a=named("one"), b=named("two"))
    assert desk.load(a=named("two"), b=named("one")) == {"a": "good", "b": "good"}
    desk.load(a=named("one"))
    assert desk.load(b=named("two")) == {"a": "good", "b": "good"}
    assert desk.names == ["one", "two"]


def test_a_newcomer_takes_no_name_from_a_tool_whose_new_name_is_refused() -> None:
    desk = Desk()
    desk.load(a=named("one"), b=named("two"), c=named("three"))
    assert desk.load(a=named("zero", "two"), c=named("two"), d=named("one")) == {
        "a": "kept",
        "b": "good",
        "c": "kept",
        "d": "broken",
    }
    assert desk.names == ["one", "three", "two"]


def test_a_name_that_nobody_keeps_goes_to_the_newcomer_in_the_same_load() -> None:
    desk = Desk(keep=False)
    desk.load(a=named("one"), b=named("two"))
    assert desk.load(a=named("two"), c=named("one")) == {"a": "broken", "b": "good", "c": "good"}
    assert desk.names == ["one", "two"]


def test_the_file_name_of_another_file_is_an_error_although_nobody_has_the_name() -> None:
    desk = Desk(keep=False)
    desk.load(a=named("a", "get"), b=named("two"))
    files = {"a": named("a", "two", "get"), "get": named("get", "two"), "c": named("get")}
    assert desk.load(**files) == {"a": "broken", "b": "good", "c": "broken", "get": "broken"}


def test_an_alias_answers_and_is_not_listed() -> None:
    desk = Desk()
    desk.load(a=named("one", "old"))
    assert desk.names == ["one"]
    assert desk.loaded.snapshot.find("old") is desk.loaded.snapshot.find("one")


# --- one verdict ---


def test_a_load_after_others_comes_to_what_a_fresh_one_does() -> None:
    desk = Desk()
    texts = [TOOL, FREE, BROKEN, named("a"), named("z", "b"), None]
    for turn in range(60):
        text = texts[turn * 7 % len(texts)]
        desk.load(**{"abc"[turn % 3]: text}, shop_upstream=[SHOP, None][turn // 9 % 2])
        fresh = load(desk.directories, desk.contents, desk.sources)
        if all(file.state == "good" for file in fresh.files):
            assert desk.names == [tool.name for tool in fresh.snapshot.tools]
        assert {file.place for file in fresh.files} == {file.place for file in desk.loaded.files}


# --- the file system ---


def test_directories_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(FREE)
    (tmp_path / "b.yml").write_text(FREE)
    (tmp_path / "shop.upstream.yaml").write_text(SHOP)
    missing = str(tmp_path / "missing")
    loaded = load_once(Directories((str(tmp_path), missing)), Sources({}))
    assert [(file.place.relative, file.state) for file in loaded.files] == [
        ("a.yaml", "good"),
        ("b.yml", "ignored"),
        ("shop.upstream.yaml", "good"),
    ]
    assert list(map(type, loaded.files)) == [ToolFile, ToolFile, UpstreamFile]
    assert [(told.path, told.code) for told in loaded.diagnostics] == [
        (missing, "unreadable"),
        (str(tmp_path / "b.yml"), "rename"),
    ]
    assert loaded.broken == (f"{missing}:1:1",)


def test_a_file_that_cannot_be_read_is_told_at_its_top(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    os.mkfifo(tmp_path / "b.upstream.yaml")
    loaded = load_once(Directories((str(tmp_path),)), Sources({}))
    assert [(told.mark.line, told.mark.column, told.code) for told in loaded.diagnostics] == [
        (1, 1, "not-a-file"),
        (1, 1, "not-a-file"),
    ]


def test_an_unreadable_upstream_of_a_held_name_is_told(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        os.mkfifo(tmp_path / folder / "shop.upstream.yaml")
    loaded = load_once(Directories((str(tmp_path),)), Sources({}))
    assert [told.code for told in loaded.diagnostics] == ["not-a-file", "not-a-file"]


def test_no_line_of_a_file_that_lies_elsewhere_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "tools.d").mkdir()
    (tmp_path / "tools.d" / "a.yaml").symlink_to(tmp_path / "secret")
    (tmp_path / "tools.d" / "b.yaml").write_text("quoted\n")
    loaded = load_once(Directories((str(tmp_path / "tools.d"),)), Sources({}))
    assert [told.source for told in loaded.diagnostics] == [None, "quoted"]


BAD = sorted((Path(__file__).parent / "bad").glob("*/*.yaml"))


@pytest.mark.parametrize("bad", BAD, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_message_quotes_a_file_that_lies_elsewhere(bad: Path, tmp_path: Path) -> None:
    for root in ("inside", "outside"):
        (tmp_path / root).mkdir()
        shutil.copy(bad.parents[1] / "shop.upstream.yaml", tmp_path / root)
    shutil.copy(bad, tmp_path / "inside")
    (tmp_path / "outside" / bad.name).symlink_to(bad)
    inside, outside = (
        load_once(Directories((str(tmp_path / root),)), Sources({})) for root in ("inside", "outside")
    )

    def where(loaded: Loaded) -> list[tuple[str, Mark, str]]:
        return [
            (each.code, each.mark, each.severity)
            for each in loaded.diagnostics
            if each.path.endswith(f"side/{bad.name}")
        ]

    assert where(outside) == where(inside)
    for each in outside.diagnostics:
        if each.path.endswith(f"side/{bad.name}"):
            assert each.source is None
            meaning, _, rest = each.message.rpartition("; ")
            assert f"{meaning}.".casefold() in CODES[each.code].casefold()
            assert rest == "this link leads to a file that may hold secrets, so nothing is quoted"


def test_what_is_kept_is_compiled_once(tmp_path: Path) -> None:
    """A kept tool stays the very object while nothing that it is made of changes."""
    (tmp_path / "a.yaml").write_text(FREE)
    directories, sources = Directories((str(tmp_path),)), Sources({})
    settling = Settling(directories, lambda _: None, 2)
    settling.look_at_all(0)
    first = load(directories, settling.contents, sources)
    (tmp_path / "a.yaml").write_text(BROKEN)
    settling.look_at_all(10)
    settling.look_at_all(20)
    second = load(directories, settling.contents, sources, first)
    (tmp_path / "b.yaml").write_text(FREE)
    settling.look_at_all(30)
    settling.look_at_all(40)
    third = load(directories, settling.contents, sources, second)
    assert third.snapshot.find("a") is second.snapshot.find("a") is first.snapshot.find("a")


@pytest.mark.parametrize("upstreams", ["tools.d", "hosts"])
def test_with_an_upstreams_directory_tools_elsewhere_need_an_upstream(upstreams: str) -> None:
    desk = Desk(upstreams=upstreams)
    state = desk.load(a=FREE, shop_upstream=SHOP)
    assert state == dict.fromkeys(state, "good" if upstreams == "tools.d" else "broken")


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_while_tools_are_made_and_is_then_as_it_was(
    *, enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watched(place: Place, content: Content) -> Words[ToolSpec]:
        seen.append(gc.isenabled())
        return tool_words(place, content)

    monkeypatch.setattr(claims, "tool_words", watched)
    try:
        if not enabled:
            gc.disable()
        Desk().load(a=FREE)
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
    assert seen == [False]


def test_no_secret_of_an_upstream_file_outside_the_upstreams_directory_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct-horse")
    auth = f'auth: {{type: http, scheme: bearer, credentials: "${{file:{secret}}}"}}\n'
    desk = Desk(upstreams="hosts")
    desk.load(shop_upstream=f"baseUrl: http://localhost:1\n{auth}", a=TOOL)
    assert desk.codes == ["unknown-upstream", "misplaced-upstream"]
    assert desk.sources.files == ()
