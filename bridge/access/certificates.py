"""The certificates of clients (mutual TLS). Their handshakes have verified them: here they get a name."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

MAX_NAME_CHARACTERS: Final = 2048
"""The maximum of a SPIFFE ID. A certificate with a longer name has none."""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What a verified certificate says of its client: a name, and when it expires, in seconds since 1970."""

    name: str | None
    expires: float

    @classmethod
    def of(cls, certificate: Mapping[str, Any]) -> Self:
        """Reads what ``ssl.SSLSocket.getpeercert`` returns.

        The name is the first URI of the alternative names, else the first DNS name. Without these it is the common name.
        """
        names = certificate.get("subjectAltName", ())
        common = [(kind, value) for part in certificate.get("subject", ()) for kind, value in part]
        found = [
            value
            for wanted, among in (("URI", names), ("DNS", names), ("commonName", common))
            for kind, value in among
            if kind == wanted and 0 < len(value) <= MAX_NAME_CHARACTERS
        ]
        return cls(next(iter(found), None), ssl.cert_time_to_seconds(certificate["notAfter"]))


@dataclass(frozen=True, slots=True)
class AcceptedCertificate:
    """A certificate that an entry of ``access.certificates`` accepts, with the scopes of its caller."""

    name: str
    scopes: frozenset[str]
    expires: float
