"""What one load came to: every file, what is wrong with it, and the tools that serve."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, TypeAlias

from bridge.diagnostics import Diagnostic, Finding
from bridge.registry import Snapshot
from bridge.secrets import Upstream
from bridge.spec import ToolSpec, UpstreamSpec
from bridge.tool.compiler import Tool
from bridge.toolfiles.files import Content, Place
from bridge.toolfiles.words import Told, Words

State: TypeAlias = Literal["good", "kept", "broken", "waiting", "disabled", "ignored"]
"""kept: broken, and its last good tool serves on; waiting: its upstream is not ready; ignored: misnamed."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the word ``upstream`` of a tool comes to: to send to, only to check against, or nothing."""

    upstream: Upstream | None
    usable: bool
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a spec comes to; ``tool`` is None where something is wrong or the upstream is not usable."""

    standing: Standing
    tool: Tool | None
    diagnostics: Told


@dataclass(frozen=True, slots=True)
class UpstreamFile:
    """One upstream file, and what tools send to; to ``stand_in`` none does.

    Tools are checked against it while a secret is not set. ``good`` are the last right words.
    """

    place: Place
    state: State
    diagnostics: Told
    words: Words[UpstreamSpec]
    holds: bool = False
    good: Words[UpstreamSpec] | None = None
    upstream: Upstream | None = None
    stand_in: Upstream | None = None


@dataclass(frozen=True, slots=True)
class ToolFile:
    """One tool file, and the tool that serves of it.

    ``good`` are the last right words, ``kept`` is what they come to.
    """

    place: Place
    state: State
    diagnostics: Told
    words: Words[ToolSpec]
    compiled: Compiled | None = None
    good: Words[ToolSpec] | None = None
    kept: Compiled | None = None
    tool: Tool | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """One load: what is served, and every file with what is wrong with it.

    ``names`` are the places of the tools that answer to them, aliases too.
    """

    snapshot: Snapshot = field(default_factory=Snapshot)
    contents: Mapping[Place, Content] = field(default_factory=dict)
    tools: Mapping[Place, ToolFile] = field(default_factory=dict)
    upstreams: Mapping[Place, UpstreamFile] = field(default_factory=dict)
    names: Mapping[str, Place] = field(default_factory=dict)
    blind: Told = ()

    @property
    def files(self) -> list[ToolFile | UpstreamFile]:
        """Every file, in order of place."""
        return sorted(chain(self.tools.values(), self.upstreams.values()), key=lambda file: file.place)

    @property
    def diagnostics(self) -> Told:
        """All that is wrong, in order of file, line and column."""
        files: list[ToolFile | UpstreamFile] = [*self.tools.values(), *self.upstreams.values()]
        files = [file for file in files if file.diagnostics]
        told = [sorted(file.diagnostics, key=_mark) for file in sorted(files, key=lambda file: file.place)]
        return (*self.blind, *chain.from_iterable(told))

    @property
    def broken(self) -> tuple[str, ...]:
        """The place of the first error in each broken file, as ``path:line:column``."""
        firsts: dict[str, Diagnostic] = {}
        for diagnostic in self.diagnostics:
            if diagnostic.severity == "error":
                firsts.setdefault(diagnostic.path, diagnostic)
        return tuple(f"{path}:{first.mark.line}:{first.mark.column}" for path, first in firsts.items())

    def last_good(self, place: Place) -> bytes | None:
        """The bytes of a file when it was last right."""
        file = self.tools.get(place) or self.upstreams.get(place)
        content = file.good.content if file and file.good else None
        return content if isinstance(content, bytes) else None


def _mark(diagnostic: Diagnostic) -> tuple[int, int]:
    return diagnostic.mark.line, diagnostic.mark.column
