"""A folder with the sample tools, the shop that they call, and the command line."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from bridge import cli
from bridge.demo.shop import create_app
from bridge.server.http import serve_app

ROOT = Path(__file__).parents[2]

Line: TypeAlias = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tools directory of a fresh current folder."""
    shutil.copytree(ROOT / "tools.d", tmp_path / "tools.d")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tools.d"


@pytest.fixture(scope="session")
def shop() -> Iterator[str]:
    """The URL of the sample shop."""
    with start_blocking_portal() as portal:
        stop = portal.call(anyio.Event)

        async def serve(*, task_status: anyio.abc.TaskStatus[str]) -> None:
            await serve_app(create_app("demo-key"), "127.0.0.1", 0, stop, task_status.started)

        running, url = portal.start_task(serve)
        yield url
        portal.call(stop.set)
        running.result(5)


@pytest.fixture
def line(capfd: pytest.CaptureFixture[str]) -> Line:
    """Runs one command line; answers exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.main(words)
        return (code, *capfd.readouterr())

    return run
