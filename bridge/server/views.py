"""Paths at which only some of the tools are there."""

from collections.abc import Mapping
from dataclasses import replace

from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.server.announce import caller_in, come_from
from bridge.settingsfile import View


class Views:
    """An ASGI app in front of ``app``, whose endpoint is at ``path``: below that, each view has its own by its name."""

    def __init__(self, app: ASGIApp, views: Mapping[str, View], path: str) -> None:
        self._app = app
        self._path = path
        self._views = {f"{path}/{name}": view for name, view in views.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (view := self._views.get(scope["path"])):
            scope = {**scope, "path": self._path, "raw_path": self._path.encode()}
            come_from(replace(caller_in(scope), view=view), scope)
        await self._app(scope, receive, send)
