"""The TLS of the server: its files become a context for new connections.

Each load makes a new context. A file that cannot be used changes nothing, an authority that was removed is no longer
trusted, and no session can be resumed that began under another certificate.
"""

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import anyio
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from bridge.secrets import read_file

_MISMATCHES: Final = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"})
_WEAK: Final = frozenset({"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"})
"""OpenSSL refuses such a certificate when it is loaded."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The PEM files of a server. Without ``key``, the key is in ``cert``. With ``client_ca``, clients need a certificate."""

    cert: Path
    key: Path | None = None
    client_ca: Path | None = None

    def digest(self) -> str:
        """Changes when the content of a file changes; raises ``UnusableFile``."""
        digest = sha256()
        for path in (self.cert, self.key, self.client_ca):
            digest.update(f"{path and _text(path)}\0".encode())
        return digest.hexdigest()


class UnusableFile(Exception):
    """A file of the server's TLS cannot be used. The text says why, and what to do."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(text)
        self.path = path


@dataclass(frozen=True, slots=True)
class TlsState:
    """What was made of the files. The certificate is valid from ``starts`` to ``expires``, in seconds since 1970.

    ``authorities`` are the certificates (DER) of those that issue certificates of clients.
    """

    context: ssl.SSLContext
    starts: float
    expires: float
    authorities: frozenset[bytes]

    @classmethod
    def load(cls, files: TlsFiles) -> "TlsState":
        """Read the files; raises ``UnusableFile``."""
        leaf = _certificate(files.cert)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        _load_key(context, files)
        if files.client_ca:
            _load_authorities(context, files.client_ca)
        return cls(
            context,
            leaf.not_valid_before_utc.timestamp(),
            leaf.not_valid_after_utc.timestamp(),
            frozenset(context.get_ca_certs(binary_form=True)),
        )


class ServerTls:
    """The TLS of a server, whose files may be replaced while it serves. Must be created in the event loop."""

    def __init__(self, state: TlsState) -> None:
        self.state = state
        self.authorities_removed = anyio.Event()
        """Set when an authority of clients is no longer trusted; then replaced by a new event."""

    def replace(self, state: TlsState) -> None:
        """Use ``state`` for new connections."""
        removed = self.state.authorities - state.authorities
        self.state = state
        if removed:
            self.authorities_removed.set()
            self.authorities_removed = anyio.Event()

    def end_if_untrusted(self, transport: asyncio.Transport) -> None:
        """Abort a connection unless an authority has issued its client's certificate, without others in between."""
        certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if certificate:
            issued = x509.load_der_x509_certificate(certificate)
            if not any(_is_issuer(authority, issued) for authority in self.state.authorities):
                transport.abort()


def _is_issuer(authority: bytes, issued: x509.Certificate) -> bool:
    # Also if cryptography cannot read what OpenSSL can: then the client has to connect again.
    with suppress(ValueError, TypeError, InvalidSignature):
        issued.verify_directly_issued_by(x509.load_der_x509_certificate(authority))
        return True
    return False


def _text(path: Path) -> str:
    try:
        return read_file(str(path))
    except OSError as error:
        text = f"cannot be read ({error.strerror}); create it, readable for this process"
        raise UnusableFile(path, text) from None
    except ValueError as error:
        raise UnusableFile(path, f"{error}; expected PEM") from None


def _certificate(path: Path) -> x509.Certificate:
    """The first certificate of a file: that of the server itself."""
    try:
        return x509.load_pem_x509_certificates(_text(path).encode())[0]
    except ValueError:
        text = "holds no certificate in PEM; write the server's own first, then the intermediate ones"
        raise UnusableFile(path, text) from None


class _Encrypted(Exception):
    """A key has a passphrase."""


def _no_passphrase() -> str:
    raise _Encrypted  # without a callback, OpenSSL asks on the terminal


def _load_key(context: ssl.SSLContext, files: TlsFiles) -> None:
    key = files.key or files.cert
    _text(key)  # OpenSSL does not say which file cannot be read
    try:
        context.load_cert_chain(files.cert, files.key, _no_passphrase)
    except _Encrypted:
        raise UnusableFile(key, "has a passphrase; write the key without one") from None
    except OSError as error:  # SSLError is one; another one means that a file is just being replaced
        reason = getattr(error, "reason", None)
        if reason in _MISMATCHES:
            text = f"holds a key that is not that of the certificate in {files.cert}; replace both"
            raise UnusableFile(key, text) from None
        if reason in _WEAK:
            text = (
                f"holds a certificate that is too weak ({reason.replace('_', ' ').lower()}); get another one"
            )
            raise UnusableFile(files.cert, text) from None
        raise UnusableFile(key, "holds no private key in PEM; write the key of the certificate") from None


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    # A session that is resumed by a ticket would not check again whether the certificate has expired.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    try:
        context.load_verify_locations(cadata=_text(path))
    except (ssl.SSLError, ValueError):
        text = "holds no certificate in PEM; write those of the authorities of your clients"
        raise UnusableFile(path, text) from None
