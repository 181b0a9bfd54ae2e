"""``restbridge serve`` over HTTPS."""

import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from cryptography import x509

from tests.commands.conftest import Line
from tests.commands.in_process import serving_in_process
from tests.commands.processes import Log, restbridge
from tests.http.test_tls import client_of, port_of, serial_of, trusting
from tests.upstream.certificates import Authority

pytestmark = pytest.mark.anyio

HOST = "127.0.0.1"
URL = r"serving (https://\S+/mcp)"


@pytest.fixture
def authority(tools: Path) -> Authority:
    """Its files are in the current folder."""
    return Authority(tools.parent)


@pytest.fixture
def words(authority: Authority) -> list[str]:
    cert, key = authority.issue(HOST)
    return ["--http", "0", "--tls-cert", cert.name, "--tls-key", key.name, "--poll", "0.1"]


def number_of(file: Path) -> int:
    return x509.load_pem_x509_certificate(file.read_bytes()).serial_number


async def serial(url: str, context: ssl.SSLContext) -> int:
    return int(await serial_of(port_of(url), context), 16)


async def test_a_broken_certificate_is_shown_everywhere_until_it_is_repaired(
    words: list[str], authority: Authority, tools: Path
) -> None:
    async with serving_in_process(*words) as bridge, client_of(authority) as web:
        url = (await bridge.wait_for_log(URL))[1]
        admin = url.removesuffix("/mcp")
        status = (await web.get(f"{admin}/-/status")).json()
        assert status["certificate"]["state"] == "good"
        expires = status["certificate"]["expires"]
        (tools.parent / f"{HOST}.key").write_text("not a key")
        await bridge.wait_for_log(
            rf"ERROR {HOST}\.key:1:1: error: this file of http.tls holds no private key"
        )
        await bridge.wait_for_log(rf"WARNING certificate {HOST}\.pem: the last good one stays in use$")
        status = (await web.get(f"{admin}/-/status")).json()
        assert status["certificate"] == {"state": "kept", "expires": expires}
        assert [problem["code"] for problem in status["problems"]][:1] == ["unusable-certificate"]
        assert (await web.post(f"{admin}/-/reload")).json()["broken"] == [f"{HOST}.key:1:1"]
        metrics = (await web.get(f"{admin}/metrics")).text
        assert "\nrestbridge_certificate_files_broken 1.0\n" in metrics
        authority.issue(HOST)
        await bridge.wait_for_log(rf"INFO certificate {HOST}\.pem: replaced; the new one expires at 20")
        assert await serial(url, trusting(authority)) == number_of(Path(f"{HOST}.pem"))
        metrics = (await web.get(f"{admin}/metrics")).text
        assert "\nrestbridge_certificate_files_broken 0.0\n" in metrics
        assert "\nrestbridge_certificate_expiry_timestamp_seconds +Inf\n" not in metrics


async def test_a_sighup_reads_the_files_again(words: list[str], authority: Authority) -> None:
    async with serving_in_process(*words[:-1], "3600") as bridge:
        url = (await bridge.wait_for_log(URL))[1]
        authority.issue(HOST)
        bridge.send_signal(signal.SIGHUP)
        await bridge.wait_for_log(r"INFO certificate \S+: replaced")
        assert await serial(url, trusting(authority)) == number_of(Path(f"{HOST}.pem"))


@pytest.mark.usefixtures("tools")
def test_a_server_with_a_broken_certificate_does_not_start(line: Line) -> None:
    Path("x.pem").write_text("hello")
    for workers in ("1", "2"):
        code, _, err = line("serve", "--http", "0", "--tls-cert", "x.pem", "--workers", workers)
        assert code == 2
        assert err == (
            "Error: http.tls: the file x.pem holds no certificate in PEM; write the server's own first, then the "
            "intermediate ones\n"
        )


CLEAR_TEXT = r"WARNING 0.0.0.0:0: keys and results cross the network in clear text; set http.tls, or"


@pytest.mark.parametrize(
    ("settings", "is_warned"),
    [
        ("http: {listen: '0.0.0.0:0'}\naccess: {apiKeys: []}\n", True),
        (
            "http: {listen: '0.0.0.0:0', tls: {certFile: 127.0.0.1.pem, keyFile: 127.0.0.1.key}}\naccess: {apiKeys: []}\n",
            False,
        ),
        ("http: {listen: '0.0.0.0:0', insecure: true}\n", False),
        ("http: {listen: '127.0.0.1:0'}\n", False),
    ],
)
async def test_an_address_that_others_can_reach_without_tls_is_warned_of(
    authority: Authority, tools: Path, settings: str, *, is_warned: bool
) -> None:
    authority.issue(HOST)
    (tools.parent / "restbridge.yaml").write_text(settings)
    async with serving_in_process("--config", "restbridge.yaml") as bridge:
        if is_warned:
            await bridge.wait_for_log(CLEAR_TEXT)
        await bridge.wait_for_log("serving http")
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0
        assert "clear text" not in await bridge.remaining_log()


async def test_a_certificate_of_clients_is_access_control_enough_for_any_address(
    words: list[str], authority: Authority
) -> None:
    ca = ["--tls-client-ca", authority.file.name]
    async with (
        serving_in_process("--http", "0.0.0.0:0", *words[2:], *ca) as bridge,
        client_of(authority, authority.issue("ann")) as web,
    ):
        url = (await bridge.wait_for_log(URL))[1].replace("0.0.0.0", HOST)
        assert (await web.get(f"{url.removesuffix('/mcp')}/-/healthy")).status_code == 200


@asynccontextmanager
async def _with_workers(*words: str) -> AsyncIterator[tuple[Log, str]]:
    async with restbridge("serve", *words, "--workers", "2", cwd=Path.cwd()) as bridge:
        yield bridge, (await bridge.wait_for_log(rf"{URL} with 2 workers"))[1]
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0


@pytest.mark.slow
async def test_every_worker_gives_the_new_certificate(words: list[str], authority: Authority) -> None:
    context = trusting(authority)
    async with _with_workers(*words) as (bridge, url):
        authority.issue(HOST)
        await bridge.wait_for_log(r"INFO certificate \S+: replaced")
        new, in_a_row = number_of(Path(f"{HOST}.pem")), 0
        with anyio.fail_after(30):  # the other worker does not log when it has read the files
            while in_a_row < 50:
                in_a_row = in_a_row + 1 if await serial(url, context) == new else 0
        async with httpx.AsyncClient(verify=context, trust_env=False) as web:
            status = (await web.get(f"{url.removesuffix('/mcp')}/-/status")).json()
        assert status["certificate"]["state"] == "good"
