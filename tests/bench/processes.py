"""Processes that are measured, and how: all figures are of /proc."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests import proc

_BOUND: Final = 30.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def listening(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until something listens there; raises ``RuntimeError`` if it ends before, or never does."""
    until = time.monotonic() + _BOUND
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} does not listen after {_BOUND:g} s")


@contextmanager
def running(
    command: Sequence[str], port: int, environ: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log.open("wb") as said,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env={**os.environ, **environ}
        ) as process,
    ):
        try:
            listening(port, process)
            yield process
        finally:
            process.terminate()


def cpu(pid: int) -> float:
    """CPU seconds so far, of a process and those that it started."""
    return sum(proc.cpu(each) for each in _family(pid))


def memory(pid: int) -> float:
    """MB resident, likewise."""
    return sum(proc.memory(each) for each in _family(pid))


def _family(pid: int) -> list[int]:
    return [pid, *(each for child in proc.children(pid) for each in _family(child))]
