"""Tokens: the official client finds the way to one that counts (MCP, authorization), and the bridge gets others for it."""

import json
import signal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anyio import to_thread
from mcp import Client
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

from tests.commands.conftest import Line
from tests.commands.in_process import serving_in_process
from tests.real_upstreams.processes import free_port
from tests.serving.logins import Login, token
from tests.upstream.authorization import BRIDGE, SECRET, serving_authorization

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


@pytest.mark.parametrize(
    ("words", "asked"),
    [({"scopesSupported": ["orders:*"]}, ["orders:read"]), ({"stepUp": "challenge"}, ["", "orders:read"])],
)
async def test_a_client_discovers_how_to_get_a_token(
    tools: Path, shop: str, words: dict[str, Any], asked: list[str]
) -> None:
    order, login, storage = tools / "get_order.yaml", Login("ec-1"), Storage()
    order.write_text(order.read_text() + "scopes: [orders:read]\n")
    resource = f"http://127.0.0.1:{free_port()}/mcp"
    async with login.serving():
        issuers = [{"issuer": login.issuer, "jwks": login.url}]
        settings = {
            "http": {"listen": resource.split("/")[2]},
            "access": {"resource": resource, "jwt": issuers, **words},
            "views": {"orders": {"tools": ["*_order"]}},
        }
        (tools.parent / "restbridge.yaml").write_text(json.dumps(settings))
        command = ("--config", "restbridge.yaml")
        async with serving_in_process(*command, env={"SHOP_API_URL": shop}) as bridge:
            url = (await bridge.wait_for_log(r"view orders: 2 tools at (\S+)$"))[1]
            auth = ClientCredentialsOAuthProvider(url, storage, "id", "secret", issuer=login.issuer)
            async with (
                httpx2.AsyncClient(auth=auth, timeout=30, trust_env=False) as web,
                Client(streamable_http_client(url, http_client=web)) as client,
            ):
                result = await client.call_tool("get_order", {"order_id": "o-1001"})
            await bridge.wait_for_log(rf"caller=agent issuer={login.issuer} upstream=shop outcome=ok")
            assert await bridge.wait_for_exit(signal.SIGTERM) == 0
    assert not result.is_error
    assert storage.token
    assert storage.token.scope == "orders:read"
    assert login.requested_scopes == asked


_UPSTREAM = """\
baseUrl: {url}/api
auth: {{type: oauth2, flow: tokenExchange, tokenUrl: "{url}/oauth/token/", clientId: {bridge}, clientSecret: "${{env:SECRET}}"}}
"""
_TOOL = "description: Who am I?\nupstream: api\nrequest: {method: GET, url: /who}\n"


async def test_on_the_command_line_the_callers_token_comes_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Line
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", SECRET)
    (tmp_path / "tools.d").mkdir()
    (tmp_path / "tools.d/who.yaml").write_text(_TOOL)
    (tmp_path / "mine").write_text(token() + "\n")
    async with serving_authorization() as server:
        written = _UPSTREAM.format(url=server.url, bridge=BRIDGE)
        (tmp_path / "tools.d/api.upstream.yaml").write_text(written)

        async def said(*words: str) -> tuple[str, int]:
            code, out, err = await to_thread.run_sync(line, *words)  # a command has an event loop of its own
            return out + err, code

        text, code = await said("call", "who", "--token-file", "mine")
        assert ('"you":"ann"' in text, code) == (True, 0)
        text, code = await said("call", "who", "--token-file", "mine", "--format", "raw")
        assert ("Bearer [redacted]" in text, code) == (True, 0)
        text, code = await said("call", "who")
        assert "this tool needs the token of a caller; add --token-file FILE\n" in text
        assert ("on behalf of the caller, and the caller sent no access token" in text, code) == (True, 1)
        text, code = await said("explain", "who")
        assert ("Authorization: Bearer [hidden]" in text, code) == (True, 0)
        place = f"{server.url}/oauth/token/"
        assert text.endswith(f"token ← {place} (tokenExchange)\n")
        text, _ = await said("explain", "who", "--format", "json")
        assert json.loads(text)["token"] == {"flow": "tokenExchange", "tokenUrl": place}
        assert len(server.token_requests) == 2
        (tmp_path / "mine").write_text("")
        text, code = await said("call", "who", "--token-file", "mine")
        assert ("--token-file: found no token" in text, code) == (True, 2)
        (tmp_path / "mine").write_text(token(aud="another"))
        text, code = await said("call", "who", "--token-file", "mine")
        assert 'no token for api: "invalid_request": "not a token: [redacted] of [redacted]"' in text
        assert ("issued no token for this call (invalid_request)" in text, code) == (True, 1)
        async with serving_in_process("--http", "127.0.0.1:0") as bridge:
            await bridge.wait_for_log(
                "WARNING api: token exchange needs the tokens of callers; set access.jwt"
            )
            await bridge.wait_for_log("serving")
            assert await bridge.wait_for_exit(signal.SIGTERM) == 0
