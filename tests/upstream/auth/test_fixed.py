import pytest

from bridge.spec import Json
from tests.upstream.faulty import Faulty
from tests.upstream.sending import Caller, upstream

pytestmark = pytest.mark.anyio

ENVIRON = {"SECRET": "s3cret+/token", "PASSWORD": "pä:ss", "KEY": "a b&c=d/é"}


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        (
            {"type": "http", "scheme": "bearer", "credentials": "${env:SECRET}"},
            ("Authorization", "Bearer s3cret+/token"),
        ),
        (
            {"type": "http", "scheme": "basic", "username": "us€r", "password": "${env:PASSWORD}"},
            ("Authorization", "Basic dXPigqxyOnDDpDpzcw=="),
        ),
        (
            {"type": "apiKey", "in": "header", "name": "X-Api-Key", "value": "${env:SECRET}"},
            ("X-Api-Key", "s3cret+/token"),
        ),
        (
            {"type": "apiKey", "in": "cookie", "name": "session", "value": "${env:SECRET}"},
            ("Cookie", "session=s3cret+/token"),
        ),
    ],
)
async def test_credentials_are_sent_in_their_header(
    caller: Caller, faulty: Faulty, auth: Json, header: tuple[str, str]
) -> None:
    await caller.send(upstream(faulty.url, environ=ENVIRON, auth=auth))
    assert header in faulty.exchanges[0].headers


async def test_a_cookie_key_is_added_to_the_cookies_of_the_tool(caller: Caller, faulty: Faulty) -> None:
    auth = {"type": "apiKey", "in": "cookie", "name": "session", "value": "${env:SECRET}"}
    to = upstream(faulty.url, environ=ENVIRON, auth=auth)
    await caller.send(to, headers=(("cookie", "lang=de"),))
    cookies = [value for name, value in faulty.exchanges[0].headers if name.lower() == "cookie"]
    assert cookies == ["lang=de; session=s3cret+/token"]


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/ok", "/ok?api%20key=a%20b%26c%3Dd%2F%C3%A9"),
        ("/ok?q=%2e+&x", "/ok?q=%2e+&x&api%20key=a%20b%26c%3Dd%2F%C3%A9"),
    ],
)
async def test_a_query_key_is_appended_to_an_unchanged_query(
    caller: Caller, faulty: Faulty, path: str, target: str
) -> None:
    auth = {"type": "apiKey", "in": "query", "name": "api key", "value": "${env:KEY}"}
    await caller.send(upstream(faulty.url, environ=ENVIRON, auth=auth), path)
    assert faulty.exchanges[0].target == target


async def test_without_auth_no_credentials_are_sent(caller: Caller, faulty: Faulty) -> None:
    await caller.send(upstream(faulty.url))
    assert {name for name, _ in faulty.exchanges[0].headers} == {"Host", "User-Agent", "Accept-Encoding"}
