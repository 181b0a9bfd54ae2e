"""What a tools/call costs where there are ten thousand tools, beside one."""

from pathlib import Path

from tests.bench.rounds import compare, lanes
from tests.bench.subjects import BRIDGE, Served, served


def main(url: str, folder: Path, *, quick: bool) -> None:
    count = 1000 if quick else 10_000
    with (
        served(BRIDGE, url, folder / "many", count) as many,
        served(BRIDGE, url, folder / "one") as one,
    ):
        pairs = list(zip(lanes(many, f"{count} tools"), lanes(one, "1 tool"), strict=True))
        compare("restbridge, tools/call over HTTP", pairs, Served.call, 16, folder, quick=quick)
