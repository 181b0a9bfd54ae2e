"""A client under test, a faulty upstream, and a certificate authority for it."""

from collections.abc import AsyncIterator

import pytest

from bridge.events import Event
from bridge.upstream.client import Client
from tests.upstream.certificates import Authority
from tests.upstream.faulty import Faulty, serve
from tests.upstream.sending import Caller


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def faulty() -> AsyncIterator[Faulty]:
    async with serve() as server:
        yield server


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    """A caller without the delay before a connection is reused."""
    events: list[Event] = []
    client = Client(emit=events.append, random=lambda: 0.0, now=lambda: 784111777.0, settle=0.0)
    yield Caller(client, events)
    await client.aclose()
