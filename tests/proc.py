"""What Linux reports about a process in /proc."""

import os
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


def cpu(pid: int) -> float:
    """CPU seconds so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def status(pid: int, key: str) -> int:
    """The first number after a key in ``/proc/PID/status``: kB for ``VmRSS``, a count for ``Threads``."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition(f"{key}:")[2].split()[0])


def memory(pid: int) -> float:
    """Resident memory in MB."""
    return status(pid, "VmRSS") / 1000


def children(pid: int) -> list[int]:
    """The child processes of its main thread that were not waited for yet."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command(pid: int) -> list[str]:
    """Its command line."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
