"""Refused hosts, in every spelling."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from bridge.egress import address_refusal, host_refusal

METADATA = "a cloud metadata address"
LINK_LOCAL = "a link-local address"
ADDRESSES = {
    "169.254.169.254": METADATA,
    "169.254.170.2": "the address of AWS container credentials",
    "169.254.170.23": "the address of AWS container credentials",
    "169.254.0.23": LINK_LOCAL,
    "169.254.42.42": LINK_LOCAL,
    "100.100.100.200": "the metadata address of Alibaba Cloud",
    "168.63.129.16": "the wire server of Azure",
    "192.0.0.192": "the metadata address of Oracle Cloud",
    "fe80::1": LINK_LOCAL,
    "fe80::a9fe:a9fe%eth0": LINK_LOCAL,
    "febf::1": LINK_LOCAL,
    "fd00:ec2::254": "an address of AWS for metadata and credentials",
    "fd00:ec2::23": "an address of AWS for metadata and credentials",
    "fd20:ce::254": "the metadata address of Google Cloud",
    "fd00:42::42": "the metadata address of Scaleway",
    "fd00:a9fe:a9fe::1": "the metadata address of Akamai (Linode)",
    "fd00:c1::a9fe:a9fe": "the metadata address of Oracle Cloud",
    "fd00:100::100:200": "the metadata address of Alibaba Cloud",
}
V4 = [address for address in ADDRESSES if ":" not in address]


def behind(prefix: str) -> Callable[[IPv4Address], IPv6Address]:
    return lambda address: IPv6Address(int(IPv6Address(prefix)) + int(address))


def translated(prefix: str, length: int) -> Callable[[IPv4Address], IPv6Address]:
    """As RFC 6052 2.2 draws it, byte by byte: the ninth byte stays zero."""

    def spelled(address: IPv4Address) -> IPv6Address:
        written = bytearray(IPv6Address(prefix).packed)
        places = [place for place in range(length // 8, 16) if place != 8][:4]
        for place, byte in zip(places, address.packed, strict=True):
            written[place] = byte
        return IPv6Address(bytes(written))

    return spelled


SPELLINGS: dict[str, Callable[[IPv4Address], IPv6Address]] = {
    "mapped": behind("::ffff:0:0"),
    "compatible": behind("::"),
    "translated": behind("::ffff:0:0:0"),
    "NAT64": translated("64:ff9b::", 96),
    **{f"local NAT64 /{length}": translated("64:ff9b:1::", length) for length in (48, 56, 64, 96)},
    "6to4": lambda address: IPv6Address(0x2002 << 112 | int(address) << 80 | 1),
    "Teredo server": lambda address: IPv6Address(0x20010000 << 96 | int(address) << 64),
    "Teredo client": lambda address: IPv6Address(0x20010000 << 96 | int(address) ^ 0xFFFFFFFF),
    "ISATAP": behind("2001:db8::5efe:0:0"),
    "ISATAP of a public address": behind("2001:db8::200:5efe:0:0"),
}
OWN_NAT64 = {length: translated("2001:db8::", length) for length in (32, 40, 48, 56, 64, 96)}
"""Prefixes that a network chose for itself."""


@pytest.mark.parametrize(("address", "what"), ADDRESSES.items())
def test_an_address_of_the_table_is_refused_with_what_it_is(address: str, what: str) -> None:
    assert address_refusal(address) == what


@pytest.mark.parametrize("address", V4)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_ipv4_address_is_refused_in_every_ipv6_spelling(spelling: str, address: str) -> None:
    spelled = SPELLINGS[spelling](IPv4Address(address))
    assert address_refusal(str(spelled)) == ADDRESSES[address]
    assert host_refusal(f"[{spelled.exploded.upper()}]") == ADDRESSES[address]


@pytest.mark.parametrize("length", OWN_NAT64)
def test_metadata_addresses_are_refused_behind_any_nat64_prefix(length: int) -> None:
    for address in ("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192"):
        assert address_refusal(str(OWN_NAT64[length](IPv4Address(address)))) == ADDRESSES[address]


def ordinary() -> Iterator[str]:
    yield from (
        "127.0.0.1",
        "10.0.0.1",
        "192.168.1.1",
        "8.8.8.8",
        "169.253.1.1",
        "100.100.100.201",
        "0.0.0.0",
    )
    yield from ("::", "::1", "fd00::1", "2001:db8::1", "2606:4700::1111", "fd00:a9fe:a9fe::2", "fec0::1")
    yield from (str(spelled(IPv4Address("10.0.0.1"))) for spelled in SPELLINGS.values())
    yield from (str(spelled(IPv4Address("10.0.0.1"))) for spelled in OWN_NAT64.values())


@pytest.mark.parametrize("address", list(ordinary()))
def test_loopback_private_and_public_addresses_are_not_refused(address: str) -> None:
    assert address_refusal(address) is None
    assert host_refusal(address) is None


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254.",
        "[::ffff:169.254.169.254]",
        "2852039166",
        "0xa9fea9fe",
        "0XA9FEA9FE",
        "0xa9.0xfe.0xa9.0xfe",
        "0251.0376.0251.0376",
        "00000251.0376.0251.0376",
        "169.254.43518",
        "169.16689662",
        "0xa9.254.0251.254",
    ],
)
def test_an_ipv4_address_is_refused_in_every_numeric_form_that_a_resolver_accepts(host: str) -> None:
    assert host_refusal(host) == METADATA


@pytest.mark.parametrize(
    "host",
    [
        "metadata.google.internal",
        "metadata.google.internal.",
        "METADATA.Google.INTERNAL",
        "x.metadata.google.internal",
        "metadata.goog",
        "instance-data.ec2.internal",
        "metadata.azure.internal",
        "metadata.tencentyun.com",
        "api.metadata.cloud.ibm.com",
        "metadata.exoscale.com",
        "metadata.platformequinix.com",
        "metadata.packet.net",
    ],
)
def test_the_names_of_metadata_services_are_refused(host: str) -> None:
    assert host_refusal(host) == "the name of a cloud metadata service"


@pytest.mark.parametrize(
    "host", ["metadata", "Metadata.", "instance-data", "data-server", "rancher-metadata"]
)
def test_short_names_are_refused_if_a_proxy_resolves_them(host: str) -> None:
    assert host_refusal(host) is None
    assert host_refusal(host, is_proxied=True) == "the name of a cloud metadata service"


@pytest.mark.parametrize(
    "host",
    [
        "metadata.example.com",
        "notmetadata.goog",
        "google.internal",
        "abc",
        "beef",
        "1.2.3.4.5",
        "999.1.1.1",
        "",
    ],
)
def test_other_names_are_not_refused_before_the_look_up(host: str) -> None:
    assert host_refusal(host, is_proxied=True) is None
