"""Signals that end serving."""

import signal

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
