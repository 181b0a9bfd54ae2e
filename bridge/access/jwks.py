"""Documents that authorization servers publish, such as their keys: got by https, or read from a file."""

import os
from dataclasses import replace
from typing import Final

import anyio
from anyio import to_thread

from bridge.diagnostics import InvalidSpec
from bridge.errors import BridgeError
from bridge.exchange import Request
from bridge.secrets import Sources, read_file, resolve
from bridge.spec import UpstreamSpec
from bridge.upstream.client import Client

_PATIENCE: Final = 10.0
_LARGEST: Final = 256 * 1024


async def fetch_or_read(client: Client, place: str) -> bytes:
    """What is at an absolute address, asked for as APIs are, or in a file; raises ``OSError``, whose text is shown."""
    if "://" not in place:
        try:
            return (await to_thread.run_sync(read_file, place)).encode()
        except OSError as problem:
            raise OSError(f"{place}: {problem.strerror}") from None
        except ValueError as problem:
            raise OSError(f"{place} {problem}") from None
    origin = "/".join(place.split("/", 3)[:3])
    words = {"baseUrl": origin, "auth": {"type": "none"}, "maxBytes": _LARGEST}
    deadline = anyio.current_time() + _PATIENCE
    try:
        upstream = resolve(origin, UpstreamSpec.model_validate(words), Sources(os.environ))
        upstream = replace(upstream, role="authorization")
        reply = await client.send(Request("GET", place), upstream, repeatable=True, deadline=deadline)
    except (BridgeError, InvalidSpec) as problem:  # InvalidSpec: the environment names an unusable proxy
        raise OSError(str(problem)) from None
    if reply.status != 200:
        raise OSError(f"{upstream.place} answered with {reply.status}")
    return reply.content
