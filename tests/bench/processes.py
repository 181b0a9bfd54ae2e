"""Starts measured processes, and reads their CPU and memory from /proc."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests import proc

_TIMEOUT_SECONDS: Final = 30.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def listening(port: int, process: subprocess.Popen[bytes]) -> None:
    """Waits until the process listens. Raises ``RuntimeError`` if it exits before that, or does not listen in time."""
    until = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} does not listen after {_TIMEOUT_SECONDS:g} s")


@contextmanager
def running(
    command: Sequence[str], port: int, environ: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **environ}
        ) as process,
    ):
        try:
            listening(port, process)
            yield process
        finally:
            process.terminate()


def cpu(pid: int) -> float:
    """CPU seconds so far of a process and its descendants."""
    return sum(proc.cpu(each) for each in _with_descendants(pid))


def memory(pid: int) -> float:
    """Resident memory in MB of a process and its descendants."""
    return sum(proc.memory(each) for each in _with_descendants(pid))


def _with_descendants(pid: int) -> list[int]:
    return [pid, *(each for child in proc.children(pid) for each in _with_descendants(child))]
