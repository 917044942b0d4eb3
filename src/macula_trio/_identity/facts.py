"""What certificates say, for people and for those who issue the next one.

Sans-IO and without a clock: whoever asks whether a date is over brings ``now``.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Final, TypeVar

import attrs
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from macula_trio._identity.certificate import REALM_SUFFIX, realm_server_name
from macula_trio._identity.keys import MALFORMED_CERTIFICATE, node_id_of, spki_of_certificate
from macula_trio._ids import NodeId
from macula_trio.errors import IdentityFileError

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

RENEWAL_SHARE: Final = 3  # due when a third of the lifetime is left: a month of 90 days, for two failed attempts more

_PURPOSES: Final = {ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth", ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth"}
_KEY_USAGES: Final = {
    "digital_signature": "digitalSignature",
    "content_commitment": "contentCommitment",
    "key_encipherment": "keyEncipherment",
    "data_encipherment": "dataEncipherment",
    "key_agreement": "keyAgreement",
    "key_cert_sign": "keyCertSign",
    "crl_sign": "cRLSign",
}


@attrs.frozen(kw_only=True)
class CertificateFacts:
    """What one certificate says; nothing of it is verified.

    Attributes:
      node_id: of its key; only nodes use theirs.
      authority: whether it may issue others.
      realm: name of the realm that it was made for, None when it tells none.
      server_name: `realm_server_name` of that realm, or of one whose name it does not tell.
      names: other DNS names and IP addresses.
      subject: whom it is about (RFC 4514).
      issuer: who issued it.
      usages: RFC 5280's words for what its key may do.
      valid_from: UTC.
      valid_until: UTC.
      renewal: `certificate_renewal`.
    """

    node_id: NodeId
    authority: bool
    realm: str | None
    server_name: str | None
    names: tuple[str, ...]
    subject: str
    issuer: str
    usages: tuple[str, ...]
    valid_from: datetime.datetime
    valid_until: datetime.datetime
    renewal: datetime.datetime


def certificate_renewal(certificate: x509.Certificate) -> datetime.datetime:
    """From when on a certificate should be replaced: a third of its lifetime is left then."""
    until = certificate.not_valid_after_utc
    return until - (until - certificate.not_valid_before_utc) / RENEWAL_SHARE


def read_facts(certificate: x509.Certificate) -> CertificateFacts:
    """Read everything that we show or judge.

    Raises:
      IdentityFileError: malformed; `cryptography` looks at most parts of a certificate only when asked for them.
    """
    try:
        dns, others = _alternative_names(certificate)
        realm = _realm_of(certificate, dns)
        server_names = [name for name in dns if name.endswith(REALM_SUFFIX)]
        server_name = next(iter(server_names), None) if realm is None else realm_server_name(realm)
        constraints = extension(certificate, x509.BasicConstraints)
        return CertificateFacts(
            node_id=node_id_of(spki_of_certificate(certificate)),
            authority=constraints is not None and constraints.ca,
            realm=realm,
            server_name=server_name,
            names=tuple(name for name in (*dns, *others) if name != server_name),
            subject=certificate.subject.rfc4514_string(),
            issuer=certificate.issuer.rfc4514_string(),
            usages=_usages(certificate),
            valid_from=certificate.not_valid_before_utc,
            valid_until=certificate.not_valid_after_utc,
            renewal=certificate_renewal(certificate),
        )
    except MALFORMED_CERTIFICATE as exc:
        raise IdentityFileError(f"certificate is malformed: {exc}") from exc


def extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """Find one extension; None when the certificate has none of this kind."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _alternative_names(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    found = extension(certificate, x509.SubjectAlternativeName)
    if found is None:
        return [], []
    return found.get_values_for_type(x509.DNSName), [str(ip) for ip in found.get_values_for_type(x509.IPAddress)]


def _realm_of(certificate: x509.Certificate, dns: Sequence[str]) -> str | None:
    """Read the realm's name out of the subject, where it stands in pieces; believed only if the server name fits."""
    pieces = [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    realm = "".join(piece for piece in pieces if isinstance(piece, str))
    return realm if realm_server_name(realm) in dns else None


def _usages(certificate: x509.Certificate) -> tuple[str, ...]:
    usage, purposes = extension(certificate, x509.KeyUsage), extension(certificate, x509.ExtendedKeyUsage)
    of_key = [word for name, word in _KEY_USAGES.items() if usage is not None and getattr(usage, name)]
    return (*of_key, *(_PURPOSES.get(purpose, purpose.dotted_string) for purpose in purposes or ()))
