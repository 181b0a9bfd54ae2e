"""How many processors this process may use: its affinity, and the quota of its control groups.

| Version | The group of a process, in ``/proc/self/cgroup`` | The quota of a group |
|---|---|---|
| 2 | ``0::/GROUP`` | ``cpu.max``: microseconds, or ``max``, in each period |
| 1 | ``4:cpu,cpuacct:/GROUP`` | ``cpu/cpu.cfs_quota_us``, -1 for none, and ``cpu.cfs_period_us`` |

The quotas of the groups around a group count too. In a container the path of its group may be that of the host, and the
files are those of the container: then only the outermost group is found, which is its own.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

MAX_AUTOMATIC: Final = 8
"""The most that ``--workers auto`` starts. Each takes memory, and a tools server rarely needs more of them."""
_ROOT: Final = Path("/")


def allowed_processors() -> int:
    """The processors that this process may run on. macOS binds no process to some of them."""
    return len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0))


def automatic_workers(processors: int, root: Path = _ROOT) -> int:
    """The workers for ``auto``: one for each of the processors that the quotas allow, at most ``MAX_AUTOMATIC``.

    ``root`` holds ``proc`` and ``sys``.
    """
    quota = min(_quotas(root), default=MAX_AUTOMATIC)
    # Rounded up: with 1.5 processors, one process would leave a half unused.
    return max(1, min(processors, -int(-quota // 1), MAX_AUTOMATIC))


def _quotas(root: Path) -> Iterator[float]:
    """The quotas of all groups that this process is in, in processors."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            for folder in _around(root / "sys/fs/cgroup", group):
                yield from _quota(*_read(folder / "cpu.max").split())
        elif "cpu" in controllers.split(","):
            for folder in _around(root / "sys/fs/cgroup/cpu", group):
                yield from _quota(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _around(top: Path, group: str) -> list[Path]:
    """The folder of a group, and those of the groups around it."""
    inner = PurePosixPath(group.strip("/"))
    return [top / each for each in (inner, *inner.parents)]


def _quota(*texts: str) -> Iterator[float]:
    """The processors that a quota and its period allow; nothing if there is no limit."""
    numbers = [int(text) for text in texts if text.strip().isdigit()]  # "max" and "-1" are none
    if len(numbers) == 2 and all(numbers):
        yield numbers[0] / numbers[1]


def _read(path: Path) -> str:
    """The text of a file, empty if it cannot be read: these files exist only on Linux."""
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
