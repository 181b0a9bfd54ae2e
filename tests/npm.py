"""What tests take from npm; ``python -m tests.npm`` installs it, at once if it is there."""

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
    """Node and all packages; ends the process where there is no npm."""
    once(HERE / "package-lock.json", MODULES, lambda: ci(HERE))


def ci(folder: Path) -> None:
    """What the lock file in ``folder`` names."""
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm was not found; some tests take packages from it, and a Node of their own: install npm")
    subprocess.run([npm, "ci", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True)


def once(lock: Path, into: Path, do: Callable[[], None]) -> None:
    """The mark is the lock file's digest, so that a changed lock installs anew."""
    mark = into / ".installed"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if not (mark.exists() and mark.read_text() == digest):
        do()
        mark.write_text(digest)


if __name__ == "__main__":
    install()
