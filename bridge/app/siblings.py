"""Messages between the workers of one supervisor, over Unix sockets in its private folder.

Theory of operation
-------------------

Each worker has a datagram socket, ``FOLDER/NAME.sock``. The name is unique for each process, so a message never reaches a
worker that was restarted in place of another. Messages are JSON, at most 64 KiB.

=================  ===================================================================================================
``broadcast``      A datagram to each sibling. Nobody answers. It may be lost: use it for hints such as a cancellation.
``ask``            A datagram to each sibling that carries one end of a stream (SCM_RIGHTS, unix(7)). The sibling
                   writes its answer there and closes it. So an answer has any size and needs no id, and a sibling
                   that ends, or does not know the kind of message, is known at once: the stream ends without an answer.
Who is there       The sockets in the folder. The supervisor removes the socket of a worker that has ended.
A full queue       Linux keeps ten datagrams for a socket (net.unix.max_dgram_qlen). The sender waits until there is room,
                   at most ``_SEND_SECONDS``. Only a connected socket can wait for that, so each message has its own.
A bad message      It is ignored, and counted in ``ignored``. During an upgrade, siblings may have another version.
=================  ===================================================================================================

Layers below get ``broadcast`` as a callback, and their handlers are set with ``handle``. A process without siblings has a
``Siblings`` without a folder: it sends nothing.
"""

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

import anyio
from anyio.abc import TaskGroup, TaskStatus

from bridge.codec import decode, encode
from bridge.errors import StartError
from bridge.spec import Json

Broadcast: TypeAlias = Callable[[str, Json], None]
"""Sends a message of a kind to all siblings, if there are any. It never blocks and never fails."""
Handler: TypeAlias = Callable[[Json], None]
"""Takes the payload of a message; raises ``ValueError`` if it does not understand it."""
Answer: TypeAlias = Callable[[Json], Awaitable[Json]]
"""Takes the payload of a question and returns the answer; raises ``ValueError`` if it does not understand it."""

_log: Final = logging.getLogger(__name__)

MAX_DATAGRAM_BYTES: Final = 64 * 1024
_BUFFER_BYTES: Final = 2 * MAX_DATAGRAM_BYTES
"""The default of macOS is 2 KiB."""
_MAX_WAITING: Final = 1000
"""Messages that wait for room in the queue of one sibling. Further ones are lost."""
_SEND_SECONDS: Final = 0.5
_READ_BYTES: Final = 256 * 1024
_MAX_PATH_BYTES: Final = 100
"""Of the address of a Unix socket: 107 on Linux, 103 on macOS."""
_SUFFIX: Final = ".sock"


def require_short_path(folder: Path) -> None:
    """Raises ``StartError`` if the sockets of workers cannot be in this folder."""
    if len(os.fsencode(folder / "64-123456.sock")) > _MAX_PATH_BYTES:
        raise StartError(
            f"the path {folder} is too long for the sockets of workers; set TMPDIR to a folder with a shorter path"
        )


def remove_socket(folder: Path, name: str) -> None:
    """The worker ``name`` has ended: no message is sent to it any longer."""
    (folder / f"{name}{_SUFFIX}").unlink(missing_ok=True)


class Siblings:
    """The other workers, as this one sees them. ``name`` is its own.

    ``ignored`` is the number of messages that were not understood, ``lost`` that of messages that were not delivered.
    """

    def __init__(self, folder: Path | None = None, name: str = "") -> None:
        self.name: Final = name
        self.ignored = 0
        self.lost = 0
        self._folder = folder
        self._handlers: dict[str, Handler] = {}
        self._answers: dict[str, Answer] = {}
        self._tasks: TaskGroup | None = None
        self._waiting: dict[Path, deque[bytes]] = {}
        """Messages for siblings whose queue was full. Later ones for them wait too."""

    def handle(self, kind: str, handler: Handler) -> None:
        """Call ``handler`` for each message of this kind."""
        self._handlers[kind] = handler

    def answer(self, kind: str, answer: Answer) -> None:
        """Answer each question of this kind by ``answer``."""
        self._answers[kind] = answer

    def broadcast(self, kind: str, payload: Json) -> None:
        """Send a message to all siblings. It returns at once."""
        message = encode({"kind": kind, "payload": payload})
        for path in self._others():
            if path in self._waiting:
                self._send_later(path, message)
                continue
            try:
                _send(path, message)
            except BlockingIOError:
                self._send_later(path, message)
            except OSError:  # the sibling has ended, or the message is too large
                self.lost += 1

    async def ask(self, kind: str, payload: Json, seconds: float) -> dict[str, Json]:
        """The answer of each sibling by its name: None if it has not answered within ``seconds``."""
        answers: dict[str, Json] = {}
        question = encode({"kind": kind, "payload": payload, "seconds": seconds})

        async def ask_one(path: Path) -> None:
            answers[path.stem] = None
            with anyio.move_on_after(seconds), suppress(OSError):  # the sibling has ended
                try:
                    answers[path.stem] = await _answer_of(path, question)
                except ValueError:  # it ended while it wrote
                    self.ignored += 1

        async with anyio.create_task_group() as tasks:
            for path in self._others():
                tasks.start_soon(ask_one, path)
        return answers

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Receive messages until it is cancelled."""
        assert self._folder
        path = self._folder / f"{self.name}{_SUFFIX}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            own.settimeout(0)
            own.bind(str(path))
            try:
                async with anyio.create_task_group() as tasks:
                    self._tasks = tasks
                    task_status.started()
                    while True:
                        await anyio.wait_readable(own)
                        self._receive(own, tasks)
            finally:
                self._tasks = None
                path.unlink(missing_ok=True)

    def _others(self) -> list[Path]:
        if self._folder is None:
            return []
        return sorted(path for path in self._folder.glob(f"*{_SUFFIX}") if path.stem != self.name)

    def _send_later(self, path: Path, message: bytes) -> None:
        waiting = self._waiting.get(path)
        if self._tasks is None or (waiting and len(waiting) >= _MAX_WAITING):
            self.lost += 1
        elif waiting is None:
            self._waiting[path] = deque([message])
            self._tasks.start_soon(self._send_waiting, path, self._waiting[path])
        else:
            waiting.append(message)

    async def _send_waiting(self, path: Path, waiting: deque[bytes]) -> None:
        """Send what waits for this sibling. If it hangs or has ended, all of that is lost."""
        try:
            while waiting:
                with anyio.fail_after(_SEND_SECONDS):
                    await _send_when_writable(path, waiting[0])
                waiting.popleft()
        except OSError:  # also TimeoutError
            self.lost += len(waiting)
        finally:
            del self._waiting[path]

    def _receive(self, own: socket.socket, tasks: TaskGroup) -> None:
        data, descriptors, flags, _ = socket.recv_fds(own, MAX_DATAGRAM_BYTES, 1)
        streams = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        try:
            kind, payload, seconds = _parse(b"" if flags & socket.MSG_TRUNC else data)
            if streams and kind in self._answers:
                tasks.start_soon(self._write_answer, streams.pop(), self._answers[kind], payload, seconds)
            else:
                self._handlers[kind](payload)
        except (KeyError, ValueError):  # an unknown kind, or a payload that the handler does not understand
            self.ignored += 1
        except Exception:  # noqa: BLE001 - the outermost place for a message: serving goes on
            _log.exception("a message of another worker failed")
        finally:
            for stream in streams:
                stream.close()

    async def _write_answer(
        self, stream: socket.socket, answer: Answer, payload: Json, seconds: float
    ) -> None:
        stream.settimeout(0)
        with stream, anyio.move_on_after(seconds), suppress(OSError):  # the sibling may have ended
            try:
                data = encode(await answer(payload))
            except ValueError:
                self.ignored += 1
            except Exception:  # noqa: BLE001 - as above
                _log.exception("a message of another worker failed")
            else:
                await asyncio.get_running_loop().sock_sendall(stream, data)


def _parse(data: bytes) -> tuple[str, Json, float]:
    """Kind, payload, and the seconds to answer in; raises ``ValueError``."""
    match decode(data):
        case {"kind": str(kind), "payload": payload, **more}:
            seconds = more.get("seconds")
            return kind, payload, seconds if isinstance(seconds, float | int) else _SEND_SECONDS
        case _:
            raise ValueError("no message")


def _connected(path: Path) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        opened.settimeout(0)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        opened.connect(str(path))
    except OSError:
        opened.close()
        raise
    return opened


def _send(path: Path, message: bytes) -> None:
    """Raises ``BlockingIOError`` if the queue of the sibling is full."""
    with _connected(path) as sender:
        sender.send(message)


async def _send_when_writable(path: Path, message: bytes, descriptors: Sequence[int] = ()) -> None:
    with _connected(path) as sender:
        while True:
            await anyio.wait_writable(sender)
            with suppress(BlockingIOError):  # another message took the place
                socket.send_fds(sender, [message], descriptors)
                return


async def _answer_of(path: Path, question: bytes) -> Json:
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(0)
        with theirs:
            await _send_when_writable(path, question, [theirs.fileno()])
        loop, parts = asyncio.get_running_loop(), list[bytes]()
        while part := await loop.sock_recv(ours, _READ_BYTES):
            parts.append(part)
    return decode(b"".join(parts)) if parts else None
