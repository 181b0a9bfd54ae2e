"""An API on a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class Api:
    """Replies with the path as JSON. ``/hang`` waits for ``release``, ``/fail`` replies 500, ``/large`` replies 500 kB."""

    def __init__(self) -> None:
        self.url = ""
        self.entered = anyio.Event()
        self.hanging = 0
        self.left = anyio.Event()
        self.release = anyio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            size = 0
            while (header := await reader.readline()).strip():
                if header.lower().startswith(b"content-length:"):
                    size = int(header.split(b":")[1])
            await reader.readexactly(size)
            path = line.split()[1].decode().partition("?")[0]
            if path == "/hang" and not await self._released(reader):
                break
            status = "500 Failed" if path == "/fail" else "200 OK"
            text = "x" * (500_000 if path == "/large" else 1)
            body = json.dumps({"path": path, "text": text, "nothing": None}).encode()
            head = (
                f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()

    async def _released(self, reader: asyncio.StreamReader) -> bool:
        self.entered.set()
        self.hanging += 1
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                await self.release.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(wait)
            await reader.read()
            self.left.set()
            tasks.cancel_scope.cancel()
        return not self.left.is_set()


@asynccontextmanager
async def serving_api() -> AsyncIterator[Api]:
    api = Api()
    server = await asyncio.start_server(api.answer, "127.0.0.1", 0)
    api.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield api
    api.release.set()
    server.close()
