"""The command line; on SIGUSR1 it writes the number of tasks of its event loop to stderr."""

import asyncio
import signal
import sys
from types import FrameType

from bridge.__main__ import main


def _report_tasks(_number: int, _frame: FrameType | None) -> None:
    sys.stderr.write(f"tasks={len(asyncio.all_tasks(asyncio.get_running_loop()))}\n")
    sys.stderr.flush()


signal.signal(signal.SIGUSR1, _report_tasks)
main()
