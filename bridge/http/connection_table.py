"""A table in shared memory: how many connections each worker has open."""

import mmap
from pathlib import Path
from typing import Final

_SLACK_DIVISOR: Final = 8
_SLOT_BYTES: Final = 8
_NOT_ACCEPTING: Final = -1


class ConnectionTable:
    """The open connections of each process that shares a listening socket, in the file ``path``: a slot for each."""

    SLOTS: Final = 256

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            # The mapping stays valid after the file is closed.
            self._slots = memoryview(mmap.mmap(file.fileno(), self.SLOTS * _SLOT_BYTES)).cast("q")

    @classmethod
    def create(cls, path: Path, *, keep: bool = False) -> "ConnectionTable":
        """A table in which no process accepts; with ``keep``, the one that is there."""
        if not keep:
            path.write_bytes(_NOT_ACCEPTING.to_bytes(_SLOT_BYTES, "little", signed=True) * cls.SLOTS)
        return cls(path)

    def set(self, slot: int, connections: int) -> None:
        self._slots[slot] = connections

    def clear(self, slot: int) -> None:
        """The process of this slot accepts no longer."""
        self._slots[slot] = _NOT_ACCEPTING

    @property
    def least(self) -> int:
        """The fewest open connections of a process that accepts, 0 if none does."""
        return min((number for number in self._slots if number != _NOT_ACCEPTING), default=0)


class Share:
    """The part of the connections that belongs to the process with this slot of the table."""

    def __init__(self, table: ConnectionTable, slot: int) -> None:
        self._table = table
        self._slot = slot

    def exceeds(self, connections: int) -> bool:
        """Whether this process, which has so many open connections, should leave the next one to another."""
        self._table.set(self._slot, connections)
        least = self._table.least
        return connections > least + least // _SLACK_DIVISOR

    def end(self) -> None:
        """From now on, leave all connections to the others."""
        self._table.clear(self._slot)
