"""Paths at which only some of the tools are there."""

from collections.abc import Mapping
from dataclasses import replace

from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.codec import quote
from bridge.http.rejection_log import Refusals
from bridge.http.request_guard import error_reply
from bridge.protocol.notifications import caller_in, come_from
from bridge.settingsfile import View


class Views:
    """An ASGI app in front of ``app``, whose endpoint is at ``path``: below that, each view has its own by its name.

    What asks for another one is told so, as clients show what JSON-RPC says.
    """

    def __init__(self, app: ASGIApp, views: Mapping[str, View], path: str, refusals: Refusals) -> None:
        self._app = app
        self._path = path
        self._views = views
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removesuffix("/")
        place, _, name = path.rpartition("/")
        if scope["type"] == "http" and path == self._path:
            scope["path"] = path  # a redirect to it could lead past a proxy that speaks TLS
        elif scope["type"] == "http" and place == self._path:
            view = self._views.get(name)
            if view is None:
                views = f", or to {self._path}/NAME for a view that there is" if self._views else ""
                text = f"There is no view {quote(name)} here; connect to {self._path}{views}"
                self._refusals.tell(scope, 404, text)
                await error_reply(404, text)(scope, receive, send)
                return
            scope = {**scope, "path": self._path, "raw_path": self._path.encode()}
            come_from(replace(caller_in(scope), view=view), scope)
        await self._app(scope, receive, send)
