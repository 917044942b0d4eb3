"""Does a certificate chain belong to a realm?  X.509 as RFC 5280 has it, by OpenSSL's own path validation.

Sans-IO: the date is a parameter.  OpenSSL checks signatures, dates, path lengths, name constraints and critical
extensions; what it leaves to its callers is checked here: names, usages, and that the leaf is no authority itself
(DESIGN section 5).  `cryptography`'s own verification follows the profile of the web, and refuses critical extensions
that private authorities set.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Final

import attrs
import service_identity
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address

from macula_trio._identity.facts import extension
from macula_trio._identity.keys import CHAIN_LENGTH_MAX, MALFORMED_CERTIFICATE
from macula_trio._identity.proof import Side
from macula_trio._util import is_numeric
from macula_trio.errors import ErrorCode, TrustError

_USAGES: Final[dict[Side, x509.ObjectIdentifier]] = {
    "dialer": ExtendedKeyUsageOID.CLIENT_AUTH,
    "listener": ExtendedKeyUsageOID.SERVER_AUTH,
}
_USAGE_NAMES: Final[dict[Side, str]] = {"dialer": "clientAuth", "listener": "serverAuth"}
_BROKEN_HASHES: Final = (hashes.MD5, hashes.SHA1)  # collisions can be made, and with them certificates
_MALFORMED: Final = (*MALFORMED_CERTIFICATE, crypto.Error)  # OpenSSL refuses some that `cryptography` takes


@attrs.frozen
class Validity:
    """When a chain is valid: from the latest beginning to the earliest end of its certificates."""

    not_before: datetime.datetime
    not_after: datetime.datetime


def load_authority(ca_pem: bytes) -> tuple[x509.Certificate, ...]:
    """Read the certificates of a realm's authority.

    Raises:
      TrustError: there is none, or one of them is no authority.
    """
    try:
        roots = tuple(x509.load_pem_x509_certificates(ca_pem))
        authorities = [_is_authority(root) for root in roots]
    except _MALFORMED as exc:
        raise TrustError("the realm's authority: no certificate in PEM form found") from exc
    if not all(authorities):
        raise TrustError("the realm's authority: a certificate in the file is not that of an authority (CA)")
    return roots


def parse_certificates(chain_der: Sequence[bytes]) -> list[x509.Certificate]:
    """Read certificates that a peer sent.

    Raises:
      TrustError: none, too many, or malformed.
    """
    if not 0 < len(chain_der) <= CHAIN_LENGTH_MAX:
        raise _untrusted(f"its chain has {len(chain_der)} certificates, must be 1 to {CHAIN_LENGTH_MAX}")
    try:
        return [x509.load_der_x509_certificate(der) for der in chain_der]
    except _MALFORMED as exc:
        raise _untrusted(f"it is malformed: {exc}") from exc


def verify_chain(
    chain: Sequence[x509.Certificate],
    *,
    roots: Sequence[x509.Certificate],
    side: Side | None,
    name: str | None,
    now: datetime.datetime,
) -> Validity:
    """Check that a chain, leaf first, ends at one of ``roots``, and that its leaf is what it must be.

    Args:
      chain: the leaf and the intermediate authorities that its owner sent; not empty.
      roots: the realm's authority.
      side: which side of a connection shows it; None for the owner of a value, whom either usage fits.
      name: a DNS name or an IP address that the leaf must carry; None when any will do.
      now: with time zone.

    Raises:
      TrustError: it does not; one line says why.
    """
    try:
        verified = _verified_path(chain, roots, now)
        for certificate in verified[:-1]:
            _check_signature(certificate)
            _check_extended_usage(certificate, side)
        _check_leaf(chain[0])
        if name is not None:
            _check_name(chain[0], name)
    except _MALFORMED as exc:
        raise _untrusted(f"it is malformed: {exc}") from exc
    return Validity(
        max(certificate.not_valid_before_utc for certificate in verified),
        min(certificate.not_valid_after_utc for certificate in verified),
    )


def chain_problem(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], *, now: datetime.datetime
) -> str | None:
    """Say why a chain (leaf first) does not lead to one of the roots at ``now``; None when it does.

    Names and usages are not looked at, so that authorities can be asked about too.
    """
    try:
        _verified_path(chain, roots, now)
    except TrustError as exc:
        return str(exc)
    except _MALFORMED as exc:
        return str(_untrusted(f"it is malformed: {exc}"))
    return None


def _untrusted(reason: str) -> TrustError:
    return TrustError(f"its certificate is not trusted: {reason}", code=ErrorCode.UNTRUSTED)


def _verified_path(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now: datetime.datetime
) -> list[x509.Certificate]:
    """The path from the leaf to a root that OpenSSL has found and checked."""
    store = crypto.X509Store()  # a new one each time: its date can be set only once
    for root in roots:
        store.add_cert(crypto.X509.from_cryptography(root))
    store.set_time(now.astimezone(datetime.UTC))
    leaf, *others = (crypto.X509.from_cryptography(certificate) for certificate in chain)
    try:
        path = crypto.X509StoreContext(store, leaf, others).get_verified_chain()
    except crypto.X509StoreContextError as exc:
        raise _untrusted(str(exc)) from exc
    return [certificate.to_cryptography() for certificate in path]


def _is_authority(certificate: x509.Certificate) -> bool:
    constraints = extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def _check_signature(certificate: x509.Certificate) -> None:
    if isinstance(certificate.signature_hash_algorithm, _BROKEN_HASHES):
        raise _untrusted("it is signed with MD5 or SHA-1")


def _check_extended_usage(certificate: x509.Certificate, side: Side | None) -> None:
    """RFC 5280, section 4.2.1.12: none, or ``any``, allows everything; that of an authority binds its leaves."""
    usages = extension(certificate, x509.ExtendedKeyUsage)
    if usages is None or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages:
        return
    if side is None:
        if not any(usage in usages for usage in _USAGES.values()):
            raise _untrusted("its extended key usage has neither serverAuth nor clientAuth")
    elif _USAGES[side] not in usages:
        raise _untrusted(f"its extended key usage has no {_USAGE_NAMES[side]}, which a {side} needs")


def _check_leaf(leaf: x509.Certificate) -> None:
    if _is_authority(leaf):
        raise _untrusted("it is that of an authority, not of a node")
    usage = extension(leaf, x509.KeyUsage)
    if usage is not None and usage.key_cert_sign:
        raise _untrusted("its key may sign certificates")
    if usage is not None and not usage.digital_signature:
        raise _untrusted("its key usage has no digitalSignature")


def _check_name(leaf: x509.Certificate, name: str) -> None:
    try:
        if is_numeric(name):
            verify_certificate_ip_address(leaf, name)
        else:
            verify_certificate_hostname(leaf, name)
    except (service_identity.VerificationError, service_identity.CertificateError):
        raise _untrusted(f"it does not carry the name {name!r}") from None
