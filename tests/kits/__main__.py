"""Tries to break the bridge: ``python -m tests.kits [--long] [KIT…]``; prints figures beside their goals."""

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
    "storm": storm.run,
    "strain": strain.run,
    "swaps": swaps.run,
    "soak": soak.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kits", description=__doc__)
    parser.add_argument("kits", nargs="*", metavar="KIT", help=f"of {', '.join(KITS)}; all, if none is named")
    parser.add_argument("--long", action="store_true", help="as often as the goals are meant, not as CI does")
    chosen = parser.parse_args()
    if unknown := set(chosen.kits) - KITS.keys():
        parser.error(f"there is no kit {', '.join(unknown)}")
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # clients that are cancelled say much
    held = {False: 0, True: 0}
    for name in chosen.kits or KITS:
        began = time.monotonic()
        try:
            figures = anyio.run(partial(KITS[name], long=chosen.long))
        except (Exception, SystemExit) as problem:  # noqa: BLE001 - the outermost loop: the other kits still run
            figures = [failed(name, problem)]
        for figure in figures:
            held[figure.held or (figure.timed and not chosen.long)] += 1
        print(f"{name} ({time.monotonic() - began:.0f} s)\n{table(figures, long=chosen.long)}\n", flush=True)  # noqa: T201
    print(f"{held[True]} passed, {held[False]} failed")  # noqa: T201 - it is what the program is for
    return int(held[False] > 0)


sys.exit(main())
