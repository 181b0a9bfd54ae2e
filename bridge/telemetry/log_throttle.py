"""Limits the rate of log lines of one kind, so that no caller can flood the log.

The first of a kind is logged at once. Those that follow within a second become one line with their number.
"""

from asyncio import get_running_loop
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")
_PAUSE_SECONDS: Final = 1.0


class LogThrottle(Generic[_T]):
    """``log`` gets the last item of a kind and how many items the line stands for. Must be used in the event loop."""

    def __init__(self, log: Callable[[_T, int], None], pause: float = _PAUSE_SECONDS) -> None:
        self._log = log
        self._pause = pause
        self._held: dict[Hashable, list[tuple[_T, int]]] = {}
        """Kind → the last item since the last line and the number of items; empty if there is none."""

    def add(self, kind: Hashable, item: _T) -> None:
        held = self._held.get(kind)
        if held is None:  # no line of this kind within the last pause
            self._write(kind, item, 1)
        else:
            held[:] = [(item, held[0][1] + 1 if held else 1)]

    def flush(self) -> None:
        """Log now the lines that are held back."""
        while self._held:
            _, held = self._held.popitem()
            for item, number in held:
                self._log(item, number)

    def _write(self, kind: Hashable, item: _T, number: int) -> None:
        self._log(item, number)
        self._held[kind] = []
        get_running_loop().call_later(self._pause, self._end_pause, kind)

    def _end_pause(self, kind: Hashable) -> None:
        # A kind without items is forgotten, so only kinds of the last pause take memory. ``flush`` may have
        # removed the kind before.
        for item, number in self._held.pop(kind, []):
            self._write(kind, item, number)
