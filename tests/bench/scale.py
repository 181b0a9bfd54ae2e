"""The cost of a tools/call with ten thousand tools, compared with one tool."""

from pathlib import Path

from tests.bench.rounds import compare, variants
from tests.bench.subjects import BRIDGE, Served, served


def main(url: str, folder: Path, *, quick: bool) -> None:
    count = 1000 if quick else 10_000
    with (
        served(BRIDGE, url, folder / "many", count) as many,
        served(BRIDGE, url, folder / "one") as one,
    ):
        pairs = list(zip(variants(many, f"{count} tools"), variants(one, "1 tool"), strict=True))
        compare("restbridge, tools/call over HTTP", pairs, Served.call, 16, folder, quick=quick)
