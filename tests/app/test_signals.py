import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import anyio
import pytest

from bridge.app.signals import reload_on_signal, stop_on_signal
from tests.serving.api import Api
from tests.serving.messages import call
from tests.serving.pipe import Pipe
from tests.serving.tools import Files

pytestmark = pytest.mark.anyio

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@SIGNALS
async def test_the_first_signal_stops_and_the_second_gets_the_default_handler(number: signal.Signals) -> None:
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        await tasks.start(stop_on_signal, stop)
        os.kill(os.getpid(), number)
        with anyio.fail_after(30):
            await stop.wait()
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


async def test_each_sighup_requests_a_reload() -> None:
    asking, asked = anyio.create_memory_object_stream[str](1)
    with asking, asked:
        async with anyio.create_task_group() as tasks:
            await tasks.start(reload_on_signal, lambda: asking.send_nowait("reload"))
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGHUP)
                with anyio.fail_after(30):
                    assert await asked.receive() == "reload"
            tasks.cancel_scope.cancel()


@pytest.mark.slow
@SIGNALS
async def test_a_stopping_process_answers_calls_in_flight_and_exits_with_0(
    number: signal.Signals, api: Api, files: Files, full: int
) -> None:
    """Though nobody reads its stderr."""
    process = subprocess.Popen(  # noqa: ASYNC220 - starting is quick, and its pipes are read without a thread
        files.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=full
    )
    with process, ExitStack() as stack:
        stack.callback(process.kill)
        assert process.stdin
        assert process.stdout
        pipe = Pipe(process.stdin.fileno(), process.stdout.fileno())
        await pipe.open()
        await pipe.send(call("hang"))
        with anyio.fail_after(30):
            await api.entered.wait()
        process.send_signal(number)
        api.release.set()
        assert (await pipe.answer())["result"]["isError"] is False
        assert await pipe.line() == b""
        assert process.wait(60) == 0


@pytest.fixture
def full() -> Iterator[int]:
    """The end of a pipe that holds all that it can."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(65536))
    os.set_blocking(writing, True)
    yield writing
    os.close(reading)
    os.close(writing)
