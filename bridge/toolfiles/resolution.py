"""Which tool files serve: each is compiled against its upstream, and asks for its names.

Who gets a name:

=========================================  ===================================================
a file holds it and still claims it        the holder
one file claims it                         that file
several, and it is the file name of one    that file
several, and it is the file name of none   none of them, so that none takes a name by its path
or of several
=========================================  ===================================================

A file that is wrong, or waits for its upstream, claims its names all the same. One whose names belong into
another folder (``owners`` of the settings file) claims none.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from bridge.diagnostics import Finding, InvalidSpec, Route, did_you_mean
from bridge.secrets import Sources
from bridge.spec import NAME_PATTERN, ToolSpec
from bridge.tool.compiler import Tool, compile_tool
from bridge.toolfiles.check.parsed import Told, Words, locate, tool_words
from bridge.toolfiles.loaded import Compiled, Loaded, Standing, State, ToolFile, UpstreamFile
from bridge.toolfiles.watch.scan import Content, Directories, Place


class _Candidate(NamedTuple):
    """A tool file that asks for its names: with what it says now or, where that is wrong, with what it last said."""

    place: Place
    words: Words[ToolSpec]
    compiled: Compiled | None
    old: ToolFile | None

    @property
    def tool(self) -> Tool | None:
        return self.compiled.tool if self.compiled else None

    @property
    def told(self) -> Told:
        return self.words.diagnostics + (self.compiled.diagnostics if self.compiled else ())

    @property
    def is_wrong(self) -> bool:
        return any(diagnostic.severity == "error" for diagnostic in self.told)

    @property
    def spec(self) -> ToolSpec | None:
        """What it says or, where that cannot be told, what it said when it was last right."""
        return self.words.spec or (self.old.good.spec if self.old and self.old.good else None)


class _Claim(NamedTuple):
    """Whose a name is, if anybody's, and the files that claim it."""

    owner: Place | None
    claimants: tuple[Place, ...]


class Claims:
    """Decides which tools serve; ``names`` are then theirs."""

    def __init__(
        self,
        directories: Directories,
        upstreams: Mapping[Place, UpstreamFile],
        sources: Sources,
        before: Loaded,
        *,
        keep: bool,
    ) -> None:
        self.names = before.names.copy()
        self._directories = directories
        self._upstreams = upstreams
        self._holders = {file.place.stem: file for file in upstreams.values() if file.holds}
        self._sources = sources
        self._counting = directories.roots if directories.upstreams is None else (directories.upstreams,)
        self._standings: dict[str, Standing] = {}
        self._claims: dict[str, _Claim] = {}
        self._before = before
        self._keep = keep

    def judge(self, contents: Mapping[Place, Content], moved: Collection[Place]) -> list[ToolFile]:
        """Tool files judged anew: what is right, has not moved and sends to the same needs no judging."""
        before = self._before
        asking: Iterable[Place] = contents
        if self._upstreams == before.upstreams:
            asking = {*moved, *(place for place, file in before.noted.items() if file.state != "good")}
        places = sorted(place for place in asking if place in contents and not place.is_upstream)
        candidates = [self._candidate(place, contents[place]) for place in places]
        for place in moved:
            if place not in contents:
                self.names.release(place)
        self._decide(candidates)
        kept = self._settle(candidates)
        return [self._file(each, kept.get(each.place)) for each in candidates]

    def _decide(self, candidates: Collection[_Candidate]) -> None:
        """Whose each claimed name is."""
        claims: dict[str, dict[Place, bool]] = {}
        for each in candidates:
            names = self._claimed(each)
            for name in names:
                claims.setdefault(name, {})[each.place] = name == names[0] == each.place.stem
        places = {each.place for each in candidates}
        for name, claimants in claims.items():
            holder = self.names.holder(name)
            if holder and (holder in claimants or holder not in places):
                owner: Place | None = holder
            else:
                entitled = [place for place, is_file_name in claimants.items() if is_file_name]
                (owner,) = claimants if len(claimants) == 1 else entitled if len(entitled) == 1 else [None]
            self._claims[name] = _Claim(owner, tuple(claimants))

    def _claimed(self, candidate: _Candidate) -> tuple[str, ...]:
        """The names that a file claims, its tool's own first; of one that never said any, that of the file."""
        place, spec = candidate.place, candidate.spec
        if candidate.words.disabled or not place.relative.endswith(".yaml") or self._foreign(place, spec):
            return ()
        return _claimed(place, spec)

    def _foreign(self, place: Place, spec: ToolSpec | None) -> tuple[Finding, ...]:
        """The names that a file may not have where it lies."""
        return tuple(
            Finding(
                "foreign-name",
                f"the name {name} is for files in {owner.folder} alone; move the file there, or take another name",
                _route(spec, name),
            )
            for name in _claimed(place, spec)
            for owner in self._directories.owners
            if owner.keeps(name, place)
        )

    def _settle(self, candidates: Iterable[_Candidate]) -> dict[Place, Compiled | None]:
        """Settle the names; answers what those fall back on that do not get what they ask for.

        Nobody loses the last good tool to a newcomer: until it is known that a file has none to fall
        back on, its names stay with it.
        """
        asking = {
            each.place: _names(each.tool)
            for each in candidates
            if each.tool and all(self._claims[name].owner == each.place for name in _names(each.tool))
        }
        granted = self.names.settle(asking)
        kept = {each.place: self._kept(each) for each in candidates if each.place not in granted}
        falling_back = {place: _names(last.tool) for place, last in kept.items() if last and last.tool}
        for place in kept.keys() - falling_back.keys():
            self.names.release(place)
        granted = self.names.settle({place: asking[place] for place in kept if place in asking})
        self.names.settle({p: names for p, names in falling_back.items() if p not in granted})
        return kept

    def _candidate(self, place: Place, content: Content) -> _Candidate:
        old = self._before.tools.get(place)
        known = [(old.words, old.compiled), *([(old.good, old.kept)] if old.good else [])] if old else []
        same = next((each for each in known if each[0].content == content), None)
        words, compiled = same or (tool_words(place, content), None)
        serves = words.spec and not words.disabled
        return _Candidate(place, words, self._compiled(place, words, compiled) if serves else None, old)

    def _compiled(self, place: Place, words: Words[ToolSpec], old: Compiled | None) -> Compiled:
        assert words.spec
        standing = self._standing(place, words.spec.upstream)
        if old and old.standing == standing:
            return old
        if foreign := self._foreign(place, words.spec):
            return Compiled(standing, None, locate(place, words, *foreign))
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
        if any(place.stem == name and place.directory in self._counting for place in self._upstreams):
            return Standing(None, usable=False)  # several files have the name, and an error each
        hint = did_you_mean(name.removesuffix(".yaml").removesuffix(".upstream"), self._holders)
        if not hint:
            is_name = re.fullmatch(NAME_PATTERN, name)
            hint = (
                f"; add its file, {name}.upstream.yaml"
                if is_name
                else "; write the name of its file, NAME.upstream.yaml"
            )
        message = f"there is no upstream {json.dumps(name, ensure_ascii=False)}{hint}"
        return Standing(None, usable=False, finding=Finding("unknown-upstream", message, ("upstream",)))

    def _kept(self, candidate: _Candidate) -> Compiled | None:
        """What the last right words come to, where the words of now are wrong, or ask for a name in vain."""
        old = candidate.old
        if not (self._keep and old and old.good) or candidate.words.disabled:
            return None
        if not (candidate.is_wrong or candidate.tool):
            return None
        return self._compiled(candidate.place, old.good, old.kept)

    def _file(self, candidate: _Candidate, kept: Compiled | None) -> ToolFile:
        """What becomes of a candidate, once the names are settled."""
        place, words, compiled, old = candidate.place, candidate.words, candidate.compiled, candidate.old
        told = candidate.told
        if self._holds(place, candidate.tool):
            return ToolFile(place, "good", told, words, compiled, words, compiled, candidate.tool)
        if words.disabled:
            return ToolFile(place, "disabled", told, words)
        if candidate.tool:
            told += locate(place, words, self._clash(place, candidate.tool))
        elif not candidate.is_wrong:
            return ToolFile(place, _idle(compiled), told, words, compiled, words, compiled)
        good = old.good if old and self._keep else None
        tool = kept.tool if kept and self._holds(place, kept.tool) else None
        return ToolFile(place, "kept" if tool else "broken", told, words, compiled, good, kept, tool)

    def _holds(self, place: Place, tool: Tool | None) -> bool:
        return tool is not None and all(self.names.holder(name) == place for name in _names(tool))

    def _clash(self, place: Place, tool: Tool) -> Finding:
        """The first name that a tool asks for and does not get."""
        name = next(name for name in _names(tool) if not self._is_free(name, place))
        holder, claim = self.names.holder(name), self._claims[name]
        if holder:
            message = f"the name {name} is held by {holder.shown}; rename one of the two"
        elif claim.owner:
            message = f"the name {name} is the file name of {claim.owner.shown}; rename one of the two"
        else:
            other = next(each for each in claim.claimants if each != place)
            message = f"{other.shown} claims the name {name}, too, so no file has it; rename one of the two"
        return Finding("duplicate-name", message, _route(tool.spec, name))

    def _is_free(self, name: str, place: Place) -> bool:
        return self.names.holder(name) in {None, place} and self._claims[name].owner == place


def _idle(compiled: Compiled | None) -> State:
    """The state of a file that is right, and of which no tool serves."""
    if compiled is None:
        return "ignored"
    return "waiting" if compiled.standing.upstream or compiled.standing.usable else "blocked"


def _names(tool: Tool) -> tuple[str, ...]:
    return (tool.name, *tool.spec.aliases)


def _claimed(place: Place, spec: ToolSpec | None) -> tuple[str, ...]:
    return (spec.name or place.stem, *spec.aliases) if spec else (place.stem,)


def _route(spec: ToolSpec | None, name: str) -> Route:
    """Where the file gives the name; nowhere, if its own name does."""
    if spec and name in spec.aliases:
        return ("aliases", spec.aliases.index(name))
    return ("name",) if spec and spec.name else ()
