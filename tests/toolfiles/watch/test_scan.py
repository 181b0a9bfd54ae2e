import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge.diagnostics import Finding
from bridge.toolfiles.place import Directories, FileStat, Folder, OutsideBytes, Place, Signature
from bridge.toolfiles.text.document import MAX_BYTES
from bridge.toolfiles.watch import scan
from bridge.toolfiles.watch.scan import (
    MAX_FOLDER_DEPTH,
    MAX_WATCHED_FOLDERS,
    files_at,
    read,
    scan_directories,
    stat_file,
    watchable,
)


def write(path: Path, text: str = "a: b\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def place(path: Path, root: Path | None = None) -> Place:
    root = root or path.parent
    return Place(0, str(path.relative_to(root)), str(root))


def relatives(*roots: Path, upstreams: Path | None = None) -> list[tuple[int, str]]:
    directories = Directories(tuple(map(str, roots)), str(upstreams) if upstreams else None)
    return sorted((found.rank, found.relative) for found in scan_directories(directories).stats)


@contextmanager
def another_user() -> Iterator[None]:
    """Run as a user without root's permissions, since root may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_files_lie_flat_or_in_folders(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.upstream.yaml", "more/c.yaml", "more/and/more/d.yaml"):
        write(tmp_path / name)
    assert [relative for _, relative in relatives(tmp_path)] == [
        "a.yaml",
        "b.upstream.yaml",
        "more/and/more/d.yaml",
        "more/c.yaml",
    ]


@pytest.mark.parametrize(
    "name",
    [
        *(".hidden.yaml", ".git/a.yaml", "..data/a.yaml", ".#a.yaml", ".a.yaml.swp", "a.yaml.swp", "a.yaml~"),
        *("4913", "#a.yaml#", "README.md", "a.json", "yaml", "a.yaml.tmp"),
    ],
)
def test_files_that_editors_and_tools_leave_behind_are_not_tool_files(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert relatives(tmp_path) == []


@pytest.mark.parametrize("name", ["a.yml", "a.YAML", "a.upstream.yml"])
def test_a_file_name_with_another_suffix_gets_a_warning(tmp_path: Path, name: str) -> None:
    there = place(write(tmp_path / name))
    (stat,) = scan_directories(Directories((str(tmp_path),))).stats.values()
    assert isinstance(stat, Finding)
    assert (stat.code, stat.severity) == ("rename", "warning")
    assert stat_file(there) == stat


def test_a_config_map_counts_once(tmp_path: Path) -> None:
    write(tmp_path / "..2026_08_01" / "a.yaml")
    (tmp_path / "..data").symlink_to("..2026_08_01")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    assert relatives(tmp_path) == [(0, "a.yaml")]
    assert not is_outside(place(tmp_path / "a.yaml"))


def test_a_folder_of_a_config_map_is_entered(tmp_path: Path) -> None:
    write(tmp_path / "..2026_08_01" / "more" / "a.yaml")
    (tmp_path / "..data").symlink_to("..2026_08_01")
    (tmp_path / "more").symlink_to("..data/more")
    assert relatives(tmp_path) == [(0, "more/a.yaml")]
    assert not is_outside(place(tmp_path / "more/a.yaml", tmp_path))


def test_a_folder_counts_once_however_it_is_reached(tmp_path: Path) -> None:
    write(tmp_path / "real" / "a.yaml")
    (tmp_path / "a_link").symlink_to("real")
    (tmp_path / "real" / "up").symlink_to("..")
    assert relatives(tmp_path, tmp_path) == [(0, "real/a.yaml")]
    assert relatives(tmp_path, tmp_path / "real") == [(1, "a.yaml")]


def test_a_folder_is_found_at_its_own_path_and_not_at_a_link_to_it(tmp_path: Path) -> None:
    write(tmp_path / "billing" / "more" / "a.yaml")
    (tmp_path / "aaa").mkdir()
    (tmp_path / "aaa" / "link").symlink_to("../billing/more")
    assert relatives(tmp_path) == [(0, "billing/more/a.yaml")]


@pytest.mark.parametrize("target", ["elsewhere", "/usr", "/"])
def test_a_link_to_a_folder_outside_is_not_entered(tmp_path: Path, target: str) -> None:
    write(tmp_path / "elsewhere" / "a.yaml")
    (tmp_path / "tools.d").mkdir()
    (tmp_path / "tools.d" / "link").symlink_to(tmp_path / target)
    found = scan_directories(Directories((str(tmp_path / "tools.d"),)))
    assert found.stats == {}
    assert {where.relative: finding.code for where, finding in found.folder_problems.items()} == {
        "link/": "outside-folder"
    }
    assert not found.is_absent(Place(0, "link/a.yaml", str(tmp_path / "tools.d")))


def test_a_directory_may_itself_be_behind_a_link(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "more" / "a.yaml")
    (tmp_path / "tools.d").symlink_to("elsewhere")
    assert relatives(tmp_path / "tools.d") == [(0, "more/a.yaml")]
    assert not is_outside(place(tmp_path / "tools.d/more/a.yaml", tmp_path / "tools.d"))


def test_a_file_behind_a_link_is_read_and_marked_as_outside(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere.yaml")
    (tmp_path / "tools.d").mkdir()
    (tmp_path / "tools.d" / "a.yaml").symlink_to("../elsewhere.yaml")
    assert is_outside(place(tmp_path / "tools.d" / "a.yaml"))


@pytest.mark.parametrize(
    ("link", "target", "outside"),
    [
        ("team/l.yaml", "hosts/one.upstream.yaml", True),
        ("team/l.yaml", "hosts/more/one.yaml", True),
        ("team/l.yaml", "one.upstream.yaml", True),
        ("team/l.yaml", ".git/config", True),
        ("team/l.yaml", "..data/a.yaml", False),
        ("team/l.yaml", "other/a.yaml", False),
        ("team/l.upstream.yaml", "one.upstream.yaml", False),
        ("hosts/l.yaml", "other/a.yaml", True),
        ("hosts/l.upstream.yaml", "hosts/more/one.upstream.yaml", False),
    ],
)
def test_a_file_behind_a_link_may_belong_to_another_directory_or_hold_secrets(
    tmp_path: Path, link: str, target: str, *, outside: bool
) -> None:
    write(tmp_path / target)
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / target)
    root = tmp_path / "hosts" if link.startswith("hosts/") else tmp_path
    assert (
        is_outside(place(tmp_path / link, root), Directories((str(tmp_path),), str(tmp_path / "hosts")))
        is outside
    )


def test_a_link_cannot_take_a_folder_from_the_directory_of_upstream_files(tmp_path: Path) -> None:
    write(tmp_path / "hosts" / "more" / "one.upstream.yaml")
    (tmp_path / "team").symlink_to("hosts/more")
    assert relatives(tmp_path, upstreams=tmp_path / "hosts") == [(1, "more/one.upstream.yaml")]


def is_outside(where: Place, directories: Directories | None = None) -> bool:
    found = read(where, directories)
    assert found
    assert found[1] == b"a: b\n"
    return isinstance(found[1], OutsideBytes)


def test_without_proc_the_path_of_an_open_file_is_resolved(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml")
    (tmp_path / "link").symlink_to("a.yaml")
    assert scan._real_path(-1, str(tmp_path / "link")) == os.path.realpath(tmp_path / "a.yaml")


def test_the_depth_of_folders_is_limited(tmp_path: Path) -> None:
    deepest = "f/" * MAX_FOLDER_DEPTH
    write(tmp_path / deepest / "a.yaml")
    write(tmp_path / deepest / "f" / "f" / "a.yaml")
    found = scan_directories(Directories((str(tmp_path),)))
    assert [where.relative for where in found.stats] == [f"{deepest}a.yaml"]
    assert [(where.relative, each.code) for where, each in found.folder_problems.items()] == [
        (f"{deepest}f/", "too-deep")
    ]


def test_the_number_of_entries_is_limited_for_each_directory(tmp_path: Path) -> None:
    for name in ("full/more", "zzz", "other"):
        (tmp_path / name).mkdir(parents=True)
    for number in range(10):
        (tmp_path / "full" / f"{number}.md").touch()
    write(tmp_path / "full" / "more" / "a.yaml")
    write(tmp_path / "zzz" / "a.yaml")
    write(tmp_path / "other" / "a.yaml")
    root, other = str(tmp_path), str(tmp_path / "other")
    found = scan_directories(Directories((root, other), max_entries=10))
    assert list(found.stats) == [Place(1, "a.yaml", other)]
    assert [(where.relative, each.code) for where, each in found.folder_problems.items()] == [
        ("full/", "too-many-files")
    ]
    for name in ("full/a.yaml", "full/more/a.yaml", "zzz/a.yaml"):
        assert not found.is_absent(Place(0, name, root))
    assert found.is_absent(Place(0, "a.yaml", root))
    assert {folder.relative for folder in found.folders if folder.rank == 0} == {""}


def test_broken_links_without_a_yaml_suffix_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nothing")
    assert relatives(tmp_path) == []


def test_the_upstreams_directory_may_lie_within_a_tools_directory(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml")
    write(tmp_path / "hosts" / "b.upstream.yaml")
    found = relatives(tmp_path, upstreams=tmp_path / "hosts")
    assert found == [(0, "a.yaml"), (1, "b.upstream.yaml")]
    assert relatives(tmp_path / "hosts", upstreams=tmp_path / "hosts") == [(0, "b.upstream.yaml")]


def test_files_of_a_tools_directory_inside_the_upstreams_directory_belong_only_to_the_former(
    tmp_path: Path,
) -> None:
    write(tmp_path / "a.upstream.yaml")
    write(tmp_path / "teams" / "b.upstream.yaml")
    assert relatives(tmp_path / "teams", upstreams=tmp_path) == [
        (0, "b.upstream.yaml"),
        (1, "a.upstream.yaml"),
    ]


def test_files_of_a_missing_directory_are_not_reported_as_absent(tmp_path: Path) -> None:
    write(tmp_path / "file")
    missing, no_folder, there = (str(tmp_path / name) for name in ("missing", "file", ""))
    found = scan_directories(Directories((missing, no_folder, there)))
    assert [where.directory for where in found.folder_problems] == [missing, no_folder]
    assert not found.is_absent(Place(0, "a.yaml", missing))
    assert not found.is_absent(Place(1, "more/a.yaml", no_folder))
    assert found.is_absent(Place(2, "a.yaml", there))


def test_only_the_files_of_an_unreadable_folder_are_not_reported_as_absent(open_folder: Path) -> None:
    closed = write(open_folder / "closed" / "a.yaml").parent
    write(open_folder / "b.yaml")
    closed.chmod(0)
    with another_user():
        found = scan_directories(Directories((str(open_folder),)))
    closed.chmod(0o755)
    assert [(where.relative, finding.message) for where, finding in found.folder_problems.items()] == [
        ("closed/", "this process may not list the folder; fix its permissions")
    ]
    assert [seen.relative for seen in found.stats] == ["b.yaml"]
    assert not found.is_absent(Place(0, "closed/a.yaml", str(open_folder)))
    assert found.is_absent(Place(0, "closed.yaml", str(open_folder)))


def folders(rank: int, *relatives: str) -> set[Folder]:
    return {Folder(rank, relative, 1, number) for number, relative in enumerate(relatives)}


def test_few_folders_are_all_watched() -> None:
    few = folders(0, *(f"{number}/" for number in range(MAX_WATCHED_FOLDERS)))
    assert watchable(few) == few


def test_many_folders_of_one_team_do_not_use_up_the_watches_of_others() -> None:
    many = folders(0, "", "a/", *(f"a/{number}/" for number in range(5000)))
    others = folders(0, "b/", "b/x/", "b/x/y/", "z/") | folders(1, "", "c/")
    chosen = watchable(many | others)
    assert len(chosen) == MAX_WATCHED_FOLDERS
    assert chosen >= others
    tops = folders(0, *(f"{number}/" for number in range(5000)))
    assert watchable(tops | folders(1, "", "c/", "c/x/")) >= folders(1, "", "c/", "c/x/")


def test_a_path_is_shown_on_one_line() -> None:
    there = Place(0, "a\n\x1b[31m\udcff.yaml", "tools.d/")
    assert there.shown == "tools.d/a\ufffd\ufffd[31m\ufffd.yaml"
    assert there.path == "tools.d/a\n\x1b[31m\udcff.yaml"


# --- what cannot be read ---


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def kernel(path: Path) -> None:
    path.symlink_to("/proc/self/status")


def folder(path: Path) -> None:
    path.mkdir()


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 100 * 1024**2)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("nothing")


REFUSED = [
    (pipe, "not-a-file", "found a pipe, expected a regular file; rename or remove it"),
    (device, "not-a-file", "found a device, expected a regular file; rename or remove it"),
    (folder, "not-a-file", "found a folder, expected a regular file; rename or remove it"),
    (sparse, "too-large", f"found 104857600 bytes, expected at most {MAX_BYTES}; split the file"),
    (loop, "unreadable", "the link leads back to itself; fix the link"),
    (dangling, "unreadable", "found a link to a file that does not exist; fix the link"),
]


@pytest.mark.parametrize(("make", "code", "message"), REFUSED)
def test_an_unreadable_file_is_reported_without_opening_it(
    tmp_path: Path, make: Callable[[Path], None], code: str, message: str
) -> None:
    make(tmp_path / "a.yaml")
    (stat,) = scan_directories(Directories((str(tmp_path),))).stats.values()
    assert stat == stat_file(place(tmp_path / "a.yaml")) == Finding(code, message)


@pytest.mark.parametrize("make", [make for make, *_ in REFUSED if make is not dangling])
def test_a_file_that_just_became_unreadable_is_reported_without_blocking(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "a.yaml")
    found = read(place(tmp_path / "a.yaml"))
    assert found is not None
    assert found[0] == found[1] == stat_file(place(tmp_path / "a.yaml"))


def test_a_file_that_the_kernel_generates_is_reported(tmp_path: Path) -> None:
    kernel(tmp_path / "a.yaml")
    found = read(place(tmp_path / "a.yaml"))
    assert found
    assert isinstance(found[1], Finding)
    assert (found[1].code, found[0]) == ("not-a-file", stat_file(place(tmp_path / "a.yaml")))


def test_a_file_without_read_permission_is_reported(open_folder: Path) -> None:
    path = write(open_folder / "a.yaml")
    path.chmod(0)
    with another_user():
        found = read(place(path))
    unreadable = Finding("unreadable", "this process may not read the file; fix its permissions")
    assert found == (unreadable, unreadable)


def test_a_file_in_a_folder_that_may_not_be_entered_is_unreadable(open_folder: Path) -> None:
    path = write(open_folder / "closed" / "a.yaml")
    path.parent.chmod(0)
    with another_user():
        found = stat_file(place(path))
    path.parent.chmod(0o755)
    assert isinstance(found, Finding)
    assert found.code == "unreadable"


def test_reading_returns_the_stat_and_the_bytes(tmp_path: Path) -> None:
    there = place(write(tmp_path / "a.yaml"))
    assert read(there) == (stat_file(there), b"a: b\n")
    assert isinstance(stat_file(there), Signature)


def test_a_missing_file_has_no_stat_and_no_bytes(tmp_path: Path) -> None:
    there = Place(0, "a.yaml", str(tmp_path))
    assert stat_file(there) is None
    assert stat_file(there._replace(relative="a.yml")) is None
    assert read(there) is None


def test_a_file_that_grows_while_it_is_read_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.yaml")
    checked = scan._checked

    def grow(status: os.stat_result) -> FileStat:
        path.write_text(path.read_text() + "c: d\n")
        return checked(status)

    monkeypatch.setattr(scan, "_checked", grow)
    assert read(place(path)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text("a: c\n"),
        lambda path: path.chmod(0o600),
        lambda path: write(path.with_name("b")).replace(path),
    ],
)
def test_the_stat_differs_after_a_change_with_the_same_size_and_time(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = write(tmp_path / "a.yaml")
    os.utime(path, ns=(1, 1))
    before = stat_file(place(path))
    change(path)
    os.utime(path, ns=(1, 1))
    assert stat_file(place(path)) != before


def test_an_event_of_a_tool_file_leads_to_its_place(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml")
    write(tmp_path / "more" / "b.yaml")
    directories = Directories((str(tmp_path),))
    folders = scan_directories(directories).folders
    paths = [str(tmp_path / name) for name in ("a.yaml", "more/b.yaml", "new.yaml")]
    assert files_at(paths, directories, folders) == {
        Place(0, name, str(tmp_path)) for name in ("a.yaml", "more/b.yaml", "new.yaml")
    }


def test_an_event_in_the_upstreams_directory_leads_to_the_place_there(tmp_path: Path) -> None:
    write(tmp_path / "hosts" / "b.upstream.yaml")
    directories = Directories((str(tmp_path),), str(tmp_path / "hosts"))
    path = str(tmp_path / "hosts" / "b.upstream.yaml")
    found = files_at([path], directories, scan_directories(directories).folders)
    assert found == {Place(1, "b.upstream.yaml", str(tmp_path / "hosts"))}


@pytest.mark.parametrize(
    "name",
    ["4913", "a.yaml~", ".a.yaml.swp", ".git/index", ".git/a.yaml", ".new.yaml", "gone.tmp", "README.md"],
)
def test_an_event_of_another_file_is_ignored(tmp_path: Path, name: str) -> None:
    write(tmp_path / "README.md")
    write(tmp_path / ".git" / "index")
    write(tmp_path / ".new.yaml")
    directories = Directories((str(tmp_path),))
    assert files_at([str(tmp_path / name)], directories, scan_directories(directories).folders) == set()


@pytest.mark.parametrize("name", ["", "folder", "was_folder", "..data", "link", "a.yml", "new_folder/a.yaml"])
def test_an_event_that_may_affect_any_file_asks_for_a_scan(tmp_path: Path, name: str) -> None:
    write(tmp_path / "was_folder" / "a.yaml")
    directories = Directories((str(tmp_path),))
    folders = scan_directories(directories).folders
    (tmp_path / "was_folder").rename(tmp_path / "folder")
    (tmp_path / "..data").symlink_to("folder")
    (tmp_path / "link").symlink_to("nothing")
    write(tmp_path / "a.yml")
    write(tmp_path / "new_folder" / "a.yaml")
    assert files_at([str(tmp_path / name)], directories, folders) is None
