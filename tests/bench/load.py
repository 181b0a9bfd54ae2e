"""Load by wrk: the same request repeatedly, with a new JSON-RPC id each time."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.messages import ID, Message

_SCRIPT: Final = """\
local headers = {{ {headers} }}
local before, after = {before}, {after}
local id = 0
request = function()
  id = id + 1
  return wrk.format("POST", "/mcp", headers, before .. id .. after)
end
done = function(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.stderr:write(string.format('{{"calls": %d, "failed": %d, "seconds": %f, "p50": %f, "p99": %f}}',
    summary.requests, failed, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """The result of a run; ``p50`` and ``p99`` are in milliseconds."""

    calls: int
    seconds: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Calls a second."""
        return max(self.calls, 1) / self.seconds


def wrk(port: int, message: Message, connections: int, seconds: float, folder: Path) -> Load:
    """Runs wrk. Raises ``RuntimeError`` if a call failed: errors are faster than results and would distort the figures."""
    before, _, after = message.body.partition(ID)
    script = folder / "call.lua"
    headers = ", ".join(
        f"[{json.dumps(name)}] = {json.dumps(value)}" for name, value in message.headers.items()
    )
    script.write_text(_SCRIPT.format(headers=headers, before=_lua(before), after=_lua(after)))
    command = [
        *(shutil.which("wrk") or "wrk", "--threads", "1", "--connections", str(connections)),
        *("--duration", f"{seconds:g}s", "--timeout", "20s", "--script", str(script)),
        f"http://127.0.0.1:{port}/mcp",
    ]
    output = subprocess.run(command, capture_output=True, check=True).stderr
    summary = json.loads(output[output.rindex(b"{") :])
    if summary.pop("failed"):
        raise RuntimeError(f"calls failed: {output.decode()}")
    return Load(**summary)


def _lua(text: str) -> str:
    return f"[==[{text}]==]"
