"""Three replicas behind nginx, each with its own tool files. They restart one by one under load.

The load balancer has no affinity: each request of a client may reach another replica, in both eras.
The load balancer removes a replica shortly before the replica gets SIGTERM, as in Kubernetes.
"""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from pwd import getpwuid
from subprocess import DEVNULL
from tempfile import TemporaryDirectory
from typing import Final

import anyio
import httpx
from anyio.abc import TaskGroup, TaskStatus

from tests.bench.processes import free_port
from tests.kits.figures import Figure, none_of
from tests.kits.serving import over_http
from tests.serving.api import serving_api
from tests.serving.messages import call
from tests.serving.session import Session
from tests.serving.tools import tool_file

_REPLICAS: Final = 3
_CALLERS: Final = 6
_AGENTS: Final = 3
_LISTENERS: Final = 6
"""Half of them are of the handshake era."""
_DRAIN_SECONDS: Final = 0.5
_CONFIG: Final = """\
daemon off;
user {user};
pid {folder}/nginx.pid;
error_log stderr error;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/temp;
  proxy_temp_path {folder}/temp;
  fastcgi_temp_path {folder}/temp;
  uwsgi_temp_path {folder}/temp;
  scgi_temp_path {folder}/temp;
  upstream any {{ {servers} }}
  server {{
    listen 127.0.0.1:{port};
    proxy_set_header Host $host;
    proxy_buffering off;
    proxy_read_timeout 60s;
    location = /mcp {{ proxy_pass http://any; }}
    location = /generation {{ return 200 "{generation}"; }}
  }}
}}
"""


class Balancer:
    """nginx, reloaded when the replicas change."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._generation = 0

    def _write(self, urls: list[str]) -> None:
        self._generation += 1
        servers = " ".join(f"server {url.split('/')[2]};" for url in urls)
        user = getpwuid(os.getuid()).pw_name
        text = _CONFIG.format(
            user=user, folder=self._folder, servers=servers, port=self.port, generation=self._generation
        )
        (self._folder / "nginx.conf").write_text(text)

    @asynccontextmanager
    async def running(self, urls: list[str]) -> AsyncIterator[None]:
        self._write(urls)
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        command = [program, "-c", str(self._folder / "nginx.conf"), "-p", str(self._folder)]
        async with await anyio.open_process(
            command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
        ) as process:
            self._pid = process.pid
            try:
                await self._wait_until_active()
                yield
            finally:
                if process.returncode is None:
                    process.terminate()

    async def set_servers(self, urls: list[str]) -> None:
        """Send new requests only to these replicas."""
        self._write(urls)
        os.kill(self._pid, signal.SIGHUP)
        await self._wait_until_active()
        await anyio.sleep(_DRAIN_SECONDS)  # for requests of the old nginx workers

    async def _wait_until_active(self) -> None:
        with anyio.fail_after(30):
            async with _web() as web:
                while True:
                    try:
                        if (await web.get(f"{self.url}/generation")).text == str(self._generation):
                            return
                    except httpx.TransportError:
                        pass
                    await anyio.sleep(0.05)


class _Lifetime:
    def __init__(self) -> None:
        self.stop, self.ended = anyio.Event(), anyio.Event()


class Replicas:
    """Three bridges, each with its own directory; ``urls`` are those of the running ones."""

    def __init__(self, folder: Path, api_url: str) -> None:
        self.urls: dict[int, str] = {}
        self._folders = [folder / f"tools-{number}" for number in range(_REPLICAS)]
        self._api_url = api_url
        self._lifetimes: dict[int, _Lifetime] = {}
        for each in self._folders:
            each.mkdir()
        self.add("echo")
        self.add("change")

    def add(self, name: str) -> None:
        """Write a tool file for each replica, like a new version of a ConfigMap."""
        for folder in self._folders:
            (folder / f"{name}.yaml").write_text(json.dumps(tool_file(self._api_url, name)))

    async def start(self, number: int, tasks: TaskGroup) -> None:
        lifetime = self._lifetimes[number] = _Lifetime()
        self.urls[number] = await tasks.start(self._run, self._folders[number], lifetime)

    async def end(self, number: int) -> None:
        """Stop a replica with a signal; it must exit cleanly."""
        lifetime = self._lifetimes.pop(number)
        lifetime.stop.set()
        await lifetime.ended.wait()

    async def _run(self, folder: Path, lifetime: "_Lifetime", *, task_status: TaskStatus[str]) -> None:
        async with over_http(folder) as bridge:
            task_status.started(bridge.url)
            await lifetime.stop.wait()
        lifetime.ended.set()

    async def digests(self) -> set[str]:
        async with _web() as web:
            replies = [await web.get(url.removesuffix("mcp") + "-/status") for url in self.urls.values()]
        return {reply.json()["digest"] for reply in replies}


class _Observations:
    """Failures that clients of the load balancer observed."""

    def __init__(self) -> None:
        self.calls = 0
        self.lost: list[str] = []
        self.agents = 0
        self.failed: list[str] = []
        self.received = dict.fromkeys(range(_LISTENERS), 0)
        self.notified = anyio.Event()

    def add_notification(self, listener: int) -> None:
        self.received[listener] += 1
        self.notified.set()
        self.notified = anyio.Event()


async def run(*, long: bool) -> list[Figure]:
    rounds = 5 if long else 1
    observed, unnotified = _Observations(), []
    with TemporaryDirectory() as name:
        async with serving_api() as api:
            replicas = Replicas(Path(name), api.url)
            async with anyio.create_task_group() as replica_tasks:
                for number in range(_REPLICAS):
                    await replicas.start(number, replica_tasks)
                balancer = Balancer(Path(name))  # after the replicas: its port is chosen in this process
                async with balancer.running(list(replicas.urls.values())), anyio.create_task_group() as tasks:
                    for clients, client in (
                        (_CALLERS, _call),
                        (_AGENTS, _call_in_a_session),
                        (_LISTENERS, _listen),
                    ):
                        for number in range(clients):
                            tasks.start_soon(client, balancer.url, number, observed)
                    for restart in range(rounds * _REPLICAS):
                        unnotified += await _restart(restart, replicas, replica_tasks, balancer, observed)
                    digests = await replicas.digests()
                    tasks.cancel_scope.cancel()
                for number in range(_REPLICAS):
                    await replicas.end(number)
    restarts = rounds * _REPLICAS
    return [
        none_of(
            f"modern calls that were lost in {restarts} restarts of one of three",
            observed.lost,
            observed.calls,
        ),
        none_of("  calls that failed in sessions over all restarts", observed.failed, observed.agents),
        none_of("  listeners without a notification after a restart", unnotified, restarts * _LISTENERS),
        none_of("  replicas whose digest differs at the end", sorted(digests)[1:], _REPLICAS),
    ]


async def _restart(
    restart: int, replicas: Replicas, replica_tasks: TaskGroup, balancer: Balancer, observed: _Observations
) -> list[str]:
    """One replica restarts, and the files change; returns the listeners that got no notification."""
    number = restart % _REPLICAS
    del replicas.urls[number]
    await balancer.set_servers(list(replicas.urls.values()))
    await replicas.end(number)
    await replicas.start(number, replica_tasks)
    await balancer.set_servers(list(replicas.urls.values()))
    await anyio.sleep(2 * _DRAIN_SECONDS)  # until listeners have opened a new stream
    before = dict(observed.received)
    replicas.add(f"more{restart}")
    with anyio.move_on_after(10):
        while any(observed.received[each] == before[each] for each in before):
            await observed.notified.wait()
    return [
        f"restart {restart}: listener {each}" for each in before if observed.received[each] == before[each]
    ]


def _web() -> httpx.AsyncClient:
    """Each request has its own connection: nginx closes idle ones when it reloads."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(timeout=20, trust_env=False, limits=limits)


async def _call(url: str, number: int, observed: _Observations) -> None:
    async with _web() as web:
        session = Session(web, f"{url}/mcp")
        while True:
            observed.calls += 1
            id = f"{number}-{observed.calls}"
            try:
                answer = await session.ask_modern(call("change" if observed.calls % 2 else "echo", id))
                if answer["id"] != id or answer["result"]["isError"]:
                    observed.lost.append(f"{id}: {json.dumps(answer)[:200]}")
            except (httpx.TransportError, ValueError, KeyError) as problem:
                observed.lost.append(f"{id}: {problem!r}")


async def _call_in_a_session(url: str, number: int, observed: _Observations) -> None:
    """An agent of the handshake era, which opens one session and never another."""
    async with _web() as web:
        session = Session(web, f"{url}/mcp")
        await session.open()
        while True:
            observed.agents += 1
            id = f"agent-{number}-{observed.agents}"
            try:
                reply = await session.post(call("echo", id))
                if '"isError":false' not in reply.text:
                    observed.failed.append(f"{id}: {reply.status_code} {reply.text[:200]}")
            except httpx.TransportError as problem:
                observed.failed.append(f"{id}: {problem!r}")
            await asyncio.sleep(0.02)


async def _listen(url: str, number: int, observed: _Observations) -> None:
    """Opens a new stream when one ends."""
    async with _web() as web:
        session = Session(web, f"{url}/mcp")
        if is_handshake := number % 2 == 1:
            await session.open()
        while True:
            stream = session.stream() if is_handshake else session.listen(toolsListChanged=True)
            try:
                async with stream as events:
                    async for event in events:
                        if event.get("method") == "notifications/tools/list_changed":
                            observed.add_notification(number)
            except (httpx.TransportError, AssertionError):  # no replica, or one that stops
                await asyncio.sleep(0.05)
