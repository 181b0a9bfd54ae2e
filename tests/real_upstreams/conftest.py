"""What the tests with real upstreams share."""

import pytest


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """As for all tests, and as long as a server lives."""
    return "asyncio"
