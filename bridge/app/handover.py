"""What a supervisor hands over to its new version at an upgrade, in the variable ``RESTBRIDGE_UPGRADE``.

The new version has the same process id, and inherits the descriptors.
"""

import json
import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bridge.errors import StartError
from bridge.http.listeners import inherited

UPGRADE: Final = "RESTBRIDGE_UPGRADE"


@dataclass(frozen=True, slots=True)
class OldWorker:
    """A running worker. ``lifeline`` is the descriptor of a pipe whose end tells it to stop. The rest is as in ``Worker``."""

    number: int
    name: str
    slot: int
    pid: int
    lifeline: int


@dataclass(frozen=True, slots=True)
class Handover:
    """The listening socket, the private folder, and the running workers of the old version.

    ``is_check``: this process only finds out whether the new version can start.
    """

    listener: socket.socket
    folder: Path
    workers: Sequence[OldWorker]
    is_check: bool = False

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """An environment with the variable."""
        told = {
            "listener": self.listener.fileno(),
            "folder": str(self.folder),
            "workers": [asdict(each) for each in self.workers],
            "is_check": self.is_check,
        }
        return {**base, UPGRADE: json.dumps(told)}

    def set_inheritable(self, *, inheritable: bool) -> None:
        """Whether a program that replaces this one gets the descriptors."""
        for descriptor in (self.listener.fileno(), *(each.lifeline for each in self.workers)):
            os.set_inheritable(descriptor, inheritable)

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> "Handover | None":
        """What the old version has handed over, None without one. The variable is removed. Raises ``StartError``."""
        text = environment.pop(UPGRADE, None)
        if text is None:
            return None
        try:
            told = json.loads(text)
            workers = [OldWorker(**each) for each in told["workers"]]
            listener = inherited(told["listener"])
            handover = cls(listener, Path(told["folder"]), workers, told["is_check"])
        except (ValueError, TypeError, KeyError, OSError):
            raise StartError(f"{UPGRADE} is set, which only the bridge itself does; unset it") from None
        if not handover.is_check:  # a check inherits only the socket
            handover.set_inheritable(inheritable=False)
        return handover
