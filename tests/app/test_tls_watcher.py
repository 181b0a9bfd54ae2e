"""Certificates that are replaced while the server runs."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import httpx
import pytest
from cryptography import x509

from bridge.app.tls_watcher import TlsWatcher
from bridge.errors import StartError
from bridge.events import HandshakeRefused
from bridge.http.tls import TlsFiles
from tests.http.test_tls import HOST, client_of, port_of, serial_of, trusting, until
from tests.serving.messages import call
from tests.serving.served import Served
from tests.serving.session import Session
from tests.upstream.certificates import Authority

pytestmark = pytest.mark.anyio

HOUR = 3600


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def watcher_of(
    files: TlsFiles, poll: float = 3600, now: Callable[[], float] = time.time, *, is_silent: bool = False
) -> TlsWatcher:
    return TlsWatcher(files, poll, is_silent=is_silent, now=now)


def replaced(files: TlsFiles, new: tuple[Path, Path]) -> None:
    """Both files, one after the other."""
    assert files.key
    new[0].replace(files.cert)
    new[1].replace(files.key)


class Secret:
    """A secret that Kubernetes mounts: its files are links to those in ``..data``, a link that is replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._versions = 0
        folder.mkdir()
        for name in ("tls.crt", "tls.key"):
            (folder / name).symlink_to(f"..data/{name}")

    def write(self, certificate: tuple[Path, Path]) -> None:
        self._versions += 1
        version = self.folder / f"..version_{self._versions}"
        version.mkdir()
        for name, path in zip(("tls.crt", "tls.key"), certificate, strict=True):
            path.replace(version / name)
        link = self.folder / "..data_tmp"
        link.symlink_to(version.name)
        link.replace(self.folder / "..data")


async def test_a_secret_that_kubernetes_replaces_is_read_again(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    secret = Secret(tmp_path / "mounted")
    secret.write(authority.issue(HOST))
    files = TlsFiles(secret.folder / "tls.crt", secret.folder / "tls.key")
    watcher = watcher_of(files, poll=0.01)
    before = watcher.tls.state
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.run)
        secret.write(authority.issue(HOST, hours=48))
        await until(lambda: watcher.tls.state is not before)
        tasks.cancel_scope.cancel()
    assert caplog.messages == [
        f"certificate {files.cert}: replaced; the new one expires at {watcher.expires}"
    ]


async def test_files_that_cannot_be_used_keep_the_last_good_certificate(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files = TlsFiles(*authority.issue(HOST))
    assert files.key
    watcher = watcher_of(files)
    before, good = watcher.tls.state, files.key.read_bytes()
    authority.issue("other")[1].replace(files.key)
    for _ in range(2):
        await watcher.refresh()
    assert watcher.tls.state is before
    error = (
        f"{files.key}:1:1: error: this file of http.tls holds a key that is not that of the certificate in "
        f"{files.cert}; replace both [unusable-certificate]"
    )
    assert str(watcher.problem) == error
    files.key.unlink()
    await watcher.refresh()
    files.key.write_bytes(good)
    await watcher.refresh()
    await watcher.refresh()
    assert (watcher.problem, watcher.tls.state) == (None, before)
    kept = f"certificate {files.cert}: the last good one stays in use"
    missing = (
        f"{files.key}:1:1: error: this file of http.tls cannot be read (No such file or directory); "
        "create it, readable for this process [unusable-certificate]"
    )
    again = f"certificate {files.cert}: its files no longer have errors"
    assert caplog.messages == [error, kept, missing, kept, again]


async def test_a_server_does_not_start_with_files_that_cannot_be_used(authority: Authority) -> None:
    cert, _ = authority.issue(HOST)
    with pytest.raises(StartError, match=f"^http.tls: the file {cert} holds no private key in PEM; write"):
        watcher_of(TlsFiles(cert))


async def test_a_certificate_that_expires_is_warned_of_once_before_and_once_after(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files = TlsFiles(*authority.issue(HOST, hours=24 * 89))  # of 90 days: it was issued a day ago
    clock = [time.time()]
    watcher = watcher_of(files, now=lambda: clock[0])
    expires = watcher.expires
    for days in (81, 83, 88, 90, 91):
        clock[0] = time.time() + days * 24 * HOUR
        await watcher.refresh()
    replaced(files, authority.issue(HOST, file="new", hours=24 * 365))
    await watcher.refresh()
    assert caplog.messages == [
        f"certificate {files.cert}: it expires at {expires}; renew it before",
        f"certificate {files.cert}: it expired at {expires}; clients refuse it; replace it",
        f"certificate {files.cert}: replaced; the new one expires at {watcher.expires}",
    ]


async def test_a_certificate_of_few_days_is_warned_of_in_the_last_fifth_of_its_life(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    now = time.time()
    for hours, lines in ((7, 0), (5, 1)):  # of 31 and of 29 hours
        files = TlsFiles(*authority.issue(HOST, hours=hours))
        caplog.clear()
        watcher_of(files, now=lambda: now)
        assert len(caplog.messages) == lines


async def test_a_silent_watcher_logs_nothing(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    files = TlsFiles(*authority.issue(HOST, expired=True))
    watcher = watcher_of(files, is_silent=True)
    files.cert.write_text("broken")
    await watcher.refresh()
    broken = watcher.problem
    replaced(files, authority.issue(HOST))
    await watcher.refresh()
    assert broken
    assert watcher.problem is None
    assert caplog.messages == []


@pytest.mark.slow
async def test_fifty_rotations_under_load_fail_no_handshake_and_no_call(
    served: Served, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files = TlsFiles(*authority.issue(HOST))
    new = [authority.issue(HOST, file=f"new-{number}") for number in range(50)]
    watcher, context = watcher_of(files), trusting(authority)
    counts, ends = Counter[str](), anyio.Event()  # a client that is cancelled would leave its socket open

    async def connect_anew(url: str) -> None:
        while not ends.is_set():
            async with httpx.AsyncClient(verify=context, trust_env=False, timeout=30) as web:
                answer = await Session(web, url).ask_modern(call("echo"))
            assert answer["result"]["isError"] is False
            counts["connections"] += 1

    async def keep_calling(url: str) -> None:
        async with client_of(authority) as web:
            session = Session(web, url)
            await session.open()
            while not ends.is_set():
                assert (await session.ask(call("echo")))["result"]["isError"] is False
                counts["calls"] += 1

    async def rotate(certificate: tuple[Path, Path], url: str, number: int) -> None:
        before = counts.copy()
        replaced(files, certificate)
        watcher.request_reload()
        await until(lambda: sum("replaced" in line for line in caplog.messages) == number)
        expected = x509.load_pem_x509_certificate(files.cert.read_bytes()).serial_number
        assert int(await serial_of(port_of(url), context), 16) == expected
        await until(lambda: all(counts[each] > before[each] for each in ("connections", "calls")))

    async with (
        served.http(tls=watcher.tls) as url,
        anyio.create_task_group() as clients,
        anyio.create_task_group() as rotating,
    ):
        rotating.start_soon(watcher.run)
        for _ in range(3):
            clients.start_soon(connect_anew, url)
            clients.start_soon(keep_calling, url)
        for number, certificate in enumerate(new, 1):
            await rotate(certificate, url, number)
        ends.set()
        rotating.cancel_scope.cancel()
    assert [event for event in served.events if isinstance(event, HandshakeRefused)] == []
