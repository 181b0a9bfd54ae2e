"""What the same stack costs at the least: parse, call the upstream, answer. ``python floor.py PORT UPSTREAM``."""

import sys
from typing import Any

import aiohttp
import orjson
import uvicorn

port, upstream = sys.argv[1:]
session: aiohttp.ClientSession | None = None


async def app(scope: Any, receive: Any, send: Any) -> None:
    global session  # noqa: PLW0603 - one for the process, made where its loop runs
    if scope["type"] != "http":
        return
    body = b""
    while (message := await receive()).get("more_body"):
        body += message["body"]
    call = orjson.loads(body + message["body"])
    session = session or aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
    async with session.get(f"{upstream}/api/products", params=call["params"]["arguments"]) as reply:
        text = (await reply.read()).decode()
    result = {"content": [{"type": "text", "text": text}], "isError": False}
    answer = orjson.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


uvicorn.run(app, host="127.0.0.1", port=int(port), lifespan="off", log_level="warning", access_log=False)
