"""The official client finds the way from a bridge that refuses it to a token that counts (MCP, authorization)."""

import json
import signal
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

from tests.commands.processes import restbridge
from tests.real_upstreams.processes import free_port
from tests.server.logins import Login

pytestmark = pytest.mark.anyio


class Storage:
    """What a client remembers of an authorization server."""

    def __init__(self) -> None:
        self.token: OAuthToken | None = None
        self.info: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.token

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.token = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.info

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.info = client_info


async def test_a_client_finds_the_way_to_a_token(tools: Path, shop: str) -> None:
    order, login, storage = tools / "get_order.yaml", Login("ec-1"), Storage()
    order.write_text(order.read_text() + "scopes: [orders:read]\n")
    resource = f"http://127.0.0.1:{free_port()}/mcp"
    async with login.serving():
        issuers = [{"issuer": login.issuer, "jwks": login.url}]
        settings = {
            "http": {"listen": resource.split("/")[2]},
            "access": {"resource": resource, "jwt": issuers},
            "views": {"orders": {"tools": ["*_order"]}},
        }
        (tools.parent / "restbridge.yaml").write_text(json.dumps(settings))
        words = ("serve", "--config", "restbridge.yaml")
        async with restbridge(*words, cwd=tools.parent, env={"SHOP_API_URL": shop}) as bridge:
            url = (await bridge.says(r"view orders: 2 tools at (\S+)$"))[1]
            auth = ClientCredentialsOAuthProvider(url, storage, "id", "secret", issuer=login.issuer)
            async with (
                httpx2.AsyncClient(auth=auth, trust_env=False) as web,
                Client(streamable_http_client(url, http_client=web)) as client,
            ):
                result = await client.call_tool("get_order", {"order_id": "o-1001"})
            await bridge.says(rf"caller=agent issuer={login.issuer} upstream=shop outcome=ok")
            assert await bridge.ends(signal.SIGTERM) == 0
    assert not result.is_error
    assert storage.token
    assert storage.token.scope == "orders:read"
