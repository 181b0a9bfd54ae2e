"""What is served depends only on the directory and the last good files, not on the steps in between."""

from dataclasses import replace
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bridge.registry import Snapshot
from bridge.secrets import Sources
from bridge.spec import Json
from bridge.toolfiles.loaded import Loaded, ToolFile, UpstreamFile
from bridge.toolfiles.loader import load
from bridge.toolfiles.place import Content, Directories, Place

_F = TypeVar("_F", ToolFile, UpstreamFile)

FILES = st.sampled_from(["a", "b", "c/a", "d"])
VARIANTS = st.sampled_from(
    ["valid", "named x", "alias x", "broken", "invalid", "disabled", "disabled and invalid"]
)
UPSTREAMS = st.sampled_from(["valid", "elsewhere", "broken", "absent", "without its secret"])
DIRECTORIES = Directories(("tools.d",))
SHOP = Place(0, "shop.upstream.yaml", "tools.d")


def tool(version: int, variant: str) -> str:
    lines = [f"description: no. {version}", "upstream: shop", "request: {method: GET, url: /x}"]
    match variant:
        case "named x":
            lines.append("name: x")
        case "alias x":
            lines.append("aliases: [x]")
        case "broken":
            lines.append("tags: [")
        case "invalid":
            lines.append("tag: x")
        case "disabled":
            lines.append("enabled: false")
        case "disabled and invalid":
            lines += ["enabled: false", "tag: x"]
    return "\n".join([*lines, ""])


def upstream(variant: str) -> str:
    port = 2 if variant == "elsewhere" else 1
    auth = (
        '{type: http, scheme: bearer, credentials: "${env:NOT_SET}"}'
        if "secret" in variant
        else "{type: none}"
    )
    return f"baseUrl: http://localhost:{port}\nauth: {auth}\n" + "tls: {" * (variant == "broken")


class History(RuleBasedStateMachine):
    """Files are added, changed, broken and deleted, several between two loads."""

    def __init__(self) -> None:
        super().__init__()
        self.contents: dict[Place, Content] = {}
        self.variants: dict[Place, str] = {}
        self.upstream = "valid"
        self.contents[SHOP] = upstream("valid").encode()
        self.loaded = Loaded()
        self.version = 0
        self.changed = {SHOP}

    @rule(file=FILES, variant=VARIANTS, then_load=st.booleans())
    def write(self, file: str, variant: str, then_load: bool) -> None:  # noqa: FBT001 - drawn
        self.version += 1
        place = Place(0, f"{file}.yaml", "tools.d")
        self.contents[place], self.variants[place] = tool(self.version, variant).encode(), variant
        self._change(place, then_load)

    @rule(file=FILES, then_load=st.booleans())
    def delete(self, file: str, then_load: bool) -> None:  # noqa: FBT001 - drawn
        place = Place(0, f"{file}.yaml", "tools.d")
        self.contents.pop(place, None)
        self.variants.pop(place, None)
        self._change(place, then_load)

    @rule(variant=UPSTREAMS, then_load=st.booleans())
    def change_upstream(self, variant: str, then_load: bool) -> None:  # noqa: FBT001 - drawn
        self.upstream = variant
        self.contents.pop(SHOP, None)
        if variant != "absent":
            self.contents[SHOP] = upstream(variant).encode()
        self._change(SHOP, then_load)

    def _change(self, place: Place, reload: bool) -> None:  # noqa: FBT001 - drawn
        self.changed.add(place)
        if reload:
            self.load()

    def load(self) -> None:
        """Reload. The result must be that of a load in which every file changed."""
        before = self.loaded
        self.loaded = load(DIRECTORIES, self.contents, Sources({}), before, self.changed)
        full = load(DIRECTORIES, self.contents, Sources({}), all_changed(before))
        assert summary(self.loaded) == summary(full)
        for place, file in self.loaded.tools.items():
            old = before.tools.get(place)
            if file.state == "kept":
                assert old
                assert file.tool
                assert old.good
                assert old.good.spec is file.tool.spec
            elif file.state == "good":
                assert file.tool
                assert file.tool.spec is file.parsed.spec
            elif old and old.tool:  # it served a tool until now
                assert "disabled" in self.variants[place] or self.upstream not in ("valid", "elsewhere")
        self.changed.clear()

    @invariant()
    def the_right_tools_are_served(self) -> None:
        if self.changed:
            return
        snapshot, files = self.loaded.snapshot, self.loaded.tools
        assert files.keys() == self.variants.keys()
        held = self.loaded.names.held
        assert held.keys() == {place for place, file in files.items() if file.tool}
        for place, names in held.items():
            assert all(snapshot.find(name) is files[place].tool for name in names)
        assert snapshot.tools == Snapshot(file.tool for file in files.values() if file.tool).tools
        if self.upstream in ("absent", "without its secret"):
            assert not snapshot.tools
        for place, variant in self.variants.items():
            file = files[place]
            if "disabled" in variant:
                assert (file.state, file.tool) == ("disabled", None)
            elif variant in ("broken", "invalid"):
                assert file.state in ("kept", "broken")
            elif self.upstream in ("valid", "elsewhere"):
                names = {place.stem} if variant != "named x" else {"x"}
                names |= {"x"} if variant == "alias x" else set()
                holders = {self.loaded.names.holder(name) for name in names}
                if file.state == "good":
                    assert holders == {place}
                elif holders <= {place, None}:  # another file claims one of its names, and no file gets it
                    others = [other for other in self.variants if other != place]
                    assert any(names & self.claimable(other) for other in others)

    def claimable(self, place: Place) -> set[str]:
        """The names that a file may claim, by its current or last good content."""
        return set() if "disabled" in self.variants[place] else {place.stem, "x"}

    @invariant()
    def a_second_load_of_the_same_contents_changes_nothing(self) -> None:
        if not self.changed:
            assert load(DIRECTORIES, self.contents, Sources({}), self.loaded) is self.loaded


def test_a_file_keeps_its_name_while_its_upstream_is_broken() -> None:
    history = History()
    history.change_upstream("broken", then_load=True)
    history.write("a", "valid", then_load=True)
    history.write("c/a", "valid", then_load=False)
    history.change_upstream("valid", then_load=False)
    history.write("a", "alias x", then_load=True)
    history.the_right_tools_are_served()
    assert set(history.loaded.names.held) == {Place(0, "a.yaml", "tools.d")}


def test_a_copy_takes_no_name_while_the_upstream_of_its_holder_waits_for_a_secret() -> None:
    history = History()
    history.write("a", "alias x", then_load=True)
    history.write("c/a", "named x", then_load=False)
    for _ in range(2):
        history.change_upstream("without its secret", then_load=True)
        problems = [each.message for each in history.loaded.diagnostics if each.code == "duplicate-name"]
        assert problems == ["the name x is already used by tools.d/a.yaml; rename one of the two"]
    history.change_upstream("valid", then_load=True)
    assert set(history.loaded.names.held) == {Place(0, "a.yaml", "tools.d")}


def all_changed(loaded: Loaded) -> Loaded:
    """The same load, as if each of its files had had other contents."""
    return replace(
        loaded,
        tools={place: _other(file) for place, file in loaded.tools.items()},
        upstreams={place: _other(file) for place, file in loaded.upstreams.items()},
    )


def _other(file: _F) -> _F:
    return replace(file, parsed=replace(file.parsed, content=b"something else"))


def summary(loaded: Loaded) -> Json:
    states = {place: (file.state, file.diagnostics) for place, file in loaded.tools.items()}
    return states, loaded.names.held, served(loaded.snapshot), loaded.diagnostics


def served(snapshot: Snapshot) -> list[tuple[str, str, str]]:
    return [(tool.name, tool.spec.description, tool.upstream.origin) for tool in snapshot.tools]


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=40, stateful_step_count=30)
