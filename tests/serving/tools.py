"""Tools that call the API, in files and in memory."""

import json
import sys
from pathlib import Path

from tests.serving.messages import Json

TOOLS = ("any", "change", "echo", "fail", "hang", "large", "strict", "typed")


def tool_file(api_url: str, name: str) -> Json:
    """A tool that calls the API path with its name."""
    spec: Json = {
        "description": f"Calls {name}.",
        "inputSchema": {
            "properties": {"n": {"type": "integer"}},
            "required": ["n"] if name == "strict" else [],
            "additionalProperties": name == "any",
        },
        "request": {"method": "POST" if name == "change" else "GET", "url": f"{api_url}/{name}"},
        "response": {"maxBytes": "1MB"},
        "retries": {"max": 0},
    }
    return spec | ({"outputSchema": {"type": "object"}} if name == "typed" else {})


class Files:
    """The tool files of a bridge in a separate process."""

    def __init__(self, directory: Path, api_url: str) -> None:
        self.command = [sys.executable, "-m", "bridge", "serve", str(directory)]
        self._directory = directory
        self._api_url = api_url
        for name in TOOLS:
            self._write(name)

    async def add(self, name: str) -> None:
        self._write(name)

    async def drop(self, name: str) -> None:
        (self._directory / f"{name}.yaml").unlink()

    def _write(self, name: str) -> None:
        (self._directory / f"{name}.yaml").write_text(json.dumps(tool_file(self._api_url, name)))
