"""The client matrix: every supported client SDK and mode, over stdio and HTTP: ``python -m tests.clients``."""

import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio
import uvicorn

from bridge.demo.shop import create_app
from tests.clients.programs import PROGRAMS, Program, install
from tests.clients.scenario import FAILURES, run_scenario

_TRANSPORTS: Final = ("stdio", "HTTP")
_CONCURRENT_CASES: Final = 2
_KEY: Final = "matrix-key"


class Matrix:
    """Runs the cases and keeps their results."""

    def __init__(self, shop: Mapping[str, str], folder: Path) -> None:
        self._shop = shop
        self._folder = folder
        self._limit = anyio.CapacityLimiter(_CONCURRENT_CASES)
        self._cells: dict[tuple[Program, str], str] = {}
        self.failures: list[str] = []

    async def run(self) -> None:
        async with anyio.create_task_group() as cases:
            for program in PROGRAMS:
                for transport in _TRANSPORTS:
                    cases.start_soon(self._case, program, transport)

    async def _case(self, program: Program, transport: str) -> None:
        title = f"{program.name}, over {transport}"
        folder = self._folder / title
        folder.mkdir()
        async with self._limit:
            started = time.monotonic()
            try:
                await run_scenario(program, transport, self._shop, folder)
            except* FAILURES:
                stderr = (folder / "stderr").read_text(errors="replace")
                self.failures.append(f"\n{title}:\n{traceback.format_exc()}\n{stderr}")
                self._cells[program, transport] = "FAILED"
            else:
                self._cells[program, transport] = f"{time.monotonic() - started:.1f} s"

    def table(self) -> str:
        rows: list[tuple[str, ...]] = [("", *_TRANSPORTS)]
        rows += [
            (program.name, *(self._cells[program, transport] for transport in _TRANSPORTS))
            for program in PROGRAMS
        ]
        return "\n".join(f"{name:34}" + "".join(f"{cell:>9}" for cell in cells) for name, *cells in rows)

    def count(self) -> str:
        return f"{len(self._cells) - len(self.failures)} passed, {len(self.failures)} failed"


def main() -> int:
    install()
    with _shop() as shop, TemporaryDirectory() as folder:
        matrix = Matrix(shop, Path(folder))
        anyio.run(matrix.run)
    sys.stdout.write("\n".join([matrix.table(), *matrix.failures, matrix.count(), ""]))
    return int(bool(matrix.failures))


@contextmanager
def _shop() -> Iterator[dict[str, str]]:
    """Runs the sample shop in a thread; yields the environment variables that the sample tools need."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(_KEY), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield {"SHOP_API_URL": f"http://127.0.0.1:{listener.getsockname()[1]}", "SHOP_API_KEY": _KEY}
        finally:
            server.should_exit = True
            thread.join()


sys.exit(main())
