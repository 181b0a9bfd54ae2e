"""Paths at which only some of the tools are there."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.codec import quote
from bridge.server.announce import caller_in, come_from
from bridge.server.gate import error_reply
from bridge.settingsfile import View

_log: Final = logging.getLogger(__name__)


class Views:
    """An ASGI app in front of ``app``, whose endpoint is at ``path``: below that, each view has its own by its name.

    What asks for another one is told so, as clients show what JSON-RPC says.
    """

    def __init__(self, app: ASGIApp, views: Mapping[str, View], path: str) -> None:
        self._app = app
        self._path = path
        self._views = views

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        place, _, name = scope.get("path", "").removesuffix("/").rpartition("/")
        if scope["type"] != "http" or place != self._path or not name:
            await self._app(scope, receive, send)
        elif view := self._views.get(name):
            scope = {**scope, "path": self._path, "raw_path": self._path.encode()}
            come_from(replace(caller_in(scope), view=view), scope)
            await self._app(scope, receive, send)
        else:
            _log.warning("refused a request with 404: there is no view %s", quote(name))
            text = f"There is no view {quote(name)} here; connect to {self._path}/NAME, or to {self._path} for all tools"
            await error_reply(404, text)(scope, receive, send)
