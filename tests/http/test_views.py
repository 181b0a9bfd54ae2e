import anyio
import httpx
import pytest

from tests.access.test_credentials import credentials_for, entry, opened
from tests.serving.messages import call, request
from tests.serving.served import Served
from tests.serving.session import Session

pytestmark = pytest.mark.anyio

VIEWS = {"few": {"tools": ["e*"], "tags": ["safe"], "without": ["*x"]}, "rest": {"tags": ["un*"]}}


async def test_a_view_lists_and_calls_only_its_tools(served: Served, web: httpx.AsyncClient) -> None:
    served.tags = {"any": ["other", "safe"], "change": ["unsafe"]}
    served.show("echo", "any", "change", "typed")
    visible = {"": {"echo", "any", "change", "typed"}, "/few": {"echo", "any"}, "/rest": {"change"}}
    async with served.http(views=VIEWS) as url:
        for path, seen in visible.items():
            session = Session(web, url + path)
            await session.open()
            await session.sees(seen, "echo", "any", "change", "nosuch")
        for path in ("/no-such", "/few/x", "/FEW"):
            reply = await Session(web, url + path).post(request("tools/list"))
            assert reply.status_code == 404
            assert "/mcp/NAME" in reply.text
        assert (await Session(web, f"{url}/").ask_modern(call("change")))["result"]["isError"] is False
        assert (await Session(web, f"{url}/few/").ask_modern(call("echo")))["result"]["isError"] is False


async def test_a_view_shows_no_tool_that_scopes_hide(served: Served, web: httpx.AsyncClient) -> None:
    served.scopes = {"echo": ["read"], "error": ["write"]}
    served.show("echo", "any", "change")
    access = credentials_for([entry("ann", scopes=["read"]), entry("bob", scopes=["write"])])
    async with served.http(access=access, views=VIEWS) as url:
        for name, seen in (("ann", ["echo"]), ("bob", [])):
            session = await opened(name, web, f"{url}/few")
            listed = await session.ask(request("tools/list"))
            assert [tool["name"] for tool in listed["result"]["tools"]] == seen
        assert (await web.post(f"{url}/few")).status_code == 401


async def test_a_session_gets_at_each_path_what_that_path_shows(
    served: Served, web: httpx.AsyncClient
) -> None:
    served.tags = {"change": ["unsafe"]}
    served.show("echo", "change", "typed")
    visible = {"": {"echo", "change", "typed"}, "/few": {"echo"}, "/rest": {"change"}}
    async with served.http(views=VIEWS) as url:
        session = Session(web, f"{url}/few")
        await session.open()
        for path, seen in visible.items():
            session.url = url + path
            await session.sees(seen, "echo", "change")
        session.url = f"{url}/rest"
        async with session.stream() as messages:  # the id has the digest of the list at the other path
            assert (await anext(messages))["method"] == "notifications/tools/list_changed"


@pytest.mark.parametrize("modern", [False, True], ids=["handshake", "modern"])
async def test_only_clients_whose_view_changed_are_notified(
    served: Served, web: httpx.AsyncClient, *, modern: bool
) -> None:
    served.tags = {"change": ["unsafe"], "any": ["unsafe"]}
    await served.change("typed")
    async with served.http(views=VIEWS) as url:
        sessions = [Session(web, f"{url}/{name}") for name in VIEWS]
        for session in sessions:
            await session.open()
            await session.ask(request("tools/list"))
        streams = [each.subscribed(modern=modern) for each in sessions]
        async with streams[0] as few, streams[1] as rest:
            await served.change("typed", "echo")
            assert (await anext(few))["method"] == "notifications/tools/list_changed"
            await served.change("typed", "echo", "change")
            assert (await anext(rest))["method"] == "notifications/tools/list_changed"
            served.tags["change"] = ["safe"]
            await served.change("typed", "echo", "change")  # from one view into the other
            with anyio.fail_after(30):
                assert (await anext(few))["method"] == "notifications/tools/list_changed"
                assert (await anext(rest))["method"] == "notifications/tools/list_changed"
            served.stop.set()
