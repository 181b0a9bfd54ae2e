"""Protected resource metadata, by which clients find the authorization server (RFC 9728; MCP, authorization).

The SDK's ``create_protected_resource_routes`` does not serve. It adds a slash to issuers without a path, although clients
compare issuers as texts. Its answer is cached for an hour, although a reload may change the issuers. It has only one path:
not that of the host, and not those of views.
"""

from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import unquote, urlsplit

from starlette.responses import JSONResponse, Response

_WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"


class Resource:
    """The MCP endpoint at its public ``url``, and its ``views`` below it.

    ``scopes`` are those that the metadata and the challenges tell clients to request.
    """

    def __init__(
        self, url: str, scopes: Callable[[], Iterable[str]] = tuple, views: Iterable[str] = ()
    ) -> None:
        parts = urlsplit(url)
        path = f"{_WELL_KNOWN}{parts.path.rstrip('/')}"
        self.host = parts.hostname or ""
        self._url = url
        self._metadata = f"{parts.scheme}://{parts.netloc}{path}"
        decoded = unquote(path)  # paths of ASGI are decoded
        self._paths = {_WELL_KNOWN, decoded, *(f"{decoded}/{view}" for view in views)}
        self._scopes = scopes

    def is_metadata_path(self, path: str) -> bool:
        """Whether this is a path of the metadata, with or without the endpoint's own path (RFC 9728 3.1)."""
        return path.removesuffix("/") in self._paths

    def answer(self, issuers: Iterable[str]) -> Response:
        """The metadata (RFC 9728 2). Without scopes there is no ``scopes_supported``."""
        scopes = sorted(self._scopes())
        metadata = {
            "resource": self._url,
            "authorization_servers": list(issuers),
            **({"scopes_supported": scopes} if scopes else {}),
            "bearer_methods_supported": ["header"],
            "resource_name": "restbridge",
        }
        return JSONResponse(metadata, headers={"Cache-Control": "max-age=60"})

    def challenge(self, scopes: Iterable[str] | None = None) -> list[str]:
        """Parameters of WWW-Authenticate (RFC 9728 5.1). ``scopes`` are what a request needs; default: all."""
        names = " ".join(sorted(self._scopes() if scopes is None else scopes))
        return [f'resource_metadata="{self._metadata}"', *([f'scope="{names}"'] if names else [])]
