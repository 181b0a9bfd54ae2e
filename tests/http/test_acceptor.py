import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from bridge.address import Address
from bridge.http.acceptor import Acceptor
from bridge.http.connection_table import ConnectionTable, Share
from bridge.http.listeners import bind, inherited

pytestmark = pytest.mark.anyio


class Process:
    """The open connections of one process that accepts."""

    def __init__(self) -> None:
        self.open: list[asyncio.Protocol] = []

    def connect(self) -> asyncio.Protocol:
        protocol = asyncio.Protocol()
        self.open.append(protocol)
        return protocol

    def count(self) -> int:
        return len(self.open)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with bind(Address("127.0.0.1", 0)) as bound:
        bound.settimeout(0)
        yield bound


@pytest.fixture
def table(tmp_path: Path) -> ConnectionTable:
    return ConnectionTable.create(tmp_path / "connections")


@asynccontextmanager
async def accepting(*acceptors: Acceptor) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for acceptor in acceptors:
            tasks.start_soon(acceptor.run)
        yield
        tasks.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def accepted(connections: int, *processes: Process) -> None:
    """Wait until the processes have so many connections together."""
    await until(lambda: sum(process.count() for process in processes) == connections)


async def test_processes_that_share_a_socket_get_equal_parts_of_a_burst(
    listener: socket.socket, table: ConnectionTable
) -> None:
    one, other = Process(), Process()
    with ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        twin = stack.enter_context(listener.dup())
        async with accepting(
            Acceptor(listener, one.connect, one.count, Share(table, 0)),
            Acceptor(twin, other.connect, other.count, Share(table, 1)),
        ):
            await accepted(64, one, other)
            assert min(one.count(), other.count()) >= 24
            assert table.least >= 24
        assert table.least == 0  # both have stopped


async def test_a_process_with_more_connections_accepts_what_the_others_leave(
    listener: socket.socket, table: ConnectionTable
) -> None:
    table.set(1, 0)  # the other process accepts, but hangs
    one = Process()
    with ExitStack() as stack:
        async with accepting(Acceptor(listener, one.connect, one.count, Share(table, 0))):
            for number in range(1, 5):
                stack.enter_context(socket.create_connection(listener.getsockname()))
                await accepted(number, one)


async def test_a_process_alone_accepts_all_and_connections_that_another_took_are_no_error(
    listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = Process(), Process()
    with ExitStack() as stack:
        twin = stack.enter_context(listener.dup())
        async with accepting(
            Acceptor(listener, one.connect, one.count), Acceptor(twin, other.connect, other.count)
        ):
            for number in range(1, 4):
                stack.enter_context(socket.create_connection(listener.getsockname()))
                await accepted(number, one, other)
    assert caplog.messages == []


async def test_a_client_that_leaves_during_the_accept_hinders_no_other(listener: socket.socket) -> None:
    one, tries = Process(), iter([ConnectionAbortedError()])

    def connect() -> asyncio.Protocol:
        for error in tries:
            raise error
        return one.connect()

    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        async with accepting(Acceptor(listener, connect, one.count)):
            await accepted(1, one)


async def test_an_error_of_the_system_is_logged_and_accepting_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = Process()
    with socket.socket() as deaf:  # it does not listen yet
        deaf.bind(("127.0.0.1", 0))
        deaf.settimeout(0)
        async with accepting(Acceptor(deaf, one.connect, one.count)):
            await until(lambda: bool(caplog.messages))
            deaf.listen()
            with socket.create_connection(deaf.getsockname()):
                await accepted(1, one)
    assert caplog.messages == ["cannot accept a connection: Invalid argument"]


async def test_an_inherited_socket_keeps_its_protocol(listener: socket.socket) -> None:
    """asyncio sets TCP_NODELAY only if the listening socket has its protocol set."""
    with inherited(listener.dup().detach()) as again:
        assert (again.getsockname(), again.proto) == (listener.getsockname(), socket.IPPROTO_TCP)
