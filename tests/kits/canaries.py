"""Marked secrets and arguments, and everything that a bridge and its commands say: none of it may hold a mark.

Each secret stands in an upstream file of its own, whose API repeats whatever it is sent. Arguments may come
back in results, but are in no log.
"""

import base64
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import quote, urlsplit

import httpx
from anyio import to_thread

from bridge.cli import main
from tests.kits.figures import Figure, at_least, none_of
from tests.kits.serving import over_http
from tests.server.support import Session, call, request
from tests.upstream.conversation import Exchange, Fault, serve_faults

_SECRETS: Final = {
    "bearer": 'auth: {{type: http, scheme: bearer, credentials: "${{env:{name}}}"}}',
    "bearer_in_file": 'auth: {{type: http, scheme: bearer, credentials: "${{file:{folder}/{name}}}"}}',
    "bearer_default": 'auth: {{type: http, scheme: bearer, credentials: "${{env:NOT_SET:-{mark}}}"}}',
    "bearer_written": "auth: {{type: http, scheme: bearer, credentials: {mark}}}",
    "basic_password": 'auth: {{type: http, scheme: basic, username: ann, password: "${{env:{name}}}"}}',
    "basic_username": 'auth: {{type: http, scheme: basic, username: "${{env:{name}}}", password: "long enough"}}',
    "key_in_header": 'auth: {{type: apiKey, in: header, name: X-Key, value: "${{env:{name}}}"}}',
    "key_in_query": 'auth: {{type: apiKey, in: query, name: key, value: "${{env:{name}}}"}}',
    "key_in_cookie": 'auth: {{type: apiKey, in: cookie, name: key, value: "${{env:{name}}}"}}',
    "header": 'auth: {{type: none}}\nheaders: {{X-Tenant: "${{env:{name}}}"}}',
    "header_within": 'auth: {{type: none}}\nheaders: {{X-Tenant: "a ${{file:{folder}/{name}}} b"}}',
    "proxy": 'auth: {{type: none}}\nproxy: "http://ann:${{env:{name}}}@{place}"',
}
_TOOL: Final = """\
description: Sends to {path}.
upstream: {upstream}
inputSchema:
  type: object
  properties:
    path: {{type: string, default: p}}
    query: {{type: string}}
    header: {{type: string}}
    body: {{type: string}}
request:
  method: POST
  url: "/{path}/{{path}}{{?query}}"
  headers: {{X-Header: "{{header}}"}}
  body: {{body: "{{body}}"}}
timeout: 500ms
"""
_MISTAKES: Final = ("baseUrll: x\n", "timeout: {total: long}\n", "tls: {\n", "auth: {}\n")
_ARGUMENTS: Final = ("path", "query", "header", "body")
_PLACES: Final = ("echo", "typed", "refuse", "hang", "cut", "garbage")


def _mark(name: str) -> str:
    return f"canary/{name.replace('_', '-')}+{len(name)}="


def _spellings(name: str) -> Iterator[str]:
    """A mark as it may turn up; in base64, what is sure wherever it begins."""
    mark = _mark(name)
    yield from (mark, quote(mark, safe=""), quote(mark), mark.replace("/", "\\/"))
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + mark.encode()).decode()
        yield encoded[(0, 2, 3)[before] : -4]


async def _echo(exchange: Exchange) -> None:
    """All that was sent, in JSON."""
    said = {"head": exchange.head.decode("latin-1"), "body": exchange.body.decode("latin-1")}
    await exchange.reply(json.dumps(said).encode())


async def _refuse(exchange: Exchange) -> None:
    said = json.dumps({"detail": exchange.head.decode("latin-1")}).encode()
    await exchange.reply(said, "401 Unauthorized", f"WWW-Authenticate: {exchange.headers}")


async def _hang(exchange: Exchange) -> None:
    await exchange.gone()


async def _cut(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + exchange.head)
    exchange.close()


async def _garbage(exchange: Exchange) -> None:
    await exchange.send(exchange.head)
    exchange.close()


_ANSWERS: Final = dict(zip(_PLACES, (_echo, _echo, _refuse, _hang, _cut, _garbage), strict=True))


class _Everything(dict[str, Fault]):
    """Any path is answered as its first segment says; through a proxy it comes with its host."""

    def __missing__(self, _key: str) -> Fault:
        async def answer(exchange: Exchange) -> None:
            await _ANSWERS[urlsplit(exchange.target).path.split("/")[1]](exchange)

        return answer


async def run(*, long: bool) -> list[Figure]:  # noqa: ARG001 - there is but one form of it
    with TemporaryDirectory() as name:
        folder = Path(name)
        async with serve_faults(_Everything()) as api:
            env = _write(folder, api.place)
            commands = await to_thread.run_sync(_commands, folder, env)
            frames, log = await _serve(folder, env)
            commands += await to_thread.run_sync(_commands, folder, env)
    said = {"frames": frames, "the log": log, "commands": commands}
    secrets = [
        f"{name} in {where}: {text[max(0, text.index(form) - 60) : text.index(form) + 60]!r}"
        for where, text in said.items()
        for name in _SECRETS
        for form in _spellings(name)
        if form in text
    ]
    arguments = [
        f"{name} in the log" for name in _ARGUMENTS for form in _spellings(f"of_{name}") if form in log
    ]
    size = sum(map(len, said.values()))
    return [
        at_least("places of secrets", len(_SECRETS), 12),
        none_of("secrets in the characters of frames, log and commands", secrets, size),
        none_of("arguments in the characters of the log", arguments, len(log)),
        at_least("replies that held what had been sent", frames.count("[redacted]"), 2 * len(_SECRETS)),
    ]


def _write(folder: Path, place: str) -> dict[str, str]:
    """Files for every secret; answers the environment."""
    tools = folder / "tools.d"
    tools.mkdir()
    for name, auth in _SECRETS.items():
        (folder / name).write_text(_mark(name))
        written = auth.format(name=name, folder=folder, mark=_mark(name), place=place)
        (tools / f"{name}.upstream.yaml").write_text(f"baseUrl: http://{place}\n{written}\n")
        for path in _PLACES:
            more = "outputSchema: {type: object}\n" if path == "typed" else ""
            (tools / f"{name}_{path}.yaml").write_text(_TOOL.format(path=path, upstream=name) + more)
    return {name: _mark(name) for name in _SECRETS}


async def _serve(folder: Path, env: dict[str, str]) -> tuple[str, str]:
    """Everything that clients are sent over HTTP in both eras, and the log; in the end every upstream is broken."""
    frames: list[str] = []
    arguments = {name: _mark(f"of_{name}") for name in _ARGUMENTS}
    async with over_http(folder / "tools.d", env) as bridge, httpx.AsyncClient(timeout=30) as web:
        session, modern = Session(web, bridge.url), Session(web, bridge.url)
        await session.open()
        frames.append((await session.post(request("tools/list"))).text)
        for number, name in enumerate(f"{name}_{path}" for name in _SECRETS for path in _PLACES):
            message = call(name, number)
            message["params"]["arguments"] = arguments
            frames.append((await session.post(message)).text)
            frames.append(json.dumps(await modern.ask_modern(message)))
        bad = call("bearer_echo", "bad")
        bad["params"]["arguments"] = {"path": "../x", "no": _mark("of_query")}
        frames.append((await session.post(bad)).text)
        for number, file in enumerate(sorted((folder / "tools.d").glob("*.upstream.yaml"))):
            broken = file.read_text() + _MISTAKES[number % len(_MISTAKES)]
            file.with_name(".new").write_text(broken)
            file.with_name(".new").replace(file)
        await bridge.heard(re.compile(rb"reload: .*!%d in" % len(_SECRETS)))
    return "\n".join(frames), bridge.log.decode()


def _commands(folder: Path, env: dict[str, str]) -> str:
    """What the commands print."""
    tools = str(folder / "tools.d")
    lines = [["check", tools], ["check", "--format", "json", tools], ["check", "--format", "github", tools]]
    lines += [["list", tools], ["list", "--format", "json", tools]]
    for name in _SECRETS:
        lines += [["explain", "--tools", tools, f"{name}_echo"], ["call", "--tools", tools, f"{name}_refuse"]]
        lines.append(["call", "--tools", tools, "--format", "raw", f"{name}_echo"])
        lines.append(["--verbose", "call", "--tools", tools, f"{name}_cut"])
    said = io.StringIO()
    before = dict(os.environ)
    os.environ.update(env)
    try:
        with redirect_stdout(said), redirect_stderr(said):
            for line in lines:
                main(line)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return said.getvalue()
