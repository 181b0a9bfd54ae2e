"""What a supervisor tells a worker process at its start, as a line of JSON on stdin."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from bridge.app.siblings import Siblings
from bridge.http.connection_table import ConnectionTable, Share
from bridge.settings import Settings


@dataclass(frozen=True, slots=True)
class Worker:
    """The place of one worker process among the others.

    | Field | Meaning |
    |---|---|
    | ``number`` | from 1; a restarted worker keeps it |
    | ``name`` | unique: a restarted worker has another one |
    | ``workers`` | how many there are |
    | ``listener`` | descriptor of the listening socket, which all inherit |
    | ``folder`` | private folder of the supervisor and its workers |
    | ``slot`` | in the table of open connections |
    | ``restarts`` | how often a worker with this number was restarted |
    """

    number: int
    name: str
    workers: int
    listener: int
    folder: str
    slot: int
    restarts: int = 0

    @property
    def share(self) -> Share:
        """Its part of the connections."""
        return Share(ConnectionTable(connection_table(Path(self.folder))), self.slot)

    @property
    def siblings(self) -> Siblings:
        """The other workers."""
        return Siblings(Path(self.folder), self.name)

    def to_json(self, settings: Settings) -> str:
        """The line for this worker, without its newline."""
        return json.dumps({"worker": asdict(self), "settings": settings.to_json()})

    @classmethod
    def from_json(cls, line: bytes) -> tuple[Self, Settings]:
        """Reads what ``to_json`` returns."""
        told = json.loads(line)
        return cls(**told["worker"]), Settings.from_json(told["settings"])


def connection_table(folder: Path) -> Path:
    """The file of the table of open connections."""
    return folder / "connections"
