"""The certificate that a node makes for itself.

Sans-IO and without a clock: the same key always has the same certificate.  Nobody trusts a self-signed
certificate for its dates or names; it carries the key through TLS, and the proof in CONNECT and PONG says
the rest (DESIGN section 5).
"""

from __future__ import annotations

import datetime
import hashlib
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOT_BEFORE: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
NOT_AFTER: Final = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)
_SERIAL_BYTES: Final = 19  # RFC 5280, section 4.1.2.2: positive and at most 20 octets
REALM_SUFFIX: Final = ".realm"  # no domain of the Internet has it
_REALM_NAME_DIGITS: Final = 32  # 128 bits; a label of a DNS name has at most 63 characters


def realm_server_name(realm: str) -> str:
    """The DNS name that certificates of a realm carry in their SAN, and that QUIC checks (DESIGN section 5).

    Args:
      realm: its name, which need not be a host name.
    """
    return f"{hashlib.sha256(realm.encode()).hexdigest()[:_REALM_NAME_DIGITS]}{REALM_SUFFIX}"


def self_signed(key: ed25519.Ed25519PrivateKey) -> x509.Certificate:
    """Make the certificate of a node that no authority vouches for."""
    public = key.public_key()
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashlib.sha256(spki).digest()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, digest.hex()[:32])])
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(int.from_bytes(b"\x01" + digest[: _SERIAL_BYTES - 1], "big"))
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usages, critical=False)
        .sign(key, None)
    )
