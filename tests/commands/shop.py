"""The sample shop on a real socket, for commands that run their own event loop."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from anyio.abc import TaskStatus
from anyio.from_thread import start_blocking_portal

from bridge.address import Address
from bridge.demo.shop import create_app
from bridge.http.server import Listening, serve_app


@contextmanager
def serving_shop() -> Iterator[str]:
    """Serves in a thread; yields the URL. The key is demo-key."""
    with start_blocking_portal() as portal:
        stop = portal.call(anyio.Event)

        async def serve(*, task_status: TaskStatus[str]) -> None:
            await serve_app(
                create_app("demo-key"), Listening(Address("127.0.0.1", 0)), stop, task_status.started
            )

        running, url = portal.start_task(serve)
        yield url
        portal.call(stop.set)
        running.result(30)
