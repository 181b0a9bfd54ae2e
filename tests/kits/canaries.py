"""Marked secrets and arguments, and everything that a bridge and its commands say: none of it may hold a mark.

Each secret is in an upstream file of its own. Its API repeats whatever it is sent, and knows the secret: it writes it in
many encodings, into every kind of content block, into bytes, headers and errors. Arguments may come back in results, but
are in no log.
"""

import base64
import html
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import quote, quote_plus, urlsplit

import httpx
from anyio import to_thread

from bridge.cli import main
from tests.kits.figures import Figure, at_least, none_of
from tests.kits.serving import over_http
from tests.serving.served import Session, call, request
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
    "digits": 'auth: {{type: http, scheme: bearer, credentials: "${{env:{name}}}"}}',
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
  url: "/{path}/{upstream}/{{path}}{{?query}}"
  headers: {{X-Header: "{{header}}"}}
  body: {{body: "{{body}}"}}
timeout: 500ms
"""
_MISTAKES: Final = ("baseUrll: x\n", "timeout: {total: long}\n", "tls: {\n", "auth: {}\n")
_ARGUMENTS: Final = ("path", "query", "header", "body")
_RESPONSES: Final = {
    "echo": "",
    "typed": "outputSchema: {type: object}",
    "refuse": "",
    "hang": "",
    "cut": "",
    "garbage": "",
    "forms": "",
    "text": "",
    "keys": "",
    "blocks": "response: {content: blocks}",
    "picture": "",
    "file": "",
    "page": "response: {content: resource}",
    "turned": """response: {jmespath: "{a: reverse(turned), b: join('', parts), c: map(&reverse(@), [mark]), d: to_string([mark])}"}""",
    "asked": """response: {jmespath: "{a: starts_with(mark, 'canary/'), b: contains(mark, 'canary'), c: ends_with(mark, '=')}"}""",
    "head": """response: {from: reply, jmespath: "headers"}""",
    "turned_error": """errors: {"4xx": {message: No., jmespath: "[reverse(turned), join('', parts), reverse(mark)]"}}""",
    "long_error": "",
    "redirect": "",
    "stripped": "response: {invisible: strip}",
    "number": "",
    "number_typed": "outputSchema: {type: object, properties: {id: {type: integer}}}",
    "not_json": "response: {content: json}",
}
"""What a tool file says beside its request, for each thing that an API does with a secret."""
_PLACES: Final = tuple(_RESPONSES)


def _mark(name: str) -> str:
    return "90817263541" if name == "digits" else f"canary/{name.replace('_', '-')}+{len(name)}="


def _encodings(mark: str) -> Iterator[str]:
    """A mark in the encodings that are said to be found, but base64."""
    yield from (
        mark,
        quote(mark, safe=""),
        quote(mark),
        quote(mark, safe="").lower(),
        quote_plus(mark),
        quote(quote(mark)),
    )
    yield "".join(f"%{byte:02X}" for byte in mark.encode())
    yield from ("".join(f"\\u{ord(each):04x}" for each in mark), mark.replace("/", "\\/"))
    yield from (html.escape(mark), "".join(f"&#{ord(each)};" for each in mark), mark.replace("/", "&#x2F;"))
    yield from (mark.encode().hex(), mark.encode().hex().upper())


def _in_base64(mark: str) -> Iterator[str]:
    for before in range(3):
        data = bytes(before) + mark.encode()
        yield from (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode())


def _spellings(name: str) -> Iterator[str]:
    """A mark as it may turn up, also turned around; in base64, what is sure wherever it begins."""
    mark = _mark(name)
    yield from _encodings(mark)
    yield mark[::-1]
    for number, encoded in enumerate(_in_base64(mark)):
        yield encoded[(0, 2, 3)[number // 2] : -4]


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


def _of(exchange: Exchange) -> str:
    """The secret of the upstream that the path names."""
    return _mark(urlsplit(exchange.target).path.split("/")[2])


async def _forms(exchange: Exchange) -> None:
    mark = _of(exchange)
    await exchange.reply(json.dumps([*_encodings(mark), *_in_base64(mark)]).replace("+", "\\u002B").encode())


async def _text(exchange: Exchange) -> None:
    mark = _of(exchange)
    await exchange.reply(
        "\n".join([*_encodings(mark), *_in_base64(mark)]).encode(), content_type="text/plain"
    )


async def _keys(exchange: Exchange) -> None:
    mark = _of(exchange)
    await exchange.reply(json.dumps({encoded: {encoded: 1} for encoded in _encodings(mark)}).encode())


async def _blocks(exchange: Exchange) -> None:
    mark = _of(exchange)
    data = [base64.b64encode(b"\x89PNG" + text.encode()).decode() for text in _encodings(mark)]
    link = dict.fromkeys(("uri", "name", "title", "description", "mimeType"), f"a:{mark}")
    blocks = [
        {"type": "text", "text": mark, "annotations": {"lastModified": mark}, "_meta": {mark: [mark]}},
        *({"type": "image", "data": text, "mimeType": mark} for text in data),
        {"type": "audio", "data": data[0], "mimeType": mark, "_meta": {"a": {"b": mark}}},
        {"type": "resource", "resource": {"uri": mark, "mimeType": mark, "text": mark}, "_meta": {"a": mark}},
        {"type": "resource", "resource": {"uri": mark, "blob": data[0]}},
        {"type": "resource_link", **link},
    ]
    await exchange.reply(json.dumps(blocks).encode())


async def _picture(exchange: Exchange) -> None:
    content = b"\x89PNG\r\n\x1a\n" + b"\xff".join(text.encode() for text in _encodings(_of(exchange)))
    await exchange.reply(content, content_type="image/png")


async def _file(exchange: Exchange) -> None:
    content = b"\xff\0".join(text.encode() for text in _encodings(_of(exchange)))
    await exchange.reply(content, content_type="application/pdf")


async def _page(exchange: Exchange) -> None:
    content = f"<p>{_of(exchange)}</p>".encode("utf-16")
    await exchange.reply(content, content_type="text/html; charset=utf-16")


def _parts(mark: str) -> bytes:
    return json.dumps({"mark": mark, "turned": mark[::-1], "parts": [mark[:4], mark[4:]]}).encode()


async def _turned(exchange: Exchange) -> None:
    await exchange.reply(_parts(_of(exchange)))


async def _head(exchange: Exchange) -> None:
    mark = _of(exchange)
    fields = f"X-Mark: {mark}\r\nSet-Cookie: key={quote(mark)}\r\nLink: <{quote(mark, safe='')}>"
    await exchange.reply(b"{}", "200 OK", fields)


async def _turned_error(exchange: Exchange) -> None:
    await exchange.reply(_parts(_of(exchange)), "403 Forbidden")


async def _long_error(exchange: Exchange) -> None:
    await exchange.reply(
        json.dumps({"detail": f"{'x' * 490} {_of(exchange)}"}).encode(), "422 Unprocessable Content"
    )


async def _redirect(exchange: Exchange) -> None:
    await exchange.reply(b"", "302 Found", f"Location: https://other.example/{'x' * 460}{_of(exchange)}")


async def _stripped(exchange: Exchange) -> None:
    await exchange.reply(json.dumps(["\u200b".join(_of(exchange))], ensure_ascii=False).encode())


async def _number(exchange: Exchange) -> None:
    mark = _of(exchange)
    await exchange.reply(b'{"id": %s}' % (mark if mark.isdigit() else json.dumps(mark)).encode())


async def _not_json(exchange: Exchange) -> None:
    await exchange.reply(f'{{"a": "{_of(exchange)}", "a": 1}} {_of(exchange)}'.encode())


_ANSWERS: Final[dict[str, Fault]] = {
    "echo": _echo,
    "typed": _echo,
    "refuse": _refuse,
    "hang": _hang,
    "cut": _cut,
    "garbage": _garbage,
    "forms": _forms,
    "text": _text,
    "keys": _keys,
    "blocks": _blocks,
    "picture": _picture,
    "file": _file,
    "page": _page,
    "turned": _turned,
    "asked": _turned,
    "head": _head,
    "turned_error": _turned_error,
    "long_error": _long_error,
    "redirect": _redirect,
    "stripped": _stripped,
    "number": _number,
    "number_typed": _number,
    "not_json": _not_json,
}


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
    frames += "".join(_bytes(frames))
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
        at_least("places of secrets", len(_SECRETS), 13),
        at_least("what an API does with each", len(_PLACES), 23),
        none_of("secrets in the characters of frames, log and commands", secrets, size),
        none_of("arguments in the characters of the log", arguments, len(log)),
        at_least("secrets that were redacted", frames.count("[redacted]"), 2 * len(_SECRETS) * len(_PLACES)),
        none_of(
            "answers of ours to what is the API's",
            re.findall("The bridge itself failed", frames),
            len(frames),
        ),
        none_of(
            "projections that tell what a secret is", re.findall(r'\\"[abc]\\":true', frames), len(frames)
        ),
    ]


def _bytes(frames: str) -> Iterator[str]:
    """What stands in base64 in pictures, sound and files."""
    for data in re.findall(r'"(?:data|blob)": ?"([^"]*)"', frames):
        yield base64.b64decode(data).decode("latin-1")


def _write(folder: Path, place: str) -> dict[str, str]:
    """Files for every secret; answers the environment."""
    tools = folder / "tools.d"
    tools.mkdir()
    for name, auth in _SECRETS.items():
        (folder / name).write_text(_mark(name))
        written = auth.format(name=name, folder=folder, mark=_mark(name), place=place)
        (tools / f"{name}.upstream.yaml").write_text(f"baseUrl: http://{place}\n{written}\n")
        for path in _PLACES:
            written = _TOOL.format(path=path, upstream=name)
            (tools / f"{name}_{path}.yaml").write_text(f"{written}{_RESPONSES[path]}\n")
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
    for name in ("bearer", "digits"):
        lines += [
            ["call", "--tools", tools, "--format", form, f"{name}_forms"] for form in ("raw", "json", "text")
        ]
        lines += [
            ["call", "--tools", tools, f"{name}_{place}"] for place in ("head", "number", "turned_error")
        ]
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
