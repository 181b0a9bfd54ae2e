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
    Event,
    KeysChanged,
    Listener,
    SnapshotReplaced,
    ignore,
)
from bridge.spec import Json, may_change
from bridge.telemetry.log_output import json_line

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
"""The permission bits of group and others."""
MAX_WAIT_SECONDS: Final = 0.5
ERROR_INTERVAL_SECONDS: Final = 10.0
"""The least time between two log lines about lost audit lines."""

# O_NONBLOCK: open(2) of a FIFO without a reader would block. It has no effect on regular files.
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
_NOT_A_FILE: Final = "it is not a regular file"
_REASONS: Final[Mapping[int | None, str]] = {
    errno.ELOOP: "it is a symbolic link",  # open(2), O_NOFOLLOW
    errno.ENXIO: _NOT_A_FILE,  # a FIFO without a reader
}

_log: Final = logging.getLogger(__name__)

_Write = Callable[[int, bytes], int]
_Job = tuple[bytes, Future[None]]


class Audit:
    """Appends to the file at ``path``; raises ``OSError``, whose ``strerror`` says why, if it cannot be opened.

    ``required``: a call whose first line cannot be written is refused with ``NotSent``. ``fields`` are in each line.
    ``digest`` returns the digest of the files that are served; without it starts and reloads have no line.
    ``emit`` receives ``AuditWritten``. ``mode`` is that of the file when it was first opened. ``write`` is write(2).
    """

    def __init__(
        self,
        path: Path,
        emit: Listener = ignore,
        *,
        required: bool = False,
        fields: Mapping[str, Json] | None = None,
        digest: Callable[[], str] | None = None,
        write: _Write = os.write,
        clock: Callable[[], float] = time.monotonic,
        max_wait: float = MAX_WAIT_SECONDS,
    ) -> None:
        self._path = path
        self._emit = emit
        self._required = required
        self._fields = fields or {}
        self._digest = digest
        self._last_digest = digest() if digest else ""
        self._clock = clock
        self._lost = 0
        self._is_failing = False
        self._next_error = -ERROR_INTERVAL_SECONDS  # the first lost line is logged at once
        file = _File(path, write)
        self.mode: Final = file.mode
        self._writer = _Writer(file, max_wait)

    def close(self) -> None:
        """Close the file after all lines are written. A write that hangs is abandoned after ``MAX_WAIT_SECONDS``."""
        self._writer.close()

    def on_event(self, event: Event) -> None:
        """Write a line for a call that may change something, for a reload, and for a change of keys.

        Calls of unknown tools have no line.
        """
        match event:
            case CallStarted():
                is_written = self._append_call("call-started", event)
                if self._required and not is_written:
                    message = "The call was not made: the audit file cannot be written. Tell the operator."
                    raise NotSent("audit-failed", message)
            case CallFinished(method=str(method)) if may_change(method):
                # The call was made, so ``required`` cannot refuse it any longer: a failure is only reported.
                ms = round(event.seconds * 1000)
                self._append_call("call", event, outcome=event.outcome, status=event.status, ms=ms)
            case KeysChanged():
                self._append("keys", **event._asdict())
            case SnapshotReplaced():
                self._append_reload(event)
            case _:
                pass

    def record_start(self) -> None:
        """Write that a process serves."""
        if self._digest:
            self._append("start", digest=self._last_digest)

    def _append_reload(self, event: SnapshotReplaced) -> None:
        before, self._last_digest = self._last_digest, self._digest() if self._digest else ""
        if before != self._last_digest:
            self._append(
                "reload",
                before=before,
                after=self._last_digest,
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
        """Append a line; returns whether it is in the file."""
        present = {key: value for key, value in fields.items() if value is not None}
        line = json_line(time.time(), "info", {"message": name, "event": name, **self._fields, **present})
        try:
            self._writer.write(line.encode())
        except OSError as problem:
            self._report(problem.strerror or type(problem).__name__)
            return False
        if self._is_failing:  # listeners need no event for each line, only for the end of a failure
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
    """The file at a path, which log rotation may replace. All methods raise ``OSError``."""

    def __init__(self, path: Path, write: _Write) -> None:
        self._path = path
        self._write = write
        self._descriptor: int | None = None
        self._is_torn = False
        self._open()

    @property
    def mode(self) -> int:
        """Its permission bits."""
        return stat.S_IMODE(self._opened.st_mode)

    def append(self, line: bytes) -> None:
        descriptor = self._current()
        written = b"\n" + line if self._is_torn else line
        self._is_torn = self._write(descriptor, written) < len(written)
        if self._is_torn:  # write(2) is short if the disk is full; the next line must not continue this one
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _current(self) -> int:
        if self._descriptor is not None:
            with suppress(FileNotFoundError):  # log rotation moved it away
                # lstat: a link put there must fail in ``_open``, even if it leads to the moved file.
                if os.path.samestat(self._path.lstat(), self._opened):
                    return self._descriptor
            self.close()
        return self._open()

    def _open(self) -> int:
        """Open a regular file only. A symbolic link may lead elsewhere, and a FIFO may block."""
        try:
            descriptor = os.open(self._path, _FLAGS, 0o600)
        except OSError as problem:
            reason = _REASONS.get(problem.errno, problem.strerror)
            raise OSError(problem.errno, reason) from None
        self._opened = os.fstat(descriptor)
        if not stat.S_ISREG(self._opened.st_mode):  # such as a FIFO with a reader: no ENXIO
            os.close(descriptor)
            raise OSError(errno.EINVAL, _NOT_A_FILE)
        self._descriptor = descriptor
        self._is_torn = False
        return descriptor


class _Writer:
    """Appends lines to a file in a thread of its own."""

    def __init__(self, file: _File, max_wait: float) -> None:
        self._file = file
        self._max_wait = max_wait
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._last: Future[None] = Future()
        self._last.set_result(None)
        # A daemon: the interpreter does not wait at exit for a write that hangs.
        self._thread = Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Wait until the line is written; raises ``OSError`` if that fails or takes longer than ``max_wait`` seconds."""
        if self._last.done():  # otherwise the thread still hangs in an earlier write
            self._last = Future()
            self._jobs.put((line, self._last))
            with suppress(TimeoutError):  # the line is not withdrawn: it may still reach the file later
                return self._last.result(self._max_wait)
        raise OSError(errno.ETIMEDOUT, f"a write took more than {self._max_wait:g} s")

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join(self._max_wait)

    def _run(self) -> None:
        while job := self._jobs.get():  # None ends it, after all lines that were queued before
            line, future = job
            try:
                self._file.append(line)
            except OSError as problem:
                future.set_exception(problem)
            else:
                future.set_result(None)
        self._file.close()
