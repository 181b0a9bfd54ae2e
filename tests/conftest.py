"""What all tests share."""

import hypothesis
import pytest

pytest_plugins = ["tests.serving.fixtures"]

# Nothing is timed in a test.
hypothesis.settings.register_profile(
    "bridge", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("bridge")


@pytest.fixture
def anyio_backend() -> str:
    """The engine below is asyncio's: trio has no say."""
    return "asyncio"
