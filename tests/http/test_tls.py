import asyncio
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import httpx
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from bridge.address import Address
from bridge.events import HandshakeRefused
from bridge.http.acceptor import Acceptor
from bridge.http.handshakes import Handshakes
from bridge.http.listeners import bind
from bridge.http.tls import ServerTls, TlsFiles, TlsState, UnusableFile
from tests.serving.api import Api
from tests.serving.messages import call
from tests.serving.served import Served
from tests.serving.session import Session
from tests.upstream.certificates import Authority

pytestmark = pytest.mark.anyio

HOST = "127.0.0.1"
HELLO = bytes.fromhex("16030102000100")
"""The begin of a ClientHello."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def files(authority: Authority) -> TlsFiles:
    return TlsFiles(*authority.issue(HOST))


def trusting(authority: Authority, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """The TLS of a client that trusts the authority, and has a certificate if files are given."""
    context = ssl.create_default_context(cafile=authority.file)
    if client:
        context.load_cert_chain(*client)
    return context


@asynccontextmanager
async def client_of(
    authority: Authority, client: tuple[Path, Path] | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    context = trusting(authority, client)
    async with httpx.AsyncClient(verify=context, trust_env=False, timeout=30) as web:
        yield web


async def connect(
    port: int, context: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(HOST, port, ssl=context)


async def answer_to(port: int, data: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """All that the server sends until it closes the connection."""
    with anyio.fail_after(30), suppress(ConnectionError, ssl.SSLError):
        reader, writer = await connect(port, context)
        try:
            writer.write(data)
            return await reader.read()
        finally:
            writer.transport.abort()
    return b""


def port_of(url: str) -> int:
    return httpx.URL(url).port or 0


async def serial_of(port: int, context: ssl.SSLContext) -> str:
    """The serial number of the certificate that a new connection gets."""
    _, writer = await connect(port, context)
    certificate = writer.get_extra_info("peercert")
    writer.transport.abort()
    return str(certificate["serialNumber"])


async def test_both_eras_and_the_probes_are_served_over_tls(
    served: Served, authority: Authority, files: TlsFiles
) -> None:
    async with (
        served.http(tls=ServerTls(TlsState.load(files))) as url,
        client_of(authority) as web,
    ):
        assert url.startswith("https://127.0.0.1:")
        session = Session(web, url)
        await session.open()
        answers = [await session.ask(call("echo")), await session.ask_modern(call("echo", 2))]
        wrong = await web.post(url, headers={"host": "elsewhere.example"})
        page = await web.post(url, json={}, headers={"origin": "https://localhost:1"})
        other_page = await web.post(url, json={}, headers={"origin": "https://elsewhere.example"})
    assert [answer["result"]["isError"] for answer in answers] == [False, False]
    assert [reply.status_code for reply in (wrong, page, other_page)] == [421, 400, 403]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_later_are_accepted_without_compression(
    served: Served, authority: Authority, files: TlsFiles, version: ssl.TLSVersion
) -> None:
    context = trusting(authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.minimum_version = context.maximum_version = version
    async with served.http(tls=ServerTls(TlsState.load(files))) as url:
        _, writer = await connect(port_of(url), context)
        connection = writer.get_extra_info("ssl_object")
        assert connection.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        assert connection.selected_alpn_protocol() == "http/1.1"
        assert writer.get_extra_info("compression") is None
        writer.transport.abort()


async def test_a_handshake_that_fails_is_counted_and_logged_with_its_reason(
    served: Served, authority: Authority, files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    old = trusting(authority)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSVersion.TLSv1"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    odd = trusting(authority)
    odd.maximum_version = ssl.TLSVersion.TLSv1_2
    odd.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # the certificate has an EC key
    tries = {
        "the client sends plain HTTP; write https:// in its URL": (b"GET / HTTP/1.1\r\n\r\n", None),
        "the client does not speak TLS": (bytes(300), None),
        "the client has no TLS 1.2 or later": (b"", old),
        "the client and this server have no cipher in common": (b"", odd),
        "the client ended the handshake: unknown ca": (b"", ssl.create_default_context()),
    }
    for reason, (data, context) in tries.items():
        caplog.clear()
        served.events.clear()
        served.stop = anyio.Event()
        served.stopped = anyio.Event()
        async with served.http(tls=ServerTls(TlsState.load(files))) as url:
            if context:
                await to_thread.run_sync(_shake_hands, port_of(url), context)
            else:
                await answer_to(port_of(url), data)
            await until(lambda: bool(served.events))
        assert caplog.messages == [f"refused a TLS handshake from 127.0.0.1: {reason}"]
        assert served.events == [HandshakeRefused("127.0.0.1")]


def _shake_hands(port: int, context: ssl.SSLContext) -> None:
    """Unlike asyncio, it sends the alert that says why it ends a handshake."""
    with (
        socket.create_connection((HOST, port)) as connection,
        suppress(OSError),
        context.wrap_socket(connection, server_hostname=HOST),
    ):
        pass


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await checkpoint()


@asynccontextmanager
async def shaking_hands(
    files: TlsFiles, refused: list[tuple[str, str]], seconds: float = 30
) -> AsyncIterator[int]:
    """Accepts connections that nobody serves; yields the port."""
    with bind(Address(HOST, 0)) as listener:
        listener.settimeout(0)
        async with anyio.create_task_group() as tasks:
            tls = ServerTls(TlsState.load(files))
            handshakes = Handshakes(
                tls, lambda *each: refused.append(each), asyncio.Protocol, tasks, timeout=seconds
            )
            tasks.start_soon(Acceptor(listener, asyncio.Protocol, int, handshakes=handshakes).run)
            yield listener.getsockname()[1]
            await until(lambda: not handshakes.running)
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("data", [b"", HELLO], ids=["silent", "half a ClientHello"])
async def test_a_handshake_that_does_not_end_is_aborted(files: TlsFiles, data: bytes) -> None:
    refused: list[tuple[str, str]] = []
    async with shaking_hands(files, refused, seconds=0.05) as port:
        assert await answer_to(port, data) == b""
    assert refused == [("127.0.0.1", "the handshake did not end in time")]


async def test_a_client_that_leaves_during_the_handshake_is_not_logged(files: TlsFiles) -> None:
    refused: list[tuple[str, str]] = []
    async with shaking_hands(files, refused) as port:
        _, writer = await connect(port)
        writer.close()
        await answer_to(port, b"GET / HTTP/1.1\r\n\r\n")
        await until(lambda: bool(refused))
    assert len(refused) == 1


async def test_the_stop_of_the_server_ends_handshakes(
    served: Served, authority: Authority, files: TlsFiles
) -> None:
    async with served.http(tls=ServerTls(TlsState.load(files))) as url:
        reader, writer = await connect(port_of(url))
        await serial_of(port_of(url), trusting(authority))  # so the first one is accepted, too
        served.stop.set()
        with anyio.fail_after(30), suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


async def test_a_refusal_before_the_end_of_the_body_arrives_over_tls(
    served: Served, authority: Authority, files: TlsFiles
) -> None:
    async with served.http(tls=ServerTls(TlsState.load(files))) as url:
        reader, writer = await connect(port_of(url), trusting(authority))
        head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n"
        writer.write(head)
        for _ in range(16):
            writer.write(bytes(65536))
            await asyncio.sleep(0)
        with anyio.fail_after(30):
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert b"connection: close" in answer
        writer.transport.abort()


async def test_a_client_that_closes_its_side_over_tls_is_disconnected(
    served: Served, api: Api, authority: Authority, files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    async with served.http(tls=ServerTls(TlsState.load(files))) as url:
        async with client_of(authority) as web, anyio.create_task_group() as tasks:
            tasks.start_soon(Session(web, url).ask_modern, call("hang"))
            await api.entered.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(30):
            await api.left.wait()
    assert caplog.messages == []  # asyncio would warn of a connection that stays open


async def test_new_connections_get_the_new_certificate_and_open_ones_live_on(
    served: Served, authority: Authority, files: TlsFiles
) -> None:
    tls = ServerTls(TlsState.load(files))
    context = trusting(authority)
    async with served.http(tls=tls) as url, client_of(authority) as web:
        session = Session(web, url)
        await session.open()
        before = await serial_of(port_of(url), context)
        tls.replace(TlsState.load(TlsFiles(*authority.issue(HOST, file="new"))))
        assert await serial_of(port_of(url), context) != before
        assert (await session.ask(call("echo")))["result"]["isError"] is False


# --- certificates of clients ---


def _asking(authority: Authority, clients: Authority) -> ServerTls:
    return ServerTls(TlsState.load(TlsFiles(*authority.issue(HOST), clients.file)))


async def test_a_client_needs_a_certificate_of_an_authority_that_may_identify_clients(
    served: Served, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clients, others = Authority(tmp_path, "clients"), Authority(tmp_path, "others")
    accepted = clients.issue("ann", usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    refused = "the certificate of the client is refused:"
    tries = {
        "the client has no certificate, and http.tls.clientCaFile asks for one": None,
        f"{refused} unable to get local issuer certificate": others.issue("ann", file="other"),
        f"{refused} certificate has expired": clients.issue("ann", expired=True),
        f"{refused} unsuitable certificate purpose": clients.issue(
            "ann", file="server", usage=ExtendedKeyUsageOID.SERVER_AUTH
        ),
    }

    async def refused_handshakes(number: int) -> None:
        await until(lambda: len(served.events) == number)

    async with served.http(tls=_asking(authority, clients)) as url:
        async with client_of(authority, accepted) as web:
            assert (await web.get(url)).status_code < 500
        for number, certificate in enumerate(tries.values(), 1):
            context = trusting(authority, certificate)
            assert await answer_to(port_of(url), b"GET /-/healthy HTTP/1.1\r\n\r\n", context) == b""
            await refused_handshakes(number)
    assert served.events == [HandshakeRefused("127.0.0.1")] * len(tries)
    lines = [line.rpartition("127.0.0.1: ")[2] for line in caplog.messages]
    assert lines == [next(iter(tries)), list(tries)[-1]]  # the second line stands for the last three


def _is_resumed(port: int, context: ssl.SSLContext) -> bool:
    """Whether a second connection can resume the TLS session of the first one."""
    session = None
    for _ in range(2):
        with (
            socket.create_connection((HOST, port)) as plain,
            context.wrap_socket(plain, server_hostname=HOST, session=session) as client,
        ):
            client.sendall(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 404"
            session, is_resumed = client.session, client.session_reused
    return bool(is_resumed)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("asks", [False, True])
async def test_a_client_with_a_certificate_shows_it_in_each_handshake(
    served: Served, authority: Authority, version: ssl.TLSVersion, *, asks: bool
) -> None:
    """A session that is resumed does not check it again."""
    tls = (
        _asking(authority, authority) if asks else ServerTls(TlsState.load(TlsFiles(*authority.issue(HOST))))
    )
    context = trusting(authority, authority.issue("ann"))
    context.minimum_version = context.maximum_version = version
    async with served.http(tls=tls) as url:
        assert await to_thread.run_sync(_is_resumed, port_of(url), context) is not asks


async def test_the_connections_of_a_removed_authority_end_and_those_of_others_live_on(
    served: Served, authority: Authority, tmp_path: Path
) -> None:
    leaving, staying = Authority(tmp_path, "leaving"), Authority(tmp_path, "staying")
    both = tmp_path / "both.pem"
    both.write_bytes(leaving.file.read_bytes() + staying.file.read_bytes())
    cert, key = authority.issue(HOST)
    tls = ServerTls(TlsState.load(TlsFiles(cert, key, both)))
    async with (
        served.http(tls=tls) as url,
        client_of(authority, staying.issue("ann")) as web,
    ):
        session = Session(web, url)
        await session.open()
        reader, writer = await connect(port_of(url), trusting(authority, leaving.issue("bob")))
        writer.write(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 404 ")
        async with session.subscribed(modern=True) as events:
            tls.replace(TlsState.load(TlsFiles(cert, key, staying.file)))
            with anyio.fail_after(30), suppress(ConnectionError, ssl.SSLError):
                await reader.read()
            writer.transport.abort()
            await served.add("new")
            assert await anext(events)
        context = trusting(authority, leaving.issue("bob"))
        assert await answer_to(port_of(url), b"GET /-/healthy HTTP/1.1\r\n\r\n", context) == b""


class Lasting(asyncio.Protocol):
    """Tells when its connection is lost."""

    def __init__(self) -> None:
        self.lost = anyio.Event()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self.lost.set()


@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "removed"])
async def test_a_handshake_that_began_before_its_authority_was_removed_is_of_no_use(
    authority: Authority, tmp_path: Path, *, is_kept: bool
) -> None:
    leaving, staying = Authority(tmp_path, "leaving"), Authority(tmp_path, "staying")
    both = tmp_path / "both.pem"
    both.write_bytes(leaving.file.read_bytes() + staying.file.read_bytes())
    cert, key = authority.issue(HOST)
    tls = ServerTls(TlsState.load(TlsFiles(cert, key, both)))
    served: list[Lasting] = []

    def begin() -> Lasting:
        served.append(Lasting())
        return served[0]

    with bind(Address(HOST, 0)) as listener:
        listener.settimeout(0)
        async with anyio.create_task_group() as tasks:
            handshakes = Handshakes(tls, print, begin, tasks)
            tasks.start_soon(Acceptor(listener, Lasting, int, handshakes=handshakes).run)
            connection = socket.create_connection(listener.getsockname())
            await until(lambda: bool(served))
            tls.replace(TlsState.load(TlsFiles(cert, key, staying.file)))
            context = trusting(authority, (staying if is_kept else leaving).issue("ann"))
            _, writer = await asyncio.open_connection(sock=connection, ssl=context, server_hostname=HOST)
            await until(lambda: handshakes.running == 0)
            if is_kept:
                assert not served[0].lost.is_set()
            else:
                with anyio.fail_after(30):
                    await served[0].lost.wait()
            writer.transport.abort()
            tasks.cancel_scope.cancel()


# --- files that cannot be used ---


def _encrypted(path: Path) -> None:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


def test_a_file_that_cannot_be_used_is_named_with_what_to_do(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.issue(HOST)
    other_cert, other_key = authority.issue("other")
    no_pem, pipe, locked = tmp_path / "no.pem", tmp_path / "pipe", tmp_path / "locked.key"
    no_pem.write_text("hello\n")
    os.mkfifo(pipe)
    shutil.copy(key, locked)
    _encrypted(locked)
    both = tmp_path / "both.pem"
    both.write_bytes(cert.read_bytes() + other_key.read_bytes())
    absent = tmp_path / "absent"
    weak = authority.issue("weak", key=rsa.generate_private_key(65537, 1024))  # noqa: S505
    cases = [
        (
            TlsFiles(absent, key),
            absent,
            "cannot be read (No such file or directory); create it, readable for this process",
        ),
        (TlsFiles(pipe, key), pipe, "is not a regular file; expected PEM"),
        (
            TlsFiles(no_pem, key),
            no_pem,
            "holds no certificate in PEM; write the server's own first, then the intermediate ones",
        ),
        (
            TlsFiles(cert, absent),
            absent,
            "cannot be read (No such file or directory); create it, readable for this process",
        ),
        (TlsFiles(cert, no_pem), no_pem, "holds no private key in PEM; write the key of the certificate"),
        (TlsFiles(cert), cert, "holds no private key in PEM; write the key of the certificate"),
        (
            TlsFiles(cert, other_key),
            other_key,
            f"holds a key that is not that of the certificate in {cert}; replace both",
        ),
        (TlsFiles(both), both, f"holds a key that is not that of the certificate in {both}; replace both"),
        (
            TlsFiles(*weak),
            weak[0],
            "holds a certificate that is too weak (ee key too small); get another one",
        ),
        (TlsFiles(cert, locked), locked, "has a passphrase; write the key without one"),
        (
            TlsFiles(cert, key, no_pem),
            no_pem,
            "holds no certificate in PEM; write those of the authorities of your clients",
        ),
    ]
    for files, path, text in cases:
        with pytest.raises(UnusableFile) as error:
            TlsState.load(files)
        assert (error.value.path, str(error.value)) == (path, text)
    assert TlsState.load(TlsFiles(other_cert, other_key)).authorities == frozenset()
