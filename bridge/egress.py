"""Hosts that are never contacted: link-local addresses and cloud metadata services, in every spelling."""

import re
import socket
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

_LINK_LOCAL: Final = "a link-local address"
# The first match counts: single addresses stand before the networks that hold them.
_REFUSED: Final = tuple(
    (ip_network(network), what)
    for network, what in (
        ("169.254.169.254/32", "a cloud metadata address"),  # AWS, Azure, Google, OpenStack and most others
        ("169.254.170.2/32", "the address of AWS container credentials"),  # ECS task roles
        ("169.254.170.23/32", "the address of AWS container credentials"),  # EKS Pod Identity
        ("169.254.0.0/16", _LINK_LOCAL),  # RFC 3927
        ("fe80::/10", _LINK_LOCAL),  # RFC 4291 2.5.6
        ("100.100.100.200/32", "the metadata address of Alibaba Cloud"),
        ("fd00:100::100:200/128", "the metadata address of Alibaba Cloud"),  # cloud-init, DataSourceAliYun
        ("168.63.129.16/32", "the wire server of Azure"),
        ("192.0.0.192/32", "the metadata address of Oracle Cloud"),  # Oracle Cloud Classic
        ("fd00:c1::a9fe:a9fe/128", "the metadata address of Oracle Cloud"),  # Oracle's SDK
        ("fd00:ec2::/32", "an address of AWS for metadata and credentials"),
        ("fd20:ce::254/128", "the metadata address of Google Cloud"),
        ("fd00:42::42/128", "the metadata address of Scaleway"),  # cloud-init, DataSourceScaleway
        ("fd00:a9fe:a9fe::1/128", "the metadata address of Akamai (Linode)"),  # cloud-init, DataSourceAkamai
    )
)
_REFUSED_HOSTS: Final = {
    int(network[0]): what for network, what in _REFUSED if network.max_prefixlen == 32 == network.prefixlen
}
"""The single IPv4 addresses of the table, as numbers."""
_REFUSED_NAMES: Final = (
    "metadata.google.internal",
    "metadata.goog",
    "instance-data.ec2.internal",
    "metadata.azure.internal",
    "metadata.tencentyun.com",
    "api.metadata.cloud.ibm.com",
    "metadata.exoscale.com",
    "metadata.platformequinix.com",
    "metadata.packet.net",
)
_REFUSED_SHORT_NAMES: Final = frozenset({"metadata", "instance-data", "data-server", "rancher-metadata"})
"""Names that resolve to a metadata service with the search domain of a cloud. Elsewhere they may be any host."""

# What inet_aton(3) reads, and so many resolvers: 2852039166, 0xa9fea9fe, 0251.254.43518 are all 169.254.169.254.
_NUMERIC_ADDRESS: Final = re.compile(r"(?:0x)?[0-9a-f]*(?:\.(?:0x)?[0-9a-f]+){0,3}\Z")
_32_BITS: Final = 0xFFFFFFFF
_EMBEDDING_96: Final = frozenset({0, 0xFFFF, 0xFFFF << 16, 0x64FF9B << 64})
"""Prefixes of 96 bits before an IPv4 address: compatible and mapped (RFC 4291 2.5.5), translated
(RFC 2765 2.1), NAT64 (RFC 6052 2.1)."""


@lru_cache(maxsize=1024)
def address_refusal(address: str) -> str | None:
    """Why an address is refused, as a noun phrase; None if it is not. Raises ``ValueError`` if it is no IP address.

    An IPv4 address that an IPv6 address embeds is checked as well. A network may have a NAT64 prefix of its own, unknown
    here. So the single addresses of the table are searched after any prefix, at all positions of RFC 6052.
    """
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv4Address):
        return _listed(parsed)
    embedded = (_listed(IPv4Address(number)) for number in _embedded(int(parsed)))
    anywhere = (_REFUSED_HOSTS.get(number) for number in _translated(int(parsed)))
    return _listed(parsed) or next(filter(None, (*anywhere, *embedded)), None)


def host_refusal(host: str, *, is_proxied: bool = False) -> str | None:
    """Why the host of a URL is refused: an address in any spelling, or the name of a metadata service; otherwise None.

    Other names are checked by their addresses, after the look-up. With ``is_proxied`` a proxy resolves the names, so the
    short names of metadata services are refused as well.
    """
    name = host.strip("[]").lower().rstrip(".")  # a full stop at the end makes a name absolute
    try:
        return address_refusal(name)
    except ValueError:
        pass
    if _NUMERIC_ADDRESS.match(name):
        try:
            return address_refusal(socket.inet_ntoa(socket.inet_aton(name)))
        except OSError:
            return None
    is_metadata = any(f".{name}".endswith(f".{known}") for known in _REFUSED_NAMES)
    if is_metadata or (is_proxied and name in _REFUSED_SHORT_NAMES):
        return "the name of a cloud metadata service"
    return None


def _listed(address: IPv4Address | IPv6Address) -> str | None:
    return next((what for network, what in _REFUSED if address in network), None)


def _embedded(address: int) -> Iterator[int]:
    """The IPv4 addresses that an IPv6 address of a well-known form embeds."""
    if address >> 32 in _EMBEDDING_96:
        yield address & _32_BITS
    if address >> 80 == 0x64FF9B0001:  # NAT64 of the local network (RFC 8215)
        yield from _translated(address)
    if address >> 112 == 0x2002:  # 6to4 (RFC 3056)
        yield address >> 80 & _32_BITS
    if address >> 96 == 0x20010000:  # Teredo (RFC 4380 4): its server, and its client with all bits inverted
        yield address >> 64 & _32_BITS
        yield ~address & _32_BITS
    if address >> 32 & 0xFCFFFFFF == 0x5EFE:  # ISATAP (RFC 5214 6.1), with any bits u and g
        yield address & _32_BITS


def _translated(address: int) -> Iterator[int]:
    """The values at the positions of RFC 6052 2.2: after 96, 64, 56, 48, 40 and 32 bits, without bits 64 to 71."""
    yield address & _32_BITS
    yield address >> 24 & _32_BITS
    for bits in (8, 16, 24, 32):  # bits of the IPv4 address before bit 64
        before = address >> 64 & (1 << bits) - 1
        after = address >> 24 + bits & (1 << 32 - bits) - 1
        yield before << 32 - bits | after
