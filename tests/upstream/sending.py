"""Upstreams and calls with short arguments, for tests."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio

from bridge.events import Event
from bridge.exchange import Header, Reply, Request
from bridge.resolved_upstream import Upstream
from bridge.secrets import Sources, resolve
from bridge.spec import Json, Limits, UpstreamSpec
from bridge.upstream.client import Client


def upstream(
    url: str, *, name: str = "shop", environ: Mapping[str, str] | None = None, **spec: Json
) -> Upstream:
    """An upstream from the keys of its file: ``spec`` are the keys other than ``baseUrl``."""
    fields = {"baseUrl": url, "auth": {"type": "none"}, **spec}
    return resolve(name, UpstreamSpec.model_validate(fields), Sources(environ or {}))


@dataclass
class Caller:
    client: Client
    events: list[Event] = field(default_factory=list)

    async def send(
        self,
        to: Upstream,
        path: str = "/ok",
        method: str = "GET",
        *,
        repeatable: bool | None = None,
        headers: tuple[Header, ...] = (),
        content: bytes | None = None,
        tool: tuple[str, Limits] | None = None,
        within: float = 30.0,
    ) -> Reply:
        """One call; GET and HEAD are repeatable by default."""
        return await self.client.send(
            Request(method, to.spec.base_url + path, headers, content),
            to,
            repeatable=method in ("GET", "HEAD") if repeatable is None else repeatable,
            tool=tool,
            deadline=anyio.current_time() + within,
        )
