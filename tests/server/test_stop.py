import os
import signal
import subprocess

import anyio
import pytest

from bridge.server.stop import stop_on_signal
from tests.server.support import ROOT, Api, Control, Pipe, call

pytestmark = pytest.mark.anyio

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@SIGNALS
async def test_a_signal_stops_and_the_next_one_meets_the_default(number: signal.Signals) -> None:
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        await tasks.start(stop_on_signal, stop)
        os.kill(os.getpid(), number)
        with anyio.fail_after(5):
            await stop.wait()
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


@SIGNALS
async def test_a_process_answers_what_is_in_flight_and_ends_well(
    number: signal.Signals, api: Api, control: Control
) -> None:
    """Though nobody reads its stderr until then."""
    process = subprocess.Popen(  # noqa: ASYNC220 - starting is quick, and its pipes are read without a thread
        control.command(api), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        pipe = Pipe(process.stdin.fileno(), process.stdout.fileno())
        await pipe.open()
        await pipe.send(call("hang"))
        with anyio.fail_after(5):
            await api.entered.wait()
        process.send_signal(number)
        api.release.set()
        assert (await pipe.answer())["result"]["isError"] is False
        assert await pipe.line() == b""
        assert b"Traceback" not in process.stderr.read()
        assert process.wait(5) == 0
