"""Benchmarks of the bridge and its peers: ``python -m tests.bench [--quick] [PART…]``.

Needs nginx and wrk (Debian has both) and npm; installs everything else in this folder. Compare ratios of one run
and the CPU per call, not times: times differ between machines, and on one machine from minute to minute.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.bench import calls, edit, inside, large, lists, loading, pipes, scale
from tests.bench.subjects import install
from tests.bench.upstream import nginx

PARTS: Final[dict[str, Callable[..., None]]] = {
    "calls": calls.main,
    "pipes": pipes.main,
    "lists": lists.main,
    "scale": scale.main,
    "large": large.main,
    "inside": inside.main,
    "loading": loading.main,
    "edit": edit.main,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; default: all")
    parser.add_argument(
        "--quick", action="store_true", help="one short round, to check that every part works"
    )
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"there is no part {', '.join(unknown)}")
    install()
    with TemporaryDirectory() as name:
        upstream = Path(name, "upstream")
        upstream.mkdir()
        with nginx(upstream) as url:
            for part in options.parts or PARTS:
                folder = Path(name, part)
                folder.mkdir()
                PARTS[part](url, folder, quick=options.quick)


main()
