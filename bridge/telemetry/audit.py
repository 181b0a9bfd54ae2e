"""The audit file: a line of JSON before and after each call that may change something, and for other changes.

The line before a call is in the file before the first request is sent. So the file shows every request that may have left, also
of a process that was killed: such a call has no line after it.

Each line is one write(2) to a descriptor with O_APPEND, and no buffer of this process holds it back: several processes may
append to one file. There is no fsync, so the last lines may be lost with the machine, but not with the process.

A thread writes the lines, and the event loop waits for each, at most ``MAX_WAIT_SECONDS``. While a write takes longer,
further lines fail at once. So a disk that hangs delays the other calls once, not each time.

The file may be moved away at any time, as log rotation does: the next line creates it again.
"""

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Final

from bridge.errors import NotSent
from bridge.events import (
    AuditWritten,
    CallFinished,
    CallStarted,
    Ear,
    Event,
    KeysChanged,
    SnapshotReplaced,
    ignore,
)
from bridge.spec import Json, may_change
from bridge.telemetry.log_output import json_line

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
"""The permissions of those who do not own a file."""
MAX_WAIT_SECONDS: Final = 0.5
ERROR_INTERVAL_SECONDS: Final = 10.0
"""Between two lines in the log that say that lines of the audit are lost."""

_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOT_A_FILE: Final = "it is not a regular file"
_REASONS: Final[Mapping[int | None, str]] = {
    errno.ELOOP: "it is a symbolic link",  # open(2), O_NOFOLLOW
    errno.ENXIO: _NOT_A_FILE,  # a FIFO that nobody reads
}

_log: Final = logging.getLogger(__name__)

_Write = Callable[[int, bytes], int]
_Job = tuple[bytes, Future[None]]


class Audit:
    """Appends to the file at ``path``; raises ``OSError``, whose ``strerror`` says why, if it cannot be opened.

    If it is ``required``, a call whose first line cannot be written is refused with ``NotSent``. ``fields`` stand in each
    line. ``emit`` receives ``AuditWritten``. ``mode`` is the file's, as it was opened at first. ``write`` is write(2), and ``clock`` counts seconds.
    """

    def __init__(
        self,
        path: Path,
        emit: Ear = ignore,
        *,
        required: bool = False,
        fields: Mapping[str, Json] | None = None,
        write: _Write = os.write,
        clock: Callable[[], float] = time.monotonic,
        max_wait: float = MAX_WAIT_SECONDS,
    ) -> None:
        self._path = path
        self._emit = emit
        self._required = required
        self._fields = fields or {}
        self._clock = clock
        self._lost = 0
        self._is_failing = False
        self._next_error = -ERROR_INTERVAL_SECONDS
        file = _File(path, write)
        self.mode: Final = file.mode
        self._writer = _Writer(file, max_wait)

    def close(self) -> None:
        """Close the file, once all lines are written; a write that hangs is not waited for."""
        self._writer.close()

    def hear(self, event: Event) -> None:
        """Write a line for a call that may change something, and for a change of keys.

        Calls of tools that are not served have none: they changed nothing.
        """
        match event:
            case CallStarted():
                is_written = self._append_call("call-started", event)
                if self._required and not is_written:
                    message = "The call was not made: the audit file cannot be written. Tell the operator."
                    raise NotSent("audit-failed", message)
            case CallFinished(method=str(method)) if may_change(method):
                ms = round(event.seconds * 1000)
                self._append_call("call", event, outcome=event.outcome, status=event.status, ms=ms)
            case KeysChanged():
                self._append("keys", **event._asdict())
            case _:
                pass

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

    def _append_call(self, name: str, event: CallStarted | CallFinished, **outcome: Json) -> bool:
        return self._append(
            name,
            call=event.call,
            tool=event.tool,
            method=event.method,
            caller=event.caller,
            issuer=event.issuer,
            upstream=event.upstream,
            **outcome,
            id=event.request,
            trace=event.trace,
        )

    def _append(self, name: str, **fields: Json) -> bool:
        """Whether the line is in the file."""
        said = {key: value for key, value in fields.items() if value is not None}
        line = json_line(time.time(), "info", {"message": name, "event": name, **self._fields, **said})
        try:
            self._writer.write(line.encode())
        except OSError as problem:
            self._report(problem.strerror or type(problem).__name__)
            return False
        if self._is_failing:
            self._is_failing = False
            self._emit(AuditWritten(None))
        return True

    def _report(self, reason: str) -> None:
        self._is_failing = True
        self._lost += 1
        self._emit(AuditWritten(reason))
        if self._clock() >= self._next_error:
            lines = "a line was" if self._lost == 1 else f"{self._lost} lines were"
            _log.error("audit: %s not written to %s: %s", lines, self._path, reason)
            self._lost = 0
            self._next_error = self._clock() + ERROR_INTERVAL_SECONDS


class _File:
    """The file at a path, which may be another one at any time. All methods raise ``OSError``."""

    def __init__(self, path: Path, write: _Write) -> None:
        self._path = path
        self._write = write
        self._descriptor: int | None = None
        self._is_torn = False
        self._open()

    @property
    def mode(self) -> int:
        """Its permissions."""
        return stat.S_IMODE(self._opened.st_mode)

    def append(self, line: bytes) -> None:
        descriptor = self._current()
        written = b"\n" + line if self._is_torn else line
        self._is_torn = self._write(descriptor, written) < len(written)
        if self._is_torn:  # the disk is full; the next line must not continue this one
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _current(self) -> int:
        if self._descriptor is not None:
            with suppress(FileNotFoundError):
                if os.path.samestat(self._path.lstat(), self._opened):
                    return self._descriptor
            self.close()
        return self._open()

    def _open(self) -> int:
        """Opens a regular file only: a link would let others choose where the lines go, and a FIFO may block."""
        try:
            descriptor = os.open(self._path, _FLAGS, 0o600)
        except OSError as problem:
            reason = _REASONS.get(problem.errno, problem.strerror)
            raise OSError(problem.errno, reason) from None
        self._opened = os.fstat(descriptor)
        if not stat.S_ISREG(self._opened.st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, _NOT_A_FILE)
        self._descriptor = descriptor
        self._is_torn = False
        return descriptor


class _Writer:
    """Appends lines to a file from a thread of its own, and closes it in the end."""

    def __init__(self, file: _File, max_wait: float) -> None:
        self._file = file
        self._max_wait = max_wait
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._last: Future[None] = Future()
        self._last.set_result(None)
        self._thread = Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Waits until the line is written; raises ``OSError`` if it is not, or if that takes too long."""
        if self._last.done():
            self._last = Future()
            self._jobs.put((line, self._last))
            with suppress(TimeoutError):
                return self._last.result(self._max_wait)
        raise OSError(errno.ETIMEDOUT, f"a write took more than {self._max_wait:g} s")

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join(self._max_wait)

    def _run(self) -> None:
        while job := self._jobs.get():
            line, future = job
            try:
                self._file.append(line)
            except OSError as problem:
                future.set_exception(problem)
            else:
                future.set_result(None)
        self._file.close()
