"""A certificate authority that makes whatever a test wants, good or not."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from macula_trio._identity.certificate import realm_server_name
from macula_trio._identity.files import Identity

REALM: Final = "org.example.test"
NAME: Final = realm_server_name(REALM)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
BEGIN: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
END: Final = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def usage(*, digital_signature: bool = True, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=not (digital_signature or key_cert_sign),  # one of them must be set
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def general_names(names: Iterable[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


@attrs.frozen
class Authority:
    """A root, or an authority below another one."""

    key: PrivateKey
    certificate: x509.Certificate
    above: tuple[x509.Certificate, ...] = ()  # what nodes have to send beside their own

    @classmethod
    def create(cls, seed: int = 1, *, key: PrivateKey | None = None, **changes: Any) -> Authority:
        key = key or ed25519.Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        return cls(key, make(key.public_key(), key, f"root {seed}", None, **(AUTHORITY | changes)))

    def child(self, seed: int = 101, **changes: Any) -> Authority:
        key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        made = make(key.public_key(), self.key, f"authority {seed}", self.certificate, **(AUTHORITY | changes))
        return Authority(key, made, (made, *self.above))

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, seed: int = 7, *, key: PrivateKey | None = None, **changes: Any) -> Identity:
        """The identity of a node, with a certificate that is good but for ``changes``."""
        key = key or ed25519.Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        leaf = make(key.public_key(), self.key, f"node {seed}", self.certificate, **changes)
        return Identity(key, (leaf, *self.above))


AUTHORITY: Final[dict[str, Any]] = {
    "names": (),
    "authority": True,
    "key_usage": usage(digital_signature=False, key_cert_sign=True),
    "extended": None,
}


def make(
    public_key: Any,
    signer: PrivateKey,
    subject: str,
    issuer: x509.Certificate | None,
    *,
    names: Iterable[str] = (NAME,),
    begin: datetime.datetime = BEGIN,
    end: datetime.datetime = END,
    authority: bool = False,
    path_length: int | None = None,
    key_usage: x509.KeyUsage | None = usage(),  # noqa: B008 - never changed
    extended: Sequence[x509.ObjectIdentifier] | None = (SERVER, CLIENT),
    algorithm: hashes.HashAlgorithm | None = None,
    critical: bool = False,
    more: Sequence[x509.ExtensionType] = (),
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=path_length), critical=True)
    )
    if key_usage is not None:
        builder = builder.add_extension(key_usage, critical=True)
    if extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=critical)
    if names := general_names(names):
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=critical)
    for extension in more:
        builder = builder.add_extension(extension, critical=True)
    if algorithm is None and not isinstance(signer, ed25519.Ed25519PrivateKey):
        algorithm = hashes.SHA256()
    return builder.sign(signer, algorithm)
