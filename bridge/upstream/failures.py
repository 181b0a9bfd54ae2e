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

_LATER: Final = "Please try again later."
_OPERATOR: Final = "Tell the operator of this tool."
_ADDRESS: Final = "If it stays so, the operator of this tool should look at that address."

_SENTENCES: Final = {
    "connect-refused": f"Cannot reach the {{role}} server at {{place}} (connection refused). {_LATER}",
    "connect-timeout": f"Cannot reach the {{role}} server at {{place}} (no connection in time). {_LATER}",
    "connect-failed": f"Cannot reach the {{role}} server at {{place}} (the connection failed). {_LATER}",
    "dns-failed": f"Cannot find the {{role}} server at {{place}} (its name leads to no address). {_LATER} {_ADDRESS}",
    "address-refused": "The {role} server at {place} has a link-local or cloud metadata address, which is never "
    f"contacted. {_OPERATOR}",
    "tls-untrusted": f"The certificate of the {{role}} server at {{place}} is not trusted, or has expired. {_OPERATOR}",
    "tls-name": f"The certificate of the {{role}} server at {{place}} is for another name. {_OPERATOR}",
    "tls-failed": f"No TLS connection with the {{role}} server at {{place}} came about; perhaps it speaks plain HTTP "
    f"there. {_ADDRESS}",
    "tls-files": "The certificate files for the {role} server at {place} cannot be used: caFile, certFile or "
    f"keyFile. {_OPERATOR}",
    "proxy-failed": f"The proxy does not lead to the {{role}} server at {{place}}. {_LATER}",
    "unsafe-request": "The request was held back: a line break in a header, or an address outside of "
    f"{{place}} and its path. {_OPERATOR}",
    "protocol-error": f"The {{role}} server at {{place}} did not answer in valid HTTP. {_ADDRESS}",
    "reply-cut": "The {role} server at {place} closed the connection before its reply was complete.",
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
    message = _SENTENCES[code].format(role=upstream.role, place=upstream.place)
    return (NotAnswered if sent else NotSent)(code, message)


def out_of_time(upstream: Upstream, phase: str, *, sent: bool) -> NotSent | NotAnswered:
    """The call's deadline has come; ``phase`` is what it was doing."""
    server, seconds = f"{upstream.role} server at {upstream.place}", upstream.spec.timeout.total
    message = f"No complete answer from the {server} within {seconds:g} s: time ran out while {phase}."
    return NotAnswered("timeout", message) if sent else NotSent("timeout", f"{message} {_LATER}")
