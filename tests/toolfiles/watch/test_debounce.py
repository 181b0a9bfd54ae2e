import os
import shutil
from pathlib import Path

import pytest

from bridge.diagnostics import Finding
from bridge.toolfiles.watch.debounce import GONE, PATIENCE, QUIET, Settling
from bridge.toolfiles.watch.scan import Content, Directories, Place, look
from tests.toolfiles.descriptors import descriptors_left

POLL = 2.0


class Bench:
    """A directory, what has settled of it, and a clock that stands until it is moved."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 0.0
        self.good: dict[str, bytes] = {}
        directories = Directories((str(root),), max_entries=10)
        self.settling = Settling(directories, lambda place: self.good.get(place.relative), POLL)

    def place(self, name: str) -> Place:
        return Place(0, name, str(self.root))

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(exist_ok=True)
        (self.root / name).write_text(text)

    def look(self, *names: str, after: float = 0) -> dict[str, Content]:
        self.now += after
        self.settling.look(self.now, [self.place(name) for name in names])
        return self.contents

    def look_at_all(self, *, after: float = 0, bytes_too: bool = False) -> dict[str, Content]:
        self.now += after
        self.settling.look_at_all(self.now, bytes_too=bytes_too)
        return self.contents

    @property
    def contents(self) -> dict[str, Content]:
        return {place.relative: content for place, content in self.settling.contents.items()}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "tools.d").mkdir()
    bench = Bench(tmp_path / "tools.d")
    bench.write("a.yaml", "a")
    bench.look_at_all()
    return bench


def test_the_first_look_takes_files_as_they_are(bench: Bench) -> None:
    assert bench.contents == {"a.yaml": b"a"}
    assert bench.settling.due is None


def test_a_file_stays_what_it_was_while_no_descriptor_is_left(bench: Bench) -> None:
    bench.write("a.yaml", "new")
    bench.write("b.yaml", "b")
    with descriptors_left(0):
        bench.look("a.yaml", "b.yaml")
        bench.look(after=QUIET)
        contents = bench.look_at_all(after=QUIET, bytes_too=True)
        assert contents["a.yaml"] == b"a"
        assert isinstance(contents["b.yaml"], Finding)
        assert "raise its limit" in contents["b.yaml"].message
        assert [finding.code for finding in bench.settling.blind.values()] == ["unreadable"]
        assert [folder.relative for folder in bench.settling.folders] == [""]
    bench.look_at_all(after=POLL)
    assert bench.look(after=QUIET) == {"a.yaml": b"new", "b.yaml": b"b"}


def test_no_more_files_are_read_than_the_bound_and_known_ones_stay(bench: Bench) -> None:
    for number in range(9):
        bench.write(f"{number}.yaml", "")
    bench.look_at_all()
    bench.look_at_all(after=QUIET)
    known = set(bench.contents)
    for number in range(10):
        bench.write(f"new{number}.yaml", "")
        bench.look(f"new{number}.yaml")
        bench.look_at_all(after=QUIET)
    assert set(bench.contents) == known
    assert len(known) == 10
    assert [finding.code for finding in bench.settling.blind.values()] == ["too-many-files"]


def test_a_change_counts_when_two_looks_agree(bench: Bench) -> None:
    bench.write("a.yaml", "b")
    assert bench.look("a.yaml") == {"a.yaml": b"a"}
    assert bench.settling.due == pytest.approx(bench.now + QUIET)
    assert bench.look(after=QUIET / 2) == {"a.yaml": b"a"}
    assert bench.look(after=QUIET) == {"a.yaml": b"b"}
    assert bench.settling.due is None


def test_a_change_that_goes_on_starts_the_wait_again(bench: Bench) -> None:
    bench.write("a.yaml", "b")
    bench.look("a.yaml")
    bench.write("a.yaml", "bc")
    assert bench.look("a.yaml", after=QUIET) == {"a.yaml": b"a"}
    assert bench.look(after=QUIET) == {"a.yaml": b"bc"}


def test_a_file_that_never_rests_is_read_when_patience_ends(bench: Bench) -> None:
    looks = 0
    while bench.contents == {"a.yaml": b"a"}:
        looks += 1
        bench.write("a.yaml", "b" * looks)
        bench.look("a.yaml", after=QUIET)
    assert PATIENCE <= bench.now <= PATIENCE + 3 * QUIET


def test_a_change_that_is_taken_back_is_none(bench: Bench) -> None:
    (bench.root / "a.yaml").rename(bench.root / "b")
    bench.look("a.yaml")
    (bench.root / "b").rename(bench.root / "a.yaml")
    bench.settling.moved.clear()
    bench.look_at_all(after=GONE)
    bench.look_at_all(after=GONE)
    assert bench.contents == {"a.yaml": b"a"}
    assert bench.settling.moved <= {bench.place("a.yaml")}


def test_a_deletion_counts_if_it_is_still_true_a_moment_later(bench: Bench) -> None:
    (bench.root / "a.yaml").unlink()
    assert bench.look("a.yaml") == {"a.yaml": b"a"}
    assert bench.look(after=GONE - 0.01) == {"a.yaml": b"a"}
    assert bench.look(after=0.02) == {}


def test_what_is_removed_and_made_anew_was_never_gone(bench: Bench) -> None:
    (bench.root / "a.yaml").unlink()
    bench.look("a.yaml")
    bench.write("a.yaml", "b")
    assert bench.look("a.yaml", after=GONE) == {"a.yaml": b"a"}
    assert bench.look(after=QUIET) == {"a.yaml": b"b"}


def test_bytes_that_the_last_good_ones_begin_with_wait_one_poll(bench: Bench) -> None:
    bench.good["a.yaml"] = b"abc"
    for cut in ("", "ab"):
        bench.write("a.yaml", cut)
        bench.look("a.yaml")
        assert bench.look(after=QUIET) == {"a.yaml": b"a"}
        assert bench.settling.due == pytest.approx(bench.now + POLL)
    assert bench.look(after=POLL) == {"a.yaml": b"ab"}


@pytest.mark.parametrize("text", ["abc", "abcd", "b"])
def test_other_bytes_do_not_wait(bench: Bench, text: str) -> None:
    bench.good["a.yaml"] = b"abc"
    bench.write("a.yaml", text)
    bench.look("a.yaml")
    assert bench.look(after=QUIET) == {"a.yaml": text.encode()}


def test_a_file_that_is_gone_when_it_is_read_is_looked_at_again(bench: Bench) -> None:
    bench.write("a.yaml", "b")
    bench.look("a.yaml")
    change = bench.settling._changes[bench.place("a.yaml")]
    (bench.root / "a.yaml").unlink()
    bench.settling._settle(bench.place("a.yaml"), change, bench.now)
    assert bench.contents == {"a.yaml": b"a"}
    assert bench.settling.due == pytest.approx(bench.now + QUIET)


def test_new_files_are_found_by_a_look_at_all(bench: Bench) -> None:
    bench.write("more/b.yaml", "b")
    bench.look_at_all()
    assert bench.look(after=QUIET) == {"a.yaml": b"a", "more/b.yaml": b"b"}


def test_the_same_bytes_again_change_nothing(bench: Bench) -> None:
    bench.write("a.yaml", "a")
    os.utime(bench.root / "a.yaml", (1, 1))
    before = dict(bench.settling.contents)
    bench.look_at_all()
    bench.look_at_all(after=QUIET)
    assert bench.settling.contents == before


def test_a_look_at_bytes_finds_what_nothing_else_shows(bench: Bench) -> None:
    bench.write("a.yaml", "b")
    seen = look(bench.place("a.yaml"))
    assert seen
    bench.settling._known[bench.place("a.yaml")] = seen  # as if the file system's times were coarse
    assert bench.look_at_all(after=QUIET) == {"a.yaml": b"a"}
    assert bench.look_at_all(bytes_too=True) == {"a.yaml": b"b"}
    assert bench.look_at_all(bytes_too=True) == {"a.yaml": b"b"}


def test_what_cannot_be_read_is_told_and_heals(bench: Bench) -> None:
    (bench.root / "a.yaml").unlink()
    (bench.root / "a.yaml").symlink_to("nothing")
    bench.look("a.yaml")
    told = bench.look(after=QUIET)["a.yaml"]
    assert isinstance(told, Finding)
    bench.write("nothing", "b")
    bench.look_at_all()
    assert bench.look(after=QUIET) == {"a.yaml": b"b"}


def test_a_missing_directory_deletes_nothing(bench: Bench) -> None:
    shutil.move(bench.root, bench.root.with_name("elsewhere"))
    bench.look("a.yaml")
    bench.look_at_all()
    bench.look("a.yaml", after=GONE)
    assert bench.look_at_all(after=GONE) == {"a.yaml": b"a"}
    assert [place.directory for place in bench.settling.blind] == [str(bench.root)]
    assert bench.settling.due is None
    shutil.move(bench.root.with_name("elsewhere"), bench.root)
    bench.write("a.yaml", "b")
    bench.look_at_all()
    assert bench.look_at_all(after=QUIET) == {"a.yaml": b"b"}
    assert not bench.settling.blind


def test_a_directory_made_anew_with_less_in_it_deletes_the_rest(bench: Bench) -> None:
    shutil.rmtree(bench.root)
    bench.look_at_all(after=10)
    bench.write("b.yaml", "b")
    bench.look_at_all(after=10)
    assert bench.look_at_all(after=GONE) == {"b.yaml": b"b"}
