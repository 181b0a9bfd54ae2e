"""What serves is a function of the directory and of the last good files, whatever happened in between."""

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
from bridge.toolfiles.watch.scan import Content, Directories, Place

_F = TypeVar("_F", ToolFile, UpstreamFile)

FILES = st.sampled_from(["a", "b", "c/a", "d"])
WAYS = st.sampled_from(["right", "named x", "alias x", "broken", "wrong", "disabled", "disabled and wrong"])
UPSTREAMS = st.sampled_from(["right", "elsewhere", "broken", "absent", "without its secret"])
DIRECTORIES = Directories(("tools.d",))
SHOP = Place(0, "shop.upstream.yaml", "tools.d")


def tool(version: int, way: str) -> str:
    lines = [f"description: no. {version}", "upstream: shop", "request: {method: GET, url: /x}"]
    match way:
        case "named x":
            lines.append("name: x")
        case "alias x":
            lines.append("aliases: [x]")
        case "broken":
            lines.append("tags: [")
        case "wrong":
            lines.append("tag: x")
        case "disabled":
            lines.append("enabled: false")
        case "disabled and wrong":
            lines += ["enabled: false", "tag: x"]
    return "\n".join([*lines, ""])


def upstream(way: str) -> str:
    port = 2 if way == "elsewhere" else 1
    auth = (
        '{type: http, scheme: bearer, credentials: "${env:NOT_SET}"}' if "secret" in way else "{type: none}"
    )
    return f"baseUrl: http://localhost:{port}\nauth: {auth}\n" + "tls: {" * (way == "broken")


class History(RuleBasedStateMachine):
    """Files come, change, break and go, several between two loads."""

    def __init__(self) -> None:
        super().__init__()
        self.contents: dict[Place, Content] = {}
        self.ways: dict[Place, str] = {}
        self.upstream = "right"
        self.contents[SHOP] = upstream("right").encode()
        self.loaded = Loaded()
        self.version = 0
        self.moved = {SHOP}

    @rule(file=FILES, way=WAYS, then_look=st.booleans())
    def write(self, file: str, way: str, then_look: bool) -> None:  # noqa: FBT001 - drawn
        self.version += 1
        place = Place(0, f"{file}.yaml", "tools.d")
        self.contents[place], self.ways[place] = tool(self.version, way).encode(), way
        self._move(place, then_look)

    @rule(file=FILES, then_look=st.booleans())
    def delete(self, file: str, then_look: bool) -> None:  # noqa: FBT001 - drawn
        place = Place(0, f"{file}.yaml", "tools.d")
        self.contents.pop(place, None)
        self.ways.pop(place, None)
        self._move(place, then_look)

    @rule(way=UPSTREAMS, then_look=st.booleans())
    def change_upstream(self, way: str, then_look: bool) -> None:  # noqa: FBT001 - drawn
        self.upstream = way
        self.contents.pop(SHOP, None)
        if way != "absent":
            self.contents[SHOP] = upstream(way).encode()
        self._move(SHOP, then_look)

    def _move(self, place: Place, look: bool) -> None:  # noqa: FBT001 - drawn
        self.moved.add(place)
        if look:
            self.look()

    def look(self) -> None:
        """One reload; it is the one that judging every file anew would be."""
        before = self.loaded
        self.loaded = load(DIRECTORIES, self.contents, Sources({}), before, self.moved)
        anew = load(DIRECTORIES, self.contents, Sources({}), all_moved(before))
        assert summary(self.loaded) == summary(anew)
        for place, file in self.loaded.tools.items():
            old = before.tools.get(place)
            if file.state == "kept":
                assert old
                assert file.tool
                assert old.good
                assert old.good.spec is file.tool.spec
            elif file.state == "good":
                assert file.tool
                assert file.tool.spec is file.words.spec
            elif old and old.tool:  # it served until now: what ended that?
                assert "disabled" in self.ways[place] or self.upstream not in ("right", "elsewhere")
        self.moved.clear()

    @invariant()
    def what_serves_is_what_should(self) -> None:
        if self.moved:
            return
        snapshot, files = self.loaded.snapshot, self.loaded.tools
        assert files.keys() == self.ways.keys()
        held = self.loaded.names.held
        assert held.keys() == {place for place, file in files.items() if file.tool}
        for place, names in held.items():
            assert all(snapshot.find(name) is files[place].tool for name in names)
        assert snapshot.tools == Snapshot(file.tool for file in files.values() if file.tool).tools
        if self.upstream in ("absent", "without its secret"):
            assert not snapshot.tools
        for place, way in self.ways.items():
            file = files[place]
            if "disabled" in way:
                assert (file.state, file.tool) == ("disabled", None)
            elif way in ("broken", "wrong"):
                assert file.state in ("kept", "broken")
            elif self.upstream in ("right", "elsewhere"):
                names = {place.stem} if way != "named x" else {"x"}
                names |= {"x"} if way == "alias x" else set()
                holders = {self.loaded.names.holder(name) for name in names}
                if file.state == "good":
                    assert holders == {place}
                elif holders <= {place, None}:  # another file claims one of its names, and none has it
                    others = [other for other in self.ways if other != place]
                    assert any(names & self.claimable(other) for other in others)

    def claimable(self, place: Place) -> set[str]:
        """The names that a file may claim, by what it says or last said."""
        return set() if "disabled" in self.ways[place] else {place.stem, "x"}

    @invariant()
    def a_load_that_follows_itself_changes_nothing(self) -> None:
        if not self.moved:
            assert load(DIRECTORIES, self.contents, Sources({}), self.loaded) is self.loaded


def all_moved(loaded: Loaded) -> Loaded:
    """The load before, as if each of its files had held something else."""
    return replace(
        loaded,
        tools={place: _other(file) for place, file in loaded.tools.items()},
        upstreams={place: _other(file) for place, file in loaded.upstreams.items()},
    )


def _other(file: _F) -> _F:
    return replace(file, words=replace(file.words, content=b"something else"))


def summary(loaded: Loaded) -> Json:
    states = {place: (file.state, file.diagnostics) for place, file in loaded.tools.items()}
    return states, loaded.names.held, served(loaded.snapshot), loaded.diagnostics


def served(snapshot: Snapshot) -> list[tuple[str, str, str]]:
    return [(tool.name, tool.spec.description, tool.upstream.origin) for tool in snapshot.tools]


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=40, stateful_step_count=30)
