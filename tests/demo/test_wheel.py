import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client

from bridge import __version__
from tests.commands.processes import restbridge

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as its wheel brings it; nothing is asked of an index."""
    folder = tmp_path_factory.mktemp("wheel")
    python = [sys.executable, "-m"]
    build = ["build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run([*python, *build], check=True, capture_output=True)
    (wheel,) = folder.glob(f"restbridge-{__version__}-*.whl")
    install: list[str | Path] = [
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(folder / "site"),
        wheel,
    ]
    subprocess.run([*python, *install], check=True, capture_output=True)
    return folder / "site"


@pytest.mark.slow
@pytest.mark.anyio
async def test_the_demo_runs_from_a_wheel_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    order = tmp_path / "tools.d/get_order.yaml"
    async with restbridge("demo", "--http", "0", cwd=tmp_path, path=installed) as demo:
        url = (await demo.wait_for_stdout(r"^The bridge +(http\S+)"))[1]
        text = order.read_text("utf-8")
        async with Client(url) as client, client.listen(tools_list_changed=True) as heard:
            assert len((await client.list_tools()).tools) == 6
            assert not (await client.call_tool("get_order", {"order_id": "o-1001"})).is_error
            order.write_text(text.replace("Get the", "Show the"), "utf-8")
            async for _ in heard:
                break
        await demo.wait_for_log("call tool=get_order upstream=shop outcome=ok")
        assert await demo.wait_for_exit(signal.SIGINT) == 0
    order.write_text(text, "utf-8")
    written = {path.name: path.read_text("utf-8") for path in (tmp_path / "tools.d").glob("*.yaml")}
    samples = {path.name: path.read_text("utf-8") for path in (ROOT / "tools.d").glob("*.yaml")}
    assert {name: text.splitlines()[1:] for name, text in written.items()} == {
        name: text.splitlines()[1:] for name, text in samples.items()
    }
