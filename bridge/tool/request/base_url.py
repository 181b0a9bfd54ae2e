"""Base URLs of upstreams in one canonical spelling: scheme, host, port and path prefix (RFC 3986, WHATWG URL).

Messages call a base URL an *address*, because it may come from ``baseUrl``, ``tokenUrl`` or a tool's ``url``.
An address that two programs could read differently is refused, and the message says which spelling to use:

| Written | Result |
|---|---|
| ``HTTPS://API.example.com:443/v1/`` | ``https://api.example.com/v1`` |
| ``http://127.1``, ``http://0x7f.0.0.1`` | refused: write 127.0.0.1 |
| ``http://[::ffff:127.0.0.1]`` | refused: write 127.0.0.1 |
| ``http://bücher.example`` | refused: write xn--bcher-kva.example |
"""

import re
import socket
import unicodedata
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from bridge.codec import quote
from bridge.diagnostics import InvalidSpec, invalid
from bridge.egress import host_refusal
from bridge.tool.request.percent import has_path_traversal

_ABSOLUTE: Final = re.compile(r"(?P<scheme>[A-Za-z]+)://(?P<authority>[^/?#{]*)(?P<rest>.*)\Z", re.DOTALL)
_NOT_IN_ADDRESS: Final = re.compile(r"[\x00-\x20\x7f-\xa0\"<>\\^`{|}\ud800-\udfff]")
# [::1]:8080, api.example.com:8080, or without a port. User and password were refused before.
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?P<colon>:(?P<port>[^:]*))?\Z")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}\Z")
_PREFIX: Final = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)*\Z")
_NOT_IN_QUERY: Final = re.compile(r"[^A-Za-z0-9._~!$&'()*+,;=:@/?%-]|%(?![0-9A-Fa-f]{2})")
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_NUMERIC_LABEL: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f]")
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_IDNA_DOTS: Final = str.maketrans("\u3002\uff0e\uff61", "...")
"""Full stops of other scripts, which IDNA treats as dots (RFC 3490 3.1)."""


def canonical_base_url(text: str, *, is_contacted: bool = True) -> str:
    """``scheme://host[:port][/prefix]``: host in lower case, no default port, no slash at the end.

    Raises ``InvalidSpec`` with the offset of the problem. The message shows no user or password of the URL.
    ``is_contacted`` is false for a URL that is only a name, such as the audience of a token. Otherwise hosts that
    are never contacted, such as cloud metadata addresses, are refused too.
    """
    match = _ABSOLUTE.match(text)
    if match is None or match["scheme"].lower() not in _DEFAULT_PORTS:
        message = "expected an address such as https://api.example.com; begin it with http:// or https://"
        raise _bad_url(message, 0)
    # Before the characters are checked: that message would quote one of the password.
    if "@" in match["authority"]:
        message = "found credentials in the address; write them under auth"
        raise _bad_url(message, match.start("authority"))
    _check_characters(text)
    scheme = match["scheme"].lower()
    prefix = _prefix(match["rest"], match.start("rest"))
    host, port = _host_and_port(scheme, match["authority"], match.start("authority"))
    if is_contacted and (refusal := host_refusal(host)):
        message = f"{host} is {refusal}, which is never contacted; write the API's own host"
        raise _bad_url(message, match.start("authority"))
    return f"{scheme}://{host}{port}{prefix}"


def canonical_endpoint(text: str) -> tuple[str, str]:
    """A single URL, such as a token endpoint: its canonical base URL, and its final slash and query as written.

    ``HTTPS://login.example.com/token/?a=1`` gives ``https://login.example.com/token`` and ``/?a=1``.
    Raises ``InvalidSpec`` like ``canonical_base_url``.
    """
    base_url, mark, query = text.partition("?")
    if forbidden := _NOT_IN_QUERY.search(query):
        message = f"{quote(forbidden[0])} is not allowed in a query; percent-encode it"
        raise _bad_url(message, len(base_url) + 1 + forbidden.start())
    slash = "/" if base_url.endswith("/") else ""
    return canonical_base_url(base_url), f"{slash}{mark}{query}"


def split_url(url: str, *, is_contacted: bool = True) -> tuple[str, str]:
    """An absolute URL template, split after the host: its canonical origin, and the template of the path and query."""
    match = _ABSOLUTE.match(url)
    if match is None:
        message = "without upstream, url begins with http:// or https://; write an absolute URL, or name an upstream"
        raise _bad_url(message, 0)
    rest = match["rest"]
    if rest.startswith("{"):
        message = "scheme, host and port cannot contain arguments; write them out"
        raise _bad_url(message, match.start("rest"))
    if not rest.startswith("/"):
        raise _bad_url("expected a / after the host; write it", match.start("rest"))
    return canonical_base_url(f"{match['scheme']}://{match['authority']}", is_contacted=is_contacted), rest


def _bad_url(message: str, offset: int) -> InvalidSpec:
    return invalid("bad-url", message, offset=offset)


def _check_characters(text: str) -> None:
    forbidden = _NOT_IN_ADDRESS.search(text)
    if forbidden is None:
        return
    if forbidden[0] == "{":
        found = "an address cannot contain arguments, only a tool's url can"
    else:
        found = f"{quote(forbidden[0])} is not allowed in an address"
    raise _bad_url(f"{found}; take it out", forbidden.start())


def _prefix(rest: str, offset: int) -> str:
    """The path prefix without its final slash. ``rest`` is all that follows the host and port."""
    if mark := re.search(r"[?#]", rest):
        if mark[0] == "?":
            message = "an address has no query; write query parameters in the tools"
        else:
            message = "a fragment is never sent; take out # and what follows"
        raise _bad_url(message, offset + mark.start())
    prefix = rest.removesuffix("/")
    if not _PREFIX.match(prefix) or has_path_traversal(prefix):
        message = "expected a path of plain or percent-encoded segments, without //, . and ..; correct it"
        raise _bad_url(message, offset)
    return prefix


def _host_and_port(scheme: str, authority: str, offset: int) -> tuple[str, str]:
    """The host, and ``:port``. The port is empty if it is the default."""
    match = _AUTHORITY.match(authority)
    if match is None:
        raise _bad_url("expected host or host:port, with an IPv6 address in brackets; correct it", offset)
    host = _host(match["host"], offset)
    port = match["port"]
    if match["colon"] is None or port == _DEFAULT_PORTS[scheme]:
        return host, ""
    if not _PORT.match(port) or int(port) > 65535:
        message = f"{quote(port)} is not a port; expected 1 to 65535 without leading zeros"
        raise _bad_url(message, offset + match.start("port"))
    return host, f":{port}"


def _host(host: str, offset: int) -> str:
    if host.startswith("["):
        return f"[{_ipv6(host[1:-1], offset)}]"
    # Before lower(), which turns the Kelvin sign into an ASCII k.
    if letter := _NOT_ASCII.search(host):
        raise _bad_url(f"the host has letters outside ASCII; {_ascii_advice(host)}", offset + letter.start())
    host = host.lower()
    labels = host.split(".")
    # No top-level domain is a number, so the host is meant as an IPv4 address (WHATWG URL 3.5).
    if _NUMERIC_LABEL.match(labels[-1]):
        return _ipv4(host, offset)
    # 255 bytes in the DNS are 253 characters (RFC 1035 2.3.4).
    if len(host) > 253 or not all(_LABEL.match(label) for label in labels):
        raise _bad_url("expected a host name such as api.example.com; correct it", offset)
    return host


def _ipv4(host: str, offset: int) -> str:
    """A dotted decimal address. Programs disagree about other notations: ``010.0.0.1`` is 8.0.0.1 or 10.0.0.1."""
    try:
        return str(IPv4Address(host))
    except AddressValueError as problem:
        message = f"{quote(host)} is an ambiguous or invalid IPv4 address; {_ipv4_advice(host)}"
        raise _bad_url(message, offset) from problem


def _ipv4_advice(host: str) -> str:
    """How to write the address. ``inet_aton`` reads the octal, hexadecimal and short notations of C."""
    try:
        return f"write {socket.inet_ntoa(socket.inet_aton(host))} if you mean that"
    except OSError:
        return "expected four numbers from 0 to 255"


def _ipv6(host: str, offset: int) -> str:
    if "%" in host:
        raise _bad_url("an IPv6 zone id is valid on one machine only; take out % and what follows", offset)
    try:
        address = IPv6Address(host)
    except AddressValueError as problem:
        message = "expected an IPv6 address in the brackets, such as [::1]; correct it"
        raise _bad_url(message, offset) from problem
    spelling = str(address.ipv4_mapped or f"[{address}]")
    if spelling != f"[{host.lower()}]":
        raise _bad_url(f"the address is not in canonical form; write {spelling}", offset)
    return host.lower()


def _ascii_advice(host: str) -> str:
    """How to write the host: compatibility characters in their NFKC form, other letters in Punycode (RFC 3492)."""
    plain = unicodedata.normalize("NFKC", host.translate(_IDNA_DOTS)).lower()
    labels = [
        label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in plain.split(".")
    ]
    is_valid = all(_LABEL.match(label) for label in labels)
    return f"write {'.'.join(labels)} if you mean that" if is_valid else "write it in ASCII"
