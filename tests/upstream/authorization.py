"""An authorization server (Authlib) and an API that accepts its tokens, on one real socket."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import jwt
from authlib.oauth2.rfc6749 import (
    AuthorizationServer,
    BaseGrant,
    ClientMixin,
    OAuth2Request,
    TokenEndpointMixin,
)
from authlib.oauth2.rfc6749.errors import InvalidRequestError
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.serving.logins import RESOURCE, private
from tests.upstream.apps import serving

BRIDGE: Final = "the-bridge"
SECRET: Final = "s3cret of+the/bridge"
SCOPES: Final = ["orders:read", "orders:write"]
_METHODS: Final = ["client_secret_basic", "client_secret_post", "none"]


class _Client(ClientMixin):  # type: ignore[misc]
    """The client registration of the bridge."""

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == SECRET

    def check_endpoint_auth_method(self, _method: str, _endpoint: str) -> bool:
        return True

    def check_grant_type(self, _grant_type: str) -> bool:
        return True

    def get_allowed_scope(self, scope: str) -> str:
        return scope or SCOPES[0]


class _OwnToken(ClientCredentialsGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = _METHODS


class _Exchange(BaseGrant, TokenEndpointMixin):  # type: ignore[misc]
    """RFC 8693: exchanges a token that ``logins`` has signed."""

    GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
    TOKEN_ENDPOINT_AUTH_METHODS = _METHODS

    def validate_token_request(self) -> None:
        self.request.client = self.authenticate_token_endpoint_client()
        self.validate_requested_scope()
        form = self.request.payload.data
        assert form["subject_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
        try:
            key = private("ec-1").public_key()
            claims = jwt.decode(form["subject_token"], key, ["ES256"], audience=RESOURCE)
        except jwt.PyJWTError:
            description = f"not a token: {form['subject_token']} of {SECRET}"
            raise InvalidRequestError(description=description) from None
        self.request.user = claims["sub"]

    def create_token_response(self) -> tuple[int, dict[str, Any], Any]:
        token = self.generate_token(
            user=self.request.user, scope=self.request.payload.scope, include_refresh_token=False
        )
        self.save_token(token)
        return 200, token | {"issued_token_type": form_type("access_token")}, self.TOKEN_RESPONSE_HEADER


def form_type(name: str) -> str:
    return f"urn:ietf:params:oauth:token-type:{name}"


class _TokenRequest(OAuth2Request):  # type: ignore[misc]
    """A request as Authlib expects it, with an https URL, which it requires."""

    def __init__(self, request: Request, form: dict[str, Any]) -> None:
        super().__init__("POST", "https://login.example.com/token", headers=dict(request.headers))
        self.headers["Authorization"] = request.headers.get("authorization", "")
        self.payload = BasicOAuth2Payload(form)

    @property
    def form(self) -> Any:
        return self.payload.data


class Authorization(AuthorizationServer):  # type: ignore[misc]
    """``tokens`` are the valid tokens with their owners; ``token_requests`` are the received forms, with the query as ``?NAME``.

    While ``held`` is not set, the server does not answer. ``failing`` is a status or a document that it answers with,
    ``refusal`` is an OAuth error that it answers with. The API delays its next answer until ``late`` is set.
    """

    def __init__(self) -> None:
        super().__init__(SCOPES)
        self.url = ""
        self.tokens: dict[str, str] = {}
        self.token_requests: list[dict[str, Any]] = []
        self.calls: list[Request] = []
        self.entered = anyio.Event()
        self.held: anyio.Event | None = None
        self.late: anyio.Event | None = None
        self.refusal: dict[str, Any] | None = None
        self.failing: int | dict[str, Any] | None = None
        self.life = 3600
        self.refusing = False
        self.register_grant(_OwnToken)
        self.register_grant(_Exchange)
        self.register_token_generator(
            "default",
            BearerTokenGenerator(lambda **_: f"opaque-{secrets.token_hex(16)}", None, lambda *_: self.life),
        )

    def query_client(self, client_id: str) -> _Client | None:
        return _Client() if client_id == BRIDGE else None

    def save_token(self, token: dict[str, Any], request: _TokenRequest) -> None:
        self.tokens[token["access_token"]] = request.user or BRIDGE

    def create_oauth2_request(self, request: _TokenRequest) -> _TokenRequest:
        return request

    def handle_response(self, status: int, body: dict[str, Any], headers: list[tuple[str, str]]) -> Response:
        return JSONResponse(body, status, dict(headers))

    def send_signal(self, *_: object, **__: object) -> None:
        """No signals are used."""

    async def token(self, request: Request) -> Response:
        form = {name: str(value) for name, value in (await request.form()).items()}
        self.token_requests.append(form | {f"?{name}": value for name, value in request.query_params.items()})
        self.entered.set()
        if self.held:
            await self.held.wait()
        if self.refusal:
            return JSONResponse(self.refusal, 400)
        if isinstance(self.failing, int):
            return JSONResponse({"error": "temporarily_unavailable"}, self.failing)
        if self.failing is not None:
            return JSONResponse(self.failing)
        response: Response = self.create_token_response(_TokenRequest(request, form))
        return response

    async def api(self, request: Request) -> Response:
        """Answers with the owner of the token, and the token."""
        self.calls.append(request)
        authorization = request.headers.get("authorization", "")
        owner = None if self.refusing else self.tokens.get(authorization.removeprefix("Bearer "))
        late, self.late = self.late, None
        if late:
            await late.wait()
        if owner is None:
            return JSONResponse({"message": f"unknown token: {authorization}"}, 401)
        query, headers = dict(request.query_params), dict(request.headers)
        return JSONResponse({"you": owner, "shown": authorization, "headers": headers, "query": query})


@asynccontextmanager
async def serving_authorization() -> AsyncIterator[Authorization]:
    running = Authorization()
    app = Starlette(
        routes=[
            Route("/oauth/token/", running.token, methods=["POST"]),
            Route("/api/who", running.api, methods=["GET", "POST"]),
        ]
    )
    async with serving(app) as running.url:
        yield running
        if running.held:
            running.held.set()
