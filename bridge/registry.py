"""The hall: holds the one snapshot of tools that is served now."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import compress
from operator import attrgetter, is_not
from typing import Final

from bridge.caller import Caller
from bridge.settingsfile import View
from bridge.spec import may_change
from bridge.tool.compiler import Tool

_name: Final = attrgetter("name")
MAX_KEPT_SCOPE_SETS: Final = 64
"""Sets of scopes whose visible tools are kept. Callers may show any number of tokens, each with other scopes."""


class Snapshot:
    """The tools of one moment, frozen; ``tools`` are in order of name, ``by_name`` knows no aliases."""

    __slots__ = ("_asked", "_by_scopes", "_by_view", "aliases", "by_name", "tools")

    def __init__(
        self, tools: Iterable[Tool] = (), before: "Snapshot | None" = None, without: Iterable[Tool] = ()
    ) -> None:
        """``tools``, and those of ``before`` but for some: an edit among thousands costs little more than itself."""
        listed: list[Tool] = list(before.tools) if before else []
        by_name: dict[str, Tool] = dict(before.by_name) if before else {}
        aliases: dict[str, Tool] = dict(before.aliases) if before else {}
        for tool in without:
            del listed[bisect_left(listed, tool.name, key=_name)]
            del by_name[tool.name]
            for alias in tool.spec.aliases:
                del aliases[alias]
        for tool in tools:
            insort(listed, tool, key=_name)
            by_name[tool.name] = tool
            aliases |= dict.fromkeys(tool.spec.aliases, tool)
        self.tools: tuple[Tool, ...] = tuple(listed)
        self.by_name: Mapping[str, Tool] = by_name
        self.aliases: Mapping[str, Tool] = aliases
        self._asked: frozenset[str] | None = None
        self._by_view: dict[View, Snapshot] = {}
        self._by_scopes: dict[frozenset[str], VisibleTools] = {}

    @property
    def scopes(self) -> frozenset[str]:
        """All that tools ask for."""
        if self._asked is None:
            self._asked = frozenset().union(*(tool.scopes for tool in self.tools))
        return self._asked

    def find(self, name: str) -> Tool | None:
        """The tool that answers to a name or an alias."""
        return self.by_name.get(name) or self.aliases.get(name)

    def seen_by(self, caller: Caller) -> "Snapshot | VisibleTools":
        """The tools that a caller may see and call: those of its view that ask for no scope that it lacks.

        Scopes that no tool asks for make no difference, so callers who differ in those alone share one answer.
        """
        seen = self if caller.view is None else self._in_view(caller.view)
        return seen if caller.scopes is None else seen.with_scopes(caller.scopes)

    def _in_view(self, view: View) -> "Snapshot":
        """Views are few: they stand in the settings file."""
        if view not in self._by_view:
            self._by_view[view] = Snapshot(tool for tool in self.tools if _is_in(view, tool))
        return self._by_view[view]

    def with_scopes(self, scopes: frozenset[str]) -> "Snapshot | VisibleTools":
        """The tools that ask for none but these."""
        if scopes >= self.scopes:
            return self
        scopes &= self.scopes
        visible = self._by_scopes.pop(scopes, None) or VisibleTools(self, scopes)
        self._by_scopes[scopes] = visible  # what was used last stands last
        if len(self._by_scopes) > MAX_KEPT_SCOPE_SETS:
            del self._by_scopes[next(iter(self._by_scopes))]
        return visible


class VisibleTools:
    """The tools of a snapshot that callers with certain scopes may see and call.

    It holds no copy of the snapshot: to find a tool costs no memory, and to list them a pointer for each.
    """

    __slots__ = ("_scopes", "_tools", "_whole")

    def __init__(self, whole: Snapshot, scopes: frozenset[str]) -> None:
        self._whole = whole
        self._scopes = scopes
        self._tools: tuple[Tool, ...] | None = None

    @property
    def tools(self) -> tuple[Tool, ...]:
        """In order of name."""
        if self._tools is None:
            self._tools = tuple(filter(self._is_allowed, self._whole.tools))
        return self._tools

    def find(self, name: str) -> Tool | None:
        """The tool that answers to a name or an alias."""
        tool = self._whole.find(name)
        return tool if tool and self._is_allowed(tool) else None

    def _is_allowed(self, tool: Tool) -> bool:
        return self._scopes.issuperset(tool.scopes)


@dataclass(frozen=True, slots=True)
class Change:
    """What a swap changed, as names.

    ``visible``: some client's list would differ. ``rerouted``: a tool no longer sends to where it sent.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    visible: bool
    rerouted: bool


class Registry:
    """One assignment swaps everything: a call takes ``current`` once and ends on what it took.

    If it is ``read_only``, tools that may change something are left out (RFC 9110 9.2.1); with a ``view``
    those that are not in it.
    """

    def __init__(
        self, snapshot: Snapshot | None = None, *, read_only: bool = False, view: View | None = None
    ) -> None:
        self.current = snapshot or Snapshot()
        self._read_only = read_only
        self._view = view

    def replace(self, snapshot: Snapshot) -> Change:
        """Serve ``snapshot`` from now on; answers how it differs from the one before."""
        if self._read_only or self._view:
            snapshot = Snapshot(filter(self._serves, snapshot.tools))
        before, after = self.current.by_name, snapshot.by_name
        self.current = snapshot
        others = set(compress(after, map(is_not, after.values(), map(before.get, after))))
        changed = [(before[name], after[name]) for name in others if name in before]
        added = others - before.keys()
        removed = [name for name in before if name not in after]
        return Change(
            tuple(sorted(added)),
            tuple(sorted(new.name for _, new in changed)),
            tuple(sorted(removed)),
            visible=bool(added or removed) or any(_looks_other(old, new) for old, new in changed),
            rerouted=bool(removed) or any(old.upstream != new.upstream for old, new in changed),
        )

    def _serves(self, tool: Tool) -> bool:
        return _is_in(self._view, tool) and not (self._read_only and may_change(tool.spec.request.method))


def _is_in(view: View | None, tool: Tool) -> bool:
    return view is None or view.shows(tool.name, tool.spec.tags)


def other_names(before: Snapshot, after: Snapshot) -> list[str]:
    """Names of tools that some caller sees in one of the two and not in the other, or sees as another tool."""
    both = before.by_name.keys() & after.by_name.keys()
    looks_other = [name for name in both if _looks_other(before.by_name[name], after.by_name[name])]
    return [*looks_other, *(before.by_name.keys() ^ after.by_name.keys())]


def _looks_other(old: Tool, new: Tool) -> bool:
    """Whether a tool is seen as another one, or by others."""
    return old.definition != new.definition or any(
        set(before) != set(after)
        for before, after in ((old.scopes, new.scopes), (old.spec.tags, new.spec.tags))
    )
