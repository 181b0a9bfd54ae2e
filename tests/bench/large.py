"""A megabyte from the upstream: projected by restbridge to what was asked for, and whole as Toolbox hands it on."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Final

from tests.bench.rounds import compare, lanes
from tests.bench.subjects import BRIDGE, PEER, Served, served

_ASK: Final = partial(Served.call, tool="list_many")


def main(url: str, folder: Path, *, quick: bool) -> None:
    with (
        served(BRIDGE, url, folder / "restbridge", 2) as ours,
        served(PEER, url, folder / "toolbox", 2) as peer,
    ):
        for lane in lanes(ours):
            _check(lane.server, json.dumps(ours.ask(_ASK(ours, lane.era))), 6950, most=10_000)
        _check(peer, json.dumps(peer.ask(_ASK(peer, "handshake"))), 1, most=2_000_000)
        pairs = [(lane, other) for lane in lanes(ours) for other in lanes(peer)]
        compare("a reply of 1 MB over HTTP", pairs, _ASK, 1, folder, quick=quick)


def _check(server: Served, said: str, first: int, *, most: int) -> None:
    """That all products from the ``first`` are there and no others, in as many bytes at the ``most``."""
    found = set(map(int, re.findall(r"Product number (\d+)", said)))
    if found != set(range(first, 7001)) or len(said) > most:
        raise RuntimeError(f"{server.subject.name} answers {len(said)} bytes: {said[:300]}")
