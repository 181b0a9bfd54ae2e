"""What one load came to: every file, what is wrong with it, and the tools that serve."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, TypeAlias

from bridge.diagnostics import Diagnostic, Finding, first_errors
from bridge.registry import Snapshot
from bridge.secrets import Upstream
from bridge.spec import ToolSpec, UpstreamSpec
from bridge.tool.compiler import Tool
from bridge.toolfiles.check.parsed import Told, Words
from bridge.toolfiles.names import Names
from bridge.toolfiles.watch.scan import Content, Place

State: TypeAlias = Literal["good", "kept", "broken", "blocked", "waiting", "disabled", "ignored"]
"""kept: broken, and its last good tool serves on; blocked: its upstream file is broken; waiting: a secret
is not there; ignored: misnamed."""


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

    ``names`` are those that tools answer to, aliases too. ``noted`` are the tool files that are not just
    good: in another state, or with something to say.
    """

    snapshot: Snapshot = field(default_factory=Snapshot)
    tools: Mapping[Place, ToolFile] = field(default_factory=dict)
    upstreams: Mapping[Place, UpstreamFile] = field(default_factory=dict)
    noted: Mapping[Place, ToolFile] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    blind: Told = ()

    @property
    def files(self) -> list[ToolFile | UpstreamFile]:
        """Every file, in order of place."""
        return _in_order(self.tools, self.upstreams)

    @property
    def kept(self) -> list[ToolFile | UpstreamFile]:
        """The broken files whose last good ones serve on."""
        return [file for file in _in_order(self.noted, self.upstreams) if file.state == "kept"]

    @property
    def diagnostics(self) -> Told:
        """All that is wrong, in order of file, line and column."""
        files = _in_order(self.noted, self.upstreams)
        told = [sorted(file.diagnostics, key=_mark) for file in files]
        return (*self.blind, *chain.from_iterable(told))

    @property
    def broken(self) -> tuple[str, ...]:
        """The place of the first error in each broken file, as ``path:line:column``."""
        return first_errors(self.diagnostics)

    def content(self, place: Place) -> Content | None:
        """What was in a file; None if there was no such file."""
        file = self.tools.get(place) or self.upstreams.get(place)
        return file.words.content if file else None

    def last_good(self, place: Place) -> bytes | None:
        """The bytes of a file when it was last right."""
        file = self.tools.get(place) or self.upstreams.get(place)
        content = file.good.content if file and file.good else None
        return content if isinstance(content, bytes) else None


def _in_order(
    tools: Mapping[Place, ToolFile], upstreams: Mapping[Place, UpstreamFile]
) -> list[ToolFile | UpstreamFile]:
    return sorted(chain(tools.values(), upstreams.values()), key=lambda file: file.place)


def _mark(diagnostic: Diagnostic) -> tuple[int, int]:
    return diagnostic.mark.line, diagnostic.mark.column
