"""Canary values as secrets and arguments: no output of the bridge or its commands may contain one.

Each secret has its own upstream file. The API echoes the requests. It also knows the secrets and returns them
in many encodings, in every kind of content block, in bytes, headers and errors. Results may contain
arguments, but logs must not.
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
from tests.serving.messages import call, request
from tests.serving.session import Session
from tests.upstream.conversation import Exchange, Fault, serve_faults

_SECRETS: Final = {
    "bearer": 'auth: {{type: http, scheme: bearer, credentials: "${{env:{name}}}"}}',
    "bearer_in_file": 'auth: {{type: http, scheme: bearer, credentials: "${{file:{folder}/{name}}}"}}',
    "bearer_default": 'auth: {{type: http, scheme: bearer, credentials: "${{env:NOT_SET:-{canary}}}"}}',
    "bearer_written": "auth: {{type: http, scheme: bearer, credentials: {canary}}}",
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
_SYNTAX_ERRORS: Final = ("baseUrll: x\n", "timeout: {total: long}\n", "tls: {\n", "auth: {}\n")
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
    "reversed": """response: {jmespath: "{a: reverse(reversed), b: join('', parts), c: map(&reverse(@), [canary]), d: to_string([canary])}"}""",
    "tested_by_projection": """response: {jmespath: "{a: starts_with(canary, 'canary/'), b: contains(canary, 'canary'), c: ends_with(canary, '=')}"}""",
    "head": """response: {from: reply, jmespath: "headers"}""",
    "reversed_error": """errors: {"4xx": {message: No., jmespath: "[reverse(reversed), join('', parts), reverse(canary)]"}}""",
    "long_error": "",
    "redirect": "",
    "stripped": "response: {invisible: strip}",
    "number": "",
    "number_typed": "outputSchema: {type: object, properties: {id: {type: integer}}}",
    "not_json": "response: {content: json}",
}
"""The keys of a tool file in addition to ``request``, for each way that the API returns a secret."""
_PLACES: Final = tuple(_RESPONSES)


def _canary(name: str) -> str:
    return "90817263541" if name == "digits" else f"canary/{name.replace('_', '-')}+{len(name)}="


def _encodings(canary: str) -> Iterator[str]:
    """A canary in all encodings that redaction promises to find, except base64."""
    yield from (
        canary,
        quote(canary, safe=""),
        quote(canary),
        quote(canary, safe="").lower(),
        quote_plus(canary),
        quote(quote(canary)),
    )
    yield "".join(f"%{byte:02X}" for byte in canary.encode())
    yield from ("".join(f"\\u{ord(each):04x}" for each in canary), canary.replace("/", "\\/"))
    yield from (
        html.escape(canary),
        "".join(f"&#{ord(each)};" for each in canary),
        canary.replace("/", "&#x2F;"),
    )
    yield from (canary.encode().hex(), canary.encode().hex().upper())


def _base64_forms(canary: str) -> Iterator[str]:
    for before in range(3):
        data = bytes(before) + canary.encode()
        yield from (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode())


def _forms_of(name: str) -> Iterator[str]:
    """All forms of a canary, also reversed; in base64, the part that does not depend on the alignment."""
    canary = _canary(name)
    yield from _encodings(canary)
    yield canary[::-1]
    for number, encoded in enumerate(_base64_forms(canary)):
        yield encoded[(0, 2, 3)[number // 2] : -4]


async def _echo(exchange: Exchange) -> None:
    """The whole request, as JSON."""
    echoed = {"head": exchange.head.decode("latin-1"), "body": exchange.body.decode("latin-1")}
    await exchange.reply(json.dumps(echoed).encode())


async def _refuse(exchange: Exchange) -> None:
    body = json.dumps({"detail": exchange.head.decode("latin-1")}).encode()
    await exchange.reply(body, "401 Unauthorized", f"WWW-Authenticate: {exchange.headers}")


async def _hang(exchange: Exchange) -> None:
    await exchange.gone()


async def _cut(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + exchange.head)
    exchange.close()


async def _garbage(exchange: Exchange) -> None:
    await exchange.send(exchange.head)
    exchange.close()


def _secret_of(exchange: Exchange) -> str:
    """The secret of the upstream that the path names."""
    return _canary(urlsplit(exchange.target).path.split("/")[2])


async def _forms(exchange: Exchange) -> None:
    canary = _secret_of(exchange)
    await exchange.reply(
        json.dumps([*_encodings(canary), *_base64_forms(canary)]).replace("+", "\\u002B").encode()
    )


async def _text(exchange: Exchange) -> None:
    canary = _secret_of(exchange)
    await exchange.reply(
        "\n".join([*_encodings(canary), *_base64_forms(canary)]).encode(), content_type="text/plain"
    )


async def _keys(exchange: Exchange) -> None:
    canary = _secret_of(exchange)
    await exchange.reply(json.dumps({encoded: {encoded: 1} for encoded in _encodings(canary)}).encode())


async def _blocks(exchange: Exchange) -> None:
    canary = _secret_of(exchange)
    data = [base64.b64encode(b"\x89PNG" + text.encode()).decode() for text in _encodings(canary)]
    link = dict.fromkeys(("uri", "name", "title", "description", "mimeType"), f"a:{canary}")
    blocks = [
        {
            "type": "text",
            "text": canary,
            "annotations": {"lastModified": canary},
            "_meta": {canary: [canary]},
        },
        *({"type": "image", "data": text, "mimeType": canary} for text in data),
        {"type": "audio", "data": data[0], "mimeType": canary, "_meta": {"a": {"b": canary}}},
        {
            "type": "resource",
            "resource": {"uri": canary, "mimeType": canary, "text": canary},
            "_meta": {"a": canary},
        },
        {"type": "resource", "resource": {"uri": canary, "blob": data[0]}},
        {"type": "resource_link", **link},
    ]
    await exchange.reply(json.dumps(blocks).encode())


async def _picture(exchange: Exchange) -> None:
    content = b"\x89PNG\r\n\x1a\n" + b"\xff".join(text.encode() for text in _encodings(_secret_of(exchange)))
    await exchange.reply(content, content_type="image/png")


async def _file(exchange: Exchange) -> None:
    content = b"\xff\0".join(text.encode() for text in _encodings(_secret_of(exchange)))
    await exchange.reply(content, content_type="application/pdf")


async def _page(exchange: Exchange) -> None:
    content = f"<p>{_secret_of(exchange)}</p>".encode("utf-16")
    await exchange.reply(content, content_type="text/html; charset=utf-16")


def _parts(canary: str) -> bytes:
    return json.dumps(
        {"canary": canary, "reversed": canary[::-1], "parts": [canary[:4], canary[4:]]}
    ).encode()


async def _reversed(exchange: Exchange) -> None:
    await exchange.reply(_parts(_secret_of(exchange)))


async def _head(exchange: Exchange) -> None:
    canary = _secret_of(exchange)
    fields = f"X-Canary: {canary}\r\nSet-Cookie: key={quote(canary)}\r\nLink: <{quote(canary, safe='')}>"
    await exchange.reply(b"{}", "200 OK", fields)


async def _reversed_error(exchange: Exchange) -> None:
    await exchange.reply(_parts(_secret_of(exchange)), "403 Forbidden")


async def _long_error(exchange: Exchange) -> None:
    await exchange.reply(
        json.dumps({"detail": f"{'x' * 490} {_secret_of(exchange)}"}).encode(), "422 Unprocessable Content"
    )


async def _redirect(exchange: Exchange) -> None:
    await exchange.reply(
        b"", "302 Found", f"Location: https://other.example/{'x' * 460}{_secret_of(exchange)}"
    )


async def _stripped(exchange: Exchange) -> None:
    await exchange.reply(json.dumps(["\u200b".join(_secret_of(exchange))], ensure_ascii=False).encode())


async def _number(exchange: Exchange) -> None:
    canary = _secret_of(exchange)
    await exchange.reply(b'{"id": %s}' % (canary if canary.isdigit() else json.dumps(canary)).encode())


async def _not_json(exchange: Exchange) -> None:
    await exchange.reply(f'{{"a": "{_secret_of(exchange)}", "a": 1}} {_secret_of(exchange)}'.encode())


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
    "reversed": _reversed,
    "tested_by_projection": _reversed,
    "head": _head,
    "reversed_error": _reversed_error,
    "long_error": _long_error,
    "redirect": _redirect,
    "stripped": _stripped,
    "number": _number,
    "number_typed": _number,
    "not_json": _not_json,
}


class _ByFirstSegment(dict[str, Fault]):
    """The first segment of the path selects the answer; a proxied request has an absolute URL."""

    def __missing__(self, _key: str) -> Fault:
        async def answer(exchange: Exchange) -> None:
            await _ANSWERS[urlsplit(exchange.target).path.split("/")[1]](exchange)

        return answer


async def run(*, long: bool) -> list[Figure]:  # noqa: ARG001 - there is one length only
    with TemporaryDirectory() as name:
        folder = Path(name)
        async with serve_faults(_ByFirstSegment()) as api:
            env = _write(folder, api.place)
            commands = await to_thread.run_sync(_commands, folder, env)
            frames, log = await _serve(folder, env)
            commands += await to_thread.run_sync(_commands, folder, env)
    frames += "".join(_decoded_base64(frames))
    outputs = {"frames": frames, "the log": log, "commands": commands}
    leaks = [
        f"{name} in {output}: {text[max(0, text.index(form) - 60) : text.index(form) + 60]!r}"
        for output, text in outputs.items()
        for name in _SECRETS
        for form in _forms_of(name)
        if form in text
    ]
    logged_arguments = [
        f"{name} in the log" for name in _ARGUMENTS for form in _forms_of(f"of_{name}") if form in log
    ]
    size = sum(map(len, outputs.values()))
    return [
        at_least("kinds of configured secrets", len(_SECRETS), 13),
        at_least("kinds of replies with a secret", len(_PLACES), 23),
        none_of("secrets in frames, log and command output (characters)", leaks, size),
        none_of("arguments in the log (characters)", logged_arguments, len(log)),
        at_least("secrets that were redacted", frames.count("[redacted]"), 2 * len(_SECRETS) * len(_PLACES)),
        none_of(
            "internal errors of the bridge",
            re.findall("The bridge itself failed", frames),
            len(frames),
        ),
        none_of("projections that reveal a secret", re.findall(r'\\"[abc]\\":true', frames), len(frames)),
    ]


def _decoded_base64(frames: str) -> Iterator[str]:
    """The decoded content of image, audio and resource blocks."""
    for data in re.findall(r'"(?:data|blob)": ?"([^"]*)"', frames):
        yield base64.b64decode(data).decode("latin-1")


def _write(folder: Path, place: str) -> dict[str, str]:
    """Writes the files for every secret; returns the environment."""
    tools = folder / "tools.d"
    tools.mkdir()
    for name, auth in _SECRETS.items():
        (folder / name).write_text(_canary(name))
        auth_yaml = auth.format(name=name, folder=folder, canary=_canary(name), place=place)
        (tools / f"{name}.upstream.yaml").write_text(f"baseUrl: http://{place}\n{auth_yaml}\n")
        for path in _PLACES:
            tool_yaml = _TOOL.format(path=path, upstream=name)
            (tools / f"{name}_{path}.yaml").write_text(f"{tool_yaml}{_RESPONSES[path]}\n")
    return {name: _canary(name) for name in _SECRETS}


async def _serve(folder: Path, env: dict[str, str]) -> tuple[str, str]:
    """All that clients receive over HTTP in both eras, and the log. At the end each upstream file gets an error."""
    frames: list[str] = []
    arguments = {name: _canary(f"of_{name}") for name in _ARGUMENTS}
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
        bad["params"]["arguments"] = {"path": "../x", "no": _canary("of_query")}
        frames.append((await session.post(bad)).text)
        for number, file in enumerate(sorted((folder / "tools.d").glob("*.upstream.yaml"))):
            broken = file.read_text() + _SYNTAX_ERRORS[number % len(_SYNTAX_ERRORS)]
            file.with_name(".new").write_text(broken)
            file.with_name(".new").replace(file)
        await bridge.wait_for_log(re.compile(rb"reload: .*!%d in" % len(_SECRETS)))
    return "\n".join(frames), bridge.log.decode()


def _commands(folder: Path, env: dict[str, str]) -> str:
    """The output of the commands."""
    tools = str(folder / "tools.d")
    commands = [
        ["check", tools],
        ["check", "--format", "json", tools],
        ["check", "--format", "github", tools],
    ]
    commands += [["list", tools], ["list", "--format", "json", tools]]
    for name in _SECRETS:
        commands += [
            ["explain", "--tools", tools, f"{name}_echo"],
            ["call", "--tools", tools, f"{name}_refuse"],
        ]
        commands.append(["call", "--tools", tools, "--format", "raw", f"{name}_echo"])
        commands.append(["--verbose", "call", "--tools", tools, f"{name}_cut"])
    for name in ("bearer", "digits"):
        commands += [
            ["call", "--tools", tools, "--format", form, f"{name}_forms"] for form in ("raw", "json", "text")
        ]
        commands += [
            ["call", "--tools", tools, f"{name}_{place}"] for place in ("head", "number", "reversed_error")
        ]
    output = io.StringIO()
    environ = dict(os.environ)
    os.environ.update(env)
    try:
        with redirect_stdout(output), redirect_stderr(output):
            for command in commands:
                main(command)
    finally:
        os.environ.clear()
        os.environ.update(environ)
    return output.getvalue()
