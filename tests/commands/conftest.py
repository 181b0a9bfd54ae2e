"""A folder with the sample tools, the shop that they call, and the command line."""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from bridge import cli
from tests.commands.in_process import root_logger_restored
from tests.commands.shop import serving_shop

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
    with serving_shop() as url:
        yield url


@pytest.fixture
def line(capfd: pytest.CaptureFixture[str]) -> Line:
    """Runs one command line; returns the exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with root_logger_restored():
            code = cli.main(arguments)
            for handler in logging.getLogger().handlers:
                handler.flush()
        return (code, *capfd.readouterr())

    return run
