"""``restbridge demo``: a sample shop, and the bridge that serves its API."""

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
from bridge.app.runtime import Transport, serve
from bridge.app.startup import StartupState, directories
from bridge.app.transports import over_http, over_stdio
from bridge.commands import schema
from bridge.commands.list import table
from bridge.commands.serve import require_loopback
from bridge.demo import samples
from bridge.demo.shop import create_app
from bridge.http.server import Listening, serve_app
from bridge.registry import Registry
from bridge.secrets import Sources
from bridge.settings import Settings
from bridge.stdio.descriptors import private_stdio
from bridge.stdio.early_answers import Handoff
from bridge.telemetry import log_output

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
  Change the description in {example}: connected agents are notified.
  Break that file: agents still get its last good version, and the error is shown below.
  (The commands above read the files themselves, and refuse it.)
  Copy it under another name: that is a new tool.

Stop it with ^C.
"""


def run(directory: Path, http: Address | None, *, stdio: bool) -> int:
    """Serve the files in ``directory``; answers the exit code of ``serve``. An empty directory gets the samples."""
    address = http or Address(_HOST, _free_port(_BRIDGE_PORT))
    require_loopback(address)
    _prepare(directory)
    log_output.configure()
    if stdio:
        with private_stdio() as (source, sink):
            return anyio.run(_demo, directory, lambda _: partial(over_stdio, source, sink, Handoff()))
    return anyio.run(
        _demo, directory, lambda shop: partial(over_http, address, partial(_welcome, directory, shop))
    )


async def _demo(directory: Path, transport: Callable[[str], Transport]) -> int:
    """Run the shop and the bridge. ``transport`` gets the URL of the shop."""
    async with anyio.create_task_group() as tasks:
        shop = await tasks.start(_serve_shop)
        sources = Sources({**os.environ, "SHOP_API_URL": shop, "SHOP_API_KEY": _KEY})
        settings = Settings(tools=(directory,))
        startup = StartupState.load(settings, directories(settings), sources)
        assert startup  # it is None only with --strict
        code = await serve(startup, transport(shop))
        tasks.cancel_scope.cancel()
    return code


async def _serve_shop(*, task_status: TaskStatus[str]) -> None:
    listening = Listening(Address(_HOST, _free_port(_SHOP_PORT)))
    await serve_app(create_app(_KEY), listening, anyio.Event(), task_status.started)


def _free_port(port: int) -> int:
    """The port, or 0 (any free port) if it is in use."""
    try:
        socket.create_server((_HOST, port)).close()
    except OSError:
        return 0
    return port


def _prepare(directory: Path) -> None:
    if (directory / samples.UPSTREAM).is_file():  # from an earlier demo: edits are kept
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
    """Print the addresses and what to try."""
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
        flush=True,  # stdout may be a pipe, which Python buffers
    )


def _call(directory: Path, shop: str) -> str:
    """The shell command that calls a tool of this demo from another terminal."""
    command = ["restbridge"] if shutil.which("restbridge") else _own_command()
    command.append("call")
    if directory != Path("tools.d"):
        command += ["--tools", str(directory)]
    # The upstream file of the samples has the usual port as its default.
    environment = "" if shop.endswith(f":{_SHOP_PORT}") else f"SHOP_API_URL={shop} "
    return environment + shlex.join(command)


def _own_command() -> list[str]:
    """The command that started this process: its script, or the package."""
    script = sys.argv[0]
    return [script] if Path(script).name == "restbridge" else [sys.executable, "-m", "bridge"]
