"""``restbridge demo``: the sample shop and the bridge in front of it, to try and to edit."""

import json
import os
import shlex
import shutil
import socket
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import click
from anyio.abc import TaskStatus

from bridge.address import Address
from bridge.app.runtime import Transport, over_http, over_stdio, serve
from bridge.commands import schema
from bridge.commands.list import table
from bridge.commands.loading import directories
from bridge.commands.serve import Beginning, require_loopback
from bridge.demo import samples
from bridge.demo.shop import create_app
from bridge.http.server import serve_app
from bridge.registry import Registry
from bridge.secrets import Sources
from bridge.settings import Settings
from bridge.stdio.descriptors import private_stdio
from bridge.stdio.early_answers import Before
from bridge.telemetry import log_output as logs

_HOST: Final = "127.0.0.1"
_SHOP_PORT: Final = 8100
_BRIDGE_PORT: Final = 8101
_KEY: Final = "demo-key"

_WELCOME: Final = """\
The shop     {shop}, with the key {key}
The bridge   {url}
Its files    {directory}

{tools}

Connect an agent
  Claude Code  claude mcp add --transport http shop {url}
  Cursor       {cursor}
  VS Code      {code}
  Python       async with mcp.Client("{url}") as client:
                   print(await client.call_tool("get_order", {{"order_id": "o-1001"}}))

Try, in another terminal
  {call} list_products category=garden
  {call} get_order order_id=o-9999

Try with an editor
  Change the description in {example}: agents that are connected hear of it.
  Break that file: to agents its last good version goes on answering, and the mistake is shown below.
  (The commands above read the files themselves, and refuse it.)
  Copy it under another name: that is a new tool.

^C ends it.
"""


def run(directory: Path, http: Address | None, *, stdio: bool) -> int:
    """Serves the files in ``directory``, which gets the samples if it holds none; answers as ``serve`` does."""
    address = http or Address(_HOST, _free(_BRIDGE_PORT))
    require_loopback(address)
    _prepare(directory)
    logs.configure()
    if stdio:
        with private_stdio() as (source, sink):
            return anyio.run(_demo, directory, lambda _: partial(over_stdio, source, sink, Before()))
    return anyio.run(
        _demo, directory, lambda shop: partial(over_http, address, partial(_welcome, directory, shop))
    )


async def _demo(directory: Path, transport: Callable[[str], Transport]) -> int:
    """The shop and the bridge side by side; ``transport`` is told the shop's URL."""
    async with anyio.create_task_group() as tasks:
        shop = await tasks.start(_serve_shop)
        sources = Sources({**os.environ, "SHOP_API_URL": shop, "SHOP_API_KEY": _KEY})
        settings = Settings((directory,))
        beginning = Beginning.load(settings, directories(settings), sources)
        assert beginning  # nothing is strict here
        code = await serve(beginning, transport(shop))
        tasks.cancel_scope.cancel()
    return code


async def _serve_shop(*, task_status: TaskStatus[str]) -> None:
    await serve_app(create_app(_KEY), _HOST, _free(_SHOP_PORT), anyio.Event(), task_status.started)


def _free(port: int) -> int:
    """The port, or 0 for any free one if something listens there already."""
    try:
        socket.create_server((_HOST, port)).close()
    except OSError:
        return 0
    return port


def _prepare(directory: Path) -> None:
    if (directory / samples.UPSTREAM).is_file():
        return
    if directory.is_dir() and any(directory.iterdir()):
        raise click.ClickException(
            f"{directory.absolute()} holds other files; name a new folder: restbridge demo my-shop"
        )
    try:
        samples.copy(directory, {kind: schema.text(kind) for kind in schema.KINDS})
    except OSError as error:
        raise click.ClickException(
            f"cannot write the samples to {directory.absolute()}: {error.strerror}; name another folder"
        ) from None


def _welcome(directory: Path, shop: str, url: str, registry: Registry) -> None:
    """Print where everything is and what to try."""
    print(
        _WELCOME.format(
            shop=shop,
            key=_KEY,
            url=url,
            directory=directory,
            tools=textwrap.indent(table(registry.current.tools, 100), "  "),
            cursor=json.dumps({"mcpServers": {"shop": {"url": url}}}),
            code=json.dumps({"servers": {"shop": {"type": "http", "url": url}}}),
            call=_call(directory, shop),
            example=directory / "get_order.yaml",
        ),
        flush=True,
    )


def _call(directory: Path, shop: str) -> str:
    """How to call a tool of this demo from another terminal, as a shell reads it."""
    words = ["restbridge"] if shutil.which("restbridge") else _typed()
    words.append("call")
    if directory != Path("tools.d"):
        words += ["--tools", str(directory)]
    environment = "" if shop.endswith(f":{_SHOP_PORT}") else f"SHOP_API_URL={shop} "
    return environment + shlex.join(words)


def _typed() -> list[str]:
    """How this command was started: its script, or the package."""
    script = sys.argv[0]
    return [script] if Path(script).name == "restbridge" else [sys.executable, "-m", "bridge"]
