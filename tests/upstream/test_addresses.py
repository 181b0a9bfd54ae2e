import pytest

from bridge.upstream.addresses import is_refused, is_refused_literal, look_up


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fe80::1",
        "fe80::1%eth0",
        "febf::1",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:42::42",
        "::ffff:169.254.169.254",
        "::ffff:6464:64c8",
        "64:ff9b::169.254.169.254",
        "2002:a9fe:a9fe::1",
    ],
)
def test_link_local_and_metadata_addresses_are_refused(address: str) -> None:
    assert is_refused(address)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "8.8.8.8", "169.253.1.1", "::1", "fd00::1", "::ffff:10.0.0.1"],
)
def test_loopback_private_and_public_addresses_are_not(address: str) -> None:
    assert not is_refused(address)


@pytest.mark.parametrize(
    ("host", "refused"),
    [("169.254.1.1", True), ("[fe80::1]", True), ("[::1]", False), ("metadata.test", False), ("", False)],
)
def test_only_a_literal_is_judged_before_it_is_looked_up(host: str, *, refused: bool) -> None:
    assert is_refused_literal(host) is refused


def test_the_operating_system_knows_this_machine() -> None:
    assert "127.0.0.1" in look_up("127.0.0.1", 80)
