"""The minimal cost of the same stack: parse the request, call the upstream, send the response.

``python floor.py PORT UPSTREAM``
"""

import asyncio
import sys
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import orjson
import uvicorn
from httptools import HttpResponseParser

port, upstream = sys.argv[1:]
PLACE: Final = urlsplit(upstream)
HEAD: Final = f" HTTP/1.1\r\nHost: {PLACE.netloc}\r\n\r\n"


class Connection(asyncio.Protocol):
    """One request at a time; ``reply`` gets the content."""

    transport: asyncio.Transport
    reply: asyncio.Future[bytes]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self in idle:
            idle.remove(self)

    def get(self, target: str) -> asyncio.Future[bytes]:
        self.parts: list[bytes] = []
        self.parser = HttpResponseParser(self)
        self.reply = asyncio.get_running_loop().create_future()
        self.transport.write(f"GET {target}{HEAD}".encode())
        return self.reply

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)

    def on_message_complete(self) -> None:
        self.reply.set_result(b"".join(self.parts))


idle: list[Connection] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while (message := await receive()).get("more_body"):
        body += message["body"]
    call = orjson.loads(body + message["body"])
    if not idle:
        loop = asyncio.get_running_loop()
        _, opened = await loop.create_connection(Connection, PLACE.hostname or "", PLACE.port or 80)
        idle.append(opened)
    connection = idle.pop()
    text = (await connection.get(f"/api/products?{urlencode(call['params']['arguments'])}")).decode()
    idle.append(connection)
    result = {"content": [{"type": "text", "text": text}], "isError": False}
    answer = orjson.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


uvicorn.run(app, host="127.0.0.1", port=int(port), lifespan="off", log_level="warning", access_log=False)
