import json
import os
import signal
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp_types import LATEST_PROTOCOL_VERSION

from bridge.app.settings_watcher import SettingsWatcher
from bridge.events import ignore
from tests.commands.conftest import Line
from tests.commands.in_process import serving_in_process
from tests.commands.processes import Log, restbridge
from tests.commands.test_workers import workers_of
from tests.serving.logins import ISSUER, RESOURCE, Login, token
from tests.serving.session import Session

CONFIG = ("--config", "restbridge.yaml")


def new(line: Line, *words: str) -> tuple[str, dict[str, Any]]:
    code, out, _ = line("key", "new", "--format", "json", *words)
    assert code == 0
    made = json.loads(out)
    return made["key"], made["entry"]


def write(folder: Path, *entries: dict[str, Any], **words: Any) -> None:
    settings = {"http": {"listen": 0}, "poll": "200ms", "access": {"apiKeys": entries}, **words}
    (folder / "restbridge.yaml").write_text(json.dumps(settings))


async def url_of(bridge: Log) -> str:
    return (await bridge.wait_for_log(r"serving (http\S+)"))[1]


async def status(url: str, key: str | None) -> int:
    """The outcome of a handshake with a key."""
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": LATEST_PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    headers = {"accept": "application/json, text/event-stream"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    async with httpx.AsyncClient(timeout=30, trust_env=False) as web:
        return (await web.post(url, json=message, headers=headers)).status_code


def test_a_key_is_printed_with_its_entry(line: Line) -> None:
    key, entry = new(line, "--name", "ci", "--scope", "a", "--scope", "b", "--expires", "2027-01-31")
    assert entry == {
        "name": "ci",
        "sha256": sha256(key.encode()).hexdigest(),
        "scopes": ["a", "b"],
        "expires": "2027-01-31",
    }
    assert len(key) == 46
    assert new(line, "--name", "ci")[0] != key


def test_the_text_says_where_the_entry_belongs(line: Line) -> None:
    code, out, _ = line("key", "new", "--name", "ci", "--scope", "a", "--expires", "2027-01-31")
    assert code == 0
    key = out.split()[8]
    digest = sha256(key.encode()).hexdigest()
    assert f'- {{name: "ci", sha256: "{digest}", scopes: ["a"], expires: "2027-01-31"}}\n' in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Missing option '--name'"),
        (["--name", "c i"], "'--name': found \"c i\", expected 1 to 128 of"),
        (["--name", "ci", "--scope", "a b"], "'--scope': found \"a b\", expected a scope without blanks"),
        (
            ["--name", "ci", "--expires", "2020-01-01"],
            "'--expires': 2020-01-01 is in the past; give a time in the future",
        ),
        (["--name", "ci", "--expires", "soon"], "'--expires': found \"soon\", expected a date such as"),
    ],
)
def test_values_that_are_invalid_in_a_settings_file_are_refused(
    line: Line, words: list[str], sentence: str
) -> None:
    code, _, err = line("key", "new", *words)
    assert code == 2
    assert sentence in err


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_key_is_valid_while_the_settings_file_has_it(tools: Path, line: Line) -> None:
    (ann, ann_entry), (bob, bob_entry) = new(line, "--name", "ann"), new(line, "--name", "bob")
    http = {"listen": "0.0.0.0:0"}
    write(tools.parent, ann_entry, http=http)

    async with serving_in_process(*CONFIG) as bridge:
        url = (await url_of(bridge)).replace("0.0.0.0", "127.0.0.1")
        assert [await status(url, key) for key in (ann, bob, None)] == [200, 401, 401]
        write(tools.parent, ann_entry, bob_entry, http=http)
        await bridge.wait_for_log(r"INFO keys: 2 valid \(\+bob\)$")
        assert await status(url, bob) == 200
        write(tools.parent, {"name": "ann"}, bob_entry, http=http)
        await bridge.wait_for_log(r"ERROR restbridge.yaml:1:\d+: error: the key sha256 is missing")
        await bridge.wait_for_log(r"its last good version stays in effect; the same keys stay valid$")
        assert [await status(url, key) for key in (ann, bob)] == [200, 200]
        async with httpx.AsyncClient(timeout=30, trust_env=False) as web:
            session = Session(web, url)
            session.headers["authorization"] = f"Bearer {ann}"
            async with session.listen(toolsListChanged=True) as events:
                await anext(events)
                write(tools.parent, bob_entry | {"scopes": ["a"]}, http=http, strict=True)
                assert [event async for event in events] == []
        await bridge.wait_for_log(
            r"WARNING restbridge.yaml: settings other than keys have changed; restart to apply them$"
        )
        await bridge.wait_for_log(r"INFO keys: 1 valid \(~bob -ann\)$")
        assert [await status(url, key) for key in (ann, bob, None)] == [401, 200, 401]
        write(tools.parent, http=http)
        await bridge.wait_for_log(r"WARNING keys: 0 valid \(-bob\)$")
        assert await status(url, bob) == 401
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0


@pytest.mark.anyio
async def test_options_take_precedence_over_the_settings_file(tools: Path, line: Line) -> None:
    write(tools.parent, new(line, "--name", "ann")[1], tools=["nowhere"], http={"listen": "127.0.0.1:1"})
    async with serving_in_process(*CONFIG, "--http", "0", "tools.d") as bridge:
        await bridge.wait_for_log(r"reload: \+6 ")
        assert await status(await url_of(bridge), None) == 401


@pytest.fixture
def folder(tools: Path) -> Path:
    """Next to the current one, with the tools and a settings file that names them."""
    there = tools.parent / "deploy"
    there.mkdir()
    tools.rename(there / "mine.d")
    (there / "restbridge.yaml").write_text("tools: [mine.d]\nupstreams: mine.d\n")
    return there


@pytest.mark.parametrize("words", [["check"], ["list"], ["explain", "get_order", "order_id=o-1001"]])
def test_paths_are_relative_to_the_settings_file(
    folder: Path, line: Line, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "x")
    monkeypatch.setenv("SHOP_API_URL", "http://127.0.0.1:1")
    assert line(*words, "--config", str(folder / "restbridge.yaml"))[0] == 0
    assert line(*words)[0] == 2


def test_commands_refuse_a_settings_file_with_errors(folder: Path, line: Line) -> None:
    path = folder / "restbridge.yaml"
    path.write_text("tols: [mine.d]\n")
    code, _, err = line("serve", "--config", str(path))
    assert code == 2
    assert err == (
        f'{path}:1:1: error: unknown key "tols"; did you mean tools? [unknown-key]\n'
        f"Error: the settings file {path} has errors; fix them first\n"
    )


def test_check_reports_problems_of_the_settings_file_too(folder: Path, line: Line) -> None:
    path = folder / "restbridge.yaml"
    path.write_text('tools: [mine.d]\naccess: {apiKeys: [{name: x, sha256: "${env:NOT_SET}"}]}\n')
    code, out, _ = line("check", "--config", str(path), "--format", "json", "--secrets")
    told = json.loads(out)
    assert code == 1
    assert (told["tools"], told["diagnostics"][0]["code"]) == (6, "unset-secret")
    path.write_text("tols: [mine.d]\n")
    code, out, err = line("check", "--config", str(path), "--format", "github", str(folder / "mine.d"))
    assert (code, err) == (1, "")
    assert out.startswith(f"::error file={path},line=1,col=1,title=unknown-key::")


def test_read_only_hides_tools_that_may_change_something(folder: Path, line: Line) -> None:
    path = folder / "restbridge.yaml"
    path.write_text("tools: [mine.d]\nreadOnly: true\n")
    config = ("--config", str(path))
    assert [row.split()[0] for row in line("list", *config)[1].splitlines()] == [
        "get_customer", "get_order", "get_product", "list_products",
    ]  # fmt: skip
    code, _, err = line("call", *config, "create_order")
    assert (code, err) == (
        2,
        "Error: create_order is not served: it may change something, and readOnly is set\n",
    )


def test_a_directory_is_not_a_settings_file(folder: Path, line: Line) -> None:
    code, _, err = line("list", "--config", str(folder))
    assert code == 2
    assert "found no regular file; name the one that holds the settings [not-a-file]" in err


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_restarted_worker_authenticates_like_the_others(tools: Path, line: Line) -> None:
    ann, entry = new(line, "--name", "ann")
    http = {"listen": 0, "workers": 2}
    write(tools.parent, entry, http=http)
    async with restbridge("serve", *CONFIG, cwd=tools.parent) as bridge:
        url = await url_of(bridge)
        settings = tools.parent / "restbridge.yaml"
        settings.write_text("nonsense\n")
        await bridge.wait_for_log(r"error: found no mapping")
        os.kill(workers_of(bridge)["--worker=2"], signal.SIGKILL)
        await bridge.wait_for_log(
            r"WARNING restbridge.yaml:1:1: it has errors, so no key is known; waiting until "
        )
        assert {await status(url, ann) for _ in range(8)} == {200}  # of the other one
        write(tools.parent, entry, http=http)
        await bridge.wait_for_log(r"INFO worker 2 serves again$")
        assert {await status(url, ann) for _ in range(8)} == {200}
        settings.write_text("http: {listen: 0}\n")
        await bridge.wait_for_log(r"WARNING keys: 0 valid \(-ann\) worker=1-")
        os.kill(workers_of(bridge)["--worker=2"], signal.SIGKILL)
        await bridge.wait_for_log(r"INFO worker 2 serves again$")
        assert {await status(url, key) for key in (None, ann) for _ in range(8)} == {401}
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0


@pytest.mark.anyio
async def test_keys_are_read_again_on_request(tools: Path, line: Line) -> None:
    ops, entry = new(line, "--name", "ops", "--scope", "restbridge:operate")
    names = {"ann": "2090-01-02", "bob": "2020-01-02"}
    others = [new(line, "--name", name)[1] | {"expires": expires} for name, expires in names.items()]
    write(tools.parent, entry, poll="60s", upstreams="tools.d")
    async with serving_in_process(*CONFIG) as bridge:
        await bridge.wait_for_log(r"INFO keys: 1 valid$")
        url = await url_of(bridge)
        write(tools.parent, entry, others[0], poll="60s", upstreams="tools.d")
        bridge.send_signal(signal.SIGHUP)
        await bridge.wait_for_log(r"INFO keys: 2 valid \(\+ann\)$")
        write(tools.parent, entry, *others, poll="60s", upstreams="tools.d")
        async with httpx.AsyncClient(
            timeout=30, trust_env=False, headers={"authorization": f"Bearer {ops}"}
        ) as web:
            base = url.removesuffix("/mcp")
            reply = await web.post(f"{base}/-/reload")
            told = (await web.get(f"{base}/-/status")).json()["keys"]
            figures = (await web.get(f"{base}/metrics")).text
            (tools.parent / "restbridge.yaml").write_text("access: {apiKeys: [}")
            again = await web.post(f"{base}/-/reload")
            broken = (await web.get(f"{base}/-/status")).json()
            figures_then = (await web.get(f"{base}/metrics")).text
        assert again.json()["broken"] == ["restbridge.yaml:1:20"]
        assert broken["settings"] == {"path": "restbridge.yaml", "state": "kept"}
        assert broken["problems"][0]["path"] == "restbridge.yaml"
        assert "restbridge_settings_file_broken 0.0\n" in figures
        assert "restbridge_settings_file_broken 1.0\n" in figures_then
        assert (reply.status_code, reply.json()["broken"]) == (200, [])
        assert {key["name"]: (key["scopes"], key["expires"], key["counts"]) for key in told} == {
            "ops": (["restbridge:operate"], None, True),
            "ann": ([], "2090-01-02T00:00:00+00:00", True),
            "bob": ([], "2020-01-02T00:00:00+00:00", False),
        }
        assert "restbridge_next_key_expiry_timestamp_seconds 3.7869984e+09\n" in figures
        await bridge.wait_for_log(r"WARNING keys: 2 valid \(expired: bob\)$")
        write(tools.parent, entry, poll="60s", upstreams="tools.d")
        bridge.send_signal(signal.SIGHUP)
        await bridge.wait_for_log(r"INFO restbridge\.yaml: it no longer has errors$")
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0


@pytest.mark.anyio
async def test_a_silent_worker_reloads_the_settings_file_too(
    tools: Path, line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    ann, entry = new(line, "--name", "ann")
    path = tools.parent / "restbridge.yaml"
    write(tools.parent)

    async def fetch(_where: str) -> bytes:
        raise OSError

    watcher = SettingsWatcher(path, 60, fetch, ignore, has_access_control=True, is_silent=True)
    await watcher.wait_until_read()
    path.write_text("nonsense\n")
    await watcher.refresh(at_once=False)
    assert watcher.is_broken
    write(tools.parent, entry)
    await watcher.refresh(at_once=False)
    assert watcher.credentials
    headers = [(b"authorization", f"Bearer {ann}".encode())]
    assert (await watcher.credentials.authenticate(headers)).caller.name == "ann"
    assert caplog.messages == []


@pytest.mark.anyio
async def test_without_access_control_there_is_no_resource(tmp_path: Path) -> None:
    async def fetch(_where: str) -> bytes:
        raise OSError

    path = tmp_path / "restbridge.yaml"
    path.write_text("access: {resource: https://tools.example.com/mcp}\n")
    watcher = SettingsWatcher(path, 60, fetch, ignore, has_access_control=False, is_silent=True)
    assert (watcher.credentials, watcher.resource) == (None, None)


@pytest.mark.anyio
async def test_issuers_are_accepted_while_the_settings_file_has_them(tools: Path) -> None:
    folder = tools.parent
    login = Login("ec-1")
    settings: dict[str, Any] = {
        "http": {"listen": 0},
        "poll": "100ms",
        "access": {"resource": RESOURCE, "jwt": [{"issuer": ISSUER, "jwks": "keys.json"}]},
    }

    def write() -> None:
        (folder / "restbridge.yaml").write_text(json.dumps(settings))

    (folder / "keys.json").write_text(json.dumps({"keys": login.keys}))
    write()
    async with login.serving(), serving_in_process(*CONFIG) as bridge:
        url = await url_of(bridge)
        await bridge.wait_for_log(r"INFO keys of https://login\.example\.com/: 1 valid$")
        assert [await status(url, shown) for shown in (token(), None)] == [200, 401]
        settings["access"]["resource"] = "https://other.example.com/mcp"
        write()
        await bridge.wait_for_log("settings other than keys have changed; restart to apply them$")
        assert [
            await status(url, token()),
            await status(url, token(aud="https://other.example.com/mcp")),
        ] == [200, 401]
        settings["access"] = {"resource": "https://other.example.com/mcp", "apiKeys": []}
        write()
        await bridge.wait_for_log(rf"WARNING keys: 0 valid \(-{ISSUER}\)$")
        assert await status(url, token()) == 401
        settings["access"] = {"resource": RESOURCE, "jwt": [{"issuer": ISSUER, "jwks": login.url}]}
        write()
        await bridge.wait_for_log(rf"INFO keys: 0 valid \(\+{ISSUER}\)$")
        assert await status(url, token()) == 200
        login.keys = []
        bridge.send_signal(signal.SIGHUP)
        await bridge.wait_for_log(r"INFO keys of https://login\.example\.com/: 0 valid$")
        assert await status(url, token()) == 401
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0
        assert "next start" not in await bridge.remaining_log()
