"""Which files in the tools directories count, and how to look at them and read them without surprise."""

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
from typing import Final, NamedTuple, TypeAlias

from bridge.diagnostics import Finding
from bridge.settingsfile import matches
from bridge.toolfiles.text.document import MAX_BYTES

MAX_FOLDERS: Final = 16
"""Folders within each other."""
MAX_WATCHED: Final = 256
"""Folders that are watched for events: to set a watch takes some 40 µs, in which nothing else runs."""

_OPEN: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_EXHAUSTED: Final = dict.fromkeys(
    (errno.EMFILE, errno.ENFILE),
    "this process may not open more files now; raise its limit (ulimit -n)",
)
_REASONS: Final = {
    errno.EACCES: "this process may not read it; mend its permissions",
    errno.ELOOP: "its link leads back to itself; mend the link",
    errno.ENOENT: "its link leads to nothing; mend the link",
    **_EXHAUSTED,
}
_FOLDER_REASONS: Final = {
    errno.EACCES: "this process may not list the folder; mend its permissions",
    errno.ENOENT: "found no such folder; bring it back",
    errno.ENOTDIR: "found no folder; name another",
    **_EXHAUSTED,
}
OUT_OF_DESCRIPTORS: Final = Finding("unreadable", _EXHAUSTED[errno.EMFILE])
"""Of a file that this process cannot open just now, whatever is in it."""
_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_OUTSIDE: Final = Finding(
    "outside-folder",
    "found a link to a folder outside the directory, which is not entered; name that folder as a directory, too",
)
_MISNAMED: Final = Finding(
    "rename", "only files whose names end with .yaml are read; rename it", severity="warning"
)


@dataclass(frozen=True, slots=True)
class Directories:
    """Where files are looked for; with ``upstreams``, upstream files count there alone.

    Of each directory at most ``max_entries`` files and folders are looked at, those in its folders included.
    ``owners`` keep names of tools for the files of one folder each.
    """

    tools: tuple[str, ...]
    upstreams: str | None = None
    owners: "tuple[Owner, ...]" = ()
    max_entries: int = 20_000

    @property
    def roots(self) -> tuple[str, ...]:
        """All directories, in the order in which their files come first."""
        if self.upstreams is None or self.upstreams in self.tools:
            return self.tools
        return (*self.tools, self.upstreams)

    def paths(self, folders: "Iterable[Folder]") -> list[Path]:
        """The absolute paths of folders that were entered."""
        roots = [Path(root).absolute() for root in self.roots]
        return [roots[folder.rank] / folder.relative for folder in folders]


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


class Owner(NamedTuple):
    """Names of tools, as a pattern of views, that only files in one folder may have.

    ``folder`` is one of every tools directory, or with ``directory`` that tools directory itself.
    """

    pattern: str
    folder: str
    directory: str | None = None

    def keeps(self, name: str, place: Place) -> bool:
        """Whether it keeps a name from the file at a place."""
        return matches(self.pattern, name) and not self.has(place)

    def has(self, place: Place) -> bool:
        """Whether a file is in the folder."""
        if self.directory is not None:
            return place.directory == self.directory
        return place.relative.startswith(f"{self.folder}/")


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


class OutsideBytes(bytes):
    """What is in a file that a link leads to, outside its directory or of another kind: no message quotes it."""

    __slots__ = ()


class Folder(NamedTuple):
    """A folder that was entered; ``relative`` is empty, or ends with a slash."""

    rank: int
    relative: str
    device: int
    inode: int


@dataclass(slots=True)
class Survey:
    """One look at everything. ``blind`` are the folders that could not be listed to their end, with the reason.

    ``unlisted`` are those folders and all that were left out because the directory holds too much, as in
    ``Folder``: rank and relative path.
    """

    looks: dict[Place, Look] = field(default_factory=dict)
    folders: set[Folder] = field(default_factory=set)
    blind: dict[Place, Finding] = field(default_factory=dict)
    unlisted: set[tuple[int, str]] = field(default_factory=set)

    def sees(self, place: Place) -> bool:
        """Whether a file that is not in ``looks`` is really not there."""
        parts = place.folder.split("/")[:-1]
        above = accumulate((f"{part}/" for part in parts), initial="")
        return not any((place.rank, folder) in self.unlisted for folder in above)

    def miss(self, folder: Place, finding: Finding | None = None) -> None:
        """Note a folder that was not listed to its end."""
        self.unlisted.add((folder.rank, folder.relative))
        if finding:
            self.blind[folder] = finding


def survey(directories: Directories) -> Survey:
    """Look at every file; each folder is entered once, however many links lead to it.

    A directory that lies within another one is a directory of its own: its files belong to it alone, so that
    no upstream file gets into the directory of upstream files by its folder.
    """
    found = Survey()
    roots = {identity for root in directories.roots if (identity := _identity(root))}
    known: set[tuple[int, int]] = set()
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
    """Enters the folders of one directory, those near its top first, and those behind links last.

    So a link never takes away the folder that it leads to from its own place.
    """

    def __init__(
        self,
        root: Place,
        directories: Directories,
        roots: set[tuple[int, int]],
        known: set[tuple[int, int]],
        found: Survey,
    ) -> None:
        self._folders = deque([root])
        self._links: deque[Place] = deque()
        self._directories = directories
        self._room = directories.max_entries
        self._roots = roots
        self._known = known
        self._found = found

    def run(self) -> None:
        while waiting := self._folders or self._links:
            folder = waiting.popleft()
            if self._room < 0:
                self._found.miss(folder)
            elif folder.relative.count("/") > MAX_FOLDERS:
                message = f"found more than {MAX_FOLDERS} folders within each other; move this one up"
                self._found.miss(folder, Finding("too-deep", message))
            else:
                self._enter(folder)

    def _enter(self, folder: Place) -> None:
        try:
            descriptor = os.open(folder.path, _OPEN_FOLDER)
            try:
                self._list(folder, descriptor)
            finally:
                os.close(descriptor)
        except OSError as problem:
            self._found.miss(folder, Finding("unreadable", _reason(problem, _FOLDER_REASONS)))

    def _list(self, folder: Place, descriptor: int) -> None:
        status = os.fstat(descriptor)
        identity = status.st_dev, status.st_ino
        if identity in self._known or (folder.relative and identity in self._roots):
            return
        if folder.relative and _is_outside(_real_path(descriptor, folder.path), folder, self._directories):
            self._found.miss(folder, _OUTSIDE)
            return
        self._known.add(identity)
        with os.scandir(descriptor) as listing:
            is_whole = self._take(folder, listing)
        if is_whole:  # else events could bring in what the bound leaves out
            self._found.folders.add(Folder(folder.rank, folder.relative, *identity))

    def _take(self, folder: Place, listing: "Iterator[os.DirEntry[str]]") -> bool:
        """Look at the files of a folder; whether all of them were."""
        folders = []
        for entry in listing:
            self._room -= 1
            if self._room < 0:
                message = f"found more than {self._directories.max_entries} files and folders up to this one"
                advice = "take out what is no tool file"
                self._found.miss(folder, Finding("too-many-files", f"{message}; {advice}"))
                return False
            if entry.name.startswith("."):
                continue
            place = Place(folder.rank, folder.relative + entry.name, folder.directory)
            if not entry.name.endswith(".yaml") and _is_folder(entry):
                folders.append((entry.is_symlink(), place._replace(relative=f"{place.relative}/")))
            elif entry.name.lower().endswith((".yml", ".yaml")) and (seen := _look(entry)):
                self._found.looks[place] = seen
        for is_link, place in sorted(folders):
            (self._links if is_link else self._folders).append(place)
        return True


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


def read(place: Place, directories: Directories | None = None) -> tuple[Look, Content] | None:
    """A file as it is now; None where it is gone, or moved while it was being read. Never blocks.

    Without ``directories`` its own directory is the only one.
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
            if _is_of_another_kind(path, place) or _is_outside(path, place, directories):
                return found[0], OutsideBytes(found[1])
        return found
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


def watchable(folders: AbstractSet[Folder]) -> AbstractSet[Folder]:
    """The folders to watch, at most ``MAX_WATCHED``: directories take turns, and in each the folders at its top do.

    So one team's many folders leave the others theirs.
    """
    if len(folders) <= MAX_WATCHED:
        return folders
    ordered = sorted(folders, key=lambda folder: (folder.relative.count("/"), folder))
    of_tops = _in_turns(ordered, lambda folder: (folder.rank, folder.relative.partition("/")[0]))
    return frozenset(_in_turns(of_tops, lambda folder: folder.rank)[:MAX_WATCHED])


def _in_turns(folders: Iterable[Folder], group: Callable[[Folder], object]) -> list[Folder]:
    """The first of each group, then the second of each, and so on."""
    turns: Counter[object] = Counter()
    numbered = []
    for folder in folders:
        key = group(folder)
        numbered.append((turns[key], folder))
        turns[key] += 1
    return [folder for _, folder in sorted(numbered, key=itemgetter(0))]


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


def _is_of_another_kind(path: str, place: Place) -> bool:
    """Whether a link leads from a tool file to what may hold secrets: an upstream file, ``.env``, ``.git/config``."""
    return not path.endswith(".yaml") or (path.endswith(".upstream.yaml") and not place.is_upstream)


def _is_outside(path: str, place: Place, directories: Directories | None) -> bool:
    """Whether links lead out of a place's directory to ``path``, perhaps into a directory that lies within it."""
    if path == os.path.abspath(place.path):  # noqa: PTH100 - pathlib has nothing that takes /./ and /../ out
        return False
    own = os.path.realpath(place.directory)
    roots = {own, *map(os.path.realpath, directories.roots if directories else ())}
    around = [root for root in roots if os.path.commonpath((root, path)) == root]
    return max(around, key=len, default=None) != own


def _real_path(descriptor: int, path: str) -> str:
    """Where an open file lies; what its path leads to by now may be another one."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - pathlib takes no text
    except OSError:  # no Linux
        return os.path.realpath(path)


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
