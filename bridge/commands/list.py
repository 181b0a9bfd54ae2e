"""``restbridge list``: prints the tools as agents see them, and the problems of files."""

import json
import shutil
import sys
from typing import Literal

from bridge.commands import diagnostics_report
from bridge.commands.loading import STATES, load, served
from bridge.settings import Settings
from bridge.tool.compiler import Tool


def run(settings: Settings, format_: Literal["table", "json"]) -> int:
    """Print the tools; answers 1 if a file has errors."""
    loaded = load(settings)
    tools = served(settings, loaded).tools
    if format_ == "json":
        print(json.dumps({"tools": [tool.definition for tool in tools]}, ensure_ascii=False, indent=2))
    else:
        print(table(tools, shutil.get_terminal_size().columns))
    diagnostics_report.write(loaded.diagnostics, "text", sys.stderr)
    for file in loaded.files:
        if file.state != "good":
            print(f"{file.place.shown} is not served: it {STATES[file.state]}", file=sys.stderr)
    return int(bool(loaded.broken))


def table(tools: tuple[Tool, ...], width: int) -> str:
    """One line for each tool: name and description, cut at ``width`` characters."""
    if not tools:
        return "no tools"
    longest = max(len(tool.name) for tool in tools)
    return "\n".join(_row(tool, longest, width) for tool in tools)


def _row(tool: Tool, longest: int, width: int) -> str:
    description = " ".join(tool.definition["description"].split())
    row = f"{tool.name:{longest}}  {description}"
    return row if len(row) <= width else f"{row[: width - 1]}…"
