"""Paths at which only some of the tools are there."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.caller import ANYBODY
from bridge.server.announce import CALLER, CALLING
from bridge.settingsfile import View


class Views:
    """An ASGI app in front of ``app``, whose endpoint is at ``path``: below that, each view has its own by its name."""

    def __init__(self, app: ASGIApp, views: Mapping[str, View], path: str) -> None:
        self._app = app
        self._path: Final = path
        self._views = {f"{path}/{name}": view for name, view in views.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (view := self._views.get(scope["path"])):
            caller = replace(scope.get(CALLER, ANYBODY), view=view)
            CALLING.set(caller)
            scope = {**scope, CALLER: caller, "path": self._path, "raw_path": self._path.encode()}
        await self._app(scope, receive, send)
