"""The ``auth`` of an upstream file as an httpx auth flow."""

from base64 import b64encode
from collections.abc import Generator
from typing import assert_never
from urllib.parse import quote

import httpx

from bridge.spec import ApiKeyAuth, Auth, BasicAuth, BearerAuth, NoAuth, OAuth2


def flow(auth: Auth) -> httpx.Auth:
    """The flow for an ``auth`` whose secrets are resolved."""
    match auth:
        case BearerAuth():
            return _Header("Authorization", f"Bearer {auth.credentials}")
        case BasicAuth():  # RFC 7617 2.1: UTF-8
            pair = f"{auth.username}:{auth.password}".encode()
            return _Header("Authorization", f"Basic {b64encode(pair).decode()}")
        case ApiKeyAuth(in_="header"):
            return _Header(auth.name, auth.value)
        case ApiKeyAuth(in_="query"):
            return _Query(auth.name, auth.value)
        case ApiKeyAuth():
            return _Cookie(auth.name, auth.value)
        case NoAuth() | OAuth2():  # with OAuth2 the client adds the token to each request
            return httpx.Auth()
        case _:
            assert_never(auth)


class _NamedCredential(httpx.Auth):
    def __init__(self, name: str, value: str) -> None:
        self._name = name
        self._value = value


class _Header(_NamedCredential):
    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers[self._name] = self._value
        yield request


class _Query(_NamedCredential):
    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        # httpx would encode the whole query again, but the target must be sent byte for byte
        request.extensions["query"] = f"{quote(self._name, safe='')}={quote(self._value, safe='')}"
        yield request


class _Cookie(_NamedCredential):
    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        # one header for all cookies (RFC 6265 5.4)
        others = [value for value in (request.headers.get("Cookie"),) if value]
        request.headers["Cookie"] = "; ".join([*others, f"{self._name}={self._value}"])
        yield request
