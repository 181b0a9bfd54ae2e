"""The entry point of ``python -m bridge`` and of the command ``restbridge``."""

import sys
from typing import NoReturn

from bridge import cli


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
