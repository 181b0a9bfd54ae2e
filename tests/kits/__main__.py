"""Stress and fault-injection tests: ``python -m tests.kits [--long] [KIT…]`` prints each measured figure and its goal."""

import argparse
import logging
import sys
import time
from functools import partial
from typing import Final, Protocol

import anyio

from tests.kits import (
    audit,
    authors,
    callers,
    canaries,
    conformance,
    faults,
    fuzz,
    greedy,
    hostile,
    lifecycle,
    replicas,
    sessions,
    soak,
    storm,
    strain,
    swaps,
)
from tests.kits.figures import Figure, failed, table


class _Kit(Protocol):
    async def __call__(self, *, long: bool) -> list[Figure]: ...


KITS: Final[dict[str, _Kit]] = {
    "audit": audit.run,
    "authors": authors.run,
    "callers": callers.run,
    "canaries": canaries.run,
    "faults": faults.run,
    "conformance": conformance.run,
    "fuzz": fuzz.run,
    "greedy": greedy.run,
    "hostile": hostile.run,
    "lifecycle": lifecycle.run,
    "replicas": replicas.run,
    "sessions": sessions.run,
    "storm": storm.run,
    "strain": strain.run,
    "swaps": swaps.run,
    "soak": soak.run,
}


_ON_REQUEST: Final = {"sessions"}
"""Runs only when it is named: on a busy machine, more requests are young when their worker is killed."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kits", description=__doc__)
    parser.add_argument(
        "kits",
        nargs="*",
        metavar="KIT",
        help=f"one of {', '.join(KITS)}; default: all but {', '.join(_ON_REQUEST)}",
    )
    parser.add_argument(
        "--long",
        action="store_true",
        help="full length, on which the goals are based; CI runs the short form",
    )
    options = parser.parse_args()
    if unknown := set(options.kits) - KITS.keys():
        parser.error(f"there is no kit {', '.join(unknown)}")
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # cancelled clients log many errors
    passed = failed_count = 0
    for name in options.kits or [name for name in KITS if name not in _ON_REQUEST]:
        started = time.monotonic()
        try:
            figures = anyio.run(partial(KITS[name], long=options.long))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the outermost loop: the other kits still run
            figures = [failed(name, error)]
        for figure in figures:
            if figure.is_met or (figure.timed and not options.long):
                passed += 1
            else:
                failed_count += 1
        seconds = time.monotonic() - started
        print(f"{name} ({seconds:.0f} s)\n{table(figures, long=options.long)}\n", flush=True)  # noqa: T201
    print(f"{passed} passed, {failed_count} failed")  # noqa: T201 - the output of the program
    return int(failed_count > 0)


sys.exit(main())
