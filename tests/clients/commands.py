"""The one loop of the Python clients: commands as JSON lines in, answers and what was heard as JSON lines out."""

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
from pydantic import BaseModel

CONFIG: Final[dict[str, Any]] = json.loads(sys.argv[1])


def say(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def on_message(message: object) -> None:
    """Reports each list_changed, as the handler of all that a server sends unasked."""
    if (
        isinstance(message, BaseModel)
        and message.model_dump().get("method") == "notifications/tools/list_changed"
    ):
        say(heard="tools/list_changed")


async def obey(
    list_tools: Callable[[], Awaitable[BaseModel]],
    call_tool: Callable[[str, dict[str, Any]], Awaitable[BaseModel]],
    refusal: type[Exception],
) -> None:
    async for line in anyio.wrap_file(sys.stdin):
        command = json.loads(line)
        if "list" in command:
            say(**_plain(await list_tools()))
            continue
        try:
            say(result=_plain(await call_tool(command["call"]["name"], command["call"]["arguments"])))
        except refusal as error:
            say(error=_plain(error.error))  # type: ignore[attr-defined]  # of McpError, of MCPError


def _plain(message: BaseModel) -> dict[str, Any]:
    return message.model_dump(mode="json", by_alias=True, exclude_none=True)
