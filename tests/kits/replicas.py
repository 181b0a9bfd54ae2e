"""Three replicas behind nginx, each with files of its own, ended and started again one by one under load.

The balancer leaves a replica out a moment before it is told to end, as Kubernetes does.
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
from tests.serving.served import Session, call, serving_api, tool_file

_REPLICAS: Final = 3
_CALLERS: Final = 6
_AGENTS: Final = 3
_LISTENERS: Final = 6
_MOMENT: Final = 0.5
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
  upstream same {{ hash $http_x_agent consistent; {servers} }}
  server {{
    listen 127.0.0.1:{port};
    proxy_set_header Host $host;
    proxy_buffering off;
    proxy_read_timeout 60s;
    location = /mcp {{ proxy_pass http://any; }}
    location = /same {{ proxy_pass http://same/mcp; }}
    location = /turn {{ return 200 "{turn}"; }}
  }}
}}
"""


class Balancer:
    """nginx, told anew which replicas there are."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._turn = 0

    def _write(self, urls: list[str]) -> None:
        self._turn += 1
        servers = " ".join(f"server {url.split('/')[2]};" for url in urls)
        user = getpwuid(os.getuid()).pw_name
        text = _CONFIG.format(
            user=user, folder=self._folder, servers=servers, port=self.port, turn=self._turn
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
                await self._heeds()
                yield
            finally:
                if process.returncode is None:
                    process.terminate()

    async def leads_to(self, urls: list[str]) -> None:
        """New requests go to these alone, from now on."""
        self._write(urls)
        os.kill(self._pid, signal.SIGHUP)
        await self._heeds()
        await anyio.sleep(_MOMENT)  # for what the last workers have taken

    async def _heeds(self) -> None:
        with anyio.fail_after(30):
            async with _web() as web:
                while True:
                    try:
                        if (await web.get(f"{self.url}/turn")).text == str(self._turn):
                            return
                    except httpx.TransportError:
                        pass
                    await anyio.sleep(0.05)


class _Life:
    def __init__(self) -> None:
        self.stop, self.over = anyio.Event(), anyio.Event()


class Replicas:
    """Three bridges, each with a directory of its own; ``urls`` are those that run."""

    def __init__(self, folder: Path, api_url: str) -> None:
        self.urls: dict[int, str] = {}
        self._folders = [folder / f"tools-{number}" for number in range(_REPLICAS)]
        self._api_url = api_url
        self._lives: dict[int, _Life] = {}
        for each in self._folders:
            each.mkdir()
        self.add("echo")
        self.add("change")

    def add(self, name: str) -> None:
        """Write a tool file, as a new version of a ConfigMap comes to each."""
        for folder in self._folders:
            (folder / f"{name}.yaml").write_text(json.dumps(tool_file(self._api_url, name)))

    async def start(self, number: int, tasks: TaskGroup) -> None:
        life = self._lives[number] = _Life()
        self.urls[number] = await tasks.start(self._live, self._folders[number], life)

    async def end(self, number: int) -> None:
        """Ends as it is told to, and well."""
        life = self._lives.pop(number)
        life.stop.set()
        await life.over.wait()

    async def _live(self, folder: Path, life: "_Life", *, task_status: TaskStatus[str]) -> None:
        async with over_http(folder) as bridge:
            task_status.started(bridge.url)
            await life.stop.wait()
        life.over.set()

    async def digests(self) -> set[str]:
        async with _web() as web:
            replies = [await web.get(url.removesuffix("mcp") + "-/status") for url in self.urls.values()]
        return {reply.json()["digest"] for reply in replies}


class _Watch:
    """What clients of the balancer saw."""

    def __init__(self) -> None:
        self.calls = 0
        self.lost: list[str] = []
        self.agents = 0
        self.astray: list[str] = []
        self.heard = dict.fromkeys(range(_LISTENERS), 0)
        self.grown = anyio.Event()

    def hears(self, listener: int) -> None:
        self.heard[listener] += 1
        self.grown.set()
        self.grown = anyio.Event()


async def run(*, long: bool) -> list[Figure]:
    rounds = 5 if long else 1
    watch, silent = _Watch(), []
    with TemporaryDirectory() as name:
        async with serving_api() as api:
            replicas = Replicas(Path(name), api.url)
            async with anyio.create_task_group() as lives:
                for number in range(_REPLICAS):
                    await replicas.start(number, lives)
                balancer = Balancer(Path(name))  # it takes a port that none of them has
                async with balancer.running(list(replicas.urls.values())), anyio.create_task_group() as tasks:
                    for clients, watched in ((_CALLERS, _call), (_AGENTS, _converse), (_LISTENERS, _listen)):
                        for number in range(clients):
                            tasks.start_soon(watched, balancer.url, number, watch)
                    for turn in range(rounds * _REPLICAS):
                        silent += await _restart(turn, replicas, lives, balancer, watch)
                    digests = await replicas.digests()
                    tasks.cancel_scope.cancel()
                for number in range(_REPLICAS):
                    await replicas.end(number)
    restarts = rounds * _REPLICAS
    return [
        none_of(
            f"modern calls that were lost in {restarts} restarts of one of three", watch.lost, watch.calls
        ),
        none_of("  calls in sessions whose replica lived, and that failed", watch.astray, watch.agents),
        none_of("  listeners that were not told of a change after a restart", silent, restarts * _LISTENERS),
        none_of("  replicas whose digest differs in the end", sorted(digests)[1:], _REPLICAS),
    ]


async def _restart(
    turn: int, replicas: Replicas, lives: TaskGroup, balancer: Balancer, watch: _Watch
) -> list[str]:
    """One replica ends and comes back, and the files change; who was not told of that."""
    number = turn % _REPLICAS
    del replicas.urls[number]
    await balancer.leads_to(list(replicas.urls.values()))
    await replicas.end(number)
    await replicas.start(number, lives)
    await balancer.leads_to(list(replicas.urls.values()))
    await anyio.sleep(2 * _MOMENT)  # listeners whose stream has ended have opened another
    before = dict(watch.heard)
    replicas.add(f"more{turn}")
    with anyio.move_on_after(10):
        while any(watch.heard[each] == before[each] for each in before):
            await watch.grown.wait()
    return [f"restart {turn}: listener {each}" for each in before if watch.heard[each] == before[each]]


def _web() -> httpx.AsyncClient:
    """Each request has a connection of its own: nginx closes idle ones when it is told anew."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(timeout=20, trust_env=False, limits=limits)


async def _call(url: str, number: int, watch: _Watch) -> None:
    async with _web() as web:
        session = Session(web, f"{url}/mcp")
        while True:
            watch.calls += 1
            id = f"{number}-{watch.calls}"
            try:
                answer = await session.ask_modern(call("change" if watch.calls % 2 else "echo", id))
                if answer["id"] != id or answer["result"]["isError"]:
                    watch.lost.append(f"{id}: {json.dumps(answer)[:200]}")
            except (httpx.TransportError, ValueError, KeyError) as problem:
                watch.lost.append(f"{id}: {problem!r}")


async def _converse(url: str, number: int, watch: _Watch) -> None:
    """An agent of the handshake era; where its replica has ended, it begins anew."""
    async with _web() as web:
        while True:
            session = Session(web, f"{url}/same")
            session.headers["x-agent"] = str(number)
            try:
                await session.open()
            except (httpx.TransportError, KeyError):
                continue
            while True:
                watch.agents += 1
                reply = await session.post(call("echo", watch.agents))
                if reply.status_code in (404, 503):
                    break
                if '"isError":false' not in reply.text:
                    watch.astray.append(f"{reply.status_code} {reply.text[:200]}")
                await asyncio.sleep(0.02)


async def _listen(url: str, number: int, watch: _Watch) -> None:
    """Opens another stream when one has ended."""
    async with _web() as web:
        session = Session(web, f"{url}/mcp")
        while True:
            try:
                async with session.listen(toolsListChanged=True) as events:
                    async for event in events:
                        if event.get("method") == "notifications/tools/list_changed":
                            watch.hears(number)
            except httpx.TransportError:
                await asyncio.sleep(0.05)
