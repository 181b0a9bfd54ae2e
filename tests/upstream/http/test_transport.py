import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from bridge.errors import BridgeError, NotAnswered, NotSent
from bridge.spec import Json, UpstreamSpec
from bridge.upstream.client import Client
from tests.upstream.certificates import Authority
from tests.upstream.faulty import JSON, Faulty, serve
from tests.upstream.forwarder import forward
from tests.upstream.refusing import refuse
from tests.upstream.sending import Caller, upstream

pytestmark = pytest.mark.anyio

ONCE: Json = {"max": 0}


@pytest.fixture
async def local() -> AsyncIterator[Caller]:
    """A caller for whom every name resolves to loopback."""
    client = Client(lookup=lambda _host, _port: ["127.0.0.1"])
    yield Caller(client)
    await client.aclose()


async def failure(caller: Caller, url: str, **keys: Json) -> BridgeError:
    with anyio.fail_after(30), pytest.raises(BridgeError) as caught:
        await caller.send(upstream(url, retries=ONCE, **keys), method="POST")
    return caught.value


async def test_a_name_is_resolved_and_stays_in_the_host_header(local: Caller, faulty: Faulty) -> None:
    reply = await local.send(upstream(f"http://shop.test:{faulty.port}"), "/echo")
    assert f"\r\nHost: shop.test:{faulty.port}\r\n".encode() in reply.content


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "[64:ff9b:1::a9fe:a9fe]", "metadata.google.internal"]
)
async def test_a_metadata_address_is_never_contacted(caller: Caller, host: str) -> None:
    error = await failure(caller, f"http://{host}")
    assert (type(error), error.code) == (NotSent, "address-refused")
    assert f"{host}:80" in str(error)


@pytest.mark.parametrize("found", ["fd00:ec2::254", "2002:a9fe:a9fe::1", "fe80::1%eth0"])
async def test_a_name_that_resolves_to_a_metadata_address_is_refused(faulty: Faulty, found: str) -> None:
    client = Client(lookup=lambda _host, _port: ["127.0.0.1", found])
    error = await failure(Caller(client), f"http://shop.test:{faulty.port}")
    assert (type(error), error.code) == (NotSent, "address-refused")
    assert faulty.connections == 0
    await client.aclose()


@pytest.mark.parametrize("found", [OSError("no such host"), UnicodeError("label too long"), None])
async def test_a_name_without_addresses_is_reported(found: Exception | None) -> None:
    def lookup(_host: str, _port: int) -> list[str]:
        if found:
            raise found
        return []

    client = Client(lookup=lookup)
    error = await failure(Caller(client), "http://nowhere.test:81")
    assert (type(error), error.code) == (NotSent, "dns-failed")
    assert str(error).startswith("Cannot find the API server at nowhere.test:81")
    await client.aclose()


async def test_addresses_are_cached(faulty: Faulty) -> None:
    names: list[str] = []

    def lookup(host: str, _port: int) -> list[str]:
        names.append(host)
        return ["127.0.0.1"]

    client = Client(lookup=lookup)
    for _ in range(3):
        await Caller(client).send(upstream(f"http://shop.test:{faulty.port}"), method="POST")
    assert (names, faulty.connections) == (["shop.test"], 3)
    await client.aclose()


async def test_the_address_that_answered_last_is_tried_first(faulty: Faulty) -> None:
    """The listener on the first address starts later, when that address is no longer tried."""
    client = Client(lookup=lambda _host, _port: ["127.0.0.2", "127.0.0.1"])
    to = upstream(f"http://shop.test:{faulty.port}")
    await Caller(client).send(to, method="POST")
    with socket.create_server(("127.0.0.2", faulty.port)) as listener:
        await Caller(client).send(to, method="POST")
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert faulty.connections == 2
    await client.aclose()


async def test_a_look_up_that_hangs_delays_only_its_own_upstream(faulty: Faulty) -> None:
    answered = threading.Event()

    def lookup(host: str, _port: int) -> list[str]:
        if host == "hangs.test":
            answered.wait()
        return ["127.0.0.1"]

    client = Client(lookup=lookup)
    caller = Caller(client)
    stuck = upstream(
        f"http://hangs.test:{faulty.port}", name="stuck", timeout={"connect": "20ms"}, retries=ONCE
    )
    for _ in range(8):
        with anyio.fail_after(30), pytest.raises(NotSent) as caught:
            await caller.send(stuck)
        assert caught.value.code == "connect-timeout"
    with anyio.fail_after(30):
        assert (await caller.send(upstream(f"http://quick.test:{faulty.port}"))).content == JSON
    assert len([thread for thread in threading.enumerate() if "hangs.test" in thread.name]) == 1
    answered.set()
    with anyio.fail_after(30):
        assert (await caller.send(upstream(f"http://hangs.test:{faulty.port}", name="stuck"))).status == 200
    await client.aclose()


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that accepts TCP connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def test_a_timeout_while_connecting_says_so(caller: Caller, silent: str) -> None:
    with anyio.fail_after(30), pytest.raises(NotSent, match="while connecting") as caught:
        await caller.send(upstream(f"https://{silent}"), within=0.05)
    assert caught.value.code == "timeout"


async def test_a_connection_attempt_has_its_own_timeout(caller: Caller, silent: str) -> None:
    error = await failure(caller, f"https://{silent}", timeout={"connect": "20ms"})
    assert (type(error), error.code) == (NotSent, "connect-timeout")


async def test_an_address_that_the_kernel_refuses_is_a_failed_connection(caller: Caller) -> None:
    error = await failure(caller, "http://255.255.255.255:9")
    assert (type(error), error.code) == (NotSent, "connect-failed")


async def test_a_certificate_is_verified_with_the_ca_file_of_the_upstream(
    caller: Caller, authority: Authority
) -> None:
    async with serve(authority.server("127.0.0.1")) as faulty:
        to = upstream(faulty.url, tls={"caFile": str(authority.file)})
        for method in ("GET", "POST", "GET"):
            assert (await caller.send(to, method=method)).content == JSON
        assert faulty.connections == 2
        async with serve(authority.server("127.0.0.1")) as other:
            to = upstream(other.url, name="other", tls={"caFile": str(authority.file)})
            assert (await caller.send(to)).content == JSON


async def test_the_certificate_must_be_for_the_host_of_the_base_url(
    local: Caller, authority: Authority
) -> None:
    async with serve(authority.server("shop.test"), host="shop.test") as faulty:
        to = upstream(faulty.url, tls={"caFile": str(authority.file)})
        assert (await local.send(to)).content == JSON


@pytest.mark.parametrize(
    ("host", "expired", "trusted", "code"),
    [
        ("127.0.0.1", False, False, "tls-untrusted"),
        ("127.0.0.1", True, True, "tls-untrusted"),
        ("127.0.0.2", False, True, "tls-name"),
        ("other.test", False, True, "tls-name"),
    ],
)
async def test_with_a_wrong_certificate_nothing_is_sent(
    caller: Caller, authority: Authority, *, host: str, expired: bool, trusted: bool, code: str
) -> None:
    async with serve(authority.server(host, expired=expired)) as faulty:
        error = await failure(caller, faulty.url, tls={"caFile": str(authority.file)} if trusted else {})
        assert (type(error), error.code) == (NotSent, code)
        assert faulty.exchanges == []


async def test_a_certificate_for_another_host_name_has_its_own_code(
    local: Caller, authority: Authority
) -> None:
    async with serve(authority.server("other.test"), host="shop.test") as faulty:
        error = await failure(local, faulty.url, tls={"caFile": str(authority.file)})
    assert error.code == "tls-name"


async def test_verify_false_accepts_any_certificate(caller: Caller, authority: Authority) -> None:
    async with serve(authority.server("other.test", expired=True)) as faulty:
        assert (await caller.send(upstream(faulty.url, tls={"verify": False}))).content == JSON


async def test_https_to_a_plain_http_port_fails_with_advice(caller: Caller, faulty: Faulty) -> None:
    error = await failure(caller, faulty.url.replace("http:", "https:"))
    assert (type(error), error.code) == (NotSent, "tls-failed")
    assert "it may speak plain HTTP on that port" in str(error)


async def test_http_to_a_tls_port_is_a_protocol_error(caller: Caller, authority: Authority) -> None:
    async with serve(authority.server("127.0.0.1")) as faulty:
        error = await failure(caller, faulty.url.replace("https:", "http:"))
    assert isinstance(error, NotAnswered)
    assert error.code in ("protocol-error", "reply-cut")


async def test_our_client_certificate_is_presented(caller: Caller, authority: Authority) -> None:
    certificate, key = authority.issue("bridge.test")
    async with serve(authority.server("127.0.0.1", asks=True)) as faulty:
        keys = {"caFile": str(authority.file), "certFile": str(certificate), "keyFile": str(key)}
        assert (await caller.send(upstream(faulty.url, tls=keys))).content == JSON


async def test_an_upstream_that_requires_a_client_certificate_closes_the_connection(
    caller: Caller, authority: Authority
) -> None:
    async with serve(authority.server("127.0.0.1", asks=True)) as faulty:
        error = await failure(caller, faulty.url, tls={"caFile": str(authority.file)})
        assert error.code in ("tls-failed", "reply-cut")
        assert faulty.exchanges == []


@pytest.mark.parametrize(
    ("version", "certificate", "alert", "advice"),
    [
        (ssl.TLSVersion.TLSv1_3, None, "certificate_required", "requires another client certificate"),
        (ssl.TLSVersion.TLSv1_3, "foreign", "unknown_ca", "requires another client certificate"),
        (ssl.TLSVersion.TLSv1_3, "expired", "certificate_expired", "requires another client certificate"),
        (ssl.TLSVersion.TLSv1_2, None, "handshake_failure", "It may require a client certificate"),
        (ssl.TLSVersion.TLSv1_2, "foreign", "unknown_ca", "requires another client certificate"),
    ],
)
async def test_a_refused_client_certificate_is_reported_with_advice(
    *,
    caller: Caller,
    authority: Authority,
    tmp_path: Path,
    version: ssl.TLSVersion,
    certificate: str | None,
    alert: str,
    advice: str,
) -> None:
    """In TLS 1.3 the alert arrives after the request was sent. The server has not read the request."""
    context = authority.server("127.0.0.1", asks=True)
    context.maximum_version = version
    tls: dict[str, Json] = {"caFile": str(authority.file)}
    if certificate:
        issuer = authority if certificate == "expired" else Authority(tmp_path, certificate)
        files = issuer.issue("bridge.test", expired=certificate == "expired")
        tls |= dict(zip(("certFile", "keyFile"), map(str, files), strict=True))
    async with refuse(context) as port:
        error = await failure(caller, f"https://127.0.0.1:{port}", tls=tls)
        await caller.client.aclose()
    assert (type(error), error.code) == (NotSent, "tls-failed")
    assert advice in str(error)
    assert f"alert {alert})" in str(error)
    assert "tls.certFile and tls.keyFile" in str(error)
    assert "plain HTTP" not in str(error)


@pytest.mark.parametrize(
    ("alert", "name", "text"),
    [
        (ssl.ALERT_DESCRIPTION_PROTOCOL_VERSION, "protocol_version", "neither TLS 1.2 nor 1.3"),
        (ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME, "unrecognized_name", "no certificate for that host"),
        (ssl.ALERT_DESCRIPTION_ACCESS_DENIED, "access_denied", "refused the TLS connection"),
    ],
)
async def test_other_tls_alerts_are_named(
    *, local: Caller, authority: Authority, alert: int, name: str, text: str
) -> None:
    context = authority.server("shop.test")
    context.sni_callback = lambda *_: alert
    async with refuse(context) as port:
        error = await failure(local, f"https://shop.test:{port}", tls={"caFile": str(authority.file)})
        await local.client.aclose()
    assert (type(error), error.code) == (NotSent, "tls-failed")
    assert text in str(error)
    assert f"alert {name})" in str(error)


async def test_tls_that_fails_after_sending_has_its_own_code(caller: Caller, authority: Authority) -> None:
    async with serve(authority.server("127.0.0.1")) as faulty:
        to = upstream(f"{faulty.url}", tls={"caFile": str(authority.file)})
        with anyio.fail_after(30), pytest.raises(NotAnswered) as caught:
            await caller.send(to, "/broken_tls_record", "POST")
    assert caught.value.code == "tls-failed"
    assert "TLS with the API server" in str(caught.value)


async def test_an_empty_certificate_file_is_reported(caller: Caller, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    error = await failure(caller, "https://127.0.0.1:1", tls={"caFile": str(empty)})
    assert (type(error), error.code) == (NotSent, "tls-files")


async def test_a_replaced_ca_file_applies_after_the_next_reload(
    caller: Caller, authority: Authority, tmp_path: Path
) -> None:
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(Authority(tmp_path, "other").file.read_bytes())
    async with serve(authority.server("127.0.0.1")) as faulty:
        keys = {"caFile": str(trusted)}
        assert (await failure(caller, faulty.url, tls=keys)).code == "tls-untrusted"
        trusted.write_bytes(authority.file.read_bytes())
        to = upstream(faulty.url, tls=keys)
        caller.client.retire([to])
        assert (await caller.send(to)).content == JSON


async def test_http_through_a_proxy_uses_the_absolute_form(caller: Caller, faulty: Faulty) -> None:
    async with forward() as proxy:
        to = upstream(f"{faulty.url}/v1", proxy=f"http://us%65r:p%40ss@{proxy.place}/")
        for _ in range(2):
            reply = await caller.send(to, "/%2e/ok?q=1")
            assert reply.content == b"forwarded"
    assert len(proxy.heads) == 2
    assert proxy.heads[0].startswith(f"GET {faulty.url}/v1/%2e/ok?q=1 HTTP/1.1\r\n")
    assert "\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n" in proxy.heads[0]
    assert faulty.connections == 0


async def test_proxy_credentials_never_enter_the_tunnel(caller: Caller, authority: Authority) -> None:
    async with serve(authority.server("127.0.0.1")) as faulty, forward() as proxy:
        keys = {"caFile": str(authority.file)}
        to = upstream(faulty.url, tls=keys, proxy=f"http://user:p%40ss@{proxy.place}")
        for _ in range(2):
            assert (await caller.send(to)).content == JSON
        assert [head.split("\r\n")[0] for head in proxy.heads] == [f"CONNECT {faulty.place} HTTP/1.1"]
        assert "\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n" in proxy.heads[0]
        assert b"Proxy" not in faulty.exchanges[0].head
        assert faulty.connections == 1


@pytest.mark.parametrize("refusal", ["407 Proxy Authentication Required", "502 Bad Gateway"])
async def test_a_refusal_by_the_proxy_has_its_own_code(
    caller: Caller, authority: Authority, refusal: str
) -> None:
    async with serve(authority.server("127.0.0.1")) as faulty, forward(refusal) as proxy:
        error = await failure(caller, faulty.url, proxy=f"http://user:secret@{proxy.place}")
    assert (type(error), error.code) == (NotSent, "proxy-failed")
    assert faulty.place in str(error)
    assert refusal[:3] in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_407_of_the_proxy_is_not_a_reply_of_the_api(caller: Caller, scheme: str) -> None:
    """The request is not repeated, as the proxy may lock the account.

    An API over http may have received the request, and sent the 407 itself.
    """
    kind = NotSent if scheme == "https" else NotAnswered
    async with forward("407 Proxy Authentication Required") as proxy:
        for method in ("GET", "POST"):
            to = upstream(f"{scheme}://shop.test", proxy=f"http://user:secret@{proxy.place}")
            with anyio.fail_after(5), pytest.raises(kind, match="requires other credentials") as caught:
                await caller.send(to, method=method)
            assert type(caught.value) is kind
            assert caught.value.code == "proxy-failed"
            assert "secret" not in str(caught.value)
    assert len(proxy.heads) == 2


async def test_any_other_status_through_a_proxy_is_a_reply_of_the_api(caller: Caller) -> None:
    async with forward("502 Bad Gateway") as proxy:
        reply = await caller.send(upstream("http://shop.test", proxy=f"http://{proxy.place}", retries=ONCE))
    assert reply.status == 502


async def test_a_407_without_a_proxy_is_a_reply_of_the_api(caller: Caller, faulty: Faulty) -> None:
    assert (await caller.send(upstream(faulty.url), "/status?code=407")).status == 407


async def test_an_unreachable_proxy_has_its_own_code(caller: Caller, faulty: Faulty) -> None:
    error = await failure(caller, faulty.url, proxy="http://127.0.0.1:1")
    assert (type(error), error.code) == (NotSent, "proxy-failed")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[::ffff:0:a9fe:a9fe]", "metadata.goog", "instance-data"]
)
async def test_a_proxy_gets_no_request_for_a_metadata_service(caller: Caller, scheme: str, host: str) -> None:
    async with forward() as proxy:
        to = replace(upstream(f"{scheme}://{host}"), spec=proxied(f"{scheme}://{host}", proxy.place))
        with pytest.raises(NotSent) as caught:
            await caller.send(to)
        assert caught.value.code == "address-refused"
        assert proxy.heads == []


@pytest.mark.parametrize("place", ["169.254.169.254", "[fd00:a9fe:a9fe::1]:3128", "2852039166"])
async def test_a_proxy_with_a_metadata_address_is_never_contacted(caller: Caller, place: str) -> None:
    to = replace(upstream("http://shop.test"), spec=proxied("http://shop.test", place))
    with pytest.raises(NotSent) as caught:
        await caller.send(to)
    assert caught.value.code == "address-refused"


async def test_a_proxy_whose_name_resolves_to_a_metadata_address_is_never_contacted() -> None:
    client = Client(lookup=lambda _host, _port: ["169.254.169.254"])
    error = await failure(Caller(client), "http://shop.test", proxy="http://proxy.test:3128")
    assert (type(error), error.code) == (NotSent, "address-refused")
    await client.aclose()


def proxied(url: str, place: str) -> UpstreamSpec:
    """What no file can say, as each of these addresses is an error there."""
    return UpstreamSpec.model_validate(
        {"baseUrl": url, "auth": {"type": "none"}, "proxy": f"http://{place}", "retries": ONCE}
    )
