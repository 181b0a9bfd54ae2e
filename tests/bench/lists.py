"""tools/list of a thousand tools over HTTP."""

from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Final

from tests.bench.rounds import compare, variants
from tests.bench.subjects import BRIDGE, PEER, SHARED, Served, served, tool_names

COUNT: Final = 1000
"""The page size of restbridge."""


def main(url: str, folder: Path, *, quick: bool) -> None:
    with ExitStack() as stack:
        ours, *peers = (
            stack.enter_context(served(each, url, folder / each.name, COUNT))
            for each in (BRIDGE, PEER, SHARED)
        )
        theirs = [variant for peer in peers for variant in variants(peer)]
        for variant in [*variants(ours), *theirs]:
            _check(variant.server, variant.server.ask(variant.server.list(variant.era)))
        pairs = list(product(variants(ours), theirs))
        compare(f"tools/list of {COUNT} tools over HTTP", pairs, Served.list, 1, folder, quick=quick)


def _check(server: Served, listed: dict[str, list[dict[str, str]]]) -> None:
    names = sorted(tool["name"] for tool in listed["tools"])
    if names != sorted(tool_names(COUNT)):
        raise RuntimeError(f"{server.subject.name} lists {len(names)} tools: {names[:5]}")
