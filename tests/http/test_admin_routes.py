import httpx
import pytest
from starlette.applications import Starlette

from bridge.events import RequestRefused, ignore
from bridge.http.admin_routes import AdminEndpoints, routes
from bridge.http.rejection_log import RejectionLog
from bridge.http.request_guard import LOCAL_HOSTS, RequestGuard
from bridge.settings import OPERATE_SCOPE
from tests.access.test_credentials import credentials_for, entry, session_of
from tests.serving.messages import Json
from tests.serving.served import Served

pytestmark = pytest.mark.anyio


async def status() -> Json:
    return {"tools": 3}


async def reload() -> Json:
    return {"added": ["one"]}


async def metrics(accept: str) -> tuple[bytes, str]:
    return b"samples", accept or "text/plain"


OPERATOR = AdminEndpoints(status, reload, metrics)
PATHS = [("GET", "/-/status", {"tools": 3}), ("POST", "/-/reload", {"added": ["one"]})]


def base(url: str) -> str:
    return url.removesuffix("/mcp")


async def test_probes_need_no_key_and_other_endpoints_need_the_scope_of_an_operator(
    served: Served, web: httpx.AsyncClient
) -> None:
    access = credentials_for(
        [
            entry("ops", scopes=["x", OPERATE_SCOPE]),
            entry("ann", scopes=["x"]),
            entry("prometheus", scopes=["restbridge:metrics"]),
        ]
    )
    async with served.http(access=access, operator=OPERATOR) as url:
        for path, text in (("/-/healthy", "healthy\n"), ("/-/ready", "ready\n")):
            reply = await web.get(base(url) + path)
            assert (reply.status_code, reply.text) == (200, text)
            assert (await web.post(base(url) + path)).status_code == 405
        for method, path, body in PATHS:
            assert (await web.request(method, base(url) + path)).status_code == 401
            ann, ops = [
                await web.request(method, base(url) + path, headers=session_of(name, web, url).headers)
                for name in ("ann", "ops")
            ]
            assert ann.status_code == 403
            assert ann.headers["www-authenticate"].endswith(
                'error="insufficient_scope", scope="restbridge:operate"'
            )
            assert ann.text == f"{path} needs the scope restbridge:operate\n"
            assert (ops.status_code, ops.json()) == (200, body)
        for name, expected in (("ops", 200), ("prometheus", 200), ("ann", 403)):
            headers = session_of(name, web, url).headers | {"accept": "text/x"}
            reply = await web.get(f"{base(url)}/metrics", headers=headers)
            assert reply.status_code == expected
            if expected == 200:
                assert (reply.text, reply.headers["content-type"]) == ("samples", "text/x")
        assert (await web.get(f"{base(url)}/metrics")).status_code == 401
        assert (await web.get(f"{base(url)}/-/reload", headers=ops.request.headers)).status_code == 405
    assert served.events == [RequestRefused(status) for status in (401, 403, 401, 403, 403, 401)]


async def test_without_authentication_pages_of_other_servers_cannot_reach_the_endpoints(
    served: Served, web: httpx.AsyncClient
) -> None:
    async with served.http(operator=OPERATOR) as url:
        for method, path, body in PATHS:
            reply = await web.request(method, base(url) + path)
            assert (reply.status_code, reply.json()) == (200, body)
            evil = {"origin": "https://evil.example"}
            assert (await web.request(method, base(url) + path, headers=evil)).status_code == 403
            rebound = {"host": "evil.example"}
            assert (await web.request(method, base(url) + path, headers=rebound)).status_code == 421
    assert served.events == [RequestRefused(403), RequestRefused(421)] * 2


async def test_a_stopping_server_is_not_ready(served: Served) -> None:
    guard = RequestGuard(Starlette(), served.server, RejectionLog(ignore), LOCAL_HOSTS)
    over_asgi = httpx.ASGITransport(Starlette(routes=routes(OPERATOR, guard, served.stop)))
    async with httpx.AsyncClient(transport=over_asgi, base_url="http://localhost") as probe:
        reply = await probe.get("/-/ready")
        assert (reply.status_code, reply.text) == (200, "ready\n")
        served.stop.set()
        reply = await probe.get("/-/ready")
        assert (reply.status_code, reply.text) == (503, "stopping\n")
