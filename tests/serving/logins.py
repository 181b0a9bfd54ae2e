"""An authorization server on a real socket: its keys, and valid and forged tokens."""

import asyncio
import json
import re
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

RESOURCE: Final = "https://tools.example.com/mcp"
ISSUER: Final = "https://login.example.com/"


@cache
def private(kid: str) -> Any:
    """The private key with this id; the prefix of the id is the key type."""
    match kid.partition("-")[0]:
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case "short":
            return rsa.generate_private_key(65537, 1024)  # noqa: S505 - must be rejected
        case "ed":
            return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())


def public(kid: str, **members: str) -> dict[str, Any]:
    """The public key as a JWK (RFC 7517)."""
    key = private(kid).public_key()
    match kid.partition("-")[0]:
        case "rsa" | "short":
            jwk = RSAAlgorithm.to_jwk(key, as_dict=True)
        case "ed":
            jwk = OKPAlgorithm.to_jwk(key, as_dict=True)
        case _:
            jwk = ECAlgorithm.to_jwk(key, as_dict=True)
    return jwk | {"kid": kid} | members


def token(
    kid: str = "ec-1", algorithm: str = "ES256", *, header: dict[str, Any] | None = None, **claims: Any
) -> str:
    """A token of Ann, valid for an hour; ``claims`` and ``header`` override the defaults, None removes one."""
    all_claims = {"iss": ISSUER, "aud": RESOURCE, "sub": "ann", "exp": time.time() + 3600} | claims
    payload = {name: claim for name, claim in all_claims.items() if claim is not None}
    head = {name: value for name, value in ({"kid": kid} | (header or {})).items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jwt.warnings.InsecureKeyLengthWarning)
        return jwt.encode(payload, private(kid), algorithm, headers=head)


class Login:
    """Publishes the keys with these ids at ``url``, with ``status``; at ``issuer`` it also issues tokens to clients."""

    def __init__(self, *kids: str) -> None:
        self.keys = [public(kid) for kid in kids]
        self.issuer = self.url = ""
        self.key_requests = 0
        self.requested_scopes: list[str] = []
        """The requested scopes of each issued token; empty if none were requested."""
        self.status = 200

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        size = re.search(r"(?i)content-length: (\d+)", head)
        form = parse_qs((await reader.readexactly(int(size[1]) if size else 0)).decode())
        body = json.dumps(self._response(head.split()[1], form)).encode()
        lines = (
            f"HTTP/1.1 {self.status} So\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        )
        writer.write(f"{lines}Connection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    def _response(self, path: str, form: dict[str, list[str]]) -> dict[str, Any]:
        if path == "/token":  # RFC 6749 4.4, RFC 8707
            (resource,), (scope,) = form["resource"], form.get("scope", [""])
            self.requested_scopes.append(scope)
            access_token = token(iss=self.issuer, aud=resource, scope=scope, sub="agent")
            return {"access_token": access_token, "token_type": "Bearer", "expires_in": 300, "scope": scope}
        if path.startswith("/.well-known/"):  # RFC 8414
            return {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "response_types_supported": ["code"],
                "grant_types_supported": ["client_credentials"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            }
        self.key_requests += 1
        return {"keys": self.keys}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.issuer = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.url = f"{self.issuer}/keys"
        yield
        server.close()
