import os
import shutil
from pathlib import Path

import pytest

from bridge.diagnostics import Finding
from bridge.toolfiles.place import Content, Directories, Place
from bridge.toolfiles.watch.debounce import DELETION_SECONDS, MAX_WAIT_SECONDS, QUIET_SECONDS, Debouncer
from bridge.toolfiles.watch.scan import stat_file
from tests.toolfiles.descriptors import descriptors_left

POLL = 2.0


class Harness:
    """A directory, a debouncer for it, and a clock that only the test advances."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.time = 0.0
        self.good: dict[str, bytes] = {}
        directories = Directories((str(root),), max_entries=10)
        self.debouncer = Debouncer(directories, lambda place: self.good.get(place.relative), POLL)

    def place(self, name: str) -> Place:
        return Place(0, name, str(self.root))

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(exist_ok=True)
        (self.root / name).write_text(text)

    def check(self, *names: str, after: float = 0) -> dict[str, Content]:
        self.time += after
        self.debouncer.check(self.time, [self.place(name) for name in names])
        return self.contents

    def scan(self, *, after: float = 0, compare_bytes: bool = False) -> dict[str, Content]:
        self.time += after
        self.debouncer.scan(self.time, compare_bytes=compare_bytes)
        return self.contents

    @property
    def contents(self) -> dict[str, Content]:
        return {place.relative: content for place, content in self.debouncer.contents.items()}


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    (tmp_path / "tools.d").mkdir()
    harness = Harness(tmp_path / "tools.d")
    harness.write("a.yaml", "a")
    harness.scan()
    return harness


def test_the_first_scan_takes_files_as_they_are(harness: Harness) -> None:
    assert harness.contents == {"a.yaml": b"a"}
    assert harness.debouncer.due is None


def test_a_file_keeps_its_contents_while_no_descriptor_is_left(harness: Harness) -> None:
    harness.write("a.yaml", "new")
    harness.write("b.yaml", "b")
    with descriptors_left(0):
        harness.check("a.yaml", "b.yaml")
        harness.check(after=QUIET_SECONDS)
        contents = harness.scan(after=QUIET_SECONDS, compare_bytes=True)
        assert contents["a.yaml"] == b"a"
        assert isinstance(contents["b.yaml"], Finding)
        assert "raise its limit" in contents["b.yaml"].message
        assert [finding.code for finding in harness.debouncer.folder_problems.values()] == ["unreadable"]
        assert [folder.relative for folder in harness.debouncer.folders] == [""]
    harness.scan(after=POLL)
    assert harness.check(after=QUIET_SECONDS) == {"a.yaml": b"new", "b.yaml": b"b"}


def test_files_past_the_limit_are_not_read_and_known_files_stay(harness: Harness) -> None:
    for number in range(9):
        harness.write(f"{number}.yaml", "")
    harness.scan()
    harness.scan(after=QUIET_SECONDS)
    known = set(harness.contents)
    for number in range(10):
        harness.write(f"new{number}.yaml", "")
        harness.check(f"new{number}.yaml")
        harness.scan(after=QUIET_SECONDS)
    assert set(harness.contents) == known
    assert len(known) == 10
    assert [finding.code for finding in harness.debouncer.folder_problems.values()] == ["too-many-files"]


def test_a_change_counts_once_two_checks_agree(harness: Harness) -> None:
    harness.write("a.yaml", "b")
    assert harness.check("a.yaml") == {"a.yaml": b"a"}
    assert harness.debouncer.due == pytest.approx(harness.time + QUIET_SECONDS)
    assert harness.check(after=QUIET_SECONDS / 2) == {"a.yaml": b"a"}
    assert harness.check(after=QUIET_SECONDS) == {"a.yaml": b"b"}
    assert harness.debouncer.due is None


def test_another_change_starts_the_wait_again(harness: Harness) -> None:
    harness.write("a.yaml", "b")
    harness.check("a.yaml")
    harness.write("a.yaml", "bc")
    assert harness.check("a.yaml", after=QUIET_SECONDS) == {"a.yaml": b"a"}
    assert harness.check(after=QUIET_SECONDS) == {"a.yaml": b"bc"}


def test_a_file_that_keeps_changing_is_read_after_the_longest_wait(harness: Harness) -> None:
    checks = 0
    while harness.contents == {"a.yaml": b"a"}:
        checks += 1
        harness.write("a.yaml", "b" * checks)
        harness.check("a.yaml", after=QUIET_SECONDS)
    assert MAX_WAIT_SECONDS <= harness.time <= MAX_WAIT_SECONDS + 3 * QUIET_SECONDS


def test_a_change_that_is_undone_at_once_changes_nothing(harness: Harness) -> None:
    (harness.root / "a.yaml").rename(harness.root / "b")
    harness.check("a.yaml")
    (harness.root / "b").rename(harness.root / "a.yaml")
    harness.debouncer.changed.clear()
    harness.scan(after=DELETION_SECONDS)
    harness.scan(after=DELETION_SECONDS)
    assert harness.contents == {"a.yaml": b"a"}
    assert harness.debouncer.changed <= {harness.place("a.yaml")}


def test_a_deletion_counts_only_after_a_wait(harness: Harness) -> None:
    (harness.root / "a.yaml").unlink()
    assert harness.check("a.yaml") == {"a.yaml": b"a"}
    assert harness.check(after=DELETION_SECONDS - 0.01) == {"a.yaml": b"a"}
    assert harness.check(after=0.02) == {}


def test_a_file_that_is_removed_and_recreated_is_not_deleted(harness: Harness) -> None:
    (harness.root / "a.yaml").unlink()
    harness.check("a.yaml")
    harness.write("a.yaml", "b")
    assert harness.check("a.yaml", after=DELETION_SECONDS) == {"a.yaml": b"a"}
    assert harness.check(after=QUIET_SECONDS) == {"a.yaml": b"b"}


def test_a_prefix_of_the_last_good_bytes_waits_one_poll(harness: Harness) -> None:
    harness.good["a.yaml"] = b"abc"
    for cut in ("", "ab"):
        harness.write("a.yaml", cut)
        harness.check("a.yaml")
        assert harness.check(after=QUIET_SECONDS) == {"a.yaml": b"a"}
        assert harness.debouncer.due == pytest.approx(harness.time + POLL)
    assert harness.check(after=POLL) == {"a.yaml": b"ab"}


@pytest.mark.parametrize("text", ["abc", "abcd", "b"])
def test_other_bytes_do_not_wait(harness: Harness, text: str) -> None:
    harness.good["a.yaml"] = b"abc"
    harness.write("a.yaml", text)
    harness.check("a.yaml")
    assert harness.check(after=QUIET_SECONDS) == {"a.yaml": text.encode()}


def test_a_file_that_is_missing_when_it_is_read_is_checked_again(harness: Harness) -> None:
    harness.write("a.yaml", "b")
    harness.check("a.yaml")
    change = harness.debouncer._changes[harness.place("a.yaml")]
    (harness.root / "a.yaml").unlink()
    harness.debouncer._accept(harness.place("a.yaml"), change, harness.time)
    assert harness.contents == {"a.yaml": b"a"}
    assert harness.debouncer.due == pytest.approx(harness.time + QUIET_SECONDS)


def test_new_files_are_found_by_a_scan(harness: Harness) -> None:
    harness.write("more/b.yaml", "b")
    harness.scan()
    assert harness.check(after=QUIET_SECONDS) == {"a.yaml": b"a", "more/b.yaml": b"b"}


def test_the_same_bytes_again_change_nothing(harness: Harness) -> None:
    harness.write("a.yaml", "a")
    os.utime(harness.root / "a.yaml", (1, 1))
    before = dict(harness.debouncer.contents)
    harness.scan()
    harness.scan(after=QUIET_SECONDS)
    assert harness.debouncer.contents == before


def test_comparing_bytes_finds_a_change_that_the_stat_does_not_show(harness: Harness) -> None:
    harness.write("a.yaml", "b")
    stat = stat_file(harness.place("a.yaml"))
    assert stat
    harness.debouncer._known[harness.place("a.yaml")] = stat  # as if the file system had coarse times
    assert harness.scan(after=QUIET_SECONDS) == {"a.yaml": b"a"}
    assert harness.scan(compare_bytes=True) == {"a.yaml": b"b"}
    assert harness.scan(compare_bytes=True) == {"a.yaml": b"b"}


def test_an_unreadable_file_is_reported_and_read_once_it_is_readable(harness: Harness) -> None:
    (harness.root / "a.yaml").unlink()
    (harness.root / "a.yaml").symlink_to("nothing")
    harness.check("a.yaml")
    content = harness.check(after=QUIET_SECONDS)["a.yaml"]
    assert isinstance(content, Finding)
    harness.write("nothing", "b")
    harness.scan()
    assert harness.check(after=QUIET_SECONDS) == {"a.yaml": b"b"}


def test_a_missing_directory_deletes_nothing(harness: Harness) -> None:
    shutil.move(harness.root, harness.root.with_name("elsewhere"))
    harness.check("a.yaml")
    harness.scan()
    harness.check("a.yaml", after=DELETION_SECONDS)
    assert harness.scan(after=DELETION_SECONDS) == {"a.yaml": b"a"}
    assert [place.directory for place in harness.debouncer.folder_problems] == [str(harness.root)]
    assert harness.debouncer.due is None
    shutil.move(harness.root.with_name("elsewhere"), harness.root)
    harness.write("a.yaml", "b")
    harness.scan()
    assert harness.scan(after=QUIET_SECONDS) == {"a.yaml": b"b"}
    assert not harness.debouncer.folder_problems


def test_a_recreated_directory_with_fewer_files_deletes_the_others(harness: Harness) -> None:
    shutil.rmtree(harness.root)
    harness.scan(after=10)
    harness.write("b.yaml", "b")
    harness.scan(after=10)
    assert harness.scan(after=DELETION_SECONDS) == {"b.yaml": b"b"}
