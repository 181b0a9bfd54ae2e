"""The client programs of the matrix, and what must be installed before they can run."""

import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
MODERN: Final = "2026-07-28"
HANDSHAKE: Final = "2025-11-25"

_NODE: Final = HERE / "node_modules"
_VENV: Final = HERE / ".venv"


@dataclass(frozen=True, slots=True)
class Program:
    """``version`` is the protocol version that it and the bridge must agree on; ``mode`` says how."""

    name: str
    command: tuple[str, ...]
    mode: str
    version: str


_PYTHON_2: Final = (sys.executable, "-m", "tests.clients.python_2")
_PYTHON_1: Final = (str(_VENV / "bin" / "python"), "-m", "tests.clients.python_1")
_TYPESCRIPT_2: Final = (str(_NODE / "node" / "bin" / "node"), str(HERE / "typescript_2.mjs"))
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
    """Brings in Node with the npm clients, and mcp 1.x beside the mcp 2.x that runs this; at once if they are there."""
    _once(HERE / "package-lock.json", _NODE, _install_node)
    _once(HERE / "requirements.txt", _VENV, _install_python)


def _install_node() -> None:
    npm = shutil.which("npm")
    if npm is None:
        sys.exit(
            "npm was not found; the TypeScript clients come from it, with a Node of their own: install npm"
        )
    subprocess.run([npm, "ci", "--silent", "--no-audit", "--no-fund"], cwd=HERE, check=True)


def _install_python() -> None:
    venv.create(_VENV, with_pip=True, clear=True)
    pip = [_PYTHON_1[0], "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "--requirement", HERE / "requirements.txt"], check=True)


def _once(lock: Path, into: Path, do: Callable[[], None]) -> None:
    """The mark is the lock file's digest, so that a changed lock installs anew."""
    mark = into / ".installed"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if not (mark.exists() and mark.read_text() == digest):
        do()
        mark.write_text(digest)
