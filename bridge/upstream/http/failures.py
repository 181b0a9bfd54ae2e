"""Transport errors: exceptions of libraries become stable error codes, and codes become messages.

The transport raises httpx's errors; the type says what it was doing. The text is a code, never the text of a library,
which may hold addresses, header values and certificates. A variant and a detail may follow the code, separated by
blanks: ``tls-failed certificate unknown_ca``.
"""

import re
import ssl
from typing import Final

import httpx

from bridge.errors import NotAnswered, NotSent
from bridge.resolved_upstream import Upstream
from bridge.upstream.http.addresses import AddressRefusedError, NoAddressError

LATER: Final = "Please try again later."
OPERATOR: Final = "Tell the operator of this tool."
_CHECK_ADDRESS: Final = "If this persists, tell the operator to check that address."

_MESSAGES: Final = {
    "connect-refused": f"Cannot reach the {{server}} (connection refused). {LATER}",
    "connect-timeout": f"Cannot reach the {{server}} (no connection in time). {LATER}",
    "connect-failed": f"Cannot reach the {{server}} (the connection failed). {LATER}",
    "dns-failed": f"Cannot find the {{server}} (its name has no address). {LATER} {_CHECK_ADDRESS}",
    "address-refused": "The {server} has a link-local or cloud metadata address, which is never "
    f"contacted. {OPERATOR}",
    "tls-untrusted": f"The certificate of the {{server}} is not trusted, or has expired. {OPERATOR}",
    "tls-name": f"The certificate of the {{server}} is for another name. {OPERATOR}",
    "tls-failed": f"TLS with the {{server}} failed. {_CHECK_ADDRESS}",
    "tls-failed plain": f"The {{server}} did not answer in TLS; it may speak plain HTTP on that port. {_CHECK_ADDRESS}",
    "tls-failed alert": f"The {{server}} refused the TLS connection (alert {{detail}}). {OPERATOR}",
    "tls-failed certificate": "The {server} requires another client certificate (TLS alert "
    f"{{detail}}): see tls.certFile and tls.keyFile of the upstream file. {OPERATOR}",
    "tls-failed handshake": "The {server} refused the TLS connection (alert {detail}). It may require a client "
    f"certificate: see tls.certFile and tls.keyFile of the upstream file. {OPERATOR}",
    "tls-failed version": "The {server} refused the TLS connection (alert {detail}): it speaks neither TLS 1.2 nor "
    f"1.3. {OPERATOR}",
    "tls-failed name": "The {server} refused the TLS connection (alert {detail}): it has no certificate for that "
    f"host; see baseUrl. {OPERATOR}",
    "tls-files": "The certificate files for the {server} cannot be used: caFile, certFile or "
    f"keyFile. {OPERATOR}",
    "proxy-failed": f"The proxy cannot connect to the {{server}}. {LATER}",
    "proxy-failed status": f"The proxy cannot connect to the {{server}}: it answered {{detail}}. {LATER}",
    "proxy-failed credentials": "The proxy for the {server} requires other credentials (407): see user and password "
    f"in proxy of the upstream file. {OPERATOR}",
    "unsafe-request": "The request was not sent: it has a line break in a header, or a URL outside of "
    f"{{authority}} and its path. {OPERATOR}",
    "protocol-error": f"The {{server}} did not answer in valid HTTP. {_CHECK_ADDRESS}",
    "reply-cut": "The {server} closed the connection before its reply was complete.",
}
_NAME_MISMATCH: Final = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL."""
# "TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE", and "TLSV1_UNRECOGNIZED_NAME" without
# ALERT; but not "WRONG_VERSION_NUMBER"
_ALERT: Final = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?([A-Z_]+)")
# what OpenSSL reports for text in place of a TLS record: it depends on its version, and on the text
_PLAINTEXT_REASONS: Final = frozenset(
    {"HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL", "WRONG_VERSION_NUMBER"}
)
_ALERT_VARIANTS: Final = {
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
"""TLS alerts (RFC 8446 6.2) to the variant of ``tls-failed`` that explains them."""
WITHOUT_PROCESSING: Final = ("tls-failed certificate",)
"""Errors after which the request counts as not sent: the API did not read it.

In TLS 1.3 a server checks the client certificate while the first request is already on its way. A 407 for an API over
http does not count: it may be the API's own, forwarded by the proxy.
"""


def while_connecting(error: OSError, *, is_proxied: bool) -> httpx.ConnectError:
    """For an error of connecting: no byte of the request was sent."""
    match error:  # all of these are OSErrors, and the first is an SSLError
        case ssl.SSLCertVerificationError(verify_code=verify_code):
            code = "tls-name" if verify_code in _NAME_MISMATCH else "tls-untrusted"
        case ssl.SSLError():
            code = tls_code(error)
        case AddressRefusedError():
            code = "address-refused"
        case _ if is_proxied:  # name and port are the proxy's; TLS, above, is with the API through the tunnel
            code = "proxy-failed"
        case NoAddressError():
            code = "dns-failed"
        case ConnectionRefusedError():
            code = "connect-refused"
        case _:
            code = "connect-failed"
    return httpx.ConnectError(code)


def tls_code(error: ssl.SSLError) -> str:
    """The code and variant for an error of TLS. An alert shows that the server speaks TLS."""
    reason = error.reason or ""
    if reason in _PLAINTEXT_REASONS:
        return "tls-failed plain"
    if named := _ALERT.fullmatch(reason):
        alert = named[1].lower()
        return f"tls-failed {_ALERT_VARIANTS.get(alert, 'alert')} {alert}"
    return "tls-failed"


def upstream_error(fault: httpx.TransportError, upstream: Upstream, *, sent: bool) -> NotSent | NotAnswered:
    """The error that the caller gets."""
    code, variant, detail = [*str(fault).split(" "), "", ""][:3]
    template = _MESSAGES[f"{code} {variant}".rstrip()]
    message = template.format(server=upstream.server, authority=upstream.authority, detail=detail)
    error = (NotAnswered if sent else NotSent)(code, message)
    # wrong credentials are not sent again: the proxy may lock the account
    error.is_permanent = variant == "credentials"
    return error


def out_of_time(upstream: Upstream, phase: str, *, sent: bool) -> NotSent | NotAnswered:
    """For a call past its deadline; ``phase`` is what it was doing."""
    seconds = upstream.spec.timeout.total
    message = (
        f"No complete answer from the {upstream.server} within {seconds:g} s: time ran out while {phase}."
    )
    return NotAnswered("timeout", message) if sent else NotSent("timeout", f"{message} {LATER}")
