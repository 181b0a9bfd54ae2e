import json
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from mcp import Client

from tests.commands.conftest import ROOT, Line
from tests.commands.processes import HELLO, request, restbridge

pytestmark = pytest.mark.anyio

SAMPLES = sorted(path.name for path in (ROOT / "tools.d").iterdir())


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Something listens on the port: this test, or whoever did so before."""
    with ExitStack() as stack, suppress(OSError):
        stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield
        return
    yield


async def test_the_demo_brings_shop_bridge_and_files_to_edit(tmp_path: Path) -> None:
    async with restbridge("demo", "--http", "0", cwd=tmp_path, env={"PATH": ""}) as demo:
        shop = (await demo.prints(r"^The shop +(http://127\.0\.0\.1:\d+), with the key demo-key$"))[1]
        url = (await demo.prints(r"^The bridge +(http://127\.0\.0\.1:\d+/mcp)$"))[1]
        await demo.prints("Its files +tools.d$")
        await demo.prints("  get_order +Get the status")
        await demo.prints(f"claude mcp add --transport http shop {url}$")
        await demo.prints(r'Cursor +\{"mcpServers": \{"shop": \{"url": "' + url)
        await demo.prints(r"python\S* -m bridge call list_products category=garden$")
        assert sorted(path.name for path in (tmp_path / "tools.d").iterdir()) == [".schemas", *SAMPLES]
        order = tmp_path / "tools.d/get_order.yaml"
        modeline = order.read_text().splitlines()[0]
        assert modeline == "# yaml-language-server: $schema=.schemas/tool.schema.json"
        schema = json.loads((tmp_path / "tools.d/.schemas/tool.schema.json").read_text())
        assert schema["title"] == "restbridge tool file"
        async with Client(url) as client, client.listen(tools_list_changed=True) as heard:
            result = await client.call_tool("get_order", {"order_id": "o-1001"})
            assert result.content[0].model_dump()["text"].startswith('{"id":"o-1001"')
            order.write_text(order.read_text().replace("Get the", "Show the"))
            async for _ in heard:
                break
        await demo.says("call tool=get_order upstream=shop outcome=ok")
        assert shop != url
        assert await demo.ends(signal.SIGINT) == 0


async def test_over_stdio_it_says_nothing_but_the_protocol(tmp_path: Path) -> None:
    arguments = {"product_id": "p-103"}
    async with restbridge("demo", "--stdio", cwd=tmp_path) as demo:
        await demo.sends(HELLO, request(2, "tools/call", name="get_product", arguments=arguments))
        await demo.prints('"serverInfo"')
        answer = json.loads((await demo.prints("")).string)
        assert answer["result"]["structuredContent"]["name"] == "Copper Kettle"
        assert await demo.hangs_up() == 0


async def test_ports_that_are_taken_are_gone_round_and_files_kept(tools: Path) -> None:
    order = tools / "get_order.yaml"
    order.write_text(order.read_text().replace("Get the", "My own"))
    shutil.move(tools, tools.parent / "my shop")
    on_path = tools.parent / "bin/restbridge"
    on_path.parent.mkdir()
    on_path.touch(0o755)
    environment = {"PATH": str(on_path.parent)}
    with taken(8100), taken(8101):
        async with restbridge("demo", "my shop", cwd=tools.parent, env=environment) as demo:
            shop = (await demo.prints(r"^The shop +(http://127\.0\.0\.1:\d+)"))[1]
            await demo.prints("  get_order +My own")
            await demo.prints(f"  SHOP_API_URL={shop} restbridge call --tools 'my shop' list_products")
            assert await demo.ends(signal.SIGTERM) == 0
    assert not shop.endswith(":8100")


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, line: Line) -> None:
    (tmp_path / "mine.yaml").write_text("description: Mine.\n")
    code, _, err = line("demo", str(tmp_path))
    assert (code, err) == (
        2,
        f"Error: {tmp_path} holds other files; name a new folder: restbridge demo my-shop\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_an_address_that_others_can_reach_is_refused(tmp_path: Path, line: Line) -> None:
    code, _, err = line("demo", "--http", "0.0.0.0:8000", str(tmp_path))
    assert code == 2
    assert "on 0.0.0.0:8000 others could call the tools" in err
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, line: Line) -> None:
    (tmp_path / "file").touch()
    code, _, err = line("demo", str(tmp_path / "file/tools.d"))
    assert code == 2
    assert err.startswith(f"Error: cannot write the samples to {tmp_path / 'file/tools.d'}: ")
