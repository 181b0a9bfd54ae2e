"""One pool: messages go out on connections to one origin, and replies come back."""

import asyncio
import ssl
from base64 import b64encode
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

import httpx
from aiohttp import ClientError, ClientRequest
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from bridge import __version__
from bridge.egress import host_refusal
from bridge.exchange import Reply
from bridge.upstream.http import failures
from bridge.upstream.http.addresses import Resolver
from bridge.upstream.http.connection import Line, Lines
from bridge.upstream.http.reply_reader import READING, WAITING, Progress

USER_AGENT: Final = f"restbridge/{__version__}"


class Message(NamedTuple):
    """A request as it leaves: ``target`` and ``headers`` are sent as they are; these are whole lines.

    ``fresh``: not on a connection that was at rest, as the upstream may be closing it, and the request could
    not be repeated. ``connect`` is in seconds; of the reply's content ``limit`` bytes are taken.
    """

    method: bytes
    target: bytes
    headers: bytes
    content: bytes
    fresh: bool
    connect: float
    limit: int


class Transport:
    """Sends to ``origin``, directly or through ``proxy`` (http, with user and password if need be).

    Must be made where the event loop runs. ``settle`` is for ``Lines``.
    """

    def __init__(
        self,
        origin: str,
        proxy: str | None,
        context: ssl.SSLContext | None,
        resolver: Resolver,
        settle: float,
    ) -> None:
        url = URL(origin, encoded=True)
        self.calls = 0
        self._proxied = proxy is not None
        self._absolute = origin.encode() if proxy and not context else b""
        through = URL(proxy, encoded=True) if proxy else None
        hosts = (each.raw_host or "" for each in (url, through) if each)
        self._is_refused = any(host_refusal(host, proxied=self._proxied) for host in hosts)
        credentials = {"Proxy-Authorization": _basic(through)} if through and through.raw_user else {}
        lines = [f"{name}: {value}\r\n" for name, value in credentials.items() if self._absolute]
        self._extra = "".join(lines).encode()
        # aiohttp would add Host to the headers, which are part of its key for connections at rest
        headers = {"Host": url.host_port_subcomponent or "", "User-Agent": USER_AGENT, **credentials}
        peer = ClientRequest(
            "GET",
            url,
            loop=asyncio.get_running_loop(),
            ssl=context or True,
            proxy=through.with_user(None) if through else None,
            proxy_headers=headers if through else None,
        )
        self._lines = Lines(peer, resolver, settle)

    async def send(self, message: Message, progress: Progress) -> Reply:
        """The whole reply; raises httpx's errors with the codes of ``failures``, and ``UnusableReply``."""
        if not message.fresh and (line := self._lines.rested()):
            reply = await self._exchange_again(line, message, progress)
            if reply:
                return reply
        return await self._exchange(await self._connect(message, progress), message, progress)

    async def _connect(self, message: Message, progress: Progress) -> Line:
        if self._is_refused:
            raise httpx.ConnectError("address-refused")
        progress.phase = "connecting"
        try:
            async with asyncio.timeout(message.connect):
                return await self._lines.new()
        except TimeoutError as error:
            raise httpx.ConnectTimeout("connect-timeout") from error
        except (ClientError, HttpProcessingError, OSError) as error:
            raise failures.while_connecting(error, proxied=self._proxied) from error

    async def _exchange_again(self, line: Line, message: Message, progress: Progress) -> Reply | None:
        """None if nothing of a reply came: the upstream may end a connection at rest while a request is on its way.

        Another connection is then no retry. Neither is it after 408, which is said to the connection, not to us
        (RFC 9110 15.5.9).
        """
        try:
            reply = await self._exchange(line, message, progress)
        except httpx.TransportError:
            if progress.phase == READING:
                raise
            return None
        return None if reply.status == 408 else reply

    async def _exchange(self, line: Line, message: Message, progress: Progress) -> Reply:
        method, target, headers, content, fresh, _, limit = message
        head = b"%s %s%s HTTP/1.1\r\n%s%s\r\n" % (method, self._absolute, target, self._extra, headers)
        is_answered, was_sent = False, progress.sent
        progress.phase, progress.sent = WAITING, True
        try:
            arrived = await line.ask(head + content, limit, progress, has_content=method != b"HEAD")
            reply = await arrived.reply()
            if reply.status == 407 and self._absolute:  # most likely from the proxy (RFC 9110 15.5.8)
                raise httpx.ProxyError("proxy-failed credentials")
            is_answered = True
        except httpx.TransportError as fault:
            if str(fault).startswith(failures.WITHOUT_PROCESSING):
                progress.sent = was_sent
            raise
        finally:
            if fresh or not is_answered:
                line.end()
        if not fresh:
            self._lines.rest(line)
        return reply

    async def aclose(self) -> None:
        await self._lines.close()


def _basic(proxy: URL) -> str:
    pair = b"%s:%s" % (unquote_to_bytes(proxy.raw_user or ""), unquote_to_bytes(proxy.raw_password or ""))
    return f"Basic {b64encode(pair).decode()}"
