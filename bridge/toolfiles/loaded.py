"""The result of one load: the state of every file, its diagnostics, and the tools that are served."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, TypeAlias

from bridge.diagnostics import Diagnostic, Finding, first_errors
from bridge.registry import Snapshot
from bridge.resolved_upstream import Upstream
from bridge.spec import ToolSpec, UpstreamSpec
from bridge.tool.compiler import Tool
from bridge.toolfiles.check.parsed import Diagnostics, ParsedFile
from bridge.toolfiles.names import NameTable
from bridge.toolfiles.place import Content, Place

State: TypeAlias = Literal["good", "kept", "broken", "blocked", "waiting", "disabled", "ignored"]
"""What became of a file:

============  =======================================================
good          valid, and served
kept          has errors; its last good version stays served
broken        has errors; nothing is served
blocked       valid, but its upstream file is broken
waiting       valid, but a secret is not set
disabled      ``enabled: false``
ignored       only a warning about its file name
============  =======================================================
"""


@dataclass(frozen=True, slots=True)
class UpstreamRef:
    """What the key ``upstream`` of a tool refers to.

    If ``upstream`` is not usable, tools are only checked against it: a secret is not set.
    """

    upstream: Upstream | None
    is_usable: bool
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled spec; ``tool`` is None if there are errors or the upstream is not usable."""

    upstream_ref: UpstreamRef
    tool: Tool | None
    diagnostics: Diagnostics


@dataclass(frozen=True, slots=True)
class UpstreamFile:
    """One upstream file; tools send requests to ``upstream``.

    ``stand_in`` replaces ``upstream`` while a secret is not set: tools are checked against it, and never send to it.
    ``has_name``: the upstream's name belongs to this file, and not to another one. ``good`` is its last good version.
    """

    place: Place
    state: State
    diagnostics: Diagnostics
    parsed: ParsedFile[UpstreamSpec]
    has_name: bool = False
    good: ParsedFile[UpstreamSpec] | None = None
    upstream: Upstream | None = None
    stand_in: Upstream | None = None


@dataclass(frozen=True, slots=True)
class ToolFile:
    """One tool file, and the tool that it serves.

    ``good`` is its last good version, and ``good_compiled`` that version compiled.
    """

    place: Place
    state: State
    diagnostics: Diagnostics
    parsed: ParsedFile[ToolSpec]
    compiled: Compiled | None = None
    good: ParsedFile[ToolSpec] | None = None
    good_compiled: Compiled | None = None
    tool: Tool | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """One load: the snapshot to serve, and every file.

    ``names`` holds names and aliases. ``flagged`` are the tool files that are not good or have diagnostics.
    ``folder_diagnostics`` are about folders that could not be listed completely.
    """

    snapshot: Snapshot = field(default_factory=Snapshot)
    tools: Mapping[Place, ToolFile] = field(default_factory=dict)
    upstreams: Mapping[Place, UpstreamFile] = field(default_factory=dict)
    flagged: Mapping[Place, ToolFile] = field(default_factory=dict)
    names: NameTable = field(default_factory=NameTable)
    folder_diagnostics: Diagnostics = ()

    @property
    def files(self) -> list[ToolFile | UpstreamFile]:
        """Every file, sorted by place."""
        return _in_order(self.tools, self.upstreams)

    @property
    def kept(self) -> list[ToolFile | UpstreamFile]:
        """The files in state ``kept``, sorted by place."""
        # Tool files in this state are flagged, and these are few.
        return [file for file in _in_order(self.flagged, self.upstreams) if file.state == "kept"]

    @property
    def diagnostics(self) -> Diagnostics:
        """All diagnostics, sorted by file, line and column."""
        files = _in_order(self.flagged, self.upstreams)
        by_file = [sorted(file.diagnostics, key=_mark) for file in files]
        return (*self.folder_diagnostics, *chain.from_iterable(by_file))

    @property
    def broken(self) -> tuple[str, ...]:
        """The place of the first error in each broken file, as ``path:line:column``."""
        return first_errors(self.diagnostics)

    def content(self, place: Place) -> Content | None:
        """The content of a file when it was loaded; None if there was no such file."""
        file = self.tools.get(place) or self.upstreams.get(place)
        return file.parsed.content if file else None

    def last_good(self, place: Place) -> bytes | None:
        """The bytes of a file when it was last good."""
        file = self.tools.get(place) or self.upstreams.get(place)
        content = file.good.content if file and file.good else None
        return content if isinstance(content, bytes) else None


def _in_order(
    tools: Mapping[Place, ToolFile], upstreams: Mapping[Place, UpstreamFile]
) -> list[ToolFile | UpstreamFile]:
    return sorted(chain(tools.values(), upstreams.values()), key=lambda file: file.place)


def _mark(diagnostic: Diagnostic) -> tuple[int, int]:
    return diagnostic.mark.line, diagnostic.mark.column
