"""What can go wrong on the way: libraries' exceptions become stable codes, and codes become sentences.

The transport raises httpx's errors (the type says what it was doing) whose text is one of the codes
below, never a library's text: those hold addresses, header values and certificates. A variant of the code
and a detail may follow the code, separated by blanks: ``tls-failed certificate unknown_ca``.
"""

import re
import ssl
from typing import Final

import httpx
from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientConnectorSSLError,
    ClientHttpProxyError,
)

from bridge.errors import NotAnswered, NotSent
from bridge.secrets import Upstream
from bridge.upstream.http.addresses import AddressRefusedError

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
    "tls-failed": f"TLS with the {{server}} failed. {_ADDRESS}",
    "tls-failed plain": f"The {{server}} did not answer in TLS; perhaps it speaks plain HTTP there. {_ADDRESS}",
    "tls-failed alert": f"The {{server}} refused the TLS connection (alert {{detail}}). {OPERATOR}",
    "tls-failed certificate": "The {server} wants another client certificate than it got (TLS alert "
    f"{{detail}}): tls.certFile and tls.keyFile of the upstream file. {OPERATOR}",
    "tls-failed handshake": "The {server} refused the TLS connection (alert {detail}). Perhaps it wants a client "
    f"certificate: tls.certFile and tls.keyFile of the upstream file. {OPERATOR}",
    "tls-failed version": "The {server} refused the TLS connection (alert {detail}): it speaks neither TLS 1.2 nor "
    f"1.3. {OPERATOR}",
    "tls-failed name": "The {server} refused the TLS connection (alert {detail}): it has no certificate for that "
    f"host, which stands in baseUrl. {OPERATOR}",
    "tls-files": "The certificate files for the {server} cannot be used: caFile, certFile or "
    f"keyFile. {OPERATOR}",
    "proxy-failed": f"The proxy does not lead to the {{server}}. {LATER}",
    "proxy-failed status": f"The proxy does not lead to the {{server}}: it answered {{detail}}. {LATER}",
    "proxy-failed credentials": "The proxy on the way to the {server} wants other credentials (407): user and password "
    f"in proxy of the upstream file. {OPERATOR}",
    "unsafe-request": "The request was held back: a line break in a header, or an address outside of "
    f"{{place}} and its path. {OPERATOR}",
    "protocol-error": f"The {{server}} did not answer in valid HTTP. {_ADDRESS}",
    "reply-cut": "The {server} closed the connection before its reply was complete.",
}
_WRONG_NAME: Final = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL."""
_ALERT: Final = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?([A-Z_]+)")
_NOT_TLS: Final = frozenset(
    {"HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL", "WRONG_VERSION_NUMBER"}
)
_ALERTS: Final = {
    "bad_certificate": "certificate",
    "certificate_expired": "certificate",
    "certificate_required": "certificate",
    "certificate_revoked": "certificate",
    "certificate_unknown": "certificate",
    "no_certificate": "certificate",
    "unknown_ca": "certificate",
    "unsupported_certificate": "certificate",
    "handshake_failure": "handshake",
    "protocol_version": "version",
    "unrecognized_name": "name",
}
"""Alerts (RFC 8446 6.2) by the variant of the code that explains them."""
WITHOUT_PROCESSING: Final = ("tls-failed certificate",)
"""Faults that show that the API did not read the request, although it was sent.

A 407 for an API over http is none: it may be the API's own, passed on by the proxy. In TLS 1.3 a server checks the client certificate while the first request is already on its way.
"""


def while_connecting(error: Exception, *, proxied: bool) -> httpx.TransportError:
    """For whatever prevented a connection: not a byte of the request was sent."""
    match error:
        case ClientConnectorCertificateError(
            certificate_error=ssl.SSLCertVerificationError(verify_code=verdict)
        ):
            code = "tls-name" if verdict in _WRONG_NAME else "tls-untrusted"
        case ClientConnectorSSLError(os_error=ssl.SSLError() as cause):
            code = of_tls(cause)
        case ClientConnectorError(os_error=AddressRefusedError()):
            code = "address-refused"
        case ClientHttpProxyError(status=407):
            code = "proxy-failed credentials"
        case ClientHttpProxyError(status=status):
            code = f"proxy-failed status {status}"
        case _ if proxied:
            code = "proxy-failed"
        case ClientConnectorDNSError():
            code = "dns-failed"
        case ClientConnectorError(os_error=ConnectionRefusedError()):
            code = "connect-refused"
        case _:
            code = "connect-failed"
    return httpx.ConnectError(code)


def of_tls(error: ssl.SSLError) -> str:
    """The code and variant for an error of TLS. An alert shows that the server speaks TLS."""
    reason = error.reason or ""
    if reason in _NOT_TLS:
        return "tls-failed plain"
    if named := _ALERT.fullmatch(reason):
        alert = named[1].lower()
        return f"tls-failed {_ALERTS.get(alert, 'alert')} {alert}"
    return "tls-failed"


def answer(fault: httpx.TransportError, upstream: Upstream, *, sent: bool) -> NotSent | NotAnswered:
    """What the caller gets."""
    code, variant, detail = [*str(fault).split(" "), "", ""][:3]
    sentence = _SENTENCES[f"{code} {variant}".rstrip()]
    message = sentence.format(server=upstream.server, place=upstream.place, detail=detail)
    error = (NotAnswered if sent else NotSent)(code, message)
    error.is_lasting = variant == "credentials"
    return error


def out_of_time(upstream: Upstream, phase: str, *, sent: bool) -> NotSent | NotAnswered:
    """The call's deadline has come; ``phase`` is what it was doing."""
    seconds = upstream.spec.timeout.total
    message = (
        f"No complete answer from the {upstream.server} within {seconds:g} s: time ran out while {phase}."
    )
    return NotAnswered("timeout", message) if sent else NotSent("timeout", f"{message} {LATER}")
