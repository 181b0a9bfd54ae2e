"""A server that refuses every TLS connection, with the alert of its TLS context."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def refuse(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Its port on 127.0.0.1. Unlike asyncio's server it sends the alert, then reads until the client closes."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        connection = context.wrap_bio(incoming, outgoing, server_side=True)
        is_refused = False
        while not is_refused:
            incoming.write(await reader.read(65536))
            try:
                connection.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                is_refused = True
            writer.write(outgoing.read())
        await reader.read()
        writer.close()
        ended.set()

    ended = asyncio.Event()
    async with await asyncio.start_server(converse, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await ended.wait()
