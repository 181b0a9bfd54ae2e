"""A reply of 1 MB: restbridge projects a few kB out of it, Toolbox returns it unchanged."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Final

from tests.bench.rounds import compare, variants
from tests.bench.subjects import BRIDGE, PEER, Served, served

_CALL: Final = partial(Served.call, tool="list_many")


def main(url: str, folder: Path, *, quick: bool) -> None:
    with (
        served(BRIDGE, url, folder / "restbridge", 2) as ours,
        served(PEER, url, folder / "toolbox", 2) as peer,
    ):
        for variant in variants(ours):
            _check(variant.server, json.dumps(ours.ask(_CALL(ours, variant.era))), 6950, max_bytes=10_000)
        _check(peer, json.dumps(peer.ask(_CALL(peer, "handshake"))), 1, max_bytes=2_000_000)
        pairs = [(variant, other) for variant in variants(ours) for other in variants(peer)]
        compare("a reply of 1 MB over HTTP", pairs, _CALL, 1, folder, quick=quick)


def _check(server: Served, text: str, first: int, *, max_bytes: int) -> None:
    """Raises ``RuntimeError`` unless the text has exactly the products from ``first`` on, in at most ``max_bytes``."""
    numbers = set(map(int, re.findall(r"Product number (\d+)", text)))
    if numbers != set(range(first, 7001)) or len(text) > max_bytes:
        raise RuntimeError(f"{server.subject.name} returned {len(text)} bytes: {text[:300]}")
