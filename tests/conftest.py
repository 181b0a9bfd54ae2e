"""Fixtures and hooks of all tests."""

import os
import sys
from collections.abc import Generator

import hypothesis
import pytest

pytest_plugins = ["tests.serving.fixtures"]

# No deadlines: other load on the machine must not fail a test.
hypothesis.settings.register_profile(
    "bridge", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("bridge")

_started: list[str] = []
"""Audit events of process starts during this test."""
os.register_at_fork(before=lambda: _started.append("fork"))  # uvloop starts processes by fork
sys.addaudithook(lambda event, _: _started.append(event) if event == "subprocess.Popen" else None)

_ASYNCIO = pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")
_UVLOOP = pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")
_BOTH = [_ASYNCIO, pytest.param(*_UVLOOP.values, id="uvloop", marks=pytest.mark.slow)]
_LOOPS = {
    "access": [_UVLOOP],
    "app": _BOTH,
    "commands": [_UVLOOP],
    "http": _BOTH,
    "protocol": _BOTH,
    "stdio": _BOTH,
    "test_invoke": _BOTH,
    "upstream": _BOTH,
}
"""The event loops on which the tests of a folder run; other folders run on asyncio.

``serve --http`` runs on uvloop if it is installed, everything else on asyncio. The second run of a test is marked as slow.
"""


@pytest.fixture
def anyio_backend() -> str:
    """Trio is not supported."""
    return "asyncio"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = metafunc.module.__name__.split(".")[1]
    if "anyio_backend" in metafunc.fixturenames and folder in _LOOPS:
        metafunc.parametrize("anyio_backend", _LOOPS[folder])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    _started.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    assert not _started or item.get_closest_marker("slow"), "This test starts a process. Mark it as slow."
    return result
