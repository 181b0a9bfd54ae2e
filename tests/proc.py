"""What Linux tells of a process in /proc."""

import os
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


def cpu(pid: int) -> float:
    """CPU seconds so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def status(pid: int, key: str) -> int:
    """The first number of a line of its status: kB of ``VmRSS``, a count of ``Threads``."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition(f"{key}:")[2].split()[0])


def memory(pid: int) -> float:
    """MB resident."""
    return status(pid, "VmRSS") / 1000
