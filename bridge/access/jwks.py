"""Reads the documents of authorization servers, such as their keys, from a URL or a file."""

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

_TIMEOUT_SECONDS: Final = 10.0
_MAX_BYTES: Final = 256 * 1024


async def fetch_or_read(client: Client, place: str) -> bytes:
    """The content of an absolute URL or of a file; raises ``OSError``, whose text is shown.

    A URL is requested as an upstream is: with its timeouts, its proxy and its egress rules.
    """
    if "://" not in place:
        try:
            return (await to_thread.run_sync(read_file, place)).encode()
        except OSError as problem:
            raise OSError(f"{place}: {problem.strerror}") from None
        except ValueError as problem:  # of read_file, such as "is not UTF-8 text"
            raise OSError(f"{place} {problem}") from None
    # "https://login.example.com/a/keys" → "https://login.example.com"
    origin = "/".join(place.split("/", 3)[:3])
    spec = {"baseUrl": origin, "auth": {"type": "none"}, "maxBytes": _MAX_BYTES}
    deadline = anyio.current_time() + _TIMEOUT_SECONDS
    try:
        upstream = resolve(origin, UpstreamSpec.model_validate(spec), Sources(os.environ))
        # For messages: "The authorization server at …".
        upstream = replace(upstream, role="authorization")
        reply = await client.send(Request("GET", place), upstream, repeatable=True, deadline=deadline)
    except (BridgeError, InvalidSpec) as problem:  # InvalidSpec: the environment names an unusable proxy
        raise OSError(str(problem)) from None
    if reply.status != 200:
        raise OSError(f"{upstream.authority} answered with {reply.status}")
    return reply.content
