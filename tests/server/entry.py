"""A bridge over stdio in a process of its own: ``python -m tests.server.entry API_URL CONTROL_PORT``.

It connects to the control port; a line of names there makes them its tools.
"""

import logging
import sys

import anyio

from bridge.server.logs import configure
from bridge.server.stdio import private_stdio, serve_stdio
from bridge.server.stop import stop_on_signal
from bridge.upstream.client import Client
from tests.server.support import TOOLS, Served


async def main(api_url: str, control_port: int) -> None:
    served = Served(api_url, Client())
    served.show(*TOOLS)
    with private_stdio() as (source, sink):
        print("stray", flush=True)  # noqa: T201 - to see it stay out of the protocol's way
        for number in range(500):
            logging.getLogger("test").info("line %d: %s", number, "x" * 1000)  # more than a pipe holds
        async with anyio.create_task_group() as tasks:
            await tasks.start(stop_on_signal, served.stop)
            tasks.start_soon(_obey, served, control_port)
            await serve_stdio(served.server, source, sink, served.stop)
            tasks.cancel_scope.cancel()


async def _obey(served: Served, control_port: int) -> None:
    async with await anyio.connect_tcp("127.0.0.1", control_port) as control:
        async for line in control:
            await served.change(*line.decode().split())


if __name__ == "__main__":
    configure()
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
