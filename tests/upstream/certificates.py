"""Certificates for servers and clients, signed by a temporary certificate authority."""

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

_NOW = datetime.now(UTC)
_CA_KEY_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """Writes PEM files into a directory; ``file`` is its own certificate, for caFile."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key.public_key(), _NOW + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        own = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = builder.add_extension(own, critical=False).add_extension(_CA_KEY_USAGE, critical=True)
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))

    def issue(
        self,
        host: str,
        *,
        expired: bool = False,
        hours: float = 24,
        file: str = "",
        names: Sequence[x509.GeneralName] | None = None,
        usage: x509.ObjectIdentifier | None = None,
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    ) -> tuple[Path, Path]:
        """The files of a certificate for a name or address, and of its key.

        It expires in ``hours``. Its files are named after ``file``, by default after ``host``. ``names`` replace ``host`` as
        alternative names. ``usage`` is what it may be used for, by default everything. ``key`` is by default a new one.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        until = _NOW + timedelta(hours=-1 if expired else hours)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)] if host else [])
        if names is None:
            try:
                names = [x509.IPAddress(ip_address(host))]
            except ValueError:
                names = [x509.DNSName(host)]
        builder = _builder(subject, self._name, key.public_key(), until)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        certificate = self._directory / f"{file or host}{'-expired' if expired else ''}.pem"
        certificate.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))
        private = certificate.with_suffix(".key")
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, private

    def server(self, host: str, *, expired: bool = False, asks: bool = False) -> ssl.SSLContext:
        """The TLS context of a server with a certificate for ``host``; ``asks`` requires a client certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(host, expired=expired))
        if asks:
            context.load_verify_locations(self.file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOW - timedelta(days=1))
        .not_valid_after(until)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
