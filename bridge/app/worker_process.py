"""Worker processes, as their supervisor sees them."""

import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio
from anyio import to_thread

from bridge.app.handover import OldWorker


class Lifeline:
    """The writing end of a worker's stdin. The worker stops when it is closed, also by the end of this process."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor: Final = descriptor
        self._is_open = True
        self._sending: anyio.CancelScope | None = None

    async def send(self, data: bytes) -> None:
        """Write all of it. It ends early if the worker ends, or the lifeline is closed."""
        left = memoryview(data)
        try:
            with anyio.CancelScope() as self._sending, suppress(BrokenPipeError):
                while left:
                    await anyio.wait_writable(self.descriptor)
                    left = left[os.write(self.descriptor, left) :]
        finally:
            self._sending = None
            if not self._is_open:
                os.close(self.descriptor)

    def close(self) -> None:
        """Tell the worker to stop."""
        if not self._is_open:
            return
        self._is_open = False
        if self._sending:  # which closes it: the event loop still waits for the descriptor
            self._sending.cancel()
        else:
            os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A worker process. ``wait`` returns its exit code, negative for a signal. The other fields are as in ``Worker``."""

    number: int
    name: str
    slot: int
    pid: int
    lifeline: Lifeline
    wait: Callable[[], Awaitable[int]]

    @classmethod
    def adopt(cls, old: OldWorker, limiter: anyio.CapacityLimiter) -> "WorkerProcess":
        """A worker that the old version of this process has started. One thread of ``limiter`` waits for its end."""
        wait = partial(to_thread.run_sync, _wait, old.pid, abandon_on_cancel=True, limiter=limiter)
        return cls(old.number, old.name, old.slot, old.pid, Lifeline(old.lifeline), wait)

    @property
    def as_old(self) -> OldWorker:
        """What the next version of this process needs."""
        return OldWorker(self.number, self.name, self.slot, self.pid, self.lifeline.descriptor)

    def send_signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(self.pid, number)


def _wait(pid: int) -> int:
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:  # it is no child of this process
        return 0
    return os.waitstatus_to_exitcode(status)
