"""Views: paths below the MCP endpoint that serve only some of the tools."""

from collections.abc import Mapping
from dataclasses import replace

from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.codec import quote
from bridge.http.rejection_log import RejectionLog
from bridge.http.replies import error_reply
from bridge.protocol.caller_context import caller_in, set_caller
from bridge.view import View


class Views:
    """An ASGI app in front of ``app``, whose MCP endpoint is at ``path``. The view NAME is at ``path``/NAME.

    An unknown view gets 404 with a JSON-RPC error, whose text clients show.
    """

    def __init__(self, app: ASGIApp, views: Mapping[str, View], path: str, rejections: RejectionLog) -> None:
        self._app = app
        self._path = path
        self._views = views
        self._rejections = rejections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removesuffix("/")
        parent, _, name = path.rpartition("/")
        if scope["type"] == "http" and path == self._path:
            scope["path"] = path  # no redirect: its URL could lack the https of a proxy in front
        elif scope["type"] == "http" and parent == self._path:
            view = self._views.get(name)
            if view is None:
                other = f", or to {self._path}/NAME for an existing view" if self._views else ""
                text = f"There is no view {quote(name)}; connect to {self._path}{other}"
                self._rejections.report(scope, 404, text)
                await error_reply(404, text)(scope, receive, send)
                return
            scope = {**scope, "path": self._path, "raw_path": self._path.encode()}
            set_caller(replace(caller_in(scope), view=view), scope)
        await self._app(scope, receive, send)
