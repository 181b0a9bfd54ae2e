import pytest

from bridge.settings import Address


@pytest.mark.parametrize(
    ("text", "address", "printed"),
    [
        ("8000", Address("127.0.0.1", 8000), "127.0.0.1:8000"),
        (":8000", Address("127.0.0.1", 8000), "127.0.0.1:8000"),
        ("0.0.0.0:0", Address("0.0.0.0", 0), "0.0.0.0:0"),
        ("[::1]:65535", Address("::1", 65535), "[::1]:65535"),
        ("bridge.example:80", Address("bridge.example", 80), "bridge.example:80"),
    ],
)
def test_an_address_is_a_port_or_host_and_port(text: str, address: Address, printed: str) -> None:
    assert Address.parse(text) == address
    assert str(address) == printed


@pytest.mark.parametrize("text", ["", "port", "host:", "1.2.3.4:65536", "-1", "٣", "::1:80"])
def test_what_is_no_address_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        Address.parse(text)


def test_a_url_is_told_to_be_one() -> None:
    with pytest.raises(ValueError, match="is a URL; leave http:// out"):
        Address.parse("http://127.0.0.1:80")
