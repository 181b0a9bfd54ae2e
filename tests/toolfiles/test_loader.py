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
from bridge.toolfiles import resolution
from bridge.toolfiles.check.parsed import ParsedFile, parse_tool_file
from bridge.toolfiles.loaded import Loaded, ToolFile, UpstreamFile
from bridge.toolfiles.loader import load, load_once
from bridge.toolfiles.place import Content, Directories, Owner, Place
from bridge.toolfiles.watch.debounce import Debouncer

REQUEST = "request: {method: GET, url: /x}\n"
TOOL = f"description: Get a thing.\nupstream: shop\n{REQUEST}"
FREE = "description: Get a thing.\nrequest: {method: GET, url: http://localhost:1/x}\n"
SHOP = "baseUrl: http://localhost:1\nauth: {type: none}\n"
KEYED = 'baseUrl: http://localhost:1\nauth: {type: http, scheme: bearer, credentials: "${env:SHOP_KEY}"}\n'
BROKEN = "description: [\n"
ADVICE = "move the file there, or use another name"


class Harness:
    """Files in memory; each load follows the last one."""

    def __init__(self, *, keep: bool = True, upstreams: str | None = None, **environ: str) -> None:
        self.environ = environ
        self.sources = Sources(self.environ)
        self.directories = Directories(("tools.d",), upstreams)
        self.keep = keep
        self.contents: dict[Place, Content] = {}
        self.loaded = Loaded()

    def load(self, **files: str | None) -> dict[str, str]:
        """Change files (``a`` is a.yaml, ``a_upstream`` is a.upstream.yaml; None removes), then load.

        Returns the state of each file.
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
    harness = Harness()
    harness.load(a=TOOL, b=TOOL, c=FREE, shop_upstream=SHOP)
    a, b, c = harness.loaded.snapshot.tools
    harness.load(b=TOOL.replace("Get", "Fetch"))
    assert harness.loaded.snapshot.find("a") is a
    assert harness.loaded.snapshot.find("b") is not b
    assert harness.loaded.snapshot.find("c") is c


def test_a_load_that_changes_nothing_is_the_one_before() -> None:
    harness = Harness()
    harness.load(a=TOOL, b=BROKEN, shop_upstream=SHOP)
    before = harness.loaded
    harness.load(a=str(TOOL))
    assert harness.loaded is before


def test_a_comment_leaves_what_clients_see() -> None:
    harness = Harness()
    harness.load(a=FREE)
    registry = Registry(harness.loaded.snapshot)
    harness.load(a=f"{FREE}# a comment\n")
    assert not registry.replace(harness.loaded.snapshot).visible


def test_a_changed_upstream_recompiles_only_its_tools() -> None:
    harness = Harness()
    harness.load(a=TOOL, b=FREE, shop_upstream=SHOP)
    a, b = harness.loaded.snapshot.tools
    harness.load(shop_upstream=SHOP.replace(":1", ":2"))
    assert harness.loaded.snapshot.find("b") is b
    tool = harness.loaded.snapshot.find("a")
    assert tool is not a
    assert tool
    assert tool.upstream.spec.base_url == "http://localhost:2"


def test_a_comment_in_an_upstream_recompiles_nothing() -> None:
    harness = Harness()
    harness.load(a=TOOL, shop_upstream=SHOP)
    (tool,) = harness.loaded.snapshot.tools
    harness.load(shop_upstream=f"{SHOP}# a comment\n")
    assert harness.loaded.snapshot.tools == (tool,)
    assert harness.loaded.snapshot.tools[0] is tool


def test_a_broken_edit_keeps_the_tool_that_worked() -> None:
    harness = Harness()
    harness.load(a=FREE)
    (tool,) = harness.loaded.snapshot.tools
    for broken in (BROKEN, FREE.replace("GET", "get"), FREE.replace("/x", "/{id}"), ""):
        assert harness.load(a=broken) == {"a": "kept"}
        assert harness.loaded.snapshot.tools[0] is tool
        assert harness.loaded.last_good(harness.place("a")) == FREE.encode()
    assert harness.load(a=FREE.replace("Get", "Fetch")) == {"a": "good"}
    assert harness.description("a") == "Fetch a thing."


def test_a_broken_edit_withdraws_the_tool_with_on_invalid_withdraw() -> None:
    harness = Harness(keep=False)
    harness.load(a=FREE, b=FREE)
    assert harness.load(a=BROKEN) == {"a": "broken", "b": "good"}
    assert harness.names == ["b"]


def test_a_new_broken_file_affects_no_other_file() -> None:
    harness = Harness()
    assert harness.load(a=BROKEN, b=FREE) == {"a": "broken", "b": "good"}
    assert harness.names == ["b"]
    assert harness.loaded.last_good(harness.place("a")) is None
    assert harness.loaded.last_good(harness.place("c")) is None


def test_a_broken_file_is_listed_with_the_place_of_its_first_error() -> None:
    harness = Harness()
    harness.load(a="title: 5\ncolour: red\n", b=FREE.replace("thing", "thing " * 300), c=BROKEN)
    assert harness.loaded.broken == ("tools.d/a.yaml:1:1", "tools.d/c.yaml:2:1")


def test_a_deleted_file_withdraws_its_tool() -> None:
    harness = Harness()
    harness.load(a=FREE, b=FREE)
    assert harness.load(a=None) == {"b": "good"}
    assert harness.names == ["b"]


def test_a_readable_enabled_false_withdraws_even_a_broken_file() -> None:
    harness = Harness()
    harness.load(a=FREE)
    for rest in (FREE, BROKEN, "title: 5\n", "a: 1\na: 2\n"):
        assert harness.load(a=f"enabled: false\n{rest}") == {"a": "disabled"}
        assert harness.names == []
    assert harness.load(a=f"enabled: true\n{BROKEN}") == {"a": "broken"}
    assert harness.names == []


def test_a_broken_upstream_keeps_its_last_good_one() -> None:
    harness = Harness()
    harness.load(a=TOOL, shop_upstream=SHOP)
    tools = harness.loaded.snapshot.tools
    for broken in (BROKEN, SHOP.replace("none", "some"), SHOP.replace("localhost:1", "localhost:x")):
        assert harness.load(shop_upstream=broken) == {"a": "good", "shop.upstream": "kept"}
        assert harness.loaded.snapshot.tools[0] is tools[0]
    assert harness.load(b=TOOL) == {"a": "good", "b": "good", "shop.upstream": "kept"}


def test_a_broken_upstream_withdraws_its_tools_with_on_invalid_withdraw() -> None:
    harness = Harness(keep=False)
    harness.load(a=TOOL, b=FREE, shop_upstream=SHOP)
    assert harness.load(shop_upstream=BROKEN) == {"a": "blocked", "b": "good", "shop.upstream": "broken"}
    assert harness.names == ["b"]


def test_a_new_broken_upstream_causes_no_errors_in_its_tools() -> None:
    harness = Harness()
    assert harness.load(a=TOOL, shop_upstream=BROKEN) == {"a": "blocked", "shop.upstream": "broken"}
    assert harness.codes == ["yaml-syntax"]
    assert harness.load(shop_upstream=SHOP) == {"a": "good", "shop.upstream": "good"}


def test_a_deleted_upstream_withdraws_its_tools_with_an_error_at_each() -> None:
    harness = Harness()
    harness.load(a=TOOL, b=TOOL, c=FREE, shop_upstream=SHOP)
    assert harness.load(shop_upstream=None) == {"a": "broken", "b": "broken", "c": "good"}
    assert harness.codes == ["unknown-upstream", "unknown-upstream"]
    assert harness.names == ["c"]
    assert harness.load(shop_upstream=SHOP) == {
        "a": "good",
        "b": "good",
        "c": "good",
        "shop.upstream": "good",
    }


KEY = "auth: {type: apiKey, in: header, name: X-Key, value: secret-key}"


def test_a_tool_that_does_not_compile_against_a_newer_upstream_is_withdrawn() -> None:
    harness = Harness()
    harness.load(a=TOOL.replace("url: /x", "url: /x, headers: {X-Key: mine}"), b=TOOL, shop_upstream=SHOP)
    assert harness.load(shop_upstream=SHOP.replace("auth: {type: none}", KEY)) == {
        "a": "broken",
        "b": "good",
        "shop.upstream": "good",
    }
    assert harness.names == ["b"]


def test_a_kept_tool_runs_on_the_newest_upstream_or_not_at_all() -> None:
    harness = Harness()
    harness.load(a=TOOL.replace("url: /x", "url: /x, headers: {X-Key: mine}"), shop_upstream=SHOP)
    harness.load(a=BROKEN)
    assert harness.load(shop_upstream=SHOP.replace(":1", ":2")) == {"a": "kept", "shop.upstream": "good"}
    (tool,) = harness.loaded.snapshot.tools
    assert tool.upstream.spec.base_url == "http://localhost:2"
    harness.load(shop_upstream=SHOP.replace("auth: {type: none}", KEY))
    assert harness.names == []


def test_a_tool_may_change_its_upstream() -> None:
    harness = Harness()
    harness.load(a=TOOL, shop_upstream=SHOP, crm_upstream=SHOP.replace(":1", ":2"))
    harness.load(a=TOOL.replace("shop", "crm"))
    (tool,) = harness.loaded.snapshot.tools
    assert tool.upstream.name == "crm"


def test_at_startup_no_upstream_of_two_with_one_name_is_used() -> None:
    harness = Harness()
    files = {"a/shop_upstream": SHOP, "b/shop_upstream": SHOP, "a": TOOL}
    broken = {"a/shop.upstream": "broken", "b/shop.upstream": "broken"}
    assert harness.load(**files) == {"a": "blocked", **broken}
    assert [each.message for each in harness.loaded.diagnostics] == [
        "the upstream name shop is used by tools.d/b/shop.upstream.yaml too; rename one of the two",
        "the upstream name shop is used by tools.d/a/shop.upstream.yaml too; rename one of the two",
    ]
    assert harness.load(**{"a/shop_upstream": None}) == {"a": "good", "b/shop.upstream": "good"}


def test_an_upstream_name_stays_with_its_file_until_that_is_deleted() -> None:
    harness = Harness()
    files = {"b/shop_upstream": SHOP.replace(":1", ":2"), "a": TOOL}
    assert harness.load(**files) == {"a": "good", "b/shop.upstream": "good"}
    assert harness.load(**{"a/shop_upstream": SHOP}) == {
        "a": "good",
        "a/shop.upstream": "broken",
        "b/shop.upstream": "good",
    }
    assert harness.codes == ["duplicate-upstream"]
    assert harness.load(**{"b/shop_upstream": None}) == {"a": "good", "a/shop.upstream": "good"}
    (tool,) = harness.loaded.snapshot.tools
    assert tool.upstream.spec.base_url == "http://localhost:1"


def test_tools_of_an_upstream_without_its_secret_wait_for_it() -> None:
    harness = Harness()
    assert harness.load(a=TOOL, b=FREE, shop_upstream=KEYED) == {
        "a": "waiting",
        "b": "good",
        "shop.upstream": "waiting",
    }
    assert harness.names == ["b"]
    (diagnostic,) = harness.loaded.diagnostics
    assert (diagnostic.code, diagnostic.severity, diagnostic.source) == ("unset-secret", "warning", None)
    assert "SHOP_KEY" in diagnostic.message
    assert harness.loaded.broken == ()
    harness.environ["SHOP_KEY"] = "correct-horse"
    assert harness.load() == {"a": "good", "b": "good", "shop.upstream": "good"}
    assert harness.names == ["a", "b"]


def test_a_name_that_two_files_claim_is_an_error_while_a_secret_is_not_set() -> None:
    harness = Harness()
    files = {"a": TOOL, "b": f"name: a\n{TOOL}", "c": f"aliases: [x]\n{TOOL}", "d": f"aliases: [x]\n{TOOL}"}
    assert harness.load(**files, shop_upstream=KEYED) == {
        "a": "waiting",
        "b": "broken",
        "c": "broken",
        "d": "broken",
        "shop.upstream": "waiting",
    }
    assert messages(harness)[:3] == [
        "the name a is the file name of tools.d/a.yaml; rename one of the two",
        "tools.d/d.yaml uses the name x too, so no file gets it; rename one of the two",
        "tools.d/c.yaml uses the name x too, so no file gets it; rename one of the two",
    ]
    harness.environ["SHOP_KEY"] = "correct-horse"
    assert harness.load(b=None, d=None) == {"a": "good", "c": "good", "shop.upstream": "good"}


def test_tools_are_checked_while_a_secret_is_not_set() -> None:
    harness = Harness()
    harness.load(a=TOOL.replace("/x", "/{id}"), shop_upstream=KEYED)
    assert harness.loaded.files[0].state == "broken"
    assert "unset-secret" in harness.codes
    assert len(harness.codes) == 2


def test_a_changed_secret_reaches_the_tools() -> None:
    harness = Harness(SHOP_KEY="first-secret")
    harness.load(a=TOOL, shop_upstream=KEYED)
    harness.environ["SHOP_KEY"] = "second-secret"
    harness.load()
    (tool,) = harness.loaded.snapshot.tools
    assert "second-secret" in tool.upstream.secrets


def test_a_newer_upstream_without_its_secret_replaces_the_older_one() -> None:
    harness = Harness()
    harness.load(a=TOOL, shop_upstream=SHOP)
    assert harness.load(shop_upstream=KEYED) == {"a": "waiting", "shop.upstream": "waiting"}
    assert harness.load(shop_upstream=BROKEN) == {"a": "blocked", "shop.upstream": "broken"}


def named(name: str, *aliases: str) -> str:
    return f"name: {name}\naliases: [{', '.join(aliases)}]\n{FREE}"


def messages(harness: Harness) -> list[str]:
    return [diagnostic.message for diagnostic in harness.loaded.diagnostics]


def test_at_startup_a_name_goes_to_the_file_whose_file_name_it_is() -> None:
    harness = Harness()
    files = {"aaa/x": named("pay"), "billing/pay": FREE, "c": named("c", "pay")}
    assert harness.load(**files) == {"aaa/x": "broken", "billing/pay": "good", "c": "broken"}
    used = "the name pay is already used by tools.d/billing/pay.yaml; rename one of the two"
    assert messages(harness) == [used, used]


def test_at_startup_a_name_that_is_the_file_name_of_none_or_of_two_goes_to_none() -> None:
    harness = Harness()
    assert harness.load(b=named("get"), a=named("get")) == {"a": "broken", "b": "broken"}
    assert messages(harness) == [
        "tools.d/b.yaml uses the name get too, so no file gets it; rename one of the two",
        "tools.d/a.yaml uses the name get too, so no file gets it; rename one of the two",
    ]
    files = {"a/pay": FREE, "b/pay": FREE, "pay": named("other", "pay")}
    assert set(Harness().load(**files).values()) == {"broken"}
    assert harness.load(b=None) == {"a": "good"}


@pytest.mark.parametrize("text", [BROKEN, "name: pay\n", TOOL])
def test_a_file_that_serves_no_tool_still_claims_its_file_name(text: str) -> None:
    harness = Harness()
    state = harness.load(pay=text, x=named("pay"))
    assert state["x"] == "broken"
    message = "the name pay is the file name of tools.d/pay.yaml; rename one of the two"
    assert message in messages(harness)
    assert harness.load(pay="enabled: false\n") == {"pay": "disabled", "x": "good"}


def test_a_released_name_goes_to_none_of_two_files_that_claim_it() -> None:
    harness = Harness()
    harness.load(a=named("get"))
    assert harness.load(b=named("get"), c=named("get")) == {"a": "good", "b": "broken", "c": "broken"}
    assert harness.load(a=None) == {"b": "broken", "c": "broken"}
    assert harness.load(c=named("fetch")) == {"b": "good", "c": "good"}


def test_only_files_in_the_folder_may_use_the_names_reserved_for_it() -> None:
    harness = Harness()
    owners = (Owner("Billing_*", "tools.d", "billing"), Owner("*_pay", "tools.d", "billing/more"))
    harness.directories = replace(harness.directories, owners=owners)
    files = {
        "billing/billing_get": FREE,
        "billing/more/billing_pay": FREE,
        "billing/billing_pay": FREE,
        "other/billing_get": FREE,
        "billing_x": BROKEN,
        "other/z": named("z", "BILLING_Z"),
        "other/x": named("x", "billing_y"),
    }
    assert harness.load(**files) == {
        "billing/billing_get": "good",
        "billing/billing_pay": "broken",
        "billing/more/billing_pay": "good",
        "billing_x": "broken",
        "other/billing_get": "broken",
        "other/x": "broken",
        "other/z": "broken",
    }
    reserved = [str(each) for each in harness.loaded.diagnostics if each.code == "foreign-name"]
    assert [line.partition(": error: the name ")[::2] for line in reserved] == [
        (f"tools.d/{place}", f"{name} is reserved for files in tools.d/{folder}; {ADVICE} [foreign-name]")
        for place, name, folder in (
            ("billing/billing_pay.yaml:1:1", "billing_pay", "billing/more"),
            ("other/billing_get.yaml:1:1", "billing_get", "billing"),
            ("other/x.yaml:2:11", "billing_y", "billing"),
            ("other/z.yaml:2:11", "BILLING_Z", "billing"),
        )
    ]


def test_names_may_be_reserved_for_a_whole_tools_directory() -> None:
    owner = Owner("billing_*", "teams/billing")
    directories = Directories(("teams/billing", "teams/other"), owners=(owner,))
    contents: dict[Place, Content] = {
        Place(0, "billing_a.yaml", "teams/billing"): FREE.encode(),
        Place(1, "billing/billing_b.yaml", "teams/other"): FREE.encode(),
    }
    loaded = load(directories, contents, Sources({}))
    assert [tool.name for tool in loaded.snapshot.tools] == ["billing_a"]
    assert [each.code for each in loaded.diagnostics] == ["foreign-name"]


def test_after_startup_a_name_stays_with_its_file_until_that_releases_it() -> None:
    harness = Harness()
    harness.load(b=named("get"))
    assert harness.load(a=named("get")) == {"a": "broken", "b": "good"}
    assert harness.load(b=named("fetch")) == {"a": "good", "b": "good"}
    assert harness.load(c=named("get")) == {"a": "good", "b": "good", "c": "broken"}
    assert harness.load(a=None) == {"b": "good", "c": "good"}


def test_a_broken_file_keeps_its_name() -> None:
    harness = Harness()
    harness.load(b=named("get"))
    assert harness.load(b=BROKEN, a=named("get")) == {"a": "broken", "b": "kept"}


def test_a_tool_whose_new_name_is_in_use_stays_served_under_its_old_name() -> None:
    harness = Harness()
    harness.load(a=named("one"), b=named("two"))
    assert harness.load(a=named("two")) == {"a": "kept", "b": "good"}
    assert harness.names == ["one", "two"]
    assert harness.load(a=named("one", "two")) == {"a": "kept", "b": "good"}
    assert harness.names == ["one", "two"]


def test_a_tool_whose_alias_is_in_use_is_broken_without_a_last_good_version() -> None:
    harness = Harness(keep=False)
    harness.load(a=named("one", "old"), b=named("two"))
    assert harness.load(b=named("two", "old")) == {"a": "good", "b": "broken"}
    assert harness.names == ["one"]


def test_two_tools_may_swap_their_names_in_one_load_or_in_two() -> None:
    harness = Harness()
    harness.load(a=named("one"), b=named("two"))
    assert harness.load(a=named("two"), b=named("one")) == {"a": "good", "b": "good"}
    harness.load(a=named("one"))
    assert harness.load(b=named("two")) == {"a": "good", "b": "good"}
    assert harness.names == ["one", "two"]


def test_a_new_file_takes_no_name_from_a_tool_whose_new_name_is_refused() -> None:
    harness = Harness()
    harness.load(a=named("one"), b=named("two"), c=named("three"))
    assert harness.load(a=named("zero", "two"), c=named("two"), d=named("one")) == {
        "a": "kept",
        "b": "good",
        "c": "kept",
        "d": "broken",
    }
    assert harness.names == ["one", "three", "two"]


def test_a_released_name_goes_to_a_new_file_in_the_same_load() -> None:
    harness = Harness(keep=False)
    harness.load(a=named("one"), b=named("two"))
    assert harness.load(a=named("two"), c=named("one")) == {"a": "broken", "b": "good", "c": "good"}
    assert harness.names == ["one", "two"]


def test_the_file_name_of_another_file_is_an_error_although_no_file_has_the_name() -> None:
    harness = Harness(keep=False)
    harness.load(a=named("a", "get"), b=named("two"))
    files = {"a": named("a", "two", "get"), "get": named("get", "two"), "c": named("get")}
    assert harness.load(**files) == {"a": "broken", "b": "good", "c": "broken", "get": "broken"}


def test_an_alias_can_be_called_and_is_not_listed() -> None:
    harness = Harness()
    harness.load(a=named("one", "old"))
    assert harness.names == ["one"]
    assert harness.loaded.snapshot.find("old") is harness.loaded.snapshot.find("one")


def test_an_incremental_load_has_the_result_of_a_full_load() -> None:
    harness = Harness()
    texts = [TOOL, FREE, BROKEN, named("a"), named("z", "b"), None]
    for turn in range(60):
        text = texts[turn * 7 % len(texts)]
        harness.load(**{"abc"[turn % 3]: text}, shop_upstream=[SHOP, None][turn // 9 % 2])
        fresh = load(harness.directories, harness.contents, harness.sources)
        if all(file.state == "good" for file in fresh.files):
            assert harness.names == [tool.name for tool in fresh.snapshot.tools]
        assert {file.place for file in fresh.files} == {file.place for file in harness.loaded.files}


def test_load_once_reads_the_directories(tmp_path: Path) -> None:
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
    assert [(each.path, each.code) for each in loaded.diagnostics] == [
        (missing, "unreadable"),
        (str(tmp_path / "b.yml"), "rename"),
    ]
    assert loaded.broken == (f"{missing}:1:1",)


def test_an_unreadable_file_is_reported_at_line_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    os.mkfifo(tmp_path / "b.upstream.yaml")
    loaded = load_once(Directories((str(tmp_path),)), Sources({}))
    assert [(each.mark.line, each.mark.column, each.code) for each in loaded.diagnostics] == [
        (1, 1, "not-a-file"),
        (1, 1, "not-a-file"),
    ]


def test_two_unreadable_upstreams_with_one_name_are_reported(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        os.mkfifo(tmp_path / folder / "shop.upstream.yaml")
    loaded = load_once(Directories((str(tmp_path),)), Sources({}))
    assert [each.code for each in loaded.diagnostics] == ["not-a-file", "not-a-file"]


def test_no_line_of_a_file_outside_the_directory_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "tools.d").mkdir()
    (tmp_path / "tools.d" / "a.yaml").symlink_to(tmp_path / "secret")
    (tmp_path / "tools.d" / "b.yaml").write_text("quoted\n")
    loaded = load_once(Directories((str(tmp_path / "tools.d"),)), Sources({}))
    assert [each.source for each in loaded.diagnostics] == [None, "quoted"]


BAD = sorted((Path(__file__).parent / "bad").glob("*/*.yaml"))


@pytest.mark.parametrize("bad", BAD, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_message_quotes_a_file_outside_the_directory(bad: Path, tmp_path: Path) -> None:
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


def test_a_kept_tool_is_compiled_once(tmp_path: Path) -> None:
    """A kept tool stays the same object while its spec and upstream stay the same."""
    (tmp_path / "a.yaml").write_text(FREE)
    directories, sources = Directories((str(tmp_path),)), Sources({})
    debouncer = Debouncer(directories, lambda _: None, 2)
    debouncer.scan(0)
    first = load(directories, debouncer.contents, sources)
    (tmp_path / "a.yaml").write_text(BROKEN)
    debouncer.scan(10)
    debouncer.scan(20)
    second = load(directories, debouncer.contents, sources, first)
    (tmp_path / "b.yaml").write_text(FREE)
    debouncer.scan(30)
    debouncer.scan(40)
    third = load(directories, debouncer.contents, sources, second)
    assert third.snapshot.find("a") is second.snapshot.find("a") is first.snapshot.find("a")


@pytest.mark.parametrize("upstreams", ["tools.d", "hosts"])
def test_with_an_upstreams_directory_tools_elsewhere_need_an_upstream(upstreams: str) -> None:
    harness = Harness(upstreams=upstreams)
    state = harness.load(a=FREE, shop_upstream=SHOP)
    assert state == dict.fromkeys(state, "good" if upstreams == "tools.d" else "broken")


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_off_during_a_load_and_restored_after_it(
    *, enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_enabled = []

    def recording(place: Place, content: Content) -> ParsedFile[ToolSpec]:
        was_enabled.append(gc.isenabled())
        return parse_tool_file(place, content)

    monkeypatch.setattr(resolution, "parse_tool_file", recording)
    try:
        if not enabled:
            gc.disable()
        Harness().load(a=FREE)
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
    assert was_enabled == [False]


def test_no_secret_of_an_upstream_file_outside_the_upstreams_directory_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct-horse")
    auth = f'auth: {{type: http, scheme: bearer, credentials: "${{file:{secret}}}"}}\n'
    harness = Harness(upstreams="hosts")
    harness.load(shop_upstream=f"baseUrl: http://localhost:1\n{auth}", a=TOOL)
    assert harness.codes == ["unknown-upstream", "misplaced-upstream"]
    assert harness.sources.files == ()
