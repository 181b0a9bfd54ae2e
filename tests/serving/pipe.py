"""A client over stdio that writes JSON-RPC by hand."""

import fcntl
import json
import os
import termios
from array import array

import anyio

from tests.serving.messages import INITIALIZED, Json, initialize


class Pipe:
    """A client over two pipes."""

    def __init__(self, to_server: int, from_server: int) -> None:
        self._open = {to_server, from_server}
        self._to_server = to_server
        self._from_server = from_server
        self._buffer = b""

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            await anyio.wait_writable(self._to_server)
            view = view[os.write(self._to_server, view[:4096]) :]

    async def send(self, *messages: Json) -> None:
        await self.write(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    async def readable(self, size: int = 1) -> None:
        """Waits until the server has written this many unread bytes."""
        written = array("i", [0])
        while written[0] < size:
            await anyio.lowlevel.checkpoint()
            fcntl.ioctl(self._from_server, termios.FIONREAD, written)

    async def line(self, seconds: float = 30) -> bytes:
        """The next line, empty at the end."""
        with anyio.fail_after(seconds):
            while b"\n" not in self._buffer:
                await anyio.wait_readable(self._from_server)
                chunk = os.read(self._from_server, 1 << 20)
                if not chunk:
                    return b""
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    async def answer(self) -> Json:
        message: Json = json.loads(await self.line())
        return message

    async def open(self, seconds: float = 30) -> None:
        """The handshake of the handshake era."""
        await self.send(initialize())
        await self.line(seconds)
        await self.send(INITIALIZED)

    def hang_up(self) -> None:
        self._close(self._to_server)

    def stop_reading(self) -> None:
        self._close(self._from_server)

    def _close(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open.remove(descriptor)
            os.close(descriptor)
