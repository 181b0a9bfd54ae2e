from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from bridge.access.quotas import UNBOUNDED, Quotas
from bridge.caller import ANONYMOUS, Caller
from bridge.errors import TooMany
from bridge.events import CallFinished, QuotaKind
from bridge.registry import Snapshot
from bridge.secrets import Sources
from bridge.settings import Limits as LimitsConfig
from bridge.spec import ToolSpec
from bridge.tool.compiler import compile_tool
from bridge.upstream.client import Client
from tests.access.test_credentials import credentials_for, entry, opened, session_of
from tests.http.test_admin_routes import OPERATOR
from tests.serving.api import Api
from tests.serving.messages import INITIALIZED, Json, call, initialize, request
from tests.serving.served import Served
from tests.serving.session import Session

pytestmark = pytest.mark.anyio

ANN, BOB = Caller("ann"), Caller("bob")


def limits_of(**limits: Any) -> LimitsConfig:
    return LimitsConfig.model_validate(limits)


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> int:
        return round(self.seconds * 10**9)


def calls(limits: Quotas, caller: Caller) -> str | None:
    """Why a call may not be made; one that may has ended."""
    try:
        limits.count_request(caller)
        limits.begin_call(caller)
    except TooMany as error:
        return str(error)
    limits.add("calls", caller, -1)
    return None


def test_a_rate_allows_a_sixth_at_once_and_says_when_there_is_room() -> None:
    clock = Clock()
    limits = Quotas(limits_of(perCaller={"rate": 30}), clock)
    assert [calls(limits, ANN) for _ in range(5)] == [None] * 5
    refused = (
        "Too many requests in a minute: at most 30 for each caller, 5 of them at once. "
        "Try again in 2 seconds."
    )
    assert calls(limits, ANN) == refused
    assert calls(limits, BOB) is None
    assert calls(limits, Caller("ann", issuer="x")) is None  # another Ann
    clock.seconds += 2
    assert [calls(limits, ANN), calls(limits, ANN)] == [None, refused]
    clock.seconds += 60
    assert [calls(limits, ANN) for _ in range(6)] == [None] * 5 + [refused]


@pytest.mark.parametrize("rate", [7, 27, 34, 70, 1000])
def test_rounding_refuses_no_request_of_a_burst(rate: int) -> None:
    clock = Clock()
    clock.seconds = 123_456.789
    limits = Quotas(limits_of(total={"rate": rate}), clock)
    assert [calls(limits, ANN) for _ in range(rate // 6)] == [None] * (rate // 6)
    assert calls(limits, ANN) is not None


def test_a_slow_rate_allows_one_at_once() -> None:
    clock = Clock()
    limits = Quotas(limits_of(total={"rate": 1}), clock)
    assert calls(limits, ANN) is None
    clock.seconds += 59.5
    refused = "Too many requests in a minute: at most 1 in all, 1 of them at once. Try again in 1 second."
    assert calls(limits, BOB) == refused
    clock.seconds += 1
    assert calls(limits, BOB) is None


def test_a_refused_call_does_not_count() -> None:
    limits = Quotas(limits_of(perCaller={"calls": 2}, total={"calls": 3, "rate": 60}), Clock())
    limits.begin_call(ANN)
    limits.begin_call(ANN)
    for _ in range(20):
        with pytest.raises(TooMany):
            limits.begin_call(ANN)
    limits.begin_call(BOB)
    assert calls(limits, BOB) == "Too many calls at a time: at most 3 in all. Try again in 1 second."
    limits.add("calls", ANN, -1)
    for _ in range(9):
        assert calls(limits, BOB) is None
    for _ in range(20):
        assert str(calls(limits, BOB)).startswith("Too many requests in a minute: at most 60 in all, 10 of")


def test_callers_without_usage_are_forgotten() -> None:
    clock = Clock()
    limits = Quotas(limits_of(perCaller={"calls": 1, "rate": 1}), clock)
    limits.begin_call(ANN)
    for number in range(1999):
        assert calls(limits, Caller(str(number))) is None
    clock.seconds += 61
    assert calls(limits, BOB) is None
    assert len(limits._usages) == 2
    assert calls(limits, ANN) == "Too many calls at a time: at most 1 for each caller. Try again in 1 second."


KINDS: tuple[QuotaKind, ...] = ("calls", "streams", "results")


def require_room(limits: Quotas, kind: QuotaKind, caller: Caller) -> None:
    with limits.hold(kind, caller):
        pass


def test_by_default_a_caller_with_a_name_leaves_room_for_others() -> None:
    limits = Quotas()
    for kind in KINDS:
        most = getattr(limits.config.per_caller, kind)
        assert most * 4 <= getattr(limits.config.total, kind)
        limits.add(kind, ANN, most)
        with pytest.raises(TooMany, match="for each caller"):
            require_room(limits, kind, ANN)
        require_room(limits, kind, BOB)
        require_room(limits, kind, ANONYMOUS)


def test_callers_without_a_name_have_only_configured_limits() -> None:
    limits = Quotas(limits_of(perCaller={"calls": 2}))
    for kind in KINDS[1:]:
        limits.add(kind, ANONYMOUS, getattr(limits.config.total, kind) - 1)
        require_room(limits, kind, ANONYMOUS)
    limits.add("calls", ANONYMOUS, 2)
    with pytest.raises(TooMany, match="at most 2 for each caller"):
        require_room(limits, "calls", ANONYMOUS)


def test_over_stdio_nothing_is_limited() -> None:
    limits = Quotas(UNBOUNDED)
    for kind in KINDS:
        limits.add(kind, ANONYMOUS, 10**9)
        require_room(limits, kind, ANONYMOUS)


def test_what_is_held_counts_until_the_end_of_its_block() -> None:
    limits = Quotas(limits_of(perCaller={"streams": 1}, total={"streams": 2}))

    def refusal(caller: Caller) -> str | None:
        try:
            require_room(limits, "streams", caller)
        except TooMany as error:
            return str(error)
        return None

    with limits.hold("streams", ANN):
        assert limits.usage == {"calls": 0, "results": 0, "streams": 1}
        for_each = "Too many streams: at most 1 for each caller. Try again in 60 seconds."
        assert [refusal(ANN), refusal(BOB)] == [for_each, None]
        with limits.hold("streams", BOB):
            assert refusal(Caller("cid")) == "Too many streams: at most 2 in all. Try again in 60 seconds."
    with pytest.raises(TimeoutError), limits.hold("streams", ANN):
        raise TimeoutError
    assert limits.usage["streams"] == 0
    assert refusal(ANN) is None


@pytest.fixture
def bound(api: Api, client: Client) -> Served:
    served = Served(api.url, client, limits=limits_of(perCaller={"calls": 1, "streams": 1}, body="1kB"))
    served.show("echo", "hang")
    return served


ACCESS = ("ann", "bob")


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content


@pytest.mark.parametrize("fast_path", [True, False])
async def test_a_call_past_the_limit_is_an_error_that_the_model_reads(
    bound: Served, api: Api, web: httpx.AsyncClient, *, fast_path: bool
) -> None:
    async with bound.http(access=credentials_for(map(entry, ACCESS)), fast_path=fast_path) as url:
        ann, bob = [await opened(name, web, url) for name in ACCESS]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ann.ask_modern, call("hang"))
            await api.entered.wait()
            refused = [await ann.ask(call("echo", 2)), await ann.ask_modern(call("echo", 2))]
            assert (await bob.ask(call("echo")))["result"]["isError"] is False
            api.release.set()
        assert (await ann.ask(call("echo")))["result"]["isError"] is False
    text = "Too many calls at a time: at most 1 for each caller. Try again in 1 second."
    for answer in refused:
        result = answer["result"]
        assert (result["isError"], result["content"]) == (True, [{"type": "text", "text": text}])
        assert result["_meta"]["restbridge/error"] == "too-many-calls"
    outcomes = [(event.caller, event.outcome) for event in bound.events if isinstance(event, CallFinished)]
    assert outcomes.count(("ann", "too-many-calls")) == 2
    assert len(outcomes) == 5


@pytest.mark.parametrize("fast_path", [True, False])
async def test_a_caller_with_too_many_unread_results_makes_no_further_calls(
    api: Api, web: httpx.AsyncClient, client: Client, *, fast_path: bool
) -> None:
    served = Served(api.url, client, fast_path=fast_path, limits=limits_of(perCaller={"results": "1MiB"}))
    served.show("echo")
    access = credentials_for(map(entry, ACCESS))
    async with served.http(access=access) as url:
        ann, bob = [await opened(name, web, url) for name in ACCESS]
        served.server.limits.add("results", Caller("ann"), 1024**2)
        refused = [await ann.ask(call("echo")), await ann.ask_modern(call("echo"))]
        assert (await bob.ask(call("echo")))["result"]["isError"] is False
        served.server.limits.add("results", Caller("ann"), -1)
        assert (await ann.ask(call("echo")))["result"]["isError"] is False
    for answer in refused:
        (block,) = answer["result"]["content"]
        assert block["text"].startswith("Too many bytes of results that wait to be read: at most 1048576 for")


@pytest.mark.parametrize("modern", [False, True], ids=["handshake", "modern"])
async def test_a_stream_past_the_limit_is_refused_until_another_ends(
    bound: Served, web: httpx.AsyncClient, *, modern: bool
) -> None:
    async with bound.http(access=credentials_for(map(entry, ACCESS))) as url:
        ann, bob = [await opened(name, web, url) for name in ACCESS]
        async with ann.subscribed(modern=modern), bob.subscribed(modern=modern):
            async with web.stream("GET", url, headers=ann.headers) as reply:
                assert (reply.status_code, reply.headers["retry-after"]) == (429, "60")
            async with ann.listen(toolsListChanged=True) as events:
                assert [event async for event in events] == []
        with anyio.fail_after(30):
            while True:
                async with web.stream("GET", url, headers=ann.headers) as reply:
                    if reply.status_code == 200:
                        break


async def test_past_a_total_limit_the_status_is_503(api: Api, web: httpx.AsyncClient, client: Client) -> None:
    served = Served(api.url, client, limits=limits_of(total={"streams": 1}))
    async with served.http() as url:
        session = Session(web, url)
        await session.open()
        async with session.stream():
            reply = await web.get(url, headers=session.headers)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "60")


async def test_sessions_are_not_limited(api: Api, web: httpx.AsyncClient, client: Client) -> None:
    limits = limits_of(perCaller={"sessions": 1}, total={"sessions": 1})
    served = Served(api.url, client, limits=limits)
    served.show("echo")
    async with served.http() as url:
        sessions = [Session(web, url) for _ in range(10)]
        for session in sessions:
            await session.open()
        for session in sessions:
            assert (await session.ask(call("echo")))["result"]["isError"] is False
        assert not any(served.server.limits.usage.values())


@pytest.mark.parametrize("fast_path", [True, False])
async def test_a_body_past_the_limit_is_refused(
    bound: Served, web: httpx.AsyncClient, *, fast_path: bool
) -> None:
    async with bound.http(fast_path=fast_path) as url:
        session = Session(web, url)
        message = session.modern(call("echo"))
        assert (await web.post(url, **message)).status_code == 200
        message["content"] += b" " * 1000
        reply = await web.post(url, **message)
        assert (reply.status_code, reply.json()["error"]["message"]) == (
            413,
            "The request body is larger than 1000 bytes",
        )
        chunked = httpx.Request("POST", url, headers=message["headers"], content=_pieces(message["content"]))
        assert (await web.send(chunked)).status_code == 413


OVER = "Too many requests in a minute: at most 1 for each caller, 1 of them at once. Try again in"


@pytest.mark.parametrize("fast_path", [True, False])
@pytest.mark.parametrize(
    "first", [request("tools/list"), request("ping"), call("echo"), call("nosuch"), request("nosuch/method")]
)
async def test_every_request_counts_for_the_rate_limit(
    api: Api, web: httpx.AsyncClient, client: Client, first: Json, *, fast_path: bool
) -> None:
    served = Served(api.url, client, limits=limits_of(perCaller={"rate": 1}))
    served.show("echo")
    async with served.http(access=credentials_for(map(entry, ACCESS)), fast_path=fast_path) as url:
        ann, bob = [session_of(name, web, url) for name in ACCESS]
        await web.post(url, **ann.modern(first))
        for name in ("echo", "nosuch"):
            for asked in (await ann.ask_modern(call(name, 2)), (await ann.post(call(name, 2))).json()):
                assert (asked["id"], asked["result"]["isError"]) == (2, True)
                assert asked["result"]["_meta"]["restbridge/error"] == "too-many-calls"
                assert asked["result"]["content"][0]["text"].startswith(OVER)
        for reply in (
            await web.post(url, **ann.modern(request("tools/list", 3))),
            await ann.post(initialize() | {"id": 3}),
            await ann.post(request("ping", 3)),
        ):
            assert (reply.status_code, reply.json()["id"]) == (429, 3)
            assert reply.json()["error"]["message"].startswith(OVER)
            assert 0 < int(reply.headers["retry-after"]) <= 60
        assert (await ann.post(INITIALIZED)).status_code == 429
        assert (await ann.post(b"[" * 200_000)).status_code == 429
        assert (await ann.post(b"nonsense")).status_code == 400
        assert (await web.get(url, headers=ann.headers)).status_code == 429
        assert (await bob.ask_modern(call("echo")))["result"]["isError"] is False


ELSEWHERE: list[tuple[str, str, dict[str, str]]] = [
    ("GET", "/nope", {}),
    ("POST", "/mcp/nosuch", {}),
    ("POST", "/mcp", {"content-type": "text/plain"}),
    ("POST", "/mcp", {"origin": "https://evil.example"}),
    ("POST", "/mcp", {"host": "evil.example"}),
    ("PUT", "/mcp", {}),
    ("GET", "/-/status", {}),
    ("POST", "/-/reload", {}),
    ("GET", "/metrics", {}),
    ("GET", "/-/reload", {}),
]


@pytest.mark.parametrize("target", ELSEWHERE)
async def test_a_request_to_any_path_counts_for_the_rate_limit(
    api: Api, web: httpx.AsyncClient, client: Client, target: tuple[str, str, dict[str, str]]
) -> None:
    method, path, headers = target
    served = Served(api.url, client, limits=limits_of(perCaller={"rate": 1}))
    async with served.http(access=credentials_for(map(entry, ACCESS)), operator=OPERATOR) as url:
        base = url.removesuffix("/mcp")
        shown = {"authorization": "Bearer key-of-ann", "content-type": "application/json"} | headers
        for _ in range(3):
            assert (await web.get(f"{base}/-/ready", headers=shown)).status_code == 200
        assert (await web.request(method, base + path, headers=shown)).status_code != 429
        for reply in (
            await web.request(method, base + path, headers=shown),
            await session_of("ann", web, url).post(request("ping", 3)),
        ):
            assert (reply.status_code, 0 < int(reply.headers["retry-after"]) <= 60) == (429, True)
            assert reply.json()["error"]["message"].startswith(OVER)


async def test_without_access_control_a_space_in_the_host_does_not_evade_the_rate_limit(
    api: Api, client: Client
) -> None:
    served = Served(api.url, client, limits=limits_of(total={"rate": 1}))
    async with served.http() as url:
        message = b"GET /nope HTTP/1.1\r\nHost: localhost \r\n\r\n"
        for status in (b"404", b"503"):
            async with await anyio.connect_tcp("127.0.0.1", httpx.URL(url).port or 0) as stream:
                await stream.send(message)
                assert (await stream.receive()).startswith(b"HTTP/1.1 " + status)


async def test_a_cross_origin_request_does_not_count_for_the_rate_limit(
    api: Api, web: httpx.AsyncClient, client: Client
) -> None:
    served = Served(api.url, client, limits=limits_of(total={"rate": 1}))
    served.show("echo")
    async with served.http() as url:
        session = Session(web, url)
        for _ in range(5):
            assert (await session.post(call("echo"), origin="https://evil.example")).status_code == 403
        assert (await session.ask_modern(call("echo")))["result"]["isError"] is False


async def test_waiting_calls_of_one_caller_do_not_delay_another(
    api: Api, web: httpx.AsyncClient, client: Client
) -> None:
    served = Served(api.url, client)
    spec = {
        "description": "x",
        "request": {"method": "GET", "url": f"{api.url}/hang"},
        "limits": {"concurrency": 1, "queue": "30s"},
    }
    tool, _ = compile_tool("hang", ToolSpec.model_validate(spec), None, Sources({}))
    served.registry.replace(Snapshot([tool]))

    async def ask(session: Session) -> None:
        assert (await session.ask_modern(call("hang")))["result"]["isError"] is False

    async with served.http(access=credentials_for(map(entry, ACCESS))) as url:
        ann, bob = [session_of(name, web, url) for name in ACCESS]
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask, ann)
            with anyio.fail_after(30):
                while served.server.limits.usage["calls"] < 20:
                    await anyio.lowlevel.checkpoint()
                tasks.start_soon(ask, bob)
                while served.server.limits.usage["calls"] < 21:
                    await anyio.lowlevel.checkpoint()
            api.release.set()
    # The order in the server: clients may read the answers in another one.
    ended = [event.caller for event in served.events if isinstance(event, CallFinished)]
    assert ended.index("bob") <= 2
    assert len(ended) == 21
