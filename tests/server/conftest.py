"""The bridge under test, the API behind it, and a plain HTTP client."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from bridge.upstream.client import Client
from tests.server.support import TOOLS, Api, Control, Served


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    running = Api()
    server = await asyncio.start_server(running.answer, "127.0.0.1", 0)
    running.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield running
    running.release.set()
    server.close()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    opened = Client()
    yield opened
    await opened.aclose()


@pytest.fixture
def served(api: Api, client: Client) -> Served:
    bridge = Served(api.url, client)
    bridge.show(*TOOLS)
    return bridge


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    """Where a bridge in a process of its own hears of changes."""
    joined: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda _, writer: joined.set_result(writer), "127.0.0.1", 0)
    yield Control(server.sockets[0].getsockname()[1], joined)
    (await joined).close()
    server.close()


@pytest.fixture
async def web() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as opened:
        yield opened
