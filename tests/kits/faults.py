"""Every fault of an upstream, over every transport: each call and its outcome are recorded.

Each call carries an id that the upstream writes into its reply. A call is *lost* if it gets no result,
*wrong* if its outcome is not the expected one or belongs to another call, and *duplicate* if the upstream
received an unsafe one twice. After each call, a call to a path without a fault on the same upstream must
succeed.
"""

import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio
from anyio import to_thread
from mcp import Client, MCPError

from tests.kits.figures import Figure, at_most, none_of
from tests.kits.serving import TRANSPORTS, Bridge, code_of, connected, over_http, over_stdio, text_of
from tests.upstream.certificates import Authority
from tests.upstream.conversation import Faulty
from tests.upstream.faulty import FAULTS, large_bomb, serve
from tests.upstream.forwarder import forward
from tests.upstream.refusing import refuse

KEY: Final = "canary-in-the-credentials"
_CONCURRENT_CALLS: Final = 10
_TIMEOUT_SECONDS: Final = 20

_OUTCOMES: Final = {
    "ok": """
        ansi_and_bidi bad_utf8 body_on_204 body_on_204_at_once byte_order_mark charset_codec_bomb
        chunk_end_on_204 chunked close_delimited closes_after_reply closes_on_reuse created crossing_408
        early_hints empty_200 extra_after_chunks extra_after_close extra_after_hints extra_blank extra_bytes
        extra_bytes_later extra_line gzip gzip_empty gzip_members gzip_transfer html_200 http10_close identity
        int_2_63 json_as_text keepalive_then_408 late_408 latin1_header lone_surrogate
        long_content_length_extra long_int ndjson no_content nul_char prompt_injection reply_on_204 set_cookie
        tiny_chunks unknown_charset utf16 waits
    """,
    "timeout": "head never_answers slow_body slow_headers",
    "reply-cut": """
        close_before_head close_delimited_rst cut_head rst_before_head rst_mid_body short_content_length
        truncated_chunked
    """,
    "reply-too-large": "big_json endless_body gzip_bomb gzip_bomb_1gb",
    "bad-encoding": """
        deflate gzip_bad_checksum gzip_cut gzip_double gzip_many_members gzip_nonsense gzip_trailing_garbage
        unknown_encoding
    """,
    "not-json": """
        cut_json deep_json dup_keys echo exp_float huge_int infinite_json invalid_json nan_json
    """,
    "protocol-error": """
        bad_chunk_size endless_chunk_extensions endless_headers endless_tiny_chunks endless_trailers header_bomb
        huge_chunk_extension informational_flood length_and_chunks negative_length not_http one_huge_header
        one_huge_trailer switching_protocols tls_alert two_lengths
    """,
    "incomplete-reply": "close_delimited_number",
    "http-304": "body_on_304 body_on_304_later",
    "http-307": "redirect",
    "http-401": "secret_echo",
    "http-429": "retry_after_arabic retry_after_fraction retry_after_seconds",
    "http-503": "retry_after_date retry_after_huge retry_after_naive retry_after_negative",
}
_NOT_COUNTED: Final = frozenset({"", "ok", "status", "last_words", "fails_once", "broken_tls_record"})
"""Paths that are not a fault, need their own message, or fail only once."""
_WITHOUT_ID: Final = frozenset(
    [
        "body_on_204",
        "body_on_204_at_once",
        "chunk_end_on_204",
        "empty_200",
        "extra_after_chunks",
        "gzip_empty",
        "no_content",
        "reply_on_204",
        "utf16",
    ]
)
"""Valid replies that cannot contain an id."""
_PROXY_AUTH: Final = "proxy_credentials"
"""A 407 to a request over http: it is unknown whether the API received it."""
_UNREACHABLE: Final = {
    "refused": "connect-refused",
    "unknown_host": "dns-failed",
    "untrusted": "tls-untrusted",
    "wrong_host_name": "tls-name",
    "expired": "tls-untrusted",
    "https_to_http": "tls-failed",
    "http_to_https": "reply-cut",
    "client_certificate": "tls-failed",
    _PROXY_AUTH: "proxy-failed",
}
"""Upstreams that are unreachable."""
_SLOW_RESOLVER: Final = ("unknown_host", "connect-timeout")
"""A resolver may be slow to report an unknown name."""
EXPECTED: Final = _UNREACHABLE | {
    fault: code for code, faults in _OUTCOMES.items() for fault in faults.split()
}
"""The outcome of a call with any method."""
_UPSTREAM: Final = """\
baseUrl: {url}
auth: {{type: http, scheme: bearer, credentials: "${{env:FAULTY_KEY}}"}}
timeout: {{total: 5s, connect: 2s}}
retries: {{max: 1}}
maxBytes: 1MiB
tls: {{caFile: {ca}}}
"""
_TOOL: Final = """\
description: Calls the path {fault}.
upstream: {upstream}
inputSchema:
  type: object
  required: [id]
  properties:
    id: {{type: string}}
request: {{method: {method}, url: "/{fault}?id={{id}}"}}
response: {{maxBytes: 2MB}}
timeout: {timeout}
"""


_CODES_AFTER_EXECUTION: Final = frozenset({"bad-encoding", "incomplete-reply", "not-json", "reply-too-large"})
_CODES_WITH_UNKNOWN_EXECUTION: Final = frozenset({"protocol-error", "reply-cut", "timeout"})
_MAYBE_EXECUTED_TEXT: Final = "It may have been carried out; check before repeating."
_EXECUTED_TEXT: Final = "The request was carried out ("


@dataclass
class Outcomes:
    """The outcomes of one transport: one line for each call."""

    calls: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    wrong_next: list[str] = field(default_factory=list)


class Matrix:
    """Calls tools with one client, and records the outcomes."""

    def __init__(self, client: Client, name: str, outcomes: Outcomes) -> None:
        self._client = client
        self._name = name
        self._outcomes = outcomes
        self._limit = anyio.CapacityLimiter(_CONCURRENT_CALLS)

    async def run(self, count: int) -> None:
        """``count`` calls of each fault, by GET and by POST."""
        for fault in EXPECTED:
            async with anyio.create_task_group() as tasks:
                for number in range(count):
                    method = ("get", "post")[number % 2]
                    tasks.start_soon(self._check_call, method, fault, f"{self._name}-{fault}-{number}")

    async def _check_call(self, method: str, fault: str, id: str) -> None:
        async with self._limit:
            self._outcomes.calls += 1
            code, text = await self._call(f"{method}_{fault}", id)
            if problem := _problem(fault, id, code, text, unsafe=method == "post"):
                self._outcomes.wrong.append(f"{method} {id}: {problem}: {text[:300]!r}")
            code, text = await self._call("get_ok", f"{id}-next")
            if code != "ok" or json.loads(text) != {"answer": 42, "id": f"{id}-next"}:
                self._outcomes.wrong_next.append(f"{id}: {code}: {text[:300]!r}")

    async def _call(self, tool: str, id: str) -> tuple[str, str]:
        try:
            with anyio.fail_after(_TIMEOUT_SECONDS):
                result = await self._client.call_tool(tool, {"id": id})
        except (MCPError, TimeoutError) as error:
            self._outcomes.lost.append(f"{tool} {id}: {error!r}")
            return "lost", ""
        return code_of(result), text_of(result)


def _problem(fault: str, id: str, code: str, text: str, *, unsafe: bool) -> str:
    """What is wrong with an outcome; empty if nothing is."""
    expected = EXPECTED[fault]
    if code != expected and (fault, code) != _SLOW_RESOLVER:
        return f"{code} instead of {expected}"
    if KEY in text:
        return "contains a secret"
    if code == "ok":
        return "" if fault in _WITHOUT_ID or id in text else "the result of another call"
    if unsafe and (expected in _CODES_AFTER_EXECUTION) != text.startswith(_EXECUTED_TEXT):
        return "wrong text about execution"
    if unsafe and (expected in _CODES_WITH_UNKNOWN_EXECUTION or fault == _PROXY_AUTH) != (
        _MAYBE_EXECUTED_TEXT in text
    ):
        return "wrong text about possible execution"
    return ""


async def run(*, long: bool) -> list[Figure]:
    count = 50 if long else 4
    with TemporaryDirectory() as name:
        async with _setup(Path(name)) as (faulty, tools):
            figures = [_coverage()]
            log = Path(name, "log")
            env = {"FAULTY_KEY": KEY}
            for transport in TRANSPORTS:
                outcomes = Outcomes()
                if transport == "stdio":
                    async with over_stdio(tools, env, log) as client:
                        await Matrix(client, "stdio", outcomes).run(count)
                    log_text = await anyio.Path(log).read_text()
                else:
                    async with over_http(tools, env) as bridge, connected(transport, bridge) as client:
                        if transport == "HTTP modern":
                            figures += await _memory(bridge, client)
                        await Matrix(client, transport.replace(" ", "-"), outcomes).run(count)
                    log_text = bridge.log.decode()
                figures += _figures(transport, outcomes, log_text)
            twice = [
                f"{target} {n} times"
                for (method, target), n in faulty.counts.items()
                if n > 1 and method == "POST"
            ]
            total = sum(method == "POST" for method, _ in faulty.counts)
            return [*figures, none_of("unsafe calls that an upstream received twice", twice, total)]


def _coverage() -> Figure:
    untested = FAULTS.keys() - EXPECTED.keys() - _NOT_COUNTED
    return Figure(
        "named faults", str(len(EXPECTED)), "≥ 60", not untested and len(EXPECTED) >= 60, tuple(untested)
    )


def _figures(transport: str, outcomes: Outcomes, log: str) -> list[Figure]:
    return [
        none_of(f"lost calls, {transport}", outcomes.lost, 2 * outcomes.calls),
        none_of(f"wrong outcomes, {transport}", outcomes.wrong, outcomes.calls),
        none_of(f"wrong next calls on the same upstream, {transport}", outcomes.wrong_next, outcomes.calls),
        none_of(f"secrets in the log, {transport}", [KEY] * log.count(KEY), len(log.splitlines())),
    ]


async def _memory(bridge: Bridge, client: Client) -> list[Figure]:
    """The memory that the largest replies need, compared with an idle bridge."""
    figures = []
    for fault in ("big_json", "gzip_bomb_1gb", "gzip_double", "endless_body"):
        await client.call_tool("get_ok", {"id": "memory"})
        bridge.reset_peak()
        before = bridge.rss
        for method in ("get", "post"):
            await client.call_tool(f"{method}_{fault}", {"id": "memory"})
        figures.append(at_most(f"extra memory, {fault}", bridge.peak - before, 30, "MB"))
    return figures


@asynccontextmanager
async def _setup(folder: Path) -> AsyncIterator[tuple[Faulty, Path]]:
    """The faulty upstreams and a tool file for each fault."""
    authority = Authority(folder)
    untrusted_authority = Authority(folder, "untrusted")
    tools = folder / "tools.d"
    tools.mkdir()
    async with AsyncExitStack() as stack:
        faulty = await stack.enter_async_context(serve())
        faulty.go.set()

        async def tls(context: ssl.SSLContext) -> str:
            return (await stack.enter_async_context(serve(context))).url

        requires_client_certificate = authority.server("127.0.0.1", asks=True)
        proxy = await stack.enter_async_context(forward("407 Proxy Authentication Required"))
        closed = stack.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))  # bound but not listening: no other process can take the port
        urls = {
            "faulty": faulty.url,
            "refused": f"http://127.0.0.1:{closed.getsockname()[1]}",
            "unknown_host": "http://unknown-host.invalid",
            "untrusted": await tls(untrusted_authority.server("127.0.0.1")),
            "wrong_host_name": await tls(authority.server("other.example")),
            "expired": await tls(authority.server("127.0.0.1", expired=True)),
            "https_to_http": faulty.url.replace("http", "https"),
            "http_to_https": (await tls(authority.server("127.0.0.1"))).replace("https", "http"),
            "client_certificate": f"https://127.0.0.1:{await stack.enter_async_context(refuse(requires_client_certificate))}",
            _PROXY_AUTH: "http://shop.test",
        }
        for upstream, url in urls.items():
            text = _UPSTREAM.format(url=url, ca=authority.file)
            if upstream == _PROXY_AUTH:
                text += f"proxy: http://{proxy.place}\n"
            (tools / f"{upstream}.upstream.yaml").write_text(text)
        await to_thread.run_sync(large_bomb)
        for fault in ("ok", *EXPECTED):
            for method in ("get", "post"):
                upstream = fault if fault in _UNREACHABLE else "faulty"
                timeout = "500ms" if EXPECTED.get(fault) == "timeout" else "5s"
                text = _TOOL.format(fault=fault, upstream=upstream, method=method.upper(), timeout=timeout)
                (tools / f"{method}_{fault}.yaml").write_text(text)
        yield faulty, tools
