"""The command line, which at SIGUSR1 says on stderr how many tasks its event loop has."""

import asyncio
import signal
import sys
from types import FrameType

from bridge.__main__ import main


def _tell(_number: int, _frame: FrameType | None) -> None:
    sys.stderr.write(f"tasks={len(asyncio.all_tasks(asyncio.get_running_loop()))}\n")
    sys.stderr.flush()


signal.signal(signal.SIGUSR1, _tell)
main()
