"""The private CA of a realm: who has its key decides who is a member.

Sans-IO: dates, serial numbers and keys are the caller's.  The realm stands in every certificate twice: as
`realm_server_name` in the SAN, which QUIC checks, and as its name in the subject, for people and for `issue`, which
must not make members of another realm.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Sequence
from typing import Final, Self

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from macula_trio._identity.certificate import REALM_SUFFIX, realm_server_name
from macula_trio._identity.facts import extension, read_facts
from macula_trio._identity.keys import (
    MALFORMED_CERTIFICATE,
    Credentials,
    PublicKey,
    load_spki,
    node_id_of,
    private_pem,
    spki,
)
from macula_trio._util import HOST_CHARS_MAX, validate_name
from macula_trio.errors import IdentityFileError, RealmMismatch, TrustError

CA_LIFETIME: Final = datetime.timedelta(days=3653)  # ten years: every node must be given the next one
NODE_LIFETIME: Final = datetime.timedelta(days=90)  # there is no revocation: a lost key is good for so long at most
CLOCK_SKEW: Final = datetime.timedelta(hours=1)  # a new certificate is valid on nodes whose clocks are behind by it
NAMES_MAX: Final = 16  # further names; with their 253 characters each the first frame still carries the certificate
_SUBJECT_CHARS_MAX: Final = 64  # X.520, ub-common-name and ub-organization-name
_COMMON_NAME_DIGITS: Final = 32  # of a node id, as in `self_signed`
_DNS_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_NO_USAGE: Final = {
    "digital_signature": False,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


def alternative_name(text: str) -> x509.GeneralName:
    """Read a further name of a node: a DNS name or an IP address.

    Raises:
      ValueError: neither; a wildcard, which would name many nodes; or a name that only a realm may have.
    """
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        if "%" in text:
            raise ValueError(f"{text!r}: certificates hold addresses without a scope")
        return x509.IPAddress(ip)
    name = text.lower()
    if len(name) > HOST_CHARS_MAX or not _DNS_NAME.fullmatch(name) or name.rpartition(".")[2].isdigit():
        raise ValueError(f"{text!r} is not a DNS name (ASCII, without wildcards) or an IP address")
    if name.endswith(REALM_SUFFIX):
        raise ValueError(f"{text!r}: names that end in {REALM_SUFFIX} belong to realms")
    return x509.DNSName(name)


def certificate_request(owner: Credentials) -> x509.CertificateSigningRequest:
    """Ask for a certificate of this key, which stays where it is (PKCS #10)."""
    key = owner.private_key
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return x509.CertificateSigningRequestBuilder().subject_name(_node_subject(owner.spki)).sign(key, algorithm)


@attrs.frozen(eq=False, repr=False)
class RealmAuthority:
    """The key of a realm's CA and its self-signed certificate, the root that every node of the realm knows.

    Attributes:
      key: its private key.
      certificate: the root.
      realm: name of the realm that it belongs to.
    """

    key: ed25519.Ed25519PrivateKey
    certificate: x509.Certificate
    realm: str

    @classmethod
    def create(
        cls,
        realm: str,
        *,
        key: ed25519.Ed25519PrivateKey,
        serial: int,
        now: datetime.datetime,
        lifetime: datetime.timedelta = CA_LIFETIME,
    ) -> Self:
        """Make the CA of a realm.

        Args:
          realm: its name.
          key: new.
          serial: number of the certificate, positive and below 2**159.
          now: with its time zone.
          lifetime: from ``now`` on.

        Raises:
          ValueError: not the name of a realm, or a lifetime that is over before it begins.
        """
        validate_name(realm, what="realm")
        subject = _subject(realm[:_SUBJECT_CHARS_MAX], realm)
        begin, end = _validity(now, lifetime)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        usage = x509.KeyUsage(**{**_NO_USAGE, "key_cert_sign": True, "crl_sign": True})
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(begin)
            .not_valid_after(end)
            # One more authority may stand between, such as one per site; those that it makes are not believed.
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(identifier, critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(realm_server_name(realm))]), critical=False)
            .sign(key, None)
        )
        return cls(key, certificate, realm)

    @classmethod
    def from_pem(cls, key: bytes, certificate: bytes, *, password: bytes | None = None) -> Self:
        """Read what `key_pem` wrote and the certificate beside it.

        Raises:
          IdentityFileError: malformed, another password, the two do not belong together, or it is no CA of a realm.
        """
        read = Credentials.from_pem(key, certificate, password=password)
        facts = read_facts(read.chain[0])
        complete = facts.authority and extension(read.chain[0], x509.SubjectKeyIdentifier) is not None
        if not isinstance(read.private_key, ed25519.Ed25519PrivateKey) or not complete or facts.realm is None:
            raise IdentityFileError("this is not the CA of a realm; macula-trio realm init makes one")
        return cls(read.private_key, read.chain[0], facts.realm)

    def key_pem(self, password: bytes) -> bytes:
        """The private key, encrypted, PEM.

        Raises:
          IdentityFileError: a password of no or too many bytes.
        """
        return private_pem(self.key, password)

    def issue(
        self,
        public_key: PublicKey,
        *,
        serial: int,
        now: datetime.datetime,
        lifetime: datetime.timedelta = NODE_LIFETIME,
        names: Sequence[x509.GeneralName] = (),
        realm: str | None = None,
    ) -> x509.Certificate:
        """Make the holder of a key a member of the realm.

        Args:
          public_key: of an algorithm that the wire allows.
          serial: number of the certificate, positive and below 2**159, used once.
          now: with its time zone.
          lifetime: from ``now`` on; cut where the CA's own ends, since nobody would believe the rest.
          names: further ones, made by `alternative_name`.
          realm: that the caller means, if it says so.

        Raises:
          RealmMismatch: the CA belongs to another one.
          TrustError: the wire does not allow such a key, or the CA is not valid now.
          ValueError: too many names, or a lifetime that is over before it begins.
        """
        if realm is not None and realm != self.realm:
            raise RealmMismatch(f"this is the CA of realm {self.realm}, not of {realm}")
        if len(names) > NAMES_MAX:
            raise ValueError(f"{len(names)} names, at most {NAMES_MAX}")
        root = self.certificate
        if not root.not_valid_before_utc <= now < root.not_valid_after_utc:
            raise TrustError(
                f"the CA is valid from {root.not_valid_before_utc:%Y-%m-%d} to {root.not_valid_after_utc:%Y-%m-%d} only"
            )
        begin, end = _validity(now, lifetime)
        subject_key = load_spki(spki(public_key))
        own_names = [x509.DNSName(realm_server_name(self.realm)), *names]
        root_identifier = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        usage = x509.KeyUsage(**{**_NO_USAGE, "digital_signature": True})
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        return (
            x509.CertificateBuilder()
            .subject_name(_node_subject(spki(subject_key), self.realm))
            .issuer_name(root.subject)
            .public_key(subject_key)
            .serial_number(serial)
            .not_valid_before(max(begin, root.not_valid_before_utc))
            .not_valid_after(min(end, root.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(purposes, critical=False)
            .add_extension(x509.SubjectAlternativeName(own_names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(subject_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(root_identifier), critical=False
            )
            .sign(self.key, None)
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.realm}>"  # never the key


def requested_key(request: bytes) -> PublicKey:
    """Read the key of a certificate request, and nothing else of it: names and usages are ours to give.

    Args:
      request: PEM of PKCS #10.

    Raises:
      IdentityFileError: malformed.
      TrustError: whoever asks does not hold the key, or the wire does not allow such a key.
    """
    try:
        read = x509.load_pem_x509_csr(request)
        proven = read.is_signature_valid
        key = read.public_key()
        data = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    except MALFORMED_CERTIFICATE as exc:
        raise IdentityFileError("no certificate request in PEM form found") from exc
    if not proven:
        raise TrustError("the certificate request is not signed by its own key")
    return load_spki(data)


def _validity(now: datetime.datetime, lifetime: datetime.timedelta) -> tuple[datetime.datetime, datetime.datetime]:
    if lifetime <= datetime.timedelta():
        raise ValueError(f"lifetime {lifetime} is over before it begins")
    moment = now.replace(microsecond=0)  # X.509 has whole seconds
    return moment - CLOCK_SKEW, moment + lifetime


def _subject(common_name: str, realm: str = "") -> x509.Name:
    pieces = [realm[at : at + _SUBJECT_CHARS_MAX] for at in range(0, len(realm), _SUBJECT_CHARS_MAX)]
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, piece) for piece in pieces),
        ]
    )


def _node_subject(spki_der: bytes, realm: str = "") -> x509.Name:
    return _subject(node_id_of(spki_der).hex()[:_COMMON_NAME_DIGITS], realm)
