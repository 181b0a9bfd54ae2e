"""What all tests share."""

import hypothesis
import pytest

hypothesis.settings.register_profile("bridge", deadline=None)  # nothing is timed in a test
hypothesis.settings.load_profile("bridge")


@pytest.fixture
def anyio_backend() -> str:
    """The engine below is asyncio's: trio has no say."""
    return "asyncio"
