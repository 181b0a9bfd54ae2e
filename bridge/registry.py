"""The snapshot of tools that is served now, and what each caller sees of it.

A reload builds a new ``Snapshot`` and ``Registry.replace`` swaps it in. A call that started before the swap
ends on the snapshot that it took.

Three selections stand between the tool files and a caller. Each keeps the tools that pass it:

| Selection | Set by | Applied |
|---|---|---|
| ``read_only`` and ``view`` of the ``Registry`` | the settings, or ``--read-only`` and ``--view`` | once, when a snapshot is swapped in |
| ``Caller.view`` | the path of the HTTP request, ``/mcp/NAME`` | once for each view: a smaller ``Snapshot`` |
| ``Caller.scopes`` | the caller's key or token | once for each set of scopes: ``VisibleTools`` |
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, TypeVar

from bridge.caller import Caller
from bridge.spec import may_change
from bridge.tool.compiler import Tool
from bridge.view import View

MAX_CACHED_SCOPE_SETS: Final = 64
"""Callers may present any number of tokens, each with its own set of scopes, so the cache needs a bound."""
MAX_CACHED_VIEWS: Final = 64
"""The settings file may be reloaded with other views many times while a snapshot is served."""
_name: Final = attrgetter("name")
_K = TypeVar("_K")
_V = TypeVar("_V")


class Snapshot:
    """All tools of one load. It never changes; only its caches fill.

    ``tools`` are sorted by name. ``by_name`` has no aliases: ``aliases`` maps each of them to its tool.
    """

    __slots__ = ("_by_scopes", "_by_view", "_digest", "_scopes", "aliases", "by_name", "tools")

    def __init__(
        self, tools: Iterable[Tool] = (), previous: "Snapshot | None" = None, removed: Iterable[Tool] = ()
    ) -> None:
        """The tools of ``previous``, without ``removed`` and with ``tools``.

        Building on ``previous`` saves time: an edit of one file among thousands does not sort all tools again.
        """
        in_order: list[Tool] = list(previous.tools) if previous else []
        by_name: dict[str, Tool] = dict(previous.by_name) if previous else {}
        aliases: dict[str, Tool] = dict(previous.aliases) if previous else {}
        # First removed, then added: a changed tool is in both, mostly under the same name.
        for tool in removed:
            del in_order[bisect_left(in_order, tool.name, key=_name)]
            del by_name[tool.name]
            for alias in tool.spec.aliases:
                del aliases[alias]
        for tool in tools:
            insort(in_order, tool, key=_name)
            by_name[tool.name] = tool
            aliases |= dict.fromkeys(tool.spec.aliases, tool)
        self.tools: tuple[Tool, ...] = tuple(in_order)
        self.by_name: Mapping[str, Tool] = by_name
        self.aliases: Mapping[str, Tool] = aliases
        self._digest = ""
        self._scopes: frozenset[str] | None = None
        self._by_view: dict[View, Snapshot] = {}
        self._by_scopes: dict[frozenset[str], VisibleTools] = {}

    @property
    def scopes(self) -> frozenset[str]:
        """All scopes that some tool requires."""
        if self._scopes is None:
            self._scopes = frozenset().union(*(tool.scopes for tool in self.tools))
        return self._scopes

    @property
    def digest(self) -> str:
        """A digest of the list of tools, in hexadecimal. It is the same in every process that serves the same list."""
        if not self._digest:
            self._digest = _digest(self.tools)
        return self._digest

    def find(self, name: str) -> Tool | None:
        """The tool with this name or alias."""
        return self.by_name.get(name) or self.aliases.get(name)

    def seen_by(self, caller: Caller) -> "Snapshot | VisibleTools":
        """The tools that a caller may see and call: those in its view whose scopes it has.

        Callers whose scopes differ only in scopes that no tool requires share one result.
        """
        # The view first: its snapshot has caches of its own, for the scopes that its tools require.
        in_view = self if caller.view is None else self._in_view(caller.view)
        return in_view if caller.scopes is None else in_view.with_scopes(caller.scopes)

    def _in_view(self, view: View) -> "Snapshot":
        in_view = self._by_view.get(view) or Snapshot(tool for tool in self.tools if _is_in(view, tool))
        _cache(self._by_view, view, in_view, MAX_CACHED_VIEWS)
        return in_view

    def with_scopes(self, scopes: frozenset[str]) -> "Snapshot | VisibleTools":
        """The tools that require no scope outside ``scopes``."""
        if scopes >= self.scopes:
            return self
        scopes &= self.scopes  # the key of the cache: callers may have any other scopes
        visible = self._by_scopes.get(scopes) or VisibleTools(self, scopes)
        _cache(self._by_scopes, scopes, visible, MAX_CACHED_SCOPE_SETS)
        return visible


def _digest(tools: Iterable[Tool]) -> str:
    return f"{sum(tool.fingerprint for tool in tools) % 2**64:016x}"


def _cache(cache: dict[_K, _V], key: _K, value: _V, size: int) -> None:
    """Put an entry at the end of an LRU cache. Above ``size``, drop the first one: the least recently used."""
    cache.pop(key, None)
    cache[key] = value
    if len(cache) > size:
        del cache[next(iter(cache))]


class VisibleTools:
    """The tools of a snapshot that callers with certain scopes may see and call.

    ``find`` asks the snapshot. Only ``tools`` makes a copy of the list, and only when it is first read: a caller
    who never lists the tools costs no memory for each tool.
    """

    __slots__ = ("_digest", "_scopes", "_snapshot", "_tools")

    def __init__(self, snapshot: Snapshot, scopes: frozenset[str]) -> None:
        self._snapshot = snapshot
        self._scopes = scopes
        self._tools: tuple[Tool, ...] | None = None
        self._digest = ""

    @property
    def digest(self) -> str:
        """As that of ``Snapshot``, of the visible tools."""
        if not self._digest:
            self._digest = _digest(self.tools)
        return self._digest

    @property
    def tools(self) -> tuple[Tool, ...]:
        """Sorted by name."""
        if self._tools is None:
            self._tools = tuple(filter(self._is_allowed, self._snapshot.tools))
        return self._tools

    def find(self, name: str) -> Tool | None:
        """The tool with this name or alias."""
        tool = self._snapshot.find(name)
        return tool if tool and self._is_allowed(tool) else None

    def _is_allowed(self, tool: Tool) -> bool:
        return self._scopes.issuperset(tool.scopes)


@dataclass(frozen=True, slots=True)
class Change:
    """What a swap changed; the tuples hold names of tools.

    ``visible``: some client's list of tools would differ. ``rerouted``: a tool was removed, or has another upstream.
    In both cases connections to an upstream may now be unused.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    visible: bool
    rerouted: bool


class Registry:
    """Holds the served snapshot in ``current``. A call reads it once. ``generation`` is how often its tools have changed.

    With ``read_only``, tools whose method is not safe (RFC 9110 9.2.1) are not served. With ``view``, only the tools
    in it are served.
    """

    def __init__(
        self, snapshot: Snapshot | None = None, *, read_only: bool = False, view: View | None = None
    ) -> None:
        self.current = snapshot or Snapshot()
        self.generation = 0
        self._read_only = read_only
        self._view = view

    def replace(self, snapshot: Snapshot) -> Change:
        """Serve ``snapshot`` from now on; returns how it differs from the previous one."""
        if self._read_only or self._view:
            snapshot = Snapshot(filter(self._is_served, snapshot.tools))
        before, after = self.current.by_name, snapshot.by_name
        self.current = snapshot
        added = [name for name in after if name not in before]
        removed = [name for name in before if name not in after]
        # A reload compiles only files that changed, so the same object means the same tool.
        changed = [
            (before[name], tool)
            for name, tool in after.items()
            if name in before and before[name] is not tool
        ]
        self.generation += bool(added or removed or changed)
        return Change(
            tuple(sorted(added)),
            tuple(sorted(new.name for _, new in changed)),
            tuple(sorted(removed)),
            visible=bool(added or removed) or any(_differs_visibly(old, new) for old, new in changed),
            rerouted=bool(removed) or any(old.upstream != new.upstream for old, new in changed),
        )

    def _is_served(self, tool: Tool) -> bool:
        return _is_in(self._view, tool) and not (self._read_only and may_change(tool.spec.request.method))


def _is_in(view: View | None, tool: Tool) -> bool:
    return view is None or view.shows(tool.name, tool.spec.tags)


def _differs_visibly(old: Tool, new: Tool) -> bool:
    """Whether clients get another definition, or other callers see the tool (by its scopes, or its tags in views)."""
    return (
        old.definition != new.definition
        or set(old.scopes) != set(new.scopes)
        or set(old.spec.tags) != set(new.spec.tags)
    )
