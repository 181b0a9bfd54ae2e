"""The bridge under test, the API behind it, and a plain HTTP client."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from bridge.upstream.client import Client
from tests.serving.served import TOOLS, Api, Files, Served, serving_api


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving_api() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    opened = Client()
    yield opened
    await opened.aclose()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What is served is served with the express lane and without it."""
    if "served" in metafunc.fixturenames and metafunc.module.__name__.endswith(
        ("test_server", "test_notifications", "test_transport", "test_credentials")
    ):
        metafunc.parametrize("served", [True, False], ids=["express", "SDK alone"], indirect=True)


@pytest.fixture
def served(api: Api, client: Client, request: pytest.FixtureRequest) -> Served:
    bridge = Served(api.url, client, express=getattr(request, "param", True))
    bridge.show(*TOOLS)
    return bridge


@pytest.fixture
def shared(api: Api, client: Client) -> Served:
    """A bridge that keeps no sessions, for others serve on its port."""
    bridge = Served(api.url, client, alone=False)
    bridge.show(*TOOLS)
    return bridge


@pytest.fixture
def files(tmp_path: Path, api: Api) -> Files:
    return Files(tmp_path, api.url)


@pytest.fixture
async def web() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30, trust_env=False) as opened:
        yield opened
