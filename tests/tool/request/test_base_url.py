# ruff: noqa: RUF001 - look-alikes are what is refused here
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.diagnostics import InvalidSpec
from bridge.tool.request.base_url import canonical_base_url, canonical_endpoint, split_url

FOUR_PARTS = "expected four numbers from 0 to 255"


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("http://localhost", "http://localhost"),
        ("http://localhost:8100/", "http://localhost:8100"),
        ("HTTPS://API.Example.COM/V1/", "https://api.example.com/V1"),
        ("http://example.com:80", "http://example.com"),
        ("https://example.com:443/a", "https://example.com/a"),
        ("https://example.com:80", "https://example.com:80"),
        ("http://127.0.0.1:65535/x", "http://127.0.0.1:65535/x"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://[2001:DB8::A]/", "http://[2001:db8::a]"),
        ("http://my_service:1", "http://my_service:1"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example"),
        ("https://h/group%2Fproject/v4;x=1/@me", "https://h/group%2Fproject/v4;x=1/@me"),
        ("http://1.example", "http://1.example"),
    ],
)
def test_an_address_becomes_canonical(text: str, spelling: str) -> None:
    assert canonical_base_url(text) == spelling
    assert canonical_base_url(spelling) == spelling


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begin it with http:// or https://"),
        ("example.com", "expected an address such as https://api.example.com"),
        ("localhost:8100", "expected an address such as https://api.example.com"),
        ("//example.com", "expected an address such as https://api.example.com"),
        ("http:/example.com", "expected an address such as https://api.example.com"),
        ("ftp://example.com", "expected an address such as https://api.example.com"),
        ("file:///etc/passwd", "expected an address such as https://api.example.com"),
        (" http://example.com", "expected an address such as https://api.example.com"),
        ("http://user@example.com", "found credentials in the address"),
        ("http://user:hunter2@example.com", "found credentials in the address"),
        ("http://example.com\\@evil.example/", "found credentials in the address"),
        ("http://example.com\\evil", '"\\\\" is not allowed in an address'),
        ("http://exa mple.com", '" " is not allowed in an address'),
        ("http://example.com/\n", '"\\n" is not allowed in an address'),
        ("http://example.com/{id}", "an address cannot contain arguments"),
        ("http://{host}/", "an address cannot contain arguments"),
        ("http://example.com?key=1", "an address has no query"),
        ("http://example.com/#top", "a fragment is never sent"),
        ("http://example.com/a/../b", "expected a path of plain or percent-encoded segments"),
        ("http://example.com/.", "expected a path of plain"),
        ("http://example.com/%2e%2e/b", "expected a path of plain"),
        ("http://example.com/%252e%252e", "expected a path of plain"),
        ("http://example.com/a//b", "expected a path of plain"),
        ("http://example.com//", "expected a path of plain"),
        ("http://example.com/100%", "expected a path of plain"),
        ("http://example.com/ä", "expected a path of plain"),
        ("http://", "expected a host name such as api.example.com"),
        ("http:///path", "expected a host name"),
        ("http://:80", "expected a host name"),
        ("http://example..com", "expected a host name"),
        ("http://example.com.", "expected a host name"),
        ("http://-example.com", "expected a host name"),
        (f"http://{'a' * 64}.com", "expected a host name"),
        (f"http://{'a.' * 127}com", "expected a host name"),
        ("http://example.com:", '"" is not a port; expected 1 to 65535'),
        ("http://example.com:0", '"0" is not a port'),
        ("http://example.com:-1", '"-1" is not a port'),
        ("http://example.com:65536", '"65536" is not a port'),
        ("http://example.com:080", '"080" is not a port'),
        ("http://example.com:8_0", '"8_0" is not a port'),
        ("http://example.com:８０", r'"\uff18\uff10" is not a port'),
        ("http://example.com:80:80", "expected host or host:port"),
        ("http://2130706433/", '"2130706433" is an ambiguous or invalid IPv4 address; write 127.0.0.1'),
        ("http://0x7f.1/", '"0x7f.1" is an ambiguous or invalid IPv4 address; write 127.0.0.1'),
        ("http://0x7F000001", "write 127.0.0.1"),
        ("http://127.1", "write 127.0.0.1"),
        ("http://0177.0.0.1", "write 127.0.0.1"),
        ("http://256.0.0.1", FOUR_PARTS),
        ("http://1.2.3.4.5", FOUR_PARTS),
        ("http://[::ffff:127.0.0.1]/", "the address is not in canonical form; write 127.0.0.1"),
        ("http://[0:0:0:0:0:0:0:1]", "the address is not in canonical form; write [::1]"),
        ("http://[fe80::1%eth0]", "an IPv6 zone id is valid on one machine only"),
        ("http://[fe80::1%25eth0]", "an IPv6 zone id is valid on one machine only"),
        ("http://[::1", "expected host or host:port, with an IPv6 address in brackets"),
        ("http://[::1]x", "expected host or host:port"),
        ("http://[nonsense]", "expected an IPv6 address in the brackets"),
        ("http://::1", "with an IPv6 address in brackets"),
        ("http://аррӏе.com", "the host has letters outside ASCII; write xn--80ak6aa92e.com if you mean that"),
        ("http://bücher.example", "write xn--bcher-kva.example"),
        ("http://１２７.0.0.1", "write 127.0.0.1 if you mean that"),
        ("http://ｅｘａｍｐｌｅ．com", "write example.com if you mean that"),
        ("http://example。com", "write example.com if you mean that"),
        ("http://good.example／.evil.example", "write it in ASCII"),
        ("http://169.254.1.1:80/", "169.254.1.1 is a link-local address, which is never contacted"),
        ("http://[2002:a9fe:a9fe::]", "[2002:a9fe:a9fe::] is a cloud metadata address"),
        ("http://169.254.169.254.", "expected a host name"),
        ("http://2852039166", "write 169.254.169.254 if you mean that"),
    ],
)
def test_an_ambiguous_address_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        canonical_base_url(text)
    [finding] = caught.value.findings
    assert finding.code == "bad-url"
    assert message in finding.message
    assert "hunter2" not in finding.message


@given(st.text(st.sampled_from("htp:/[]@.%0aZ1é?#x-")).map("http://".__add__) | st.text())
def test_an_accepted_address_is_canonical(text: str) -> None:
    try:
        spelling = canonical_base_url(text)
    except InvalidSpec:
        return
    assert canonical_base_url(spelling) == spelling
    assert not spelling.endswith("/")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://API.example.com:443/v1/{id}{?q}", ("https://api.example.com", "/v1/{id}{?q}")),
        ("http://[::1]:8/", ("http://[::1]:8", "/")),
        ("http://h/?u=http://x@y", ("http://h", "/?u=http://x@y")),
    ],
)
def test_an_absolute_url_is_split_after_its_authority(url: str, parts: tuple[str, str]) -> None:
    assert split_url(url) == parts


@pytest.mark.parametrize(
    ("url", "offset", "message"),
    [
        ("/api/{id}", 0, "without upstream, url begins with http:// or https://"),
        ("{base}/x", 0, "without upstream, url begins with"),
        ("{scheme}://h/x", 0, "without upstream, url begins with"),
        ("http://{host}/x", 7, "scheme, host and port cannot contain arguments"),
        ("http://h.{domain}/x", 9, "scheme, host and port cannot contain arguments"),
        ("http://h:{port}/", 9, "scheme, host and port cannot contain arguments"),
        ("http://h{/id}", 8, "scheme, host and port cannot contain arguments"),
        ("http://h?q=1", 8, "expected a / after the host"),
        ("http://h", 8, "expected a / after the host"),
        ("ftp://h/", 0, "begin it with http:// or https://"),
        ("http://u@h/", 7, "found credentials in the address"),
    ],
)
def test_scheme_and_authority_cannot_contain_arguments(url: str, offset: int, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message) as caught:
        split_url(url)
    assert caught.value.findings[0].offset == offset


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("HTTPS://Login.example.com:443/token", ("https://login.example.com/token", "")),
        (
            "https://login.example.com/token/?p=a%20b&q=/?",
            ("https://login.example.com/token", "/?p=a%20b&q=/?"),
        ),
        ("https://login.example.com/?", ("https://login.example.com", "/?")),
    ],
)
def test_an_endpoint_keeps_its_slash_and_its_query(url: str, parts: tuple[str, str]) -> None:
    assert canonical_endpoint(url) == parts


@pytest.mark.parametrize(
    ("url", "offset"),
    [
        ("https://login.example.com/token?a b", 33),
        ("https://login.example.com/token?a#b", 33),
        ("https://login.example.com/token?a%2", 33),
        ("https://login.example.com/token#?a", 31),
    ],
)
def test_an_ambiguous_endpoint_is_refused(url: str, offset: int) -> None:
    with pytest.raises(InvalidSpec) as caught:
        canonical_endpoint(url)
    assert [finding.offset for finding in caught.value.findings] == [offset]
