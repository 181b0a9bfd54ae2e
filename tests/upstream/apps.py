"""ASGI apps on a real socket, in the event loop of the test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.types import ASGIApp

from bridge.address import Address
from bridge.http.server import Listening, serve_app


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """Yields the URL."""
    urls: list[str] = []
    stop, up = anyio.Event(), anyio.Event()

    def started(url: str) -> None:
        urls.append(url)
        up.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve_app, app, Listening(Address("127.0.0.1", 0)), stop, started)
        await up.wait()
        yield urls[0]
        stop.set()
