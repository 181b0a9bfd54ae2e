"""The address of an upstream in its one spelling: scheme, host, port and path prefix (RFC 3986, WHATWG URL)."""

import re
import socket
import unicodedata
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from bridge.codec import quote as shown
from bridge.diagnostics import InvalidSpec, invalid
from bridge.egress import host_refusal
from bridge.tool.request.percent import leads_elsewhere

_ABSOLUTE: Final = re.compile(r"(?P<scheme>[A-Za-z]+)://(?P<authority>[^/?#{]*)(?P<rest>.*)\Z", re.DOTALL)
_ODD: Final = re.compile(r"[\x00-\x20\x7f-\xa0\"<>\\^`{|}\ud800-\udfff]")
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?P<colon>:(?P<port>[^:]*))?\Z")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}\Z")
_PREFIX: Final = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)*\Z")
_NO_QUERY: Final = re.compile(r"[^A-Za-z0-9._~!$&'()*+,;=:@/?%-]|%(?![0-9A-Fa-f]{2})")
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_NUMBER: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_WIDE: Final = re.compile(r"[^\x00-\x7f]")
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_DOTS: Final = str.maketrans("\u3002\uff0e\uff61", "...")  # as IDNA reads them


def canonical(text: str, *, is_contacted: bool = True) -> str:
    """``scheme://host[:port][/prefix]``: lower case host, no default port, no slash at the end.

    Raises ``InvalidSpec`` for whatever could be read in two ways, with its offset and the spelling to
    use, and for a host that is never contacted; no message shows a userinfo.
    """
    match = _ABSOLUTE.match(text)
    if match is None or match["scheme"].lower() not in _DEFAULT_PORTS:
        raise _bad(
            "expected an address such as https://api.example.com; begin it with http:// or https://", 0
        )
    scheme, authority, rest = match["scheme"].lower(), match["authority"], match["rest"]
    if "@" in authority:
        message = "credentials stand under auth, not in the address; take out what is before the @"
        raise _bad(message, match.start("authority"))
    if odd := _ODD.search(text):
        what = f"{shown(odd[0])} cannot stand in an address"
        if odd[0] == "{":
            what = "an address holds no arguments, they stand in the tools' urls"
        raise _bad(f"{what}; take it out", odd.start())
    if mark := re.search(r"[?#]", rest):
        message = "an address has no ? and no #; write query parameters in the tools"
        if mark[0] == "#":
            message = "a fragment is sent to nobody; take # and what follows out"
        raise _bad(message, match.start("rest") + mark.start())
    prefix = rest.removesuffix("/")
    if not _PREFIX.match(prefix) or leads_elsewhere(prefix):
        message = "expected a path of plain or percent-encoded segments, without //, . and ..; correct it"
        raise _bad(message, match.start("rest"))
    host, port = _authority(scheme, authority, match.start("authority"))
    refusal = host_refusal(host) if is_contacted else None
    if refusal:
        message = f"{host} is {refusal}, which is never contacted; write the API's own host"
        raise _bad(message, match.start("authority"))
    return f"{scheme}://{host}{port}{prefix}"


def endpoint(text: str) -> tuple[str, str]:
    """The canonical address of what is asked at one URL alone, and how that ends: its slash and its query as written.

    Raises ``InvalidSpec`` as ``canonical`` does.
    """
    address, mark, query = text.partition("?")
    if odd := _NO_QUERY.search(query):
        message = f"{shown(odd[0])} cannot stand in a query; percent-encode it"
        raise _bad(message, len(address) + 1 + odd.start())
    return canonical(address), "/" * address.endswith("/") + mark + query


def split(url: str, *, is_contacted: bool = True) -> tuple[str, str]:
    """An absolute URL template as its canonical origin and the template that follows, from its ``/`` on."""
    match = _ABSOLUTE.match(url)
    if match is None:
        raise _bad(
            "without upstream a url begins with http:// or https://; write it so, or name an upstream", 0
        )
    rest = match["rest"]
    if rest.startswith("{"):
        message = "scheme, host and port hold no arguments; write them out"
        raise _bad(message, match.start("rest"))
    if not rest.startswith("/"):
        raise _bad("expected a / after the host; write it", match.start("rest"))
    return canonical(f"{match['scheme']}://{match['authority']}", is_contacted=is_contacted), rest


def _bad(message: str, offset: int) -> InvalidSpec:
    return invalid("bad-url", message, offset=offset)


def _authority(scheme: str, authority: str, offset: int) -> tuple[str, str]:
    """The host, and the port after a colon where it is not the default one."""
    match = _AUTHORITY.match(authority)
    if match is None:
        raise _bad("expected host or host:port, with an IPv6 address in brackets; correct it", offset)
    host = _host(match["host"], offset)
    port = match["port"]
    if match["colon"] is None or port == _DEFAULT_PORTS[scheme]:
        return host, ""
    if not _PORT.match(port) or int(port) > 65535:
        message = f"{shown(port)} is no port; expected 1 to 65535 without leading zeros"
        raise _bad(message, offset + match.start("port"))
    return host, f":{port}"


def _host(host: str, offset: int) -> str:
    if host.startswith("["):
        return f"[{_ipv6(host[1:-1], offset)}]"
    if wide := _WIDE.search(host):
        raise _bad(f"the host has letters outside ASCII; {_ascii(host)}", offset + wide.start())
    host = host.lower()
    labels = host.split(".")
    if _NUMBER.match(labels[-1]):
        return _ipv4(host, offset)
    if len(host) > 253 or not all(_LABEL.match(label) for label in labels):
        raise _bad("expected a host name such as api.example.com; correct it", offset)
    return host


def _ipv4(host: str, offset: int) -> str:
    """An address in four decimal parts; other spellings mean different hosts to different readers."""
    try:
        return str(IPv4Address(host))
    except AddressValueError as problem:
        raise _bad(
            f"{shown(host)} is no IPv4 address as others read it; {_dotted(host)}", offset
        ) from problem


def _dotted(host: str) -> str:
    try:
        return f"write {socket.inet_ntoa(socket.inet_aton(host))} if that is meant"
    except OSError:
        return "expected four numbers from 0 to 255"


def _ipv6(host: str, offset: int) -> str:
    if "%" in host:
        raise _bad("a zone id is known to one machine alone; take % and what follows out", offset)
    try:
        address = IPv6Address(host)
    except AddressValueError as problem:
        raise _bad("expected an IPv6 address in the brackets, such as [::1]; correct it", offset) from problem
    spelling = str(address.ipv4_mapped or f"[{address}]")
    if spelling != f"[{host.lower()}]":
        raise _bad(f"the address has a plainer spelling; write {spelling}", offset)
    return host.lower()


def _ascii(host: str) -> str:
    """Advice: compatibility characters as what they mean, other letters in Punycode (RFC 3492)."""
    plain = unicodedata.normalize("NFKC", host.translate(_DOTS)).lower()
    labels = [
        label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in plain.split(".")
    ]
    known = all(_LABEL.match(label) for label in labels)
    return f"if it is meant, write {'.'.join(labels)}" if known else "write it in ASCII"
