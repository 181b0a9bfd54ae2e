"""What all tests share."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The engine below is asyncio's: trio has no say."""
    return "asyncio"
