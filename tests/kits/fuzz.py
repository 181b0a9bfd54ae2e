"""Coverage-guided fuzzing of the parsers of untrusted bytes, with atheris; each target runs in its own process.

``python -m tests.kits.fuzz TARGET [libFuzzer options]`` runs one target. atheris is not a requirement of the
tests: tests/kits/requirements.txt lists it, for the Python versions that it supports.
"""

import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE, STDOUT
from tempfile import TemporaryDirectory
from typing import Final

import anyio

from tests.kits.figures import Figure, none_of
from tests.kits.serving import ROOT

BAD: Final = ROOT / "tests/toolfiles/bad"
_TOOL: Final = b"""description: Get a thing.
inputSchema:
  type: object
  required: [id]
  properties: {id: {type: string}, n: {type: integer, default: 5}, tags: {type: array, items: {type: string}}}
request: {method: GET, url: "http://localhost/x/{id}{?n,tags*}", headers: {X-A: "{$uuid}"}}
response: {jmespath: "items[?n > `1`].{id: id, n: n}", maxBytes: 20kB}
errors: {404: No., 5xx: {message: Later., jmespath: detail}}
"""
_SEEDS: Final[Mapping[str, list[bytes]]] = {
    "files": [
        _TOOL,
        b'baseUrl: https://x.test/v1\nauth: {type: http, scheme: bearer, credentials: "${env:A:-b}"}\n',
    ],
    "templates": [
        b'/a/{id}/{+p}{/s*}{?q,l*}{&m}\0{"id":"a/b","p":"x/y","s":["1"],"q":"\xc3\xa9","l":{"a":"b"}}'
    ],
    "replies": [
        b'\0{"items": [{"id": "a", "n": 2}], "x": 1e5}',
        b"\1<html>",
        b"\2\x1f\x8b\x08",
        b"\3[[[1]]]",
    ],
}


async def run(*, long: bool) -> list[Figure]:
    if find_spec("atheris") is None:
        sys.exit("atheris is not installed: pip install --require-hashes -r tests/kits/requirements.txt")
    seconds = 600 if long else 30
    figures = []
    with TemporaryDirectory() as name:
        for target in _SEEDS:
            corpus = _write_corpus(Path(name, target))
            command = [sys.executable, "-m", "tests.kits.fuzz", target, f"-max_total_time={seconds}"]
            command += [
                "-max_len=4096",
                "-rss_limit_mb=4096",
                "-timeout=20",
                f"-artifact_prefix={name}/",
                str(corpus),
            ]
            async with await anyio.open_process(command, cwd=ROOT, stdout=PIPE, stderr=STDOUT) as process:
                assert process.stdout
                output = b"".join([chunk async for chunk in process.stdout]).decode(errors="replace")
            runs = re.findall(r"Done (\d+) runs", output)
            crashes = (
                []
                if process.returncode == 0 and runs
                else [line for line in output.splitlines() if not line.startswith("#")][-20:]
            )
            figures.append(
                none_of(f"crashes in {seconds} s of {target}", crashes, int(runs[0]) if runs else 1)
            )
    return figures


def _write_corpus(corpus: Path) -> Path:
    """The corpus of a target; for files it includes all bad files of the tests."""
    corpus.mkdir()
    seeds = list(_SEEDS[corpus.name])
    if corpus.name == "files":
        seeds += [path.read_bytes() for path in BAD.glob("*/*.yaml") if path.is_file()]
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    return corpus


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["bridge"]):
        from tests.kits.targets import TARGETS
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
