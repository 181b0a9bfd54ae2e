"""Log lines of one kind are gathered, so that no caller can flood the log.

The first of a kind is logged at once. Those that follow within a second are one line, which says how many they were.
"""

from asyncio import get_running_loop
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")
_PAUSE_SECONDS: Final = 1.0


class Gatherer(Generic[_T]):
    """``log`` writes a line about so many, of which it gets the last. To be used where the event loop runs."""

    def __init__(self, log: Callable[[_T, int], None], pause: float = _PAUSE_SECONDS) -> None:
        self._log = log
        self._pause = pause
        self._held: dict[Hashable, list[tuple[_T, int]]] = {}
        """By kind, those since the last line: none, or the last one and their number."""

    def add(self, kind: Hashable, item: _T) -> None:
        held = self._held.get(kind)
        if held is None:
            self._write(kind, item, 1)
        else:
            held[:] = [(item, held[0][1] + 1 if held else 1)]

    def flush(self) -> None:
        """Log now what would be logged later."""
        while self._held:
            _, held = self._held.popitem()
            for item, number in held:
                self._log(item, number)

    def _write(self, kind: Hashable, item: _T, number: int) -> None:
        self._log(item, number)
        self._held[kind] = []
        get_running_loop().call_later(self._pause, self._go_on, kind)

    def _go_on(self, kind: Hashable) -> None:
        for item, number in self._held.pop(kind, []):
            self._write(kind, item, number)
