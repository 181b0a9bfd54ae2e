"""Bytes of files become the tools that are served, and all that is wrong with them.

A file goes through three stages. What a stage makes stays the very object while what it is made of does:

========  ==========================================  ================================
words     a spec, or what is wrong with the file      its bytes
compiled  a tool, or what is wrong with the spec      the spec and its upstream
claims    which tools serve: a name has one holder    all tools, and who held it last
========  ==========================================  ================================
"""

import gc
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

from bridge.diagnostics import Finding, InvalidSpec
from bridge.registry import Snapshot
from bridge.secrets import Sources, Upstream
from bridge.spec import UpstreamSpec
from bridge.tool.compiler import Tool, compile_upstream
from bridge.toolfiles.check.parsed import Words, at_top, locate, upstream_words
from bridge.toolfiles.loaded import Loaded, State, ToolFile, UpstreamFile
from bridge.toolfiles.resolution import Claims
from bridge.toolfiles.watch.debounce import Settling
from bridge.toolfiles.watch.scan import Content, Directories, Place


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
    moved: Collection[Place] | None = None,
    *,
    keep: bool = True,
    blind: Mapping[Place, Finding] | None = None,
) -> Loaded:
    """What ``contents`` come to, after ``previous``, which is answered itself if nothing differs.

    ``moved`` are the only places where ``contents`` may have become others since, if that is known: then a
    load costs what they cost. ``keep``: whether a broken file's last good one serves on. Touches no file
    but for secrets.
    """
    before = previous or Loaded()
    places = {*contents, *before.tools, *before.upstreams} if moved is None else moved
    moved = {place for place in places if contents.get(place) != before.content(place)}
    unseen = tuple(at_top(place, finding) for place, finding in sorted((blind or {}).items()))
    upstreams = _upstream_files(directories, contents, moved, sources, before.upstreams, keep=keep)
    if not moved and (upstreams, unseen) == (before.upstreams, before.blind):
        return before
    claims = Claims(directories, upstreams, sources, before, keep=keep)
    with _uncollected():
        judged = claims.judge(contents, moved)
    places = moved.union(file.place for file in judged)
    last = [before.tools[place] for place in places if place in before.tools]
    noted = [file for file in judged if file.state != "good" or file.diagnostics]
    return Loaded(
        Snapshot(_tools(judged), before.snapshot, without=_tools(last)),
        _revised(before.tools, last, judged),
        upstreams,
        _revised(before.noted, last, noted),
        claims.names,
        unseen,
    )


@contextmanager
def _uncollected() -> Iterator[None]:
    """The collector would look at thousands of new tools again and again, and they hold no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _tools(files: Iterable[ToolFile]) -> list[Tool]:
    return [file.tool for file in files if file.tool]


def _revised(
    files: Mapping[Place, ToolFile], without: Iterable[ToolFile], added: Iterable[ToolFile]
) -> dict[Place, ToolFile]:
    revised = dict(files)
    for file in without:
        revised.pop(file.place, None)
    return revised | {file.place: file for file in added}


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
    claimants: dict[str, list[Place]] = {}
    for place in counting:
        claimants.setdefault(place.stem, []).append(place)
    files = {}
    for place in places:
        old = before.get(place)
        words = old.words if old and old.words.content == contents[place] else None
        words = words or upstream_words(place, contents[place])
        if place not in counting:
            message = f"upstream files count in {directories.upstreams} alone; move it there"
            finding = Finding("misplaced-upstream", message)
        elif other := _rival(place, claimants[place.stem], before):
            message = f"the upstream {place.stem} is {other.shown}, too; rename one of the two"
            finding = Finding("duplicate-upstream", message)
        else:
            files[place] = _upstream_file(place, words, old, sources, keep=keep)
            continue
        files[place] = UpstreamFile(place, "broken", words.diagnostics + locate(place, words, finding), words)
    return files


def _rival(place: Place, claimants: list[Place], before: Mapping[Place, UpstreamFile]) -> Place | None:
    """The file that keeps another one from being an upstream: its holder or, where there is none, any other."""
    others = [each for each in claimants if each != place]
    held = [each for each in claimants if each in before and before[each].holds]
    if place in held or not others:
        return None
    return (held or others)[0]


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
