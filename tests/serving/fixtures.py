"""The bridge under test, the API behind it, and a plain HTTP client."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from bridge.http import reply_stream
from bridge.upstream.client import Client
from tests.serving.api import Api, serving_api
from tests.serving.served import Served
from tests.serving.tools import TOOLS, Files

_ON_BOTH_PATHS = {
    "tests.access.test_credentials",
    "tests.http.test_handshake",
    "tests.http.test_reply_stream",
    "tests.http.test_server",
    "tests.protocol.test_notifications",
    "tests.stdio.test_transport",
}


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
    """Run these modules with the fast path and without it."""
    if "served" in metafunc.fixturenames and metafunc.module.__name__ in _ON_BOTH_PATHS:
        metafunc.parametrize("served", [True, False], ids=["fast path", "SDK alone"], indirect=True)


@pytest.fixture
def served(api: Api, client: Client, request: pytest.FixtureRequest) -> Served:
    bridge = Served(api.url, client, fast_path=getattr(request, "param", True))
    bridge.show(*TOOLS)
    return bridge


@pytest.fixture
def no_early_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies over HTTP begin when they are complete, however slow the machine is."""
    monkeypatch.setattr(reply_stream, "_OPEN_SECONDS", 3600)


@pytest.fixture
def early_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The headers of a reply over HTTP go out at once if it has to wait for anything."""
    monkeypatch.setattr(reply_stream, "_OPEN_SECONDS", 0)


@pytest.fixture
def files(tmp_path: Path, api: Api) -> Files:
    return Files(tmp_path, api.url)


@pytest.fixture
async def web() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30, trust_env=False) as opened:
        yield opened
