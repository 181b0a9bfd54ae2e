"""Signals that end serving, and the one that asks for a reload."""

import signal
from collections.abc import Callable

import anyio
from anyio.abc import TaskStatus


async def stop_on_signal(
    stop: anyio.Event, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Set ``stop`` at SIGTERM or SIGINT; the second one meets the default handler and ends it at once."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            break
    stop.set()


async def ask_on_signal(
    ask: Callable[[], None], *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Call ``ask`` at each SIGHUP, by which daemons are told to read their files again."""
    with anyio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            ask()
