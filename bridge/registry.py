"""The hall: holds the one snapshot of tools that is served now."""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType

from bridge.tool.compiler import Tool


class Snapshot:
    """The tools of one moment, frozen; ``tools`` is in order of name and holds what is listed."""

    __slots__ = ("_by_name", "tools")

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self.tools = tuple(sorted(tools, key=attrgetter("name")))
        aliases = {alias: tool for tool in self.tools for alias in tool.spec.aliases}
        self._by_name = MappingProxyType(aliases | {tool.name: tool for tool in self.tools})

    def find(self, name: str) -> Tool | None:
        """The tool that answers to a name or an alias."""
        return self._by_name.get(name)


@dataclass(frozen=True, slots=True)
class Change:
    """What a swap changed, as names; ``visible`` if a client's list would differ."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    visible: bool


class Registry:
    """One assignment swaps everything: a call takes ``current`` once and ends on what it took."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self.current = snapshot or Snapshot()

    def replace(self, snapshot: Snapshot) -> Change:
        """Serve ``snapshot`` from now on; answers how it differs from the one before."""
        before = {tool.name: tool for tool in self.current.tools}
        after = {tool.name: tool for tool in snapshot.tools}
        self.current = snapshot
        added = tuple(name for name in after if name not in before)
        removed = tuple(name for name in before if name not in after)
        changed = tuple(name for name in after if name in before and after[name] is not before[name])
        edited = any(after[name].definition != before[name].definition for name in changed)
        return Change(added, changed, removed, visible=bool(added or removed or edited))
