"""Decides which tool files serve a tool: compiles each against its upstream, and resolves names.

``NameResolution.resolve`` takes these steps:

1. Each tool file that changed or was not good becomes a candidate: parsed, and compiled against its upstream. If an
   upstream changed, all tool files become candidates.
2. Each candidate claims names: its tool's name and aliases. A file that cannot be parsed claims the names of its last
   good version or, without one, its file name. Invalid files and files that wait for an upstream claim names too.
   Disabled and misnamed files claim none, nor do files whose names are reserved for another folder (``owners`` of
   the settings file).
3. Each claimed name has at most one winner:

   ==========================================================  ==============
   claims for a name                                           winner
   ==========================================================  ==============
   its holder from the last load still claims it, or is not    the holder
   a candidate
   one file claims it                                          that file
   several do, and one of them had won it before its upstream  that file
   became unusable
   several do, and it is the file name of exactly one          that file
   several do, and it is the file name of none or of several   none: a path
                                                               decides nothing
   ==========================================================  ==============

4. A file that won all its names requests them (see ``names``). A file that does not get its names falls back on its
   last good version, which keeps the names that it held. So no file loses its tool to a new one.
5. Each candidate gets its state (see ``loaded.State``).
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from bridge.diagnostics import Finding, InvalidSpec, Route, did_you_mean
from bridge.secrets import Sources
from bridge.spec import NAME_PATTERN, ToolSpec
from bridge.tool.compiler import Tool, compile_tool
from bridge.toolfiles.check.parsed import Diagnostics, ParsedFile, locate, parse_tool_file
from bridge.toolfiles.loaded import Compiled, Loaded, State, ToolFile, UpstreamFile, UpstreamRef
from bridge.toolfiles.place import Content, Directories, Place


class _Candidate(NamedTuple):
    """A tool file as it is now, and what it was in the last load."""

    place: Place
    parsed: ParsedFile[ToolSpec]
    compiled: Compiled | None
    old: ToolFile | None

    @property
    def tool(self) -> Tool | None:
        return self.compiled.tool if self.compiled else None

    @property
    def diagnostics(self) -> Diagnostics:
        return self.parsed.diagnostics + (self.compiled.diagnostics if self.compiled else ())

    @property
    def lost_names(self) -> frozenset[str]:
        """The names of its last good version, if that could not be served for its upstream."""
        old = self.old
        if old is None or old.good is None or old.tool:
            return frozenset()
        return frozenset(_claimed(self.place, old.good.spec))

    @property
    def has_errors(self) -> bool:
        return any(diagnostic.severity == "error" for diagnostic in self.diagnostics)

    @property
    def spec(self) -> ToolSpec | None:
        """Its spec or, if that is invalid, its last good spec."""
        return self.parsed.spec or (self.old.good.spec if self.old and self.old.good else None)


class _Claim(NamedTuple):
    """The files that claim a name, and the one that wins it, if any."""

    winner: Place | None
    claimants: tuple[Place, ...]


class NameResolution:
    """Resolves the names of one load; ``names`` then holds the result."""

    def __init__(
        self,
        directories: Directories,
        upstreams: Mapping[Place, UpstreamFile],
        sources: Sources,
        previous: Loaded,
        *,
        keep: bool,
    ) -> None:
        self.names = previous.names.copy()
        self._directories = directories
        self._upstreams = upstreams
        self._upstreams_by_name = {file.place.stem: file for file in upstreams.values() if file.has_name}
        self._sources = sources
        self._upstream_roots = (
            directories.roots if directories.upstreams is None else (directories.upstreams,)
        )
        self._upstream_refs: dict[str, UpstreamRef] = {}
        self._claims: dict[str, _Claim] = {}
        self._previous = previous
        self._keep = keep

    def resolve(self, contents: Mapping[Place, Content], changed: Collection[Place]) -> list[ToolFile]:
        """The tool files that may differ from the last load: those that changed, and those that were not good."""
        previous = self._previous
        affected: Iterable[Place] = contents
        if self._upstreams == previous.upstreams:
            # A file that is not good may now be: what it waited for, such as a name, may be there.
            affected = {
                *changed,
                *(place for place, file in previous.flagged.items() if file.state != "good"),
            }
        places = sorted(place for place in affected if place in contents and not place.is_upstream)
        candidates = [self._candidate(place, contents[place]) for place in places]
        # Before claims are decided: a deleted file must not win as the holder of its names.
        for place in changed:
            if place not in contents:
                self.names.release(place)
        self._resolve_claims(candidates)
        fallbacks = self._assign(candidates)
        return [self._file(each, fallbacks.get(each.place)) for each in candidates]

    def _resolve_claims(self, candidates: Collection[_Candidate]) -> None:
        """Decide who wins each claimed name."""
        claims: dict[str, dict[Place, bool]] = {}
        earlier: dict[str, list[Place]] = {}
        for each in candidates:
            names = self._claimed_by(each)
            for name in each.lost_names.intersection(names):
                earlier.setdefault(name, []).append(each.place)
            for name in names:
                # An alias never counts as the file name, even if it equals it.
                claims.setdefault(name, {})[each.place] = name == names[0] == each.place.stem
        places = {each.place for each in candidates}
        for name, claimants in claims.items():
            holder = self.names.holder(name)
            if holder and (holder in claimants or holder not in places):
                winner: Place | None = holder
            else:
                by_file_name = [place for place, is_file_name in claimants.items() if is_file_name]
                rules = (claimants, earlier.get(name, ()), by_file_name)
                (winner,) = next((places for places in rules if len(places) == 1), [None])
            self._claims[name] = _Claim(winner, tuple(claimants))

    def _claimed_by(self, candidate: _Candidate) -> tuple[str, ...]:
        """The names that a candidate claims, the tool's own name first."""
        place, spec = candidate.place, candidate.spec
        if (
            candidate.parsed.is_disabled
            or not place.relative.endswith(".yaml")
            or self._reserved(place, spec)
        ):
            return ()
        return _claimed(place, spec)

    def _reserved(self, place: Place, spec: ToolSpec | None) -> tuple[Finding, ...]:
        """An error for each name that is reserved for files in another folder."""
        return tuple(
            Finding(
                "foreign-name",
                f"the name {name} is reserved for files in {owner.shown}; move the file there, or use another name",
                _route(spec, name),
            )
            for name in _claimed(place, spec)
            for owner in self._directories.owners
            if owner.forbids(name, place)
        )

    def _assign(self, candidates: Iterable[_Candidate]) -> dict[Place, Compiled | None]:
        """Assign the names; returns the last good versions of the files that do not get theirs.

        A file that does not get its names holds on to its old ones until it is known that it has nothing to fall
        back on. Only then are they released, and the remaining requests are tried again.
        """
        requests = {
            each.place: _names(each.tool)
            for each in candidates
            if each.tool and all(self._claims[name].winner == each.place for name in _names(each.tool))
        }
        granted = self.names.assign(requests)
        fallbacks = {each.place: self._fallback(each) for each in candidates if each.place not in granted}
        fallback_names = {
            place: _names(last.tool)
            for place, last in fallbacks.items()
            if last and last.tool and all(self._may_keep(name, place) for name in _names(last.tool))
        }
        for place in fallbacks.keys() - fallback_names.keys():
            self.names.release(place)
        # Requests before fallbacks: a new version that can be served goes before an old one.
        granted = self.names.assign({place: requests[place] for place in fallbacks if place in requests})
        self.names.assign({p: names for p, names in fallback_names.items() if p not in granted})
        return fallbacks

    def _may_keep(self, name: str, place: Place) -> bool:
        """Whether a last good version may serve under a name: it holds it, won it, or no file claims it."""
        claim = self._claims.get(name)
        return self.names.holder(name) == place or claim is None or claim.winner == place

    def _candidate(self, place: Place, content: Content) -> _Candidate:
        old = self._previous.tools.get(place)
        # An edit that is taken back gives the last good version, which is parsed and compiled already.
        known = (
            [(old.parsed, old.compiled), *([(old.good, old.good_compiled)] if old.good else [])]
            if old
            else []
        )
        same = next((each for each in known if each[0].content == content), None)
        parsed, compiled = same or (parse_tool_file(place, content), None)
        is_enabled = parsed.spec and not parsed.is_disabled
        return _Candidate(place, parsed, self._compiled(place, parsed, compiled) if is_enabled else None, old)

    def _compiled(self, place: Place, parsed: ParsedFile[ToolSpec], old: Compiled | None) -> Compiled:
        assert parsed.spec  # callers pass valid files and last good versions
        ref = self._upstream_ref(place, parsed.spec.upstream)
        if old and old.upstream_ref == ref:  # same spec, same upstream: the same tool, as an object
            return old
        if reserved := self._reserved(place, parsed.spec):
            return Compiled(ref, None, locate(place, parsed, *reserved))
        if ref.finding:
            return Compiled(ref, None, locate(place, parsed, ref.finding))
        if not ref.is_usable and ref.upstream is None:  # the upstream file has the error
            return Compiled(ref, None, ())
        try:
            tool, findings = compile_tool(place.stem, parsed.spec, ref.upstream, self._sources)
        except InvalidSpec as problem:
            return Compiled(ref, None, locate(place, parsed, *problem.findings))
        return Compiled(ref, tool if ref.is_usable else None, locate(place, parsed, *findings))

    def _upstream_ref(self, place: Place, name: str | None) -> UpstreamRef:
        if name is not None:
            if name not in self._upstream_refs:
                self._upstream_refs[name] = self._named(name)
            return self._upstream_refs[name]
        if self._directories.upstreams in {None, place.directory}:
            return UpstreamRef(None, is_usable=True)
        message = (
            f"the key upstream is missing; add it, with the name of a file in {self._directories.upstreams}"
        )
        return UpstreamRef(None, is_usable=False, finding=Finding("missing-key", message))

    def _named(self, name: str) -> UpstreamRef:
        file = self._upstreams_by_name.get(name)
        if file:
            return UpstreamRef(file.upstream or file.stand_in, is_usable=file.upstream is not None)
        if any(place.stem == name and place.directory in self._upstream_roots for place in self._upstreams):
            return UpstreamRef(None, is_usable=False)  # several files have this name; each gets an error
        # The key takes shop. Some write the name of the file, shop.upstream.yaml.
        hint = did_you_mean(name.removesuffix(".yaml").removesuffix(".upstream"), self._upstreams_by_name)
        if not hint:
            is_name = re.fullmatch(NAME_PATTERN, name)
            hint = (
                f"; add its file, {name}.upstream.yaml"
                if is_name
                else "; write the name of its file, NAME.upstream.yaml"
            )
        message = f"there is no upstream {json.dumps(name, ensure_ascii=False)}{hint}"
        return UpstreamRef(None, is_usable=False, finding=Finding("unknown-upstream", message, ("upstream",)))

    def _fallback(self, candidate: _Candidate) -> Compiled | None:
        """The last good version, compiled now; None if there is none, or if the file does not need it."""
        old = candidate.old
        if not (self._keep and old and old.good) or candidate.parsed.is_disabled:
            return None
        # A valid file without a tool waits for its upstream. Until then no older version of it serves.
        if not (candidate.has_errors or candidate.tool):
            return None
        # Compiled now: a last good version runs on the upstream as it is today, or not at all.
        return self._compiled(candidate.place, old.good, old.good_compiled)

    def _file(self, candidate: _Candidate, fallback: Compiled | None) -> ToolFile:
        """The result for a candidate, once the names are assigned."""
        place, parsed, compiled, old = candidate.place, candidate.parsed, candidate.compiled, candidate.old
        diagnostics = candidate.diagnostics
        if self._holds(place, candidate.tool):
            return ToolFile(place, "good", diagnostics, parsed, compiled, parsed, compiled, candidate.tool)
        if parsed.is_disabled:
            return ToolFile(place, "disabled", diagnostics, parsed)
        # Also of a file that waits for a secret: check finds clashes where secrets are not set.
        clash = self._clash(place, parsed.spec) if parsed.spec and not candidate.has_errors else None
        if clash:
            diagnostics += locate(place, parsed, clash)
        elif not candidate.has_errors:
            return ToolFile(
                place, _state_without_tool(compiled), diagnostics, parsed, compiled, parsed, compiled
            )
        good = old.good if old and self._keep else None
        tool = fallback.tool if fallback and self._holds(place, fallback.tool) else None
        return ToolFile(
            place, "kept" if tool else "broken", diagnostics, parsed, compiled, good, fallback, tool
        )

    def _holds(self, place: Place, tool: Tool | None) -> bool:
        return tool is not None and all(self.names.holder(name) == place for name in _names(tool))

    def _clash(self, place: Place, spec: ToolSpec) -> Finding | None:
        """The error for the first name that a file claims and does not get."""
        name = next((name for name in _claimed(place, spec) if not self._is_free(name, place)), None)
        if name is None:
            return None
        holder, claim = self.names.holder(name), self._claims[name]
        if holder:
            message = f"the name {name} is already used by {holder.shown}; rename one of the two"
        elif claim.winner and claim.winner.stem != name:
            message = f"the name {name} is already used by {claim.winner.shown}; rename one of the two"
        elif claim.winner:
            message = f"the name {name} is the file name of {claim.winner.shown}; rename one of the two"
        else:
            other = next(each for each in claim.claimants if each != place)
            message = f"{other.shown} uses the name {name} too, so no file gets it; rename one of the two"
        return Finding("duplicate-name", message, _route(spec, name))

    def _is_free(self, name: str, place: Place) -> bool:
        return self.names.holder(name) in {None, place} and self._claims[name].winner == place


def _state_without_tool(compiled: Compiled | None) -> State:
    """The state of a file without errors that serves no tool."""
    if compiled is None:
        return "ignored"
    return "waiting" if compiled.upstream_ref.upstream or compiled.upstream_ref.is_usable else "blocked"


def _names(tool: Tool) -> tuple[str, ...]:
    return (tool.name, *tool.spec.aliases)


def _claimed(place: Place, spec: ToolSpec | None) -> tuple[str, ...]:
    return (spec.name or place.stem, *spec.aliases) if spec else (place.stem,)


def _route(spec: ToolSpec | None, name: str) -> Route:
    """The route of a name in its file; empty if the name is that of the file."""
    if spec and name in spec.aliases:
        return ("aliases", spec.aliases.index(name))
    return ("name",) if spec and spec.name else ()
