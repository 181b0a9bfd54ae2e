"""How files, folders and directories are identified. Nothing here reads a file."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from bridge import view
from bridge.diagnostics import Finding


@dataclass(frozen=True, slots=True)
class Directories:
    """Where to find files. If ``upstreams`` is given, upstream files are valid only there.

    A scan visits at most ``max_entries`` files and folders of each directory, at all depths together.
    ``owners`` reserve names of tools for the files of one folder each.
    """

    tools: tuple[str, ...]
    upstreams: str | None = None
    owners: "tuple[Owner, ...]" = ()
    max_entries: int = 20_000

    @property
    def roots(self) -> tuple[str, ...]:
        """All directories; the index of a directory is the rank of its places."""
        if self.upstreams is None or self.upstreams in self.tools:
            return self.tools
        return (*self.tools, self.upstreams)

    def paths(self, folders: "Iterable[Folder]") -> list[Path]:
        """The absolute paths of ``folders``."""
        roots = [Path(root).absolute() for root in self.roots]
        return [roots[folder.rank] / folder.relative for folder in folders]


class Place(NamedTuple):
    """Identifies a file: its directory, the index of that in ``Directories.roots``, and the path below it."""

    rank: int
    relative: str
    directory: str

    @property
    def path(self) -> str:
        return f"{self.directory.rstrip('/')}/{self.relative}"

    @property
    def shown(self) -> str:
        """The path for messages: one line, without control characters."""
        text = os.fsencode(self.path).decode(errors="replace")  # a name that is not UTF-8 has lone surrogates
        text = text.rstrip("/") or "/"  # places of folders end with a slash
        if text.isprintable():
            return text
        return "".join(character if character.isprintable() else "\ufffd" for character in text)

    @property
    def is_upstream(self) -> bool:
        return self.relative.endswith(".upstream.yaml")

    @property
    def folder(self) -> str:
        """The folder of the file, like ``Folder.relative``: empty, or with a slash at its end."""
        return self.relative[: self.relative.rfind("/") + 1]

    @property
    def is_hidden(self) -> bool:
        """Whether a part of the path begins with a dot. Hidden folders are not entered, hidden files not read."""
        return "/." in f"/{self.relative}"

    @property
    def stem(self) -> str:
        """The file's name without its folder and suffix: the default name of its tool or upstream."""
        name = self.relative.removeprefix(self.folder)
        return name.removesuffix(".upstream.yaml" if self.is_upstream else ".yaml")


class Owner(NamedTuple):
    """Reserves names of tools for files in one folder; ``pattern`` ignores case.

    ``folder`` is relative to ``directory``, or empty for all of it.
    """

    pattern: str
    directory: str
    folder: str = ""

    @property
    def shown(self) -> str:
        """The folder's path for messages."""
        return os.path.join(self.directory, self.folder) if self.folder else self.directory  # noqa: PTH118 - as written

    def matches(self, name: str) -> bool:
        """Whether a tool's name is reserved."""
        return view.matches(self.pattern.lower(), name.lower())

    def forbids(self, name: str, place: Place) -> bool:
        """Whether the file at ``place`` may not use ``name``."""
        return self.matches(name) and not self.contains(place)

    def contains(self, place: Place) -> bool:
        """Whether a file is in the folder."""
        is_within = not self.folder or place.relative.startswith(f"{self.folder}/")
        return is_within and place.directory == self.directory


class Signature(NamedTuple):
    """Differs after every change of a file; links are followed, times are in nanoseconds."""

    device: int
    inode: int  # another one after an editor or rsync renamed a new file over the old one
    size: int
    modified: int
    changed: int  # another one after each write, even if a program sets ``modified`` back (utimensat(2))


FileStat: TypeAlias = Signature | Finding
"""A file's signature, or why it cannot be read."""

Content: TypeAlias = bytes | Finding
"""A file's bytes, or why it cannot be read."""


class OutsideBytes(bytes):
    """The bytes of a file outside its directory, or of another kind, behind a link. No message quotes them."""

    __slots__ = ()


class Folder(NamedTuple):
    """A folder that a scan listed completely; ``relative`` is empty, or ends with a slash."""

    rank: int
    relative: str
    device: int
    inode: int
