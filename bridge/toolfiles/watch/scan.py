"""Finds the tool files in the directories, stats them, and reads them without ever blocking."""

import errno
import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import Final

from bridge.diagnostics import Finding
from bridge.toolfiles.place import Content, Directories, FileStat, Folder, OutsideBytes, Place, Signature
from bridge.toolfiles.text.document import MAX_BYTES

MAX_FOLDER_DEPTH: Final = 16
MAX_WATCHED_FOLDERS: Final = 256
"""A bound, because setting one watch blocks the event loop for about 40 µs. Folders above it are only polled."""

# O_NONBLOCK: open(2) of a FIFO would wait for a writer. O_NOCTTY: a terminal must not become this process's own.
_OPEN: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY
_EXHAUSTED: Final = dict.fromkeys(
    (errno.EMFILE, errno.ENFILE),
    "this process has no file descriptor left; raise its limit (ulimit -n)",
)
_REASONS: Final = {
    errno.EACCES: "this process may not read the file; fix its permissions",
    errno.ELOOP: "the link leads back to itself; fix the link",
    errno.ENOENT: "found a link to a file that does not exist; fix the link",
    **_EXHAUSTED,
}
_FOLDER_REASONS: Final = {
    errno.EACCES: "this process may not list the folder; fix its permissions",
    errno.ENOENT: "found no such folder; create it",
    errno.ENOTDIR: "found a file, expected a folder; name another",
    **_EXHAUSTED,
}
OUT_OF_DESCRIPTORS: Final = Finding("unreadable", _EXHAUSTED[errno.EMFILE])
"""The finding about a file that cannot be opened only because no file descriptor is left. Compared by identity."""
_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_OUTSIDE_FOLDER: Final = Finding(
    "outside-folder",
    "found a link to a folder outside the tool directory, which is not entered; pass that folder as a tool directory too",
)
_MISNAMED: Final = Finding(
    "rename", "only files whose names end with .yaml are read; rename the file", severity="warning"
)


@dataclass(slots=True)
class Scan:
    """The result of one scan: the stat of each file, and the folders that were listed completely.

    ``folder_problems`` says why a folder could not be listed completely. ``unlisted`` holds these folders and
    those skipped because the directory holds too many entries, as rank and relative path (see ``Folder``).
    """

    stats: dict[Place, FileStat] = field(default_factory=dict)
    folders: set[Folder] = field(default_factory=set)
    folder_problems: dict[Place, Finding] = field(default_factory=dict)
    unlisted: set[tuple[int, str]] = field(default_factory=set)

    def is_absent(self, place: Place) -> bool:
        """Whether a file without an entry in ``stats`` does not exist; False if its folder was not listed."""
        parts = place.folder.split("/")[:-1]
        folders = accumulate((f"{part}/" for part in parts), initial="")
        return not any((place.rank, folder) in self.unlisted for folder in folders)

    def add_unlisted(self, folder: Place, finding: Finding | None = None) -> None:
        """Record a folder that was not listed completely."""
        self.unlisted.add((folder.rank, folder.relative))
        if finding:
            self.folder_problems[folder] = finding


def scan_directories(directories: Directories) -> Scan:
    """Stat every tool file. Each folder is entered once, even if several links lead to it.

    If one directory contains another one, files in the inner one belong only to the inner one. Otherwise a
    tool directory could place an upstream file into the directory of upstream files.
    """
    found = Scan()
    roots = {identity for root in directories.roots if (identity := _identity(root))}
    known: set[tuple[int, int]] = set()  # of all walks: a folder counts where it is found first
    for rank, root in enumerate(directories.roots):
        _Walk(Place(rank, "", root), directories, roots, known, found).run()
    return found


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class _Walk:
    """Walks one directory breadth first, and follows links to folders last.

    So a folder is always found at its own path, and not at the path of a link to it.
    """

    def __init__(
        self,
        root: Place,
        directories: Directories,
        roots: set[tuple[int, int]],
        known: set[tuple[int, int]],
        found: Scan,
    ) -> None:
        self._folders = deque([root])
        self._links: deque[Place] = deque()
        self._directories = directories
        self._entries_left = directories.max_entries
        self._roots = roots
        self._known = known
        self._found = found

    def run(self) -> None:
        while queue := self._folders or self._links:
            folder = queue.popleft()
            if self._entries_left < 0:  # only the folder where the limit was passed has a finding
                self._found.add_unlisted(folder)
            elif folder.relative.count("/") > MAX_FOLDER_DEPTH:
                message = f"found more than {MAX_FOLDER_DEPTH} nested folders; move this one up"
                self._found.add_unlisted(folder, Finding("too-deep", message))
            else:
                self._enter(folder)

    def _enter(self, folder: Place) -> None:
        # By its descriptor: the folder that is checked is the one that is listed, even if its path is replaced.
        try:
            descriptor = os.open(folder.path, _OPEN_FOLDER)
            try:
                self._list(folder, descriptor)
            finally:
                os.close(descriptor)
        except OSError as problem:
            self._found.add_unlisted(folder, Finding("unreadable", _reason(problem, _FOLDER_REASONS)))

    def _list(self, folder: Place, descriptor: int) -> None:
        status = os.fstat(descriptor)
        identity = status.st_dev, status.st_ino
        if identity in self._known or (folder.relative and identity in self._roots):
            return
        if folder.relative and _is_outside(_real_path(descriptor, folder.path), folder, self._directories):
            self._found.add_unlisted(folder, _OUTSIDE_FOLDER)
            return
        self._known.add(identity)
        with os.scandir(descriptor) as listing:
            is_complete = self._stat_entries(folder, listing)
        if is_complete:  # an event in any other folder could bring in files past the limit
            self._found.folders.add(Folder(folder.rank, folder.relative, *identity))

    def _stat_entries(self, folder: Place, listing: "Iterator[os.DirEntry[str]]") -> bool:
        """Stat the files of a folder; returns False if the limit of entries ended this early."""
        folders = []
        for entry in listing:
            self._entries_left -= 1  # hidden ones too: listing them takes the same time
            if self._entries_left < 0:
                message = f"found more than {self._directories.max_entries} files and folders up to this one"
                advice = "remove what is not a tool file"
                self._found.add_unlisted(folder, Finding("too-many-files", f"{message}; {advice}"))
                return False
            if entry.name.startswith("."):
                continue
            place = Place(folder.rank, folder.relative + entry.name, folder.directory)
            # A folder named a.yaml is not entered: as a tool file it gets an error.
            if not entry.name.endswith(".yaml") and _is_folder(entry):
                folders.append((entry.is_symlink(), place._replace(relative=f"{place.relative}/")))
            elif entry.name.lower().endswith((".yml", ".yaml")) and (file_stat := _stat(entry)):
                self._found.stats[place] = file_stat
        for is_link, place in sorted(folders):
            (self._links if is_link else self._folders).append(place)
        return True


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed
        return False


def stat_file(place: Place) -> FileStat | None:
    """A file's stat, or why it cannot be read; None if there is no file."""
    return _stat(Path(place.path))


def _stat(entry: "Path | os.DirEntry[str]") -> FileStat | None:
    try:
        checked = _checked(entry.stat())
        return checked if entry.name.endswith(".yaml") else _MISNAMED
    except FileNotFoundError as problem:  # a link that leads nowhere, or a file that was removed just now
        return Finding("unreadable", _reason(problem)) if entry.is_symlink() else None
    except OSError as problem:
        return Finding("unreadable", _reason(problem))


def read(place: Place, directories: Directories | None = None) -> tuple[FileStat, Content] | None:
    """A file's stat and bytes; None if it does not exist or changed while it was read. Never blocks on a pipe.

    Without ``directories`` the directory of ``place`` is the only one.
    """
    try:
        descriptor = os.open(place.path, _OPEN)
    except FileNotFoundError:
        return None
    except OSError as problem:
        unreadable = (
            OUT_OF_DESCRIPTORS if problem.errno in _EXHAUSTED else Finding("unreadable", _reason(problem))
        )
        return unreadable, unreadable
    try:
        found = _read(descriptor)
        if found and isinstance(found[1], bytes):
            path = _real_path(descriptor, place.path)
            if _is_not_its_kind(path, place) or _is_outside(path, place, directories):
                return found[0], OutsideBytes(found[1])
        return found
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> tuple[FileStat, Content] | None:
    before = _checked(os.fstat(descriptor))
    if isinstance(before, Finding):
        return before, before
    with os.fdopen(descriptor, "rb", closefd=False) as file:  # ``read`` still needs the descriptor
        data = file.read(MAX_BYTES + 1)
    if before != _checked(os.fstat(descriptor)):
        return None
    if len(data) != before.size:
        return before, Finding(
            "not-a-file",
            "found a file whose size is not the number of its bytes, such as one in /proc; copy it here",
        )
    return before, data


def watchable(folders: AbstractSet[Folder]) -> AbstractSet[Folder]:
    """The folders to watch, at most ``MAX_WATCHED_FOLDERS``.

    Directories take turns, and within a directory its top folders do. So a team with many folders does not
    use up the watches of the other teams.
    """
    if len(folders) <= MAX_WATCHED_FOLDERS:
        return folders
    ordered = sorted(folders, key=lambda folder: (folder.relative.count("/"), folder))
    by_top = _in_turns(ordered, lambda folder: (folder.rank, folder.relative.partition("/")[0]))
    return frozenset(_in_turns(by_top, lambda folder: folder.rank)[:MAX_WATCHED_FOLDERS])


def _in_turns(folders: Iterable[Folder], group: Callable[[Folder], object]) -> list[Folder]:
    """Round robin: the first of each group, then the second of each, and so on."""
    turns: Counter[object] = Counter()
    numbered = []
    for folder in folders:
        key = group(folder)
        numbered.append((turns[key], folder))
        turns[key] += 1
    return [folder for _, folder in sorted(numbered, key=itemgetter(0))]


def files_at(
    paths: Iterable[str], directories: Directories, folders: AbstractSet[Folder]
) -> set[Place] | None:
    """The tool files in ``folders`` at these absolute paths; None if a change there may affect other files."""
    entered = {(folder.rank, folder.relative) for folder in folders}
    roots = [(rank, root, f"{Path(root).absolute()}/") for rank, root in enumerate(directories.roots)]
    found = set()
    for path in paths:
        # If a directory contains another one, a path has a place in both. It belongs to the one that entered its folder.
        places = [Place(n, path.removeprefix(base), root) for n, root, base in roots if path.startswith(base)]
        known = [place for place in places if (place.rank, place.folder) in entered]
        if known and path.endswith(".yaml") and not known[0].is_hidden:
            found.add(known[0])
        elif not places or any(_affects_others(place, entered) for place in places):
            return None
    return found


def _affects_others(place: Place, entered: AbstractSet[tuple[int, str]]) -> bool:
    """Whether a change at ``place``, where no known tool file is, concerns a folder or link, now or before."""
    path = Path(place.path)
    if path.is_symlink():  # a hidden one counts: files may lead through it, as through ..data of a ConfigMap
        return "/." not in f"/{place.folder}"
    if path.exists():
        return not place.is_hidden and (path.is_dir() or path.suffix.lower() in {".yaml", ".yml"})
    return (place.rank, f"{place.relative}/") in entered  # it was a folder


def _is_not_its_kind(path: str, place: Place) -> bool:
    """Whether a link leads to a file that may hold secrets: an upstream file, ``.env``, ``.git/config``."""
    return not path.endswith(".yaml") or (path.endswith(".upstream.yaml") and not place.is_upstream)


def _is_outside(path: str, place: Place, directories: Directories | None) -> bool:
    """Whether ``path``, where links lead, belongs to another directory than ``place`` does, or to none."""
    if path == os.path.abspath(place.path):  # noqa: PTH100 - pathlib cannot remove /./ and /../
        return False
    own = os.path.realpath(place.directory)
    roots = {own, *map(os.path.realpath, directories.roots if directories else ())}
    enclosing = [root for root in roots if os.path.commonpath((root, path)) == root]
    return max(enclosing, key=len, default=None) != own  # of nested directories the innermost one counts


def _real_path(descriptor: int, path: str) -> str:
    """The path of an open file. Its original path may lead to another file by now."""
    try:
        # Of a file that was removed it ends with " (deleted)" (proc(5)), so that file counts as outside.
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - pathlib would return a Path
    except OSError:  # not Linux
        return os.path.realpath(path)


def _checked(status: os.stat_result) -> FileStat:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS[stat.S_IFMT(status.st_mode)]
        return Finding("not-a-file", f"found {kind}, expected a regular file; rename or remove it")
    if status.st_size > MAX_BYTES:
        message = f"found {status.st_size} bytes, expected at most {MAX_BYTES}; split the file"
        return Finding("too-large", message)
    return Signature(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _reason(problem: OSError, reasons: dict[int, str] = _REASONS) -> str:
    code = problem.errno or 0
    return reasons.get(
        code, f"this process cannot read it ({errno.errorcode.get(code, code)}); check the disk"
    )
