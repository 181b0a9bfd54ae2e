"""Packages that tests need from npm; ``python -m tests.npm`` installs them, unless they are installed."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
MODULES: Final = HERE / "node_modules"
NODE: Final = MODULES / "node" / "bin" / "node"


def install() -> None:
    """Installs Node and all packages; exits with a message if there is no npm."""
    once(HERE / "package-lock.json", MODULES, lambda: ci(HERE))


def ci(folder: Path) -> None:
    """Installs the packages of the lock file in ``folder``."""
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm was not found, but some tests need packages from it; install npm")
    subprocess.run([npm, "ci", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True)


def once(lock: Path, target: Path, install_packages: Callable[[], None]) -> None:
    """Installs unless ``target`` was installed from this lock file, by the digest in ``target/.installed``."""
    mark = target / ".installed"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if not (mark.exists() and mark.read_text() == digest):
        install_packages()
        mark.write_text(digest)


if __name__ == "__main__":
    install()
