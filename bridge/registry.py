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


class Snapshot:
    """The tools of one moment, frozen; ``tools`` are in order of name, ``by_name`` knows no aliases."""

    __slots__ = ("_asked", "_seen", "aliases", "by_name", "tools")

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
        self._seen: dict[tuple[frozenset[str], View | None], Snapshot] = {}

    @property
    def scopes(self) -> frozenset[str]:
        """All that tools ask for."""
        if self._asked is None:
            self._asked = frozenset().union(*(tool.spec.scopes for tool in self.tools))
        return self._asked

    def find(self, name: str) -> Tool | None:
        """The tool that answers to a name or an alias."""
        return self.by_name.get(name) or self.aliases.get(name)

    def seen_by(self, caller: Caller) -> "Snapshot":
        """What of it a caller may see and call: tools of its view that ask for no scope that it lacks."""
        if caller.scopes is None and caller.view is None:
            return self
        scopes = self.scopes if caller.scopes is None else caller.scopes & self.scopes
        if scopes == self.scopes and caller.view is None:
            return self
        key = (scopes, caller.view)
        if key not in self._seen:
            self._seen[key] = Snapshot(
                tool
                for tool in self.tools
                if scopes.issuperset(tool.spec.scopes) and _is_in(caller.view, tool)
            )
        return self._seen[key]


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


def _looks_other(old: Tool, new: Tool) -> bool:
    """Whether a tool is seen as another one, or by others."""
    return old.definition != new.definition or any(
        set(before) != set(after)
        for before, after in ((old.spec.scopes, new.spec.scopes), (old.spec.tags, new.spec.tags))
    )
