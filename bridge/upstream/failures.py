"""What can go wrong on the way: libraries' exceptions become stable codes, and codes become sentences.

The transport raises httpx's errors (the type says what it was doing) whose text is one of the codes
below, never a library's text: those hold addresses, header values and certificates.
"""

import ssl
from typing import Final

import httpx
from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientConnectorSSLError,
)

from bridge.errors import NotAnswered, NotSent
from bridge.secrets import Upstream
from bridge.upstream.addresses import AddressRefusedError

LATER: Final = "Please try again later."
OPERATOR: Final = "Tell the operator of this tool."
_ADDRESS: Final = "If it stays so, the operator of this tool should look at that address."

_SENTENCES: Final = {
    "connect-refused": f"Cannot reach the {{server}} (connection refused). {LATER}",
    "connect-timeout": f"Cannot reach the {{server}} (no connection in time). {LATER}",
    "connect-failed": f"Cannot reach the {{server}} (the connection failed). {LATER}",
    "dns-failed": f"Cannot find the {{server}} (its name leads to no address). {LATER} {_ADDRESS}",
    "address-refused": "The {server} has a link-local or cloud metadata address, which is never "
    f"contacted. {OPERATOR}",
    "tls-untrusted": f"The certificate of the {{server}} is not trusted, or has expired. {OPERATOR}",
    "tls-name": f"The certificate of the {{server}} is for another name. {OPERATOR}",
    "tls-failed": f"No TLS connection with the {{server}} came about; perhaps it speaks plain HTTP "
    f"there. {_ADDRESS}",
    "tls-files": "The certificate files for the {server} cannot be used: caFile, certFile or "
    f"keyFile. {OPERATOR}",
    "proxy-failed": f"The proxy does not lead to the {{server}}. {LATER}",
    "unsafe-request": "The request was held back: a line break in a header, or an address outside of "
    f"{{place}} and its path. {OPERATOR}",
    "protocol-error": f"The {{server}} did not answer in valid HTTP. {_ADDRESS}",
    "reply-cut": "The {server} closed the connection before its reply was complete.",
}
_WRONG_NAME: Final = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL."""


def while_connecting(error: Exception, *, proxied: bool) -> httpx.TransportError:
    """For whatever prevented a connection: not a byte of the request was sent."""
    match error:
        case ClientConnectorCertificateError(
            certificate_error=ssl.SSLCertVerificationError(verify_code=verdict)
        ):
            return httpx.ConnectError("tls-name" if verdict in _WRONG_NAME else "tls-untrusted")
        case ClientConnectorSSLError():
            return httpx.ConnectError("tls-failed")
        case ClientConnectorError(os_error=AddressRefusedError()):
            return httpx.ConnectError("address-refused")
    if proxied:
        return httpx.ProxyError("proxy-failed")
    match error:
        case ClientConnectorDNSError():
            code = "dns-failed"
        case ClientConnectorError(os_error=ConnectionRefusedError()):
            code = "connect-refused"
        case _:
            code = "connect-failed"
    return httpx.ConnectError(code)


def answer(fault: httpx.TransportError, upstream: Upstream, *, sent: bool) -> NotSent | NotAnswered:
    """What the caller gets."""
    code = str(fault)
    message = _SENTENCES[code].format(server=upstream.server, place=upstream.place)
    return (NotAnswered if sent else NotSent)(code, message)


def out_of_time(upstream: Upstream, phase: str, *, sent: bool) -> NotSent | NotAnswered:
    """The call's deadline has come; ``phase`` is what it was doing."""
    seconds = upstream.spec.timeout.total
    message = (
        f"No complete answer from the {upstream.server} within {seconds:g} s: time ran out while {phase}."
    )
    return NotAnswered("timeout", message) if sent else NotSent("timeout", f"{message} {LATER}")
