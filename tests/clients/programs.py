"""The client programs of the matrix, and the installation of their packages."""

import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests import npm

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
MODERN: Final = "2026-07-28"
HANDSHAKE: Final = "2025-11-25"

_VENV: Final = HERE / ".venv"


@dataclass(frozen=True, slots=True)
class Program:
    """``version`` is the protocol version that it must negotiate; ``mode`` is the negotiation mode of the SDK."""

    name: str
    command: tuple[str, ...]
    mode: str
    version: str


_PYTHON_2: Final = (sys.executable, "-m", "tests.clients.python_2")
_PYTHON_1: Final = (str(_VENV / "bin" / "python"), "-m", "tests.clients.python_1")
_TYPESCRIPT_2: Final = (str(npm.NODE), str(HERE / "typescript_2.mjs"))
_TYPESCRIPT_1: Final = (_TYPESCRIPT_2[0], str(HERE / "typescript_1.mjs"))

PROGRAMS: Final = (
    Program("Python SDK 2.x, handshake", _PYTHON_2, "legacy", HANDSHAKE),
    Program("Python SDK 2.x, modern", _PYTHON_2, "auto", MODERN),
    Program("Python SDK 1.x", _PYTHON_1, "legacy", HANDSHAKE),
    Program("TypeScript client 2.x, handshake", _TYPESCRIPT_2, "legacy", HANDSHAKE),
    Program("TypeScript client 2.x, modern", _TYPESCRIPT_2, "auto", MODERN),
    Program("TypeScript SDK 1.x", _TYPESCRIPT_1, "legacy", HANDSHAKE),
)


def install() -> None:
    """Installs Node and the npm clients, and mcp 1.x in a separate virtual environment; skipped if they are installed."""
    npm.install()
    npm.once(HERE / "requirements.txt", _VENV, _install_python)


def _install_python() -> None:
    venv.create(_VENV, with_pip=True, clear=True)
    pip = [_PYTHON_1[0], "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "--requirement", HERE / "requirements.txt"], check=True)
