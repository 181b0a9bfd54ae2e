"""The official MCP conformance suite. Its fixture tools are tool files, in front of a small upstream.

Scenarios that a server with only tools cannot pass are listed next to the tool files, with the reason. The kit
fails if a listed scenario passes.
"""

import base64
import json
import os
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio

from tests import npm
from tests.kits.figures import Figure, none_of
from tests.kits.serving import over_http
from tests.upstream.conversation import Exchange, Fault, serve_faults

HERE: Final = Path(__file__).parent / "conformance"
VERSIONS: Final = ("2025-11-25", "2026-07-28")
_SUITE: Final = npm.MODULES / "@modelcontextprotocol/conformance/dist/index.js"
_RESULT: Final = re.compile(r"^([✓✗]) (\S+): (\d+) passed, (\d+) failed$", re.MULTILINE)
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_PNG: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_WAV: Final = b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0D\xac\0\0\x88X\1\0\2\0\x10\0data\0\0\0\0"
_BLOCKS: Final = [
    {"type": "text", "text": "A text, and:"},
    {"type": "image", "data": base64.b64encode(_PNG).decode(), "mimeType": "image/png"},
    {"type": "resource", "resource": {"uri": "test://one", "mimeType": "application/json", "text": "{}"}},
]


def _answers(body: bytes, content_type: str, status: str = "200 OK") -> Fault:
    async def answer(exchange: Exchange) -> None:
        await exchange.reply(body, status, content_type=content_type)

    return answer


_PATHS: Final = {
    "text": _answers(b"This is a simple text response for testing.", "text/plain"),
    "image": _answers(_PNG, "image/png"),
    "audio": _answers(_WAV, "audio/wav"),
    "blocks": _answers(json.dumps(_BLOCKS).encode(), "application/json"),
    "error": _answers(b"{}", "application/json", "500 Internal Server Error"),
}


async def run(*, long: bool) -> list[Figure]:  # noqa: ARG001 - there is one length only
    await anyio.to_thread.run_sync(npm.install)
    return [await _suite(version) for version in VERSIONS]


async def _suite(version: str) -> Figure:
    with TemporaryDirectory() as name:
        tools = Path(shutil.copytree(HERE, Path(name, "tools.d")))

        async def change(exchange: Exchange) -> None:
            shutil.copy(
                tools / "test_simple_text.yaml", tools / f"test_{len(exchange.server.exchanges)}.yaml"
            )
            await exchange.reply()

        async with (
            serve_faults({**_PATHS, "change": change}) as upstream,
            over_http(tools, {"FIXTURE_URL": upstream.url}) as bridge,
        ):
            expected = HERE / f"expected-failures-{version}.yml"
            command = [
                str(npm.NODE),
                str(_SUITE),
                "server",
                "--url",
                bridge.url,
                "--requirements",
                version,
            ]
            command += ["--expected-failures", str(expected), "--output-dir", name]
            done = await anyio.run_process(command, check=False, env={**os.environ, "NO_COLOR": "1"})
    output = done.stdout.decode()
    scenarios = _RESULT.findall(output)
    total = sum(int(passed) for _, _, passed, _ in scenarios)
    unexpected = [] if done.returncode == 0 else _unexpected(_COLOUR.sub("", output).splitlines())
    return none_of(f"unexpected outcomes, conformance with {version}", unexpected, total)


def _unexpected(lines: list[str]) -> list[str]:
    """Unexpected results of the suite: failures outside the list, and listed scenarios that passed."""
    at = next((n for n, line in enumerate(lines) if line.startswith("Unexpected failures")), len(lines))
    listed = [line.strip() for line in lines[at:] if line.startswith("  ✗ ")]
    listed += [line.strip() for line in lines if line.startswith("  ✓ ")]
    return listed or lines[-20:]
