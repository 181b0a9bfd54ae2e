"""What the endpoint tells clients of itself, so that they find out where to get a token (RFC 9728; MCP, authorization)."""

from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, Response

_WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"


class Resource:
    """The endpoint, which clients reach at ``url``; ``scopes`` are those that clients are told to ask for."""

    def __init__(self, url: str, scopes: Callable[[], Iterable[str]] = tuple) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self._url = url
        self._metadata = f"{parts.scheme}://{parts.netloc}{_WELL_KNOWN}{parts.path.rstrip('/')}"
        self._scopes = scopes

    def is_asked(self, path: str) -> bool:
        """Whether a request is for what is told here (RFC 9728 3.1), by whichever path clients come."""
        return path == _WELL_KNOWN or path.startswith(f"{_WELL_KNOWN}/")

    def answer(self, issuers: Iterable[str]) -> Response:
        """RFC 9728 2. ``scopes_supported`` is left out where there is nothing to tell."""
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
        """The words of a WWW-Authenticate that lead there (RFC 9728 5.1); ``scopes`` are what a request needs."""
        named = " ".join(sorted(self._scopes() if scopes is None else scopes))
        return [f'resource_metadata="{self._metadata}"', *([f'scope="{named}"'] if named else [])]
