"""Which files in the tools directories count, and how to look at them and read them without surprise."""

import errno
import os
import stat
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from bridge.diagnostics import Finding
from bridge.toolfiles.document import MAX_BYTES

_OPEN: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_REASONS: Final = {
    errno.EACCES: "this process may not read it; mend its permissions",
    errno.ELOOP: "its link leads back to itself; mend the link",
    errno.ENOENT: "its link leads to nothing; mend the link",
}
_FOLDER_REASONS: Final = {
    errno.EACCES: "this process may not list the folder; mend its permissions",
    errno.ENOENT: "found no such folder; bring it back",
    errno.ENOTDIR: "found no folder; name another",
}
_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_MISNAMED: Final = Finding(
    "rename", "only files whose names end with .yaml are read; rename it", severity="warning"
)


@dataclass(frozen=True, slots=True)
class Directories:
    """Where files are looked for; with ``upstreams``, upstream files count there alone."""

    tools: tuple[str, ...]
    upstreams: str | None = None

    @property
    def roots(self) -> tuple[str, ...]:
        """All directories, in the order in which their files come first."""
        if self.upstreams is None or self.upstreams in self.tools:
            return self.tools
        return (*self.tools, self.upstreams)

    @property
    def there(self) -> list[Path]:
        """The absolute paths of those that exist."""
        return [path for path in (Path(root).absolute() for root in self.roots) if path.is_dir()]


class Place(NamedTuple):
    """What a file is known by; places sort as the directories were given, then by path."""

    rank: int
    relative: str
    directory: str

    @property
    def path(self) -> str:
        return f"{self.directory.rstrip('/')}/{self.relative}"

    @property
    def shown(self) -> str:
        """The path for people: on one line, with nothing that a terminal would obey."""
        text = os.fsencode(self.path).decode(errors="replace")
        text = text.rstrip("/") or "/"
        if text.isprintable():
            return text
        return "".join(character if character.isprintable() else "\ufffd" for character in text)

    @property
    def is_upstream(self) -> bool:
        return self.relative.endswith(".upstream.yaml")

    @property
    def folder(self) -> str:
        """As a ``Folder`` has it: empty, or with a slash at the end."""
        return self.relative[: self.relative.rfind("/") + 1]

    @property
    def is_hidden(self) -> bool:
        """Whether a part of the path begins with a dot: such folders are not entered, such files not read."""
        return "/." in f"/{self.relative}"

    @property
    def stem(self) -> str:
        """The name that the file's name gives."""
        name = self.relative.removeprefix(self.folder)
        return name.removesuffix(".upstream.yaml" if self.is_upstream else ".yaml")


class Signature(NamedTuple):
    """What moves when a file does, links followed; times in nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


Look: TypeAlias = Signature | Finding
"""What one look at a file shows: its signature, or why it cannot be read."""


Content: TypeAlias = bytes | Finding
"""What is in a file, or why it cannot be read."""


class Folder(NamedTuple):
    """A folder that was entered; ``relative`` is empty, or ends with a slash."""

    rank: int
    relative: str
    device: int
    inode: int


@dataclass(slots=True)
class Survey:
    """One look at everything. ``blind`` are the folders that could not be listed, with the reason."""

    looks: dict[Place, Look] = field(default_factory=dict)
    folders: set[Folder] = field(default_factory=set)
    blind: dict[Place, str] = field(default_factory=dict)

    def sees(self, place: Place) -> bool:
        """Whether a file that is not in ``looks`` is really not there."""
        return not any(
            place.rank == folder.rank and place.relative.startswith(folder.relative) for folder in self.blind
        )


def survey(directories: Directories) -> Survey:
    """Look at every file; each folder counts once, however many links lead to it."""
    found = Survey()
    known: set[tuple[int, int]] = set()
    ranked = sorted(enumerate(directories.roots), key=lambda each: each[1] != directories.upstreams)
    for rank, root in ranked:  # what lies in the upstreams directory counts there, even where they overlap
        _enter(Place(rank, "", root), known, found)
    return found


def _enter(folder: Place, known: set[tuple[int, int]], found: Survey) -> None:
    try:
        status = Path(folder.path).stat()
        with os.scandir(folder.path) as listing:
            entries = [entry for entry in listing if not entry.name.startswith(".")]
    except OSError as problem:
        found.blind[folder] = _reason(problem, _FOLDER_REASONS)
        return
    if (status.st_dev, status.st_ino) in known:
        return
    known.add((status.st_dev, status.st_ino))
    found.folders.add(Folder(folder.rank, folder.relative, status.st_dev, status.st_ino))
    folders = []
    for entry in entries:
        if not entry.name.endswith(".yaml") and _is_folder(entry):
            folders.append(entry)
        elif entry.name.lower().endswith((".yml", ".yaml")) and (seen := _look(entry)):
            found.looks[Place(folder.rank, folder.relative + entry.name, folder.directory)] = seen
    for entry in sorted(folders, key=lambda entry: (entry.is_symlink(), entry.name)):
        _enter(folder._replace(relative=f"{folder.relative}{entry.name}/"), known, found)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed
        return False


def look(place: Place) -> Look | None:
    """What is to be seen of a file; None where there is none."""
    return _look(Path(place.path))


def _look(entry: "Path | os.DirEntry[str]") -> Look | None:
    try:
        seen = _judge(entry.stat())
        return seen if entry.name.endswith(".yaml") else _MISNAMED
    except FileNotFoundError as problem:
        return Finding("unreadable", _reason(problem)) if entry.is_symlink() else None
    except OSError as problem:
        return Finding("unreadable", _reason(problem))


def read(place: Place) -> tuple[Look, Content] | None:
    """A file as it is now; None where it is gone, or moved while it was being read. Never blocks."""
    try:
        descriptor = os.open(place.path, _OPEN)
    except FileNotFoundError:
        return None
    except OSError as problem:
        unreadable = Finding("unreadable", _reason(problem))
        return unreadable, unreadable
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> tuple[Look, Content] | None:
    before = _judge(os.fstat(descriptor))
    if isinstance(before, Finding):
        return before, before
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        data = file.read(MAX_BYTES + 1)
    if before != _judge(os.fstat(descriptor)):
        return None
    if len(data) != before.size:
        return before, Finding("not-a-file", "found no file of a disk; copy it here")
    return before, data


def spoken_of(
    paths: Iterable[str], directories: Directories, folders: AbstractSet[Folder]
) -> set[Place] | None:
    """The tool files in entered folders that absolute paths name; None if they may have moved any file."""
    entered = {(folder.rank, folder.relative) for folder in folders}
    roots = [(rank, root, f"{Path(root).absolute()}/") for rank, root in enumerate(directories.roots)]
    found = set()
    for path in paths:
        places = [Place(n, path.removeprefix(base), root) for n, root, base in roots if path.startswith(base)]
        known = [place for place in places if (place.rank, place.folder) in entered]
        if known and path.endswith(".yaml") and not known[0].is_hidden:
            found.add(known[0])
        elif not places or any(_moves_others(place, entered) for place in places):
            return None
    return found


def _moves_others(place: Place, entered: AbstractSet[tuple[int, str]]) -> bool:
    """Whether what moved at a place that holds no known tool file is a folder or a link, or was one."""
    path = Path(place.path)
    if path.is_symlink():
        return "/." not in f"/{place.folder}"
    if path.exists():
        return not place.is_hidden and (path.is_dir() or path.suffix.lower() in {".yaml", ".yml"})
    return (place.rank, f"{place.relative}/") in entered


def is_outside(place: Place) -> bool:
    """Whether links lead out of the directory: such a file is read, but never quoted."""
    root = os.path.realpath(place.directory)
    return os.path.commonpath((root, os.path.realpath(place.path))) != root


def _judge(status: os.stat_result) -> Look:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS[stat.S_IFMT(status.st_mode)]
        return Finding("not-a-file", f"found {kind}, expected a regular file; rename it, or take it out")
    if status.st_size > MAX_BYTES:
        message = f"found {status.st_size} bytes, expected at most {MAX_BYTES}; split the file"
        return Finding("too-large", message)
    return Signature(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _reason(problem: OSError, reasons: dict[int, str] = _REASONS) -> str:
    code = problem.errno or 0
    return reasons.get(code, f"it cannot be read ({errno.errorcode.get(code, code)}); look at the disk")
