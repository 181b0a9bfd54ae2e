"""Signals: SIGTERM and SIGINT stop the server, SIGHUP reloads."""

import signal
from collections.abc import Callable

import anyio
from anyio.abc import TaskStatus


async def stop_on_signal(
    stop: anyio.Event, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Set ``stop`` at the first SIGTERM or SIGINT. The second one gets the default handler, which ends the process."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        # Leaving the block restores the default handlers, so that a second ^C ends a stop that hangs.
        async for _ in signals:
            break
    stop.set()


async def reload_on_signal(
    request_reload: Callable[[], None], *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Call ``request_reload`` at each SIGHUP."""
    with anyio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            request_reload()
