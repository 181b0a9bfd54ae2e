"""tools/list of a thousand tools over HTTP."""

from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Final

from tests.bench.rounds import compare, lanes
from tests.bench.subjects import BRIDGE, PEER, SHARED, Served, served, tool_names

COUNT: Final = 1000
"""As many as restbridge puts on one page."""


def main(url: str, folder: Path, *, quick: bool) -> None:
    with ExitStack() as stack:
        ours, *peers = (
            stack.enter_context(served(each, url, folder / each.name, COUNT))
            for each in (BRIDGE, PEER, SHARED)
        )
        theirs = [lane for peer in peers for lane in lanes(peer)]
        for lane in [*lanes(ours), *theirs]:
            _check(lane.server, lane.server.ask(lane.server.list(lane.era)))
        pairs = list(product(lanes(ours), theirs))
        compare(f"tools/list of {COUNT} tools over HTTP", pairs, Served.list, 1, folder, quick=quick)


def _check(server: Served, listed: dict[str, list[dict[str, str]]]) -> None:
    names = sorted(tool["name"] for tool in listed["tools"])
    if names != sorted(tool_names(COUNT)):
        raise RuntimeError(f"{server.subject.name} lists {len(names)} tools: {names[:5]}")
