"""Loads tool files: bytes become the tools that are served, and diagnostics.

A file goes through three stages. While the inputs of a stage stay the same, so does its result, as an object:

=========  =========================================  ====================================
stage      result                                     inputs
=========  =========================================  ====================================
parse      a spec, or the errors of the file          its bytes
compile    a tool, or the errors of the spec          the spec and its upstream
resolve    the tools to serve (see ``resolution``)    all tools, and the holders of names
=========  =========================================  ====================================
"""

import gc
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

from bridge.diagnostics import Finding, InvalidSpec
from bridge.registry import Snapshot
from bridge.resolved_upstream import Upstream
from bridge.secrets import Sources
from bridge.spec import UpstreamSpec
from bridge.tool.compiler import Tool, compile_upstream
from bridge.toolfiles.check.parsed import ParsedFile, at_top, locate, parse_upstream_file
from bridge.toolfiles.loaded import Loaded, State, ToolFile, UpstreamFile
from bridge.toolfiles.place import Content, Directories, Place
from bridge.toolfiles.resolution import NameResolution
from bridge.toolfiles.watch.debounce import Debouncer


def load_once(directories: Directories, sources: Sources) -> Loaded:
    """Load the directories once, as they are now, for commands such as ``check`` and ``list``."""
    debouncer = Debouncer(directories, lambda _: None, poll=0)
    debouncer.scan(time=0)
    return load(directories, debouncer.contents, sources, folder_problems=debouncer.folder_problems)


def load(
    directories: Directories,
    contents: Mapping[Place, Content],
    sources: Sources,
    previous: Loaded | None = None,
    changed: Collection[Place] | None = None,
    *,
    keep: bool = True,
    folder_problems: Mapping[Place, Finding] | None = None,
) -> Loaded:
    """Load ``contents`` after ``previous``; returns ``previous`` itself if nothing differs.

    ``changed``, if given, are the only places where ``contents`` may differ from ``previous``: only they cost time.
    ``keep``: a broken file's last good version stays served. Reads no files except those of secrets.
    """
    previous = previous or Loaded()
    places = {*contents, *previous.tools, *previous.upstreams} if changed is None else changed
    # A file may be written with the same bytes again, or changed and changed back between two loads.
    changed = {place for place in places if contents.get(place) != previous.content(place)}
    folder_diagnostics = tuple(
        at_top(place, finding) for place, finding in sorted((folder_problems or {}).items())
    )
    # Upstreams are resolved at each load, even if no file changed: the files of their secrets may have.
    upstreams = _upstream_files(directories, contents, changed, sources, previous.upstreams, keep=keep)
    if not changed and (upstreams, folder_diagnostics) == (previous.upstreams, previous.folder_diagnostics):
        return previous
    resolution = NameResolution(directories, upstreams, sources, previous, keep=keep)
    with _gc_disabled():
        resolved = resolution.resolve(contents, changed)
    # Changed files may be gone, and files that did not change may be affected, as by a name that is free now.
    places = changed.union(file.place for file in resolved)
    replaced = [previous.tools[place] for place in places if place in previous.tools]
    flagged = [file for file in resolved if file.state != "good" or file.diagnostics]
    return Loaded(
        Snapshot(_tools(resolved), previous.snapshot, removed=_tools(replaced)),
        _updated(previous.tools, replaced, resolved),
        upstreams,
        _updated(previous.flagged, replaced, flagged),
        resolution.names,
        folder_diagnostics,
    )


@contextmanager
def _gc_disabled() -> Iterator[None]:
    """Thousands of new tools would trigger the garbage collector many times, and they hold no cycles.

    It took an eighth of the first load.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _tools(files: Iterable[ToolFile]) -> list[Tool]:
    return [file.tool for file in files if file.tool]


def _updated(
    files: Mapping[Place, ToolFile], without: Iterable[ToolFile], added: Iterable[ToolFile]
) -> dict[Place, ToolFile]:
    updated = dict(files)
    for file in without:
        updated.pop(file.place, None)
    return updated | {file.place: file for file in added}


def _upstream_files(
    directories: Directories,
    contents: Mapping[Place, Content],
    changed: Iterable[Place],
    sources: Sources,
    previous: Mapping[Place, UpstreamFile],
    *,
    keep: bool,
) -> dict[Place, UpstreamFile]:
    # Sorted: which of several rivals a message names must not depend on the order of a set.
    places = sorted({place for place in chain(previous, changed) if place in contents and place.is_upstream})
    valid_places = [place for place in places if directories.upstreams in {None, place.directory}]
    claimants: dict[str, list[Place]] = {}
    for place in valid_places:
        claimants.setdefault(place.stem, []).append(place)
    files = {}
    for place in places:
        old = previous.get(place)
        parsed = old.parsed if old and old.parsed.content == contents[place] else None
        parsed = parsed or parse_upstream_file(place, contents[place])
        if place not in valid_places:
            message = f"found an upstream file outside {directories.upstreams}; move it there"
            finding = Finding("misplaced-upstream", message)
        elif other := _rival(place, claimants[place.stem], previous):
            message = f"the upstream name {place.stem} is used by {other.shown} too; rename one of the two"
            finding = Finding("duplicate-upstream", message)
        else:
            files[place] = _upstream_file(place, parsed, old, sources, keep=keep)
            continue
        files[place] = UpstreamFile(
            place, "broken", parsed.diagnostics + locate(place, parsed, finding), parsed
        )
    return files


def _rival(place: Place, claimants: list[Place], previous: Mapping[Place, UpstreamFile]) -> Place | None:
    """The file that prevents ``place`` from having its name: the last holder or, without one, any other claimant."""
    others = [each for each in claimants if each != place]
    holders = [each for each in claimants if each in previous and previous[each].has_name]
    if place in holders or not others:
        return None
    return (holders or others)[0]


def _upstream_file(
    place: Place, parsed: ParsedFile[UpstreamSpec], old: UpstreamFile | None, sources: Sources, *, keep: bool
) -> UpstreamFile:
    state: State
    upstream, findings = _resolve(place.stem, parsed, sources)
    codes = {finding.code for finding in findings if finding.severity == "error"}
    is_unset = upstream is None and codes == {"unset-secret"}
    if upstream or is_unset:
        good: ParsedFile[UpstreamSpec] | None = parsed
        state = "good" if upstream else "waiting"
    else:
        good = old.good if old and keep else None
        upstream, _ = _resolve(place.stem, good, sources)
        state = "kept" if upstream else "broken"
    if old and old.upstream == upstream:
        upstream = old.upstream  # one object for equal upstreams: to compare it with itself takes no time
    # A warning: the file is right, and the secret may be set on the machine that serves it.
    reported = [replace(f, severity="warning") if f.code == "unset-secret" else f for f in findings]
    return UpstreamFile(
        place,
        state,
        parsed.diagnostics + locate(place, parsed, *reported),
        parsed,
        has_name=True,
        good=good,
        upstream=upstream,
        stand_in=_stand_in(place.stem, parsed.spec) if is_unset and parsed.spec else None,
    )


def _resolve(
    name: str, parsed: ParsedFile[UpstreamSpec] | None, sources: Sources
) -> tuple[Upstream | None, tuple[Finding, ...]]:
    if parsed is None or parsed.spec is None:
        return None, ()
    try:
        upstream = compile_upstream(name, parsed.spec, sources)
    except InvalidSpec as problem:
        return None, problem.findings
    return upstream, upstream.warnings


def _stand_in(name: str, spec: UpstreamSpec) -> Upstream:
    """An upstream to check tools against. Its host never resolves (RFC 6761, .invalid)."""
    return Upstream(name, spec.model_copy(update={"base_url": "http://unset.invalid"}))
