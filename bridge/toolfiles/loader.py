"""Bytes of files become the tools that are served, and all that is wrong with them.

A file goes through three stages. What a stage makes stays the very object while what it is made of does:

========  ==========================================  ================================
words     a spec, or what is wrong with the file      its bytes
compiled  a tool, or what is wrong with the spec      the spec and its upstream
claims    which tools serve: a name has one holder    all tools, and who held it last
========  ==========================================  ================================
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal, NamedTuple, TypeAlias

from bridge.diagnostics import Diagnostic, Finding, InvalidSpec, Route, did_you_mean
from bridge.registry import Snapshot
from bridge.secrets import Sources, Upstream
from bridge.spec import ToolSpec, UpstreamSpec
from bridge.tool.compiler import Tool, compile_tool, compile_upstream
from bridge.toolfiles.files import Content, Directories, Place
from bridge.toolfiles.settling import Settling
from bridge.toolfiles.words import Told, Words, at_top, locate, tool_words, upstream_words

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


def load_once(directories: Directories, sources: Sources) -> Loaded:
    """Read the directories as they are now: what ``check``, ``list`` and ``call`` see."""
    settling = Settling(directories, lambda _: None, poll=0)
    settling.look_at_all(now=0)
    return load(directories, settling.contents, sources, blind=settling.blind)


def load(
    directories: Directories,
    contents: Mapping[Place, Content],
    sources: Sources,
    previous: Loaded | None = None,
    *,
    keep: bool = True,
    blind: Mapping[Place, str] | None = None,
) -> Loaded:
    """What ``contents`` come to, after ``previous``, which is answered itself if nothing differs.

    ``keep``: whether a broken file's last good one serves on. Touches no file but for secrets, and to
    see whether one that is wrong may be quoted.
    """
    before = previous or Loaded()
    moved = [place for place, content in contents.items() if before.contents.get(place) != content]
    gone = [place for place in before.contents if place not in contents]
    unseen = tuple(at_top(place, Finding("unreadable", why)) for place, why in sorted((blind or {}).items()))
    upstreams = _upstream_files(directories, contents, moved, sources, before.upstreams, keep=keep)
    if not moved and not gone and (upstreams, unseen) == (before.upstreams, before.blind):
        return before
    claims = _Claims(directories, upstreams, sources, before, keep=keep)
    tools = claims.tool_files(contents, moved, gone)
    snapshot = Snapshot(file.tool for file in tools.values() if file.tool)
    return Loaded(snapshot, dict(contents), tools, upstreams, claims.names, unseen)


# --- upstreams ---


def _upstream_files(
    directories: Directories,
    contents: Mapping[Place, Content],
    moved: Iterable[Place],
    sources: Sources,
    before: Mapping[Place, UpstreamFile],
    *,
    keep: bool,
) -> dict[Place, UpstreamFile]:
    places = sorted({place for place in chain(before, moved) if place in contents and place.is_upstream})
    counting = [place for place in places if directories.upstreams in {None, place.directory}]
    holders: dict[str, Place] = {}
    for place in sorted(counting, key=lambda place: not (place in before and before[place].holds)):
        holders.setdefault(place.stem, place)
    files = {}
    for place in places:
        old = before.get(place)
        words = old.words if old and old.words.content == contents[place] else None
        words = words or upstream_words(place, contents[place])
        if place not in counting:
            message = f"upstream files count in {directories.upstreams} alone; move it there"
            finding = Finding("misplaced-upstream", message)
        elif holders[place.stem] != place:
            message = (
                f"the upstream {place.stem} is {holders[place.stem].shown} already; rename one of the two"
            )
            finding = Finding("duplicate-upstream", message)
        else:
            files[place] = _upstream_file(place, words, old, sources, keep=keep)
            continue
        files[place] = UpstreamFile(place, "broken", words.diagnostics + locate(place, words, finding), words)
    return files


def _upstream_file(
    place: Place, words: Words[UpstreamSpec], old: UpstreamFile | None, sources: Sources, *, keep: bool
) -> UpstreamFile:
    state: State
    upstream, findings = _resolve(place.stem, words, sources)
    codes = {finding.code for finding in findings if finding.severity == "error"}
    unset = upstream is None and codes == {"unset-secret"}
    if upstream or unset:
        good: Words[UpstreamSpec] | None = words
        state = "good" if upstream else "waiting"
    else:
        good = old.good if old and keep else None
        upstream, _ = _resolve(place.stem, good, sources)
        state = "kept" if upstream else "broken"
    if old and old.upstream == upstream:
        upstream = old.upstream
    told = [replace(f, severity="warning") if f.code == "unset-secret" else f for f in findings]
    return UpstreamFile(
        place,
        state,
        words.diagnostics + locate(place, words, *told),
        words,
        holds=True,
        good=good,
        upstream=upstream,
        stand_in=_stand_in(place.stem, words.spec) if unset and words.spec else None,
    )


def _resolve(
    name: str, words: Words[UpstreamSpec] | None, sources: Sources
) -> tuple[Upstream | None, tuple[Finding, ...]]:
    if words is None or words.spec is None:
        return None, ()
    try:
        upstream = compile_upstream(name, words.spec, sources)
    except InvalidSpec as problem:
        return None, problem.findings
    return upstream, upstream.warnings


def _stand_in(name: str, spec: UpstreamSpec) -> Upstream:
    """An upstream to check tools against, and never to send to (RFC 6761, .invalid)."""
    return Upstream(name, spec.model_copy(update={"base_url": "http://unset.invalid"}))


# --- tools ---


class _Candidate(NamedTuple):
    """A tool file on its way to the claims."""

    place: Place
    words: Words[ToolSpec]
    compiled: Compiled | None
    old: ToolFile | None


class _Claims:
    """Decides which tools serve: in each round, those first that ask for no more than they hold."""

    def __init__(
        self,
        directories: Directories,
        upstreams: Mapping[Place, UpstreamFile],
        sources: Sources,
        before: Loaded,
        *,
        keep: bool,
    ) -> None:
        self.names: dict[str, Place] = {}
        self._directories = directories
        self._upstreams = upstreams
        self._holders = {file.place.stem: file for file in upstreams.values() if file.holds}
        self._sources = sources
        self._standings: dict[str, Standing] = {}
        self._before = before
        self._keep = keep

    def tool_files(
        self, contents: Mapping[Place, Content], moved: Iterable[Place], gone: Iterable[Place]
    ) -> dict[Place, ToolFile]:
        """Every tool file; what is right, has not moved and sends to the same stays untouched.

        It holds all of its names, so it would have come first anyway.
        """
        before = self._before
        stay: dict[Place, ToolFile] = {}
        claiming: Iterable[Place] = contents
        if self._upstreams == before.upstreams:
            stay, self.names = dict(before.tools), dict(before.names)
            claiming = {place for place, file in stay.items() if file.state != "good"}
            claiming = claiming.union(moved).difference(gone)
            for place in claiming.union(gone):
                file = stay.pop(place, None)
                for name in _names(file.tool) if file and file.tool else ():
                    del self.names[name]
        places = sorted(place for place in claiming if not place.is_upstream)
        candidates = [self._candidate(place, contents[place]) for place in places]
        claimed = {each.place: self._claim(each) for each in sorted(candidates, key=self._rank)}
        return stay | claimed

    def _candidate(self, place: Place, content: Content) -> _Candidate:
        old = self._before.tools.get(place)
        words = old.words if old and old.words.content == content else tool_words(place, content)
        compiled = None
        if words.spec and not words.disabled:
            compiled = self._compiled(place, words, old.compiled if old and old.words is words else None)
        return _Candidate(place, words, compiled, old)

    def _compiled(self, place: Place, words: Words[ToolSpec], old: Compiled | None) -> Compiled:
        assert words.spec
        standing = self._standing(place, words.spec.upstream)
        if old and old.standing == standing:
            return old
        if standing.finding:
            return Compiled(standing, None, locate(place, words, standing.finding))
        if not standing.usable and standing.upstream is None:
            return Compiled(standing, None, ())
        try:
            tool, findings = compile_tool(place.stem, words.spec, standing.upstream, self._sources)
        except InvalidSpec as problem:
            return Compiled(standing, None, locate(place, words, *problem.findings))
        return Compiled(standing, tool if standing.usable else None, locate(place, words, *findings))

    def _standing(self, place: Place, name: str | None) -> Standing:
        if name is not None:
            if name not in self._standings:
                self._standings[name] = self._named(name)
            return self._standings[name]
        if self._directories.upstreams in {None, place.directory}:
            return Standing(None, usable=True)
        message = f"the key upstream is missing; name one that lies in {self._directories.upstreams}"
        return Standing(None, usable=False, finding=Finding("missing-key", message))

    def _named(self, name: str) -> Standing:
        file = self._holders.get(name)
        if file:
            return Standing(file.upstream or file.stand_in, usable=file.upstream is not None)
        hint = did_you_mean(name.removesuffix(".yaml").removesuffix(".upstream"), self._holders)
        hint = hint or "; add its file, NAME.upstream.yaml"
        message = f"there is no upstream {json.dumps(name, ensure_ascii=False)}{hint}"
        return Standing(None, usable=False, finding=Finding("unknown-upstream", message, ("upstream",)))

    def _rank(self, candidate: _Candidate) -> int:
        """0 for a file that holds every name that it asks for, 1 for one that holds its tool's name."""
        compiled, old = candidate.compiled, candidate.old
        tool = (compiled and compiled.tool) or (old and old.tool)
        held = [self._before.names.get(name) == candidate.place for name in _names(tool)] if tool else [False]
        return 0 if all(held) else 2 - held[0]

    def _claim(self, candidate: _Candidate) -> ToolFile:
        place, words, compiled, old = candidate.place, candidate.words, candidate.compiled, candidate.old
        told = words.diagnostics + (compiled.diagnostics if compiled else ())
        tool, clash = self._take(place, compiled)
        if tool:
            return ToolFile(place, "good", told, words, compiled, words, compiled, tool)
        told += locate(place, words, *clash)
        if words.disabled:
            return ToolFile(place, "disabled", told, words)
        if not any(diagnostic.severity == "error" for diagnostic in told):
            state: State = "waiting" if compiled else "ignored"
            return ToolFile(place, state, told, words, compiled, words, compiled)
        good = old.good if old and self._keep else None
        kept = self._compiled(place, good, old.kept) if good and old else None
        tool, _ = self._take(place, kept)
        return ToolFile(place, "kept" if tool else "broken", told, words, compiled, good, kept, tool)

    def _take(self, place: Place, compiled: Compiled | None) -> tuple[Tool | None, tuple[Finding, ...]]:
        """The tool with its names taken; none, and why, if one of them has another holder."""
        tool = compiled.tool if compiled else None
        if tool is None:
            return None, ()
        for name in _names(tool):
            if name in self.names:
                message = f"the name {name} is held by {self.names[name].shown}; rename one of the two"
                return None, (Finding("duplicate-name", message, _route(tool, name)),)
        self.names |= dict.fromkeys(_names(tool), place)
        return tool, ()


def _names(tool: Tool) -> tuple[str, ...]:
    return (tool.name, *tool.spec.aliases)


def _route(tool: Tool, name: str) -> Route:
    """Where the file gives the name; nowhere, if its own name does."""
    if name != tool.name:
        return ("aliases", tool.spec.aliases.index(name))
    return ("name",) if tool.spec.name else ()
