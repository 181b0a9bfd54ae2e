"""The command loop of the Python clients: commands on stdin, results and notifications on stdout, as JSON lines."""

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
from pydantic import BaseModel

CONFIG: Final[dict[str, Any]] = json.loads(sys.argv[1])


def write_line(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


async def on_message(message: object) -> None:
    """The SDK's handler of server messages: reports each list_changed notification."""
    if (
        isinstance(message, BaseModel)
        and message.model_dump().get("method") == "notifications/tools/list_changed"
    ):
        write_line(notification="tools/list_changed")


async def run_commands(
    list_tools: Callable[[], Awaitable[BaseModel]],
    call_tool: Callable[[str, dict[str, Any]], Awaitable[BaseModel]],
    rpc_error: type[Exception],
) -> None:
    async for line in anyio.wrap_file(sys.stdin):
        command = json.loads(line)
        if "list" in command:
            write_line(**_as_json(await list_tools()))
            continue
        try:
            write_line(
                result=_as_json(await call_tool(command["call"]["name"], command["call"]["arguments"]))
            )
        except rpc_error as error:
            write_line(error=_as_json(error.error))  # type: ignore[attr-defined]  # McpError or MCPError


def _as_json(message: BaseModel) -> dict[str, Any]:
    return message.model_dump(mode="json", by_alias=True, exclude_none=True)
