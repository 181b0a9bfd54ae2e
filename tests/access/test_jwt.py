import json
import logging
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import jwt
import pytest
from jwt.algorithms import RSAAlgorithm
from jwt.utils import base64url_encode
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from bridge.access.credentials import MAX_KNOWN_TOKEN_CHARACTERS, CredentialStore, NotAuthenticated
from bridge.access.jwks import fetch_or_read
from bridge.access.jwt import InvalidToken, NoKeys, PublicKey, TokenIssuer, parse_unverified
from bridge.events import CallFinished, RequestRefused, ignore
from bridge.http.authentication import AuthenticationMiddleware
from bridge.http.rejection_log import RejectionLog
from bridge.http.replies import ErrorReply, error_reply
from bridge.http.resource_metadata import Resource
from bridge.registry import Snapshot
from bridge.secrets import Sources
from bridge.settings import Access as AccessConfig
from bridge.settings import Issuer
from bridge.spec import ToolSpec
from bridge.tool.compiler import compile_tool
from bridge.upstream.client import Client
from tests.access.test_credentials import entry
from tests.serving.api import Api
from tests.serving.logins import ISSUER, RESOURCE, Login, private, public, token
from tests.serving.messages import call, cancel, request
from tests.serving.served import Served
from tests.serving.session import Session

pytestmark = pytest.mark.anyio


def issuer(jwks: str, **fields: Any) -> Issuer:
    return Issuer.model_validate({"issuer": ISSUER, "jwks": jwks, "audience": [RESOURCE], **fields})


def access_config(*issuers: Issuer, keys: tuple[str, ...] = ()) -> AccessConfig:
    return AccessConfig.model_validate({"apiKeys": tuple(map(entry, keys)), "jwt": issuers})


def session_of(shown: str, web: httpx.AsyncClient, url: str) -> Session:
    session = Session(web, url)
    session.headers["authorization"] = f"Bearer {shown}"
    return session


async def test_a_token_in_two_concurrent_requests_has_one_credential() -> None:
    came = anyio.Event()
    credentials = []

    async def fetch(_where: str) -> bytes:
        await came.wait()
        return json.dumps({"keys": [public("ec-1")]}).encode()

    access, shown = CredentialStore(access_config(issuer("https://login.example.com/keys")), fetch), token()

    async def show() -> None:
        credentials.append(await access.authenticate([(b"authorization", f"Bearer {shown}".encode())]))

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(show)
        await anyio.wait_all_tasks_blocked()
        came.set()
    first, second = credentials
    assert first is second


@pytest.fixture
async def login() -> AsyncIterator[Login]:
    login = Login("ec-1", "rsa-1", "ed-1", "short-1")
    async with login.serving():
        yield login


def access_of(login: Login, client: Client, **fields: Any) -> CredentialStore:
    return CredentialStore(
        access_config(issuer(login.url, **fields), keys=("ann",)), partial(fetch_or_read, client)
    )


@pytest.mark.parametrize(
    ("kid", "algorithm"), [("ec-1", "ES256"), ("rsa-1", "RS256"), ("rsa-1", "PS256"), ("ed-1", "EdDSA")]
)
async def test_a_valid_token_is_accepted_and_its_subject_is_the_caller(
    served: Served, web: httpx.AsyncClient, login: Login, client: Client, *, kid: str, algorithm: str
) -> None:
    async with served.http(access=access_of(login, client)) as url:
        session = session_of(token(kid, algorithm, aud=["x", RESOURCE]), web, url)
        await session.open()
        answers = [await session.ask(call("echo")), await session.ask_modern(call("echo", 2))]
    assert [answer["result"]["isError"] for answer in answers] == [False, False]
    assert [event.caller for event in served.events if isinstance(event, CallFinished)] == ["ann"] * 2
    assert login.key_requests == 1


@pytest.mark.parametrize(
    ("fields", "claims"),
    [
        ({}, {"scope": "read more"}),
        ({}, {"scp": ["read", "more", 7]}),
        ({"scopes": "permissions"}, {"permissions": ["read", "more"], "scope": "all"}),
        ({"name": "client_id"}, {"scope": "read more", "client_id": "ann", "sub": None}),
    ],
)
async def test_scopes_and_name_come_from_the_claims(
    served: Served,
    web: httpx.AsyncClient,
    login: Login,
    client: Client,
    *,
    fields: dict[str, Any],
    claims: dict[str, Any],
) -> None:
    served.scopes = {"echo": ["read"], "any": ["read", "more"], "change": ["all"]}
    served.show("echo", "any", "change")
    async with served.http(access=access_of(login, client, **fields)) as url:
        session = session_of(token(**claims), web, url)
        await session.open()
        await session.sees({"echo", "any"}, "echo", "change")
    assert {event.caller for event in served.events if isinstance(event, CallFinished)} == {"ann"}


@pytest.mark.parametrize(("claims"), [{}, {"scope": 7}, {"scope": ""}, {"scp": None}])
async def test_a_token_without_scopes_sees_only_tools_that_need_none(
    served: Served, web: httpx.AsyncClient, login: Login, client: Client, claims: dict[str, Any]
) -> None:
    served.scopes = {"echo": ["read"]}
    served.show("echo", "any")
    async with served.http(access=access_of(login, client)) as url:
        session = session_of(token(**claims), web, url)
        await session.open()
        await session.sees({"any"}, "echo")


SECONDS = time.time()


def shared_secret(kid: str) -> str:
    """A token that is signed with a public key as if that were a secret."""
    claims = {"iss": ISSUER, "aud": RESOURCE, "sub": "ann", "exp": time.time() + 3600}
    head = base64url_encode(json.dumps({"alg": "HS256", "kid": kid}).encode())
    body = head + b"." + base64url_encode(json.dumps(claims).encode())
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        body, json.dumps(public(kid)).encode()
    )
    return (body + b"." + base64url_encode(signature)).decode()


def deep() -> str:
    body = urlsafe_b64encode(b"[" * 4000).decode().rstrip("=")
    return f"{urlsafe_b64encode(b'{}').decode().rstrip('=')}.{body}.x"


def signed(header: dict[str, Any] | str, claims: dict[str, Any] | str) -> str:
    """A token whose header and claims are as they stand here, also where the library would not write them."""
    parts = [each if isinstance(each, str) else json.dumps(each) for each in (header, claims)]
    body = b".".join(base64url_encode(part.encode()) for part in parts)
    signature = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).sign(body, private("ec-1"))
    return (body + b"." + base64url_encode(signature)).decode()


def written(**claims: Any) -> dict[str, Any]:
    return {"iss": ISSUER, "aud": RESOURCE, "sub": "ann", "exp": SECONDS + 3600, **claims}


HEADER = {"alg": "ES256", "kid": "ec-1"}
KIND = "This is not an access token: its typ is neither at+jwt nor JWT"
OTHER = "This is not an access token: its claims are those of an ID token or another kind"
CRITICAL = "This token has a critical header (crit), which is not supported"
NO = "The signature algorithm of this token (alg) is not accepted here"
WRONG = [
    (token(exp=SECONDS - 60), "This token has expired"),
    (token(nbf=SECONDS + 3600), "This token is not valid yet (nbf)"),
    (token(aud="https://other.example.com"), "This token is for another server: its aud is not accepted here"),
    (token(aud=None), "This token has no aud"),
    (token(exp=None), "This token has no exp"),
    (token(sub=None), "This token has no sub"),
    (token(sub=""), "In this token sub is not a string"),
    (token(iss="https://eve.example.com/"), "The issuer of this token (iss) is unknown here"),
    (token(iss=None), "The issuer of this token (iss) is unknown here"),
    (token("ec-2", header={"kid": "ec-1"}), "The signature of this token is wrong"),
    (token("ec-2"), "This token is signed by a key that its issuer does not have"),
    (token("rsa-1", "RS256", header={"kid": None}), "This token does not name its key (kid), and its issuer has several"),
    (token(exp=10**400), "In this token exp is not a valid time"),
    (token("ed-1", "EdDSA", header={"kid": "rsa-1"}), "This token is signed by a key that its issuer does not have"),
    (token("rsa-1", "RS512"), NO),
    (shared_secret("rsa-1"), NO),
    (jwt.encode({"iss": ISSUER, "aud": RESOURCE, "sub": "ann", "exp": SECONDS + 60}, "", "none", {"kid": "ec-1"}), NO),
    (token("short-1", "RS256"), "The key of this token cannot be used, or is too short"),
    (token(header={"crit": ["x"], "x": 1}), CRITICAL),
    (signed(HEADER | {"crit": [], "b64": True}, written()), CRITICAL),
    (signed(HEADER | {"b64": False}, written()), CRITICAL),
    *((token(header={"typ": kind}), KIND) for kind in ("logout+jwt", "dpop+jwt", "secevent+jwt", "application/id+jwt", "x")),
    (signed(HEADER | {"typ": ["JWT"]}, written()), KIND),
    (signed(HEADER | {"kid": 5}, written()), "In this token kid is not a string"),
    (signed(HEADER | {"kid": ["ec-1"]}, written()), "In this token kid is not a string"),
    (token(cnf={"jkt": "x"}), "This token is bound to a key (cnf), and was sent without proof of that key"),
    (token(at_hash="x", scope="read"), OTHER),
    (token(c_hash="x"), OTHER),
    (token(nonce="x"), OTHER),
    *((token(typ=kind, scope="read"), OTHER) for kind in ("ID", "Refresh", "Offline")),
    (token(header={"typ": "at+jwt"}, events={}), OTHER),
    *((signed(HEADER, written(**{claim: value})), f"In this token {claim} is not a valid time")
        for claim in ("nbf", "iat") for value in ("1", True, -1)),
    (signed(HEADER, written(exp="9999999999")), "In this token exp is not a valid time"),
    (signed(HEADER, json.dumps(written())[:-1] + ', "sub": "bob"}'), "This token cannot be read"),
    (signed(HEADER, json.dumps(written())[:-1] + ', "exp": NaN}'), "This token cannot be read"),
    (signed(json.dumps(HEADER)[:-1] + ', "alg": "ES256"}', written()), "This token cannot be read"),
    (signed("[]", written()), "This token cannot be read"),
    (signed(HEADER, "[]"), "This token cannot be read"),
    (token(aud=[5]), "This token is for another server: its aud is not accepted here"),
    (token(exp=SECONDS + 90_000), "This token is valid for more than 86400 seconds, the maximum here"),
    (token(iat=SECONDS - 80_000, exp=SECONDS + 7000), "This token is valid for more than 86400 seconds, the maximum here"),
    (token(more="x" * 9000), "This token is too long"),
    (deep(), "This token cannot be read"),
    ("a.b.c", "This token cannot be read"),
    *((token() + padding, "This token cannot be read") for padding in ("=", "==", "~")),
    ("a.b", "This key is unknown, revoked or expired"),
]  # fmt: skip


async def test_other_tokens_are_refused_with_the_reason(
    served: Served, web: httpx.AsyncClient, login: Login, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    resource = Resource(RESOURCE, lambda: ["b", "a"])
    async with served.http(access=access_of(login, client), resource=resource) as url:
        for shown, text in WRONG:
            reply = await session_of(shown, web, url).post(call("echo"))
            assert (reply.status_code, reply.json()["error"]["message"]) == (401, text)
            assert reply.headers["www-authenticate"] == (
                f'Bearer realm="restbridge", error="invalid_token", error_description="{text}", '
                'resource_metadata="https://tools.example.com/.well-known/oauth-protected-resource/mcp", scope="a b"'
            )
            assert shown not in caplog.text
    assert served.events == [RequestRefused(401)] * len(WRONG)
    assert "127.0.0.1 with 401: This token has expired" in caplog.text
    assert login.key_requests == 1


@pytest.mark.parametrize(
    "shown",
    [
        token(header={"typ": None}),
        token(header={"typ": "JWT"}),
        token(header={"typ": "at+jwt"}, at_hash="x"),
        token(header={"typ": "application/AT+JWT"}),
        token(nonce="x", scope="read", typ="Bearer"),  # as Keycloak's access tokens have it
        token(iat=SECONDS - 80_000, exp=SECONDS + 6000),
        token(nbf=SECONDS - 10.5),
        token(
            header={
                "jwk": public("ec-2"),
                "jku": "http://127.0.0.1:1/",
                "x5u": "http://127.0.0.1:1/",
                "x5c": [],
            }
        ),
    ],
)
async def test_access_tokens_of_common_authorization_servers_are_accepted(
    login: Login, client: Client, shown: str
) -> None:
    credential = await access_of(login, client).authenticate([(b"authorization", f"Bearer {shown}".encode())])
    assert credential.caller.name == "ann"


async def test_a_key_in_a_tokens_header_is_not_used(login: Login, client: Client) -> None:
    for header in ({"jwk": public("ec-2")}, {"jku": f"{login.url}?own"}, {"x5u": login.url}):
        shown = token("ec-2", header={"kid": "ec-1", **header})
        with pytest.raises(NotAuthenticated, match="signature of this token is wrong"):
            await access_of(login, client).authenticate([(b"authorization", f"Bearer {shown}".encode())])


async def test_a_longer_lifetime_must_be_configured(login: Login, client: Client) -> None:
    shown = [(b"authorization", f"Bearer {token(exp=SECONDS + 6 * 86400)}".encode())]
    assert (await access_of(login, client, maxLifetime="7d").authenticate(shown)).caller.name == "ann"
    with pytest.raises(NotAuthenticated, match="more than 432000 seconds"):
        await access_of(login, client, maxLifetime="5d").authenticate(shown)


@pytest.mark.parametrize(
    ("grants", "given"),
    [
        (None, {"orders:read", "stock"}),
        (["*"], {"orders:read", "stock"}),
        (["orders:*"], {"orders:read"}),
        (["restbridge:*", "stock"], {"restbridge:operate", "restbridge:metrics", "stock"}),
        (["restbridge:metrics"], {"restbridge:metrics"}),
        ([], set()),
    ],
)
async def test_an_issuer_grants_only_the_scopes_that_it_may(
    login: Login, client: Client, grants: list[str] | None, given: set[str]
) -> None:
    fields: dict[str, Any] = {} if grants is None else {"grants": grants}
    shown = token(scope="orders:read stock restbridge:operate restbridge:metrics")
    credential = await access_of(login, client, **fields).authenticate(
        [(b"authorization", f"Bearer {shown}".encode())]
    )
    assert credential.caller.scopes == frozenset(given)


STEP_UP_HEADER = (
    'Bearer realm="restbridge", error="insufficient_scope", error_description="change needs the scope write", '
    'resource_metadata="https://tools.example.com/.well-known/oauth-protected-resource/mcp", scope="read write"'
)


@pytest.mark.parametrize("fast_path", [True, False])
async def test_missing_scopes_are_named_if_step_up_is_configured(
    served: Served, web: httpx.AsyncClient, login: Login, client: Client, *, fast_path: bool
) -> None:
    served.scopes = {"echo": ["read"], "change": ["write"], "any": ["restbridge:any"]}
    served.show("echo", "change", "any", "fail")
    words = access_config(issuer(login.url), keys=("ann",))
    access = CredentialStore(
        words.model_copy(update={"step_up": "challenge"}), partial(fetch_or_read, client)
    )
    views = {"few": {"tools": ["echo"]}}
    async with served.http(
        access=access, resource=Resource(RESOURCE), fast_path=fast_path, views=views
    ) as url:
        session = session_of(token(scope="read other"), web, url)
        await session.open()
        listed = await session.ask(request("tools/list", 1))
        assert [tool["name"] for tool in listed["result"]["tools"]] == ["echo", "fail"]
        for reply in (
            await session.post(call("change", 7)),
            await web.post(url, **session.modern(call("change", 7))),
        ):
            assert (reply.status_code, reply.headers["www-authenticate"]) == (403, STEP_UP_HEADER)
            assert reply.json()["id"] == 7
            assert reply.json()["error"]["message"] == "change needs the scope write"
        key = session_of("key-of-ann", web, url)
        few = session_of(token(scope="read other"), web, f"{url}/few")
        for asks, name in (
            (session.ask, "nosuch"),
            (session.ask_modern, "any"),  # no token of this issuer can have that scope
            (key.ask_modern, "change"),  # a key has the scopes that it has
            (few.ask_modern, "change"),
        ):
            assert (await asks(call(name, 8)))["error"]["message"] == f"Unknown tool: {name}"
        access.replace(words)
        assert (await session.ask(call("change", 9)))["error"]["message"] == "Unknown tool: change"
    outcomes = [(each.tool, each.outcome) for each in served.events if isinstance(each, CallFinished)]
    assert outcomes == [
        ("change", "not-permitted"),
        ("change", "not-permitted"),
        ("nosuch", "unknown-tool"),
        ("any", "not-permitted"),
        ("change", "not-permitted"),
        ("change", "unknown-tool"),
        ("change", "not-permitted"),
    ]
    assert served.events.count(RequestRefused(403)) == 2


async def test_a_request_to_a_wrong_host_learns_nothing(
    served: Served, web: httpx.AsyncClient, login: Login, client: Client
) -> None:
    resource = Resource(RESOURCE, lambda: ["a"])
    async with served.http(access=access_of(login, client), resource=resource) as url:
        for place in (url, f"{url.removesuffix('/mcp')}/.well-known/oauth-protected-resource/mcp"):
            reply = await web.get(place, headers={"host": "other.example.com"})
            assert (reply.status_code, reply.json()["error"]["message"]) == (
                421, "The Host header names another server"
            )  # fmt: skip
            assert "www-authenticate" not in reply.headers
    assert served.events == [RequestRefused(421)] * 2


async def test_invalid_keys_for_a_wrong_host_are_delayed_too(client: Client) -> None:
    async def unreached(scope: Scope, receive: Receive, send: Send) -> None:
        """No request reaches the app."""

    async def silent() -> Message:
        return {"type": "http.disconnect"}

    statuses: list[int] = []

    async def answered(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    def elsewhere(_headers: Headers) -> ErrorReply:
        return error_reply(421, "x")

    access = CredentialStore(access_config(keys=("ann",)), partial(fetch_or_read, client))
    middleware = AuthenticationMiddleware(unreached, access, None, RejectionLog(ignore), elsewhere)
    headers = [(b"authorization", b"Bearer no-key")]
    await middleware({"type": "http", "method": "POST", "path": "/mcp", "headers": headers}, silent, answered)
    assert (statuses, len(middleware._throttles.failed._arrivals)) == ([421], 1)


async def test_scopes_are_shown_without_a_token_only_if_configured(
    served: Served, web: httpx.AsyncClient, login: Login, client: Client
) -> None:
    served.scopes = {"echo": ["read"]}
    served.show("echo")
    async with served.http(access=access_of(login, client), resource=Resource(RESOURCE)) as url:
        place = f"{url.removesuffix('/mcp')}/.well-known/oauth-protected-resource"
        assert "scopes_supported" not in (await web.get(place)).json()
        assert "scope=" not in (await web.post(url)).headers["www-authenticate"]


async def test_a_client_without_a_token_learns_where_to_get_one(
    served: Served, web: httpx.AsyncClient, login: Login, client: Client
) -> None:
    resource = Resource(RESOURCE, lambda: ["b", "a"], ["view"])
    async with served.http(access=access_of(login, client), resource=resource) as url:
        base = url.removesuffix("/mcp")
        for path in ("/other", "/mcp/other", "/mcp/view/x", "x"):
            assert (await web.get(f"{base}/.well-known/oauth-protected-resource{path}")).status_code == 401
        for path in ("", "/", "/mcp", "/mcp/", "/mcp/view"):
            reply = await web.get(f"{base}/.well-known/oauth-protected-resource{path}")
            assert reply.headers["cache-control"] == "max-age=60"
            assert (reply.status_code, reply.json()) == (
                200,
                {
                    "resource": RESOURCE,
                    "authorization_servers": [ISSUER],
                    "scopes_supported": ["a", "b"],
                    "bearer_methods_supported": ["header"],
                    "resource_name": "restbridge",
                },
            )
        ann = session_of(token(), web, url)
        ann.headers["host"] = "tools.example.com"
        assert (await ann.post(call("echo"))).status_code == 200
        ann.headers["host"] = "other.example.com"
        assert (await ann.post(call("echo"))).status_code == 421
        unreached = await web.post(url)
        assert unreached.headers["www-authenticate"].startswith(
            'Bearer realm="restbridge", resource_metadata="https:'
        )


async def test_a_key_and_a_token_of_one_name_are_two_callers(
    served: Served, web: httpx.AsyncClient, login: Login, client: Client, api: Api
) -> None:
    async with served.http(access=access_of(login, client)) as url, anyio.create_task_group() as tasks:
        ann, other = session_of(token(), web, url), session_of("key-of-ann", web, url)
        await ann.open()
        again = session_of(token(jti="2"), web, url)
        other.headers["mcp-session-id"] = again.headers["mcp-session-id"] = ann.headers["mcp-session-id"]
        tasks.start_soon(ann.post, call("hang", 7))
        await api.entered.wait()
        assert "result" in await other.ask(call("echo", 7))
        await other.post(cancel(7))
        assert "result" in await again.ask(call("echo", 8))
        assert not api.left.is_set()
        await again.post(cancel(7))
        with anyio.fail_after(30):
            await api.left.wait()


@pytest.mark.slow
@pytest.mark.parametrize("modern", [False, True], ids=["handshake", "modern"])
@pytest.mark.parametrize("how", ["expired", "key removed", "issuer removed", "issuer changed"])
async def test_an_expired_or_revoked_token_ends_its_open_streams(
    served: Served, web: httpx.AsyncClient, client: Client, tmp_path: Path, how: str, *, modern: bool
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [public("ec-1"), public("ec-2")]}))
    fetch = partial(fetch_or_read, client)
    entry = issuer(str(keys), leeway="1ms")
    access = CredentialStore(access_config(entry), fetch)
    async with served.http(access=access) as url, anyio.create_task_group() as tasks:
        tasks.start_soon(access.run)
        lasting = token("ec-2", sub="bob")
        ends = time.time() + (3 if how == "expired" else 3600)
        sessions = [session_of(shown, web, url) for shown in (token(exp=ends), lasting)]
        for session in sessions:
            await session.open()
        streams = [each.subscribed(modern=modern) for each in sessions]
        async with streams[0] as ann, streams[1] as bob:
            if how == "key removed":
                keys.write_text(json.dumps({"keys": [public("ec-2")]}))
                for _ in range(2):
                    await access.refresh_issuers()
            if how == "issuer removed":
                access.replace(access_config())
            if how == "issuer changed":
                access.replace(access_config(entry.model_copy(update={"audience": ("other",)})))
            with anyio.fail_after(30):
                assert [event async for event in ann] == []
                if how.startswith("issuer"):
                    assert [event async for event in bob] == []
                else:
                    await served.add("echo")
                    assert (await anext(bob))["method"] == "notifications/tools/list_changed"
        assert (await sessions[0].post(call("echo"))).status_code == 401
        tasks.cancel_scope.cancel()


async def test_while_keys_cannot_be_read_the_answer_says_when_to_retry(
    served: Served, web: httpx.AsyncClient, login: Login, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    login.status = 404
    async with served.http(access=access_of(login, client)) as url:
        for _ in range(2):
            reply = await session_of(token(), web, url).post(request("ping"))
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "10")
            assert "Cannot read the keys" in reply.json()["error"]["message"]
        assert (await session_of("key-of-ann", web, url).ask_modern(call("echo")))["result"][
            "isError"
        ] is False
    assert login.key_requests == 1
    place = login.url.removeprefix("http://").removesuffix("/keys")
    assert f"keys of {ISSUER}: {place} answered with 404; its tokens are rejected" in caplog.messages


async def test_a_retryable_refusal_does_not_count_as_a_guess() -> None:
    async def fetch(_place: str) -> bytes:
        raise OSError

    async def unreached(scope: Scope, receive: Receive, send: Send) -> None:
        """No request reaches the app."""

    async def silent() -> Message:
        return {"type": "http.disconnect"}

    async def answered(message: Message) -> None:
        """What it is, another test says."""

    middleware = AuthenticationMiddleware(
        unreached,
        CredentialStore(access_config(issuer("keys")), fetch),
        None,
        RejectionLog(ignore),
        lambda _: None,
    )
    for text, guesses in ((token(), 0), ("no-key", 1)):
        headers = [(b"authorization", f"Bearer {text}".encode())]
        await middleware(
            {"type": "http", "method": "POST", "path": "/mcp", "headers": headers}, silent, answered
        )
        assert len(middleware._throttles.failed._arrivals) == guesses


async def test_a_key_that_its_issuer_no_longer_publishes_is_revoked() -> None:
    kids = ["ed-1"]

    async def fetch(_place: str) -> bytes:
        return json.dumps({"keys": [public(kid) for kid in kids]}).encode()

    def shown(kid: str) -> list[tuple[bytes, bytes]]:
        return [(b"authorization", f"Bearer {token(kid, 'EdDSA')}".encode())]

    access = CredentialStore(access_config(issuer("keys")), fetch)
    credential = await access.authenticate(shown("ed-1"))
    kids[:] = ["ed-2"]
    await access.refresh_issuers(at_once=True)
    assert credential.lease.ended.is_set()
    with pytest.raises(NotAuthenticated, match="does not have"):
        await access.authenticate(shown("ed-1"))


async def test_a_token_with_a_cached_key_does_not_wait_for_a_key_read() -> None:
    asked, there = anyio.Event(), anyio.Event()
    times = 0

    async def fetch(_place: str) -> bytes:
        nonlocal times
        times += 1
        if times > 1:
            asked.set()
            await there.wait()
        return json.dumps({"keys": [public("ed-1")]}).encode()

    async def guess(kid: str) -> None:
        with pytest.raises(InvalidToken, match="does not have"):
            await known.token(*shown(kid))

    def shown(kid: str) -> tuple[str, Any]:
        text = token(kid, "EdDSA")
        return text, parse_unverified(text)[0]

    clock = Clock()
    known = TokenIssuer(issuer("https://x/keys"), fetch, _ignore, clock=clock)
    await known.token(*shown("ed-1"))
    clock.seconds = 20
    async with anyio.create_task_group() as tasks:
        for number in range(2, 5):
            tasks.start_soon(guess, f"ed-{number}")
        await asked.wait()
        clock.seconds = 31  # past the interval since the request, not since the answer
        with anyio.fail_after(30):
            assert (await known.token(*shown("ed-1"))).name == "ann"
        there.set()
    assert times == 2


@pytest.mark.parametrize(("place", "interval"), [("https://x/keys", 10), ("keys.json", 1)])
async def test_unknown_keys_cause_one_read_in_each_interval(place: str, interval: float) -> None:
    reads = 0

    async def fetch(_place: str) -> bytes:
        nonlocal reads
        reads += 1
        return json.dumps({"keys": [public("ed-1")]}).encode()

    clock = Clock()
    known = TokenIssuer(issuer(place), fetch, _ignore, clock=clock)
    counts = []
    for seconds in (0, interval - 0.5, interval):
        clock.seconds = seconds
        for _ in range(3):
            await subject_or_reason(known, token("ed-2", "EdDSA"))
        counts.append(reads)
    assert counts == [1, 1, 2]


async def test_a_requested_read_does_not_wait_after_a_failed_one() -> None:
    is_down = [True]

    async def fetch(_place: str) -> bytes:
        if is_down:
            raise OSError("it is down")
        return json.dumps({"keys": [public("ed-1")]}).encode()

    known = TokenIssuer(issuer("https://x/keys"), fetch, _ignore, clock=Clock())
    assert await subject_or_reason(known, token("ed-1", "EdDSA")) == ISSUER
    is_down.clear()
    await known.refresh(at_once=True)
    assert await subject_or_reason(known, token("ed-1", "EdDSA")) == "ann"


async def test_a_request_id_in_flight_is_taken_also_for_other_scopes(
    served: Served, web: httpx.AsyncClient, login: Login, client: Client, api: Api
) -> None:
    async with served.http(access=access_of(login, client)) as url, anyio.create_task_group() as tasks:
        session = session_of(token(scope="read"), web, url)
        await session.open()
        tasks.start_soon(session.post, call("hang", 7))
        await api.entered.wait()
        more = session_of(token(scope="read write"), web, url)
        more.headers["mcp-session-id"] = session.headers["mcp-session-id"]
        answer = await more.ask(call("hang", 7))
        assert answer["error"] == {"code": -32600, "message": "A request with this id is still in flight"}
        api.release.set()


async def test_keys_of_several_types_may_share_a_kid_or_have_none() -> None:
    async def fetch(_place: str) -> bytes:
        keys = [public(kid) | {"kid": "x"} for kid in ("rsa-1", "ed-1")]
        nameless = public("ec-1")
        del nameless["kid"]
        return json.dumps({"keys": [*keys, nameless]}).encode()

    known = TokenIssuer(issuer("keys"), fetch, _ignore)
    for kid, algorithm, named in (("rsa-1", "RS256", "x"), ("ed-1", "EdDSA", "x"), ("ec-1", "ES256", None)):
        assert await subject_or_reason(known, token(kid, algorithm, header={"kid": named})) == "ann"


async def test_only_the_public_members_of_a_published_key_are_used() -> None:
    modulus = base64url_encode(b"\xff" * 1536).decode()
    private_rsa = {"kty": "RSA", "kid": "own", "n": modulus, "e": "AQAB", "d": modulus}
    own = RSAAlgorithm.to_jwk(private("rsa-1"), as_dict=True) | {
        "kid": "rsa-1",
        "x5c": ["x"],
        "key_ops": ["verify"],
    }

    async def fetch(_place: str) -> bytes:
        return json.dumps({"keys": [private_rsa, own, public("ed-1")]}).encode()

    known = TokenIssuer(issuer("keys"), fetch, _ignore)
    for _ in range(2):
        assert await subject_or_reason(known, token("rsa-1", "RS256")) == "ann"
    forged = token("rsa-1", "RS256", header={"kid": "own"})
    assert await subject_or_reason(known, forged) == "The signature of this token is wrong"
    assert known.keys is not None
    assert [set(key.members) for key in known.keys] == [
        {"kty", "kid", "n", "e"},
        {"kty", "kid", "n", "e", "key_ops"},
        {"kty", "kid", "crv", "x"},
    ]


async def test_an_unusable_key_does_not_affect_the_others() -> None:
    async def fetch(_place: str) -> bytes:
        unusable = [
            public("ec-1") | {"kid": "a", "alg": ["ES256"]},
            public("ec-1") | {"kid": "b", "x": 5},
            {"kty": ["RSA"], "kid": "c"},
            {"kty": "oct", "kid": "d", "k": "c2VjcmV0"},
            5,
        ]
        return json.dumps({"keys": [*unusable, public("ec-1")]}).encode()

    known = TokenIssuer(issuer("keys"), fetch, _ignore)
    assert await subject_or_reason(known, token()) == "ann"
    shown = {kid: await subject_or_reason(known, token(header={"kid": kid})) for kid in "abcd"}
    assert shown == {
        "a": "The signature algorithm of this token (alg) is not accepted here",
        "b": "The key of this token cannot be used, or is too short",
        "c": "This token is signed by a key that its issuer does not have",
        "d": "This token is signed by a key that its issuer does not have",
    }


async def test_a_set_without_keys_revokes_all_tokens() -> None:
    keys = [public("ec-1")]

    async def fetch(_place: str) -> bytes:
        return json.dumps({"keys": keys}).encode()

    known = TokenIssuer(issuer("keys"), fetch, _ignore)
    assert await subject_or_reason(known, token()) == "ann"
    keys.clear()
    await known.refresh(at_once=True)
    assert (
        await subject_or_reason(known, token())
        == "This token is signed by a key that its issuer does not have"
    )


async def test_a_published_key_is_built_once_for_each_algorithm() -> None:
    key = PublicKey(public("rsa-1"))
    assert key.build("RS256") is key.build("RS256")
    assert key.build("PS256").algorithm_name == "PS256"
    assert key == PublicKey(public("rsa-1"))


async def test_an_rsa_key_past_16384_bits_is_not_used() -> None:
    def rsa(size: int) -> dict[str, str]:
        modulus = base64url_encode(b"\xff" * size).decode()
        return {"kty": "RSA", "kid": str(size), "n": modulus, "e": "AQAB"}

    async def fetch(_place: str) -> bytes:
        return json.dumps({"keys": [rsa(2048), rsa(2050)]}).encode()

    known = TokenIssuer(issuer("keys"), fetch, _ignore)
    shown = [token("rsa-1", "RS256", header={"kid": kid}) for kid in ("2048", "2050")]
    assert [await subject_or_reason(known, each) for each in shown] == [
        "The signature of this token is wrong",
        "This token is signed by a key that its issuer does not have",
    ]


async def test_an_issuer_whose_entry_changes_keeps_its_keys() -> None:
    is_down: list[bool] = []

    async def fetch(_place: str) -> bytes:
        if is_down:
            raise OSError("it is down")
        return json.dumps({"keys": [public("ed-1")]}).encode()

    shown = [(b"authorization", f"Bearer {token('ed-1', 'EdDSA')}".encode())]
    access = CredentialStore(access_config(issuer("https://x/keys")), fetch)
    await access.authenticate(shown)
    is_down.append(True)
    access.replace(access_config(issuer("https://x/keys", leeway="1m")))
    assert (await access.authenticate(shown)).caller.name == "ann"
    access.replace(access_config(issuer("https://y/keys")))
    with pytest.raises(NotAuthenticated, match="just now"):
        await access.authenticate(shown)


@pytest.mark.parametrize("words", [(), ({"audience": ["https://other.example.com"]},)])
async def test_a_token_is_refused_if_its_issuer_is_removed_or_changed_meanwhile(
    words: tuple[dict[str, Any], ...],
) -> None:
    async def fetch(_place: str) -> bytes:
        access.replace(access_config(*(issuer("keys", **each) for each in words)))
        return json.dumps({"keys": [public("ec-1")]}).encode()

    access = CredentialStore(access_config(issuer("keys")), fetch)
    with pytest.raises(NotAuthenticated, match="unknown, revoked or expired"):
        await access.authenticate([(b"authorization", f"Bearer {token()}".encode())])


@pytest.mark.slow
async def test_of_many_tokens_those_with_active_requests_stay_cached() -> None:
    async def fetch(_place: str) -> bytes:
        return json.dumps({"keys": [public("ed-1")]}).encode()

    def shown(number: int) -> list[tuple[bytes, bytes]]:
        return [(b"authorization", f"Bearer {token('ed-1', 'EdDSA', jti=str(number))}".encode())]

    access = CredentialStore(access_config(issuer("keys")), fetch)
    first, second = shown(1), shown(2)
    credentials = [await access.authenticate(headers) for headers in (first, second)]
    credentials[0].active_requests = 1
    for number in range(3, 2010):
        await access.authenticate(shown(number))
    assert await access.authenticate(first) is credentials[0]
    assert await access.authenticate(second) is not credentials[1]


async def test_a_token_in_two_concurrent_requests_is_counted_once() -> None:
    asked, there = 0, anyio.Event()

    async def fetch(_place: str) -> bytes:
        nonlocal asked
        asked += 1
        await there.wait()
        return json.dumps({"keys": [public("ed-1")]}).encode()

    access = CredentialStore(access_config(issuer("keys")), fetch)
    text = token("ed-1", "EdDSA")
    credentials = []

    async def show() -> None:
        credentials.append(await access.authenticate([(b"authorization", f"Bearer {text}".encode())]))

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(show)
        with anyio.fail_after(30):
            while not asked:
                await anyio.lowlevel.checkpoint()
        there.set()
    assert credentials[0] is credentials[1]
    assert access._token_characters == len(text)


async def test_fewer_long_tokens_are_cached() -> None:
    async def fetch(_place: str) -> bytes:
        return json.dumps({"keys": [public("ed-1")]}).encode()

    def shown(number: int) -> list[tuple[bytes, bytes]]:
        text = token("ed-1", "EdDSA", jti=str(number), note="x" * 5000)
        return [(b"authorization", f"Bearer {text}".encode())]

    access = CredentialStore(access_config(issuer("keys")), fetch)
    for number in range(500):
        await access.authenticate(shown(number))
        known = [len(credential.caller.token or "") for credential in access._tokens.values()]
        assert sum(known) == access._token_characters <= MAX_KNOWN_TOKEN_CHARACTERS
    assert len(known) < 400
    access.replace(access_config())
    assert (access._tokens, access._token_characters) == ({}, 0)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def _ignore() -> None:
    pass


async def subject_or_reason(issuer: TokenIssuer, token: str) -> str:
    """The subject of the token, or why it was refused."""
    header, _ = parse_unverified(token)
    try:
        return (await issuer.token(token, header)).name
    except (InvalidToken, NoKeys) as problem:
        return str(problem)


async def test_a_new_key_is_valid_at_once_and_unknown_keys_do_not_cause_many_reads(
    login: Login, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock, fetch = Clock(), partial(fetch_or_read, client)
    changes: list[float] = []
    known = TokenIssuer(issuer(login.url), fetch, lambda: changes.append(clock()), clock=clock)
    assert [await subject_or_reason(known, token()) for _ in range(3)] == ["ann"] * 3
    unknown = "This token is signed by a key that its issuer does not have"
    clock.seconds = 11
    login.keys.append(public("ec-2"))
    assert await subject_or_reason(known, token("ec-2")) == "ann"
    assert login.key_requests == 2
    assert [await subject_or_reason(known, token("ec-3")) for _ in range(5)] == [unknown] * 5
    assert login.key_requests == 2
    login.status, clock.seconds = 404, 700
    await known.refresh()
    assert await subject_or_reason(known, token()) == "ann"  # the keys of the last read stay valid
    login.status, login.keys, clock.seconds = 200, [public("ec-3")], 1400
    await known.refresh()
    assert await subject_or_reason(known, token()) == unknown
    assert (
        await subject_or_reason(known, token("ec-3", header={"kid": None})) == "ann"
    )  # where there is one, it is meant
    place = login.url.removeprefix("http://").removesuffix("/keys")
    assert [message.removeprefix(f"keys of {ISSUER}: ") for message in caplog.messages] == [
        "4 valid",
        "5 valid",
        f"{place} answered with 404; the keys of the last read stay valid",
        "1 valid",
    ]
    assert changes == [0, 11, 1400]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "{path}: No such file or directory"),
        ("nonsense", "found no key set, expected an object whose keys is a list (RFC 7517)"),
        ("[]", "found no key set, expected an object whose keys is a list (RFC 7517)"),
        ('{"keys": {}}', "found no key set, expected an object whose keys is a list (RFC 7517)"),
        (b"\xff", "{path} is not UTF-8 text"),
    ],
)
async def test_an_invalid_key_set_is_logged(
    tmp_path: Path, client: Client, caplog: pytest.LogCaptureFixture, text: str | bytes | None, problem: str
) -> None:
    path = tmp_path / "keys.json"
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    known = TokenIssuer(issuer(str(path)), partial(fetch_or_read, client), _ignore)
    for _ in range(3):
        await known.refresh()
    told = problem.format(path=path)
    assert caplog.messages == [f"keys of {ISSUER}: {told}; its tokens are rejected"]


async def test_keys_are_used_only_for_their_key_operations(tmp_path: Path, client: Client) -> None:
    path = tmp_path / "keys.json"
    for operations, found in (
        (["verify"], True),
        (["sign", "verify"], True),
        (["encrypt"], False),
        ([], False),
        ("verify", False),
    ):
        path.write_text(json.dumps({"keys": [public("ec-1") | {"key_ops": operations}]}))
        known = TokenIssuer(issuer(str(path)), partial(fetch_or_read, client), _ignore)
        assert (await subject_or_reason(known, token()) == "ann") is found


async def test_keys_that_are_not_for_signatures_are_ignored(tmp_path: Path, client: Client) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": ["x", public("ec-1", use="enc"), public("rsa-1", alg="RS512")]}))
    known = TokenIssuer(issuer(str(path)), partial(fetch_or_read, client), _ignore)
    assert (
        await subject_or_reason(known, token())
        == "This token is signed by a key that its issuer does not have"
    )
    assert await subject_or_reason(known, token("rsa-1", "RS256")) == NO


async def test_an_unreachable_issuer_is_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    login = Login()
    async with login.serving():
        pass
    await TokenIssuer(issuer(login.url), partial(fetch_or_read, client), _ignore).refresh()
    assert "its tokens are rejected" in caplog.text


async def test_keys_are_never_read_from_a_metadata_address(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = TokenIssuer(issuer("http://[64:ff9b::a9fe:a9fe]/keys"), partial(fetch_or_read, client), _ignore)
    await known.refresh()
    assert "a link-local or cloud metadata address, which is never contacted" in caplog.text
    monkeypatch.setenv("HTTPS_PROXY", "http://169.254.169.254:80")
    await TokenIssuer(issuer("https://login.test/keys"), partial(fetch_or_read, client), _ignore).refresh()
    assert "the proxy has a cloud metadata address, which is never contacted" in caplog.text


async def test_an_api_learns_the_caller_only_from_the_bridge(
    served: Served, web: httpx.AsyncClient, login: Login, client: Client, api: Api
) -> None:
    words = {
        "description": "x",
        "request": {
            "method": "GET",
            "url": f"{api.url}/of/{{$caller}}",
            "headers": {"X-Mail": "{$caller.email}"},
        },
    }
    plain = words | {"request": {"method": "GET", "url": f"{api.url}/of/{{$caller}}"}}
    tools = [
        compile_tool(name, ToolSpec.model_validate(each), None, Sources({}))[0]
        for name, each in (("mail", words), ("who", plain))
    ]
    served.registry.replace(Snapshot(tools))
    answers: dict[str, list[str]] = {"ann": [], "bob": [], "key": []}
    shown = {"ann": token(email="a@b"), "bob": token(sub="bob"), "key": "key-of-ann"}

    async def ask(name: str, url: str) -> None:
        session = session_of(shown[name], web, url)
        for tool in ("who", "mail") * 10:
            result = (await session.ask_modern(call(tool)))["result"]
            answers[name].append(result["content"][0]["text"])

    async with served.http(access=access_of(login, client)) as url, anyio.create_task_group() as tasks:
        for name in shown:
            tasks.start_soon(ask, name, url)
    known = '{"path":"/of/%s","text":"x","nothing":null}'
    unknown = "This tool needs the claim email of the caller, which is unknown. Tell the user, who may have to log in."
    assert answers["ann"] == [known % "ann"] * 20
    assert answers["bob"] == [known % "bob", unknown] * 10
    assert answers["key"] == [known % "ann", unknown] * 10


async def test_without_access_control_no_caller_name_can_be_sent(
    served: Served, web: httpx.AsyncClient, api: Api
) -> None:
    words = {"description": "x", "request": {"method": "GET", "url": f"{api.url}/of/{{$caller}}"}}
    tool, _ = compile_tool("who", ToolSpec.model_validate(words), None, Sources({}))
    served.registry.replace(Snapshot([tool]))
    async with served.http() as url:
        result = (await Session(web, url).ask_modern(call("who")))["result"]
    assert (result["isError"], result["_meta"]["restbridge/error"]) == (True, "unknown-caller")
