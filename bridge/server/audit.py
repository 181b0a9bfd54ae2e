"""A file of what was done: a line of JSON for each call that may have changed something.

So it has for each start, each reload and each change of keys. It is opened anew when it was moved away, as those do who rotate logs. Several processes may append to one.
"""

import logging
import sys
from contextlib import suppress
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Final

from bridge.events import CallFinished, Event, KeysChanged, SnapshotReplaced
from bridge.server.logs import JsonLines
from bridge.spec import SAFE_METHODS

_log: Final = logging.getLogger(__name__)


class Audit:
    """Appends to the file at ``path``; raises ``OSError`` where that cannot be."""

    def __init__(self, path: Path) -> None:
        self._file = _File(path)

    def close(self) -> None:
        with suppress(OSError):  # a line that could not be written, again
            self._file.close()

    def hear(self, event: Event) -> None:
        """Of calls and keys alone; calls of tools that are not served changed nothing."""
        if isinstance(event, KeysChanged):
            self._append("keys", **event._asdict())
        if not isinstance(event, CallFinished) or event.method is None or event.method in SAFE_METHODS:
            return
        self._append(
            "call",
            tool=event.tool,
            method=event.method,
            caller=event.caller,
            issuer=event.issuer,
            upstream=event.upstream,
            outcome=event.outcome,
            status=event.status,
            ms=round(event.seconds * 1000),
            id=event.request,
            trace=event.trace,
        )

    def began(self, digest: str) -> None:
        """That a process serves files with this digest."""
        self._append("start", digest=digest)

    def reloaded(self, event: SnapshotReplaced, before: str, after: str) -> None:
        """That other files are served; ``before`` and ``after`` are their digests."""
        if before != after:
            self._append(
                "reload",
                before=before,
                after=after,
                added=event.added,
                changed=event.changed,
                removed=event.removed,
                broken=event.broken,
            )

    def _append(self, name: str, **fields: object) -> None:
        said = {"event": name} | {key: value for key, value in fields.items() if value is not None}
        record = logging.makeLogRecord({"msg": name, "levelname": "INFO", "fields": said})
        try:
            self._file.handle(record)
        except OSError as problem:  # it was moved away, and cannot be made anew
            self._file.tell(problem)


class _File(WatchedFileHandler):
    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self.setFormatter(JsonLines())

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's
        problem = sys.exception()
        assert isinstance(problem, OSError)
        self.tell(problem)

    def tell(self, problem: OSError) -> None:
        """What is lost here, the log tells of."""
        _log.error("audit: a line could not be written to %s: %s", self.baseFilename, problem.strerror)
