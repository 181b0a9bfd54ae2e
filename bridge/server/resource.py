"""What the endpoint tells clients of itself, so that they find out where to get a token (RFC 9728; MCP, authorization)."""

from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, Response

_WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"


class Resource:
    """The endpoint, which clients reach at ``url``; ``scopes`` are what tools ask for now."""

    def __init__(self, url: str, scopes: Callable[[], Iterable[str]]) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self._url = url
        self._metadata = f"{parts.scheme}://{parts.netloc}{_WELL_KNOWN}{parts.path.rstrip('/')}"
        self._scopes = scopes

    def is_asked(self, path: str) -> bool:
        """Whether a request is for what is told here (RFC 9728 3.1), by whichever path clients come."""
        return path == _WELL_KNOWN or path.startswith(f"{_WELL_KNOWN}/")

    def answer(self, issuers: Iterable[str]) -> Response:
        """RFC 9728 2."""
        metadata = {
            "resource": self._url,
            "authorization_servers": list(issuers),
            "scopes_supported": sorted(self._scopes()),
            "bearer_methods_supported": ["header"],
            "resource_name": "restbridge",
        }
        return JSONResponse(metadata, headers={"Cache-Control": "max-age=60"})

    def challenge(self) -> list[str]:
        """The words of a WWW-Authenticate that lead there (RFC 9728 5.1)."""
        scopes = " ".join(sorted(self._scopes()))
        return [f'resource_metadata="{self._metadata}"', *([f'scope="{scopes}"'] if scopes else [])]
