"""Keys and signatures: one private key, one certificate chain, one node id (DESIGN section 5).

Sans-IO: files are in ``files.py``.  Every exception of `cryptography` on foreign bytes is translated here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, Self, TypeAlias

import attrs
from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.utils import CryptographyDeprecationWarning

from macula_trio._identity.certificate import self_signed
from macula_trio._ids import NodeId
from macula_trio.errors import IdentityFileError, TrustError

PrivateKey: TypeAlias = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey: TypeAlias = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey

RSA_BITS_MIN: Final = 2048  # below is breakable
RSA_BITS_MAX: Final = 4096  # above, one verification costs a peer milliseconds
RSA_EXPONENT_BITS_MAX: Final = 64  # likewise: one of 3072 bits makes it a hundred times as dear; everybody has 17
SPKI_BYTES_MAX: Final = 1024  # RSA-4096 takes 550
CHAIN_LENGTH_MAX: Final = 8  # a leaf, its issuers, and room; each costs parsing before anything is proven
PASSWORD_BYTES_MAX: Final = 1023  # what OpenSSL takes

# What `cryptography` raises on a certificate that a peer made up.  The warning, about odd serial numbers, is an error
# where an application turns warnings into errors: no peer may make use of that.
MALFORMED_CERTIFICATE: Final = (
    ValueError,
    TypeError,
    KeyError,  # cryptography 43, of a text of an unknown type
    InternalError,  # up to cryptography 44, of a key whose algorithm OpenSSL does not know
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    CryptographyDeprecationWarning,
)

_EC_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384()}
_PSS: Final = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)


def _accepted(key: object) -> PublicKey:
    """Give back a public key of an algorithm that the wire allows.

    Raises:
      TrustError: another algorithm, curve, size or exponent.
    """
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _EC_HASHES:
        return key
    if isinstance(key, rsa.RSAPublicKey) and RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
        if key.public_numbers().e.bit_length() > RSA_EXPONENT_BITS_MAX:
            raise TrustError(f"RSA key with a public exponent of more than {RSA_EXPONENT_BITS_MAX} bits")
        return key
    raise TrustError("key is not Ed25519, ECDSA P-256 or P-384, or RSA of 2048 to 4096 bits")


def spki(key: PublicKey) -> bytes:
    """SubjectPublicKeyInfo of a key, DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def node_id_of(spki_der: bytes) -> NodeId:
    """The id that belongs to a key: SHA-256 of its SubjectPublicKeyInfo (DER)."""
    return NodeId(hashlib.sha256(spki_der).digest())


def load_spki(spki_der: bytes) -> PublicKey:
    """Read a key that a peer sent.

    Raises:
      TrustError: not a key, or not of an algorithm that the wire allows.
    """
    if len(spki_der) > SPKI_BYTES_MAX:
        raise TrustError(f"public key of {len(spki_der)} bytes, limit {SPKI_BYTES_MAX}")
    try:
        return _accepted(serialization.load_der_public_key(spki_der))
    except MALFORMED_CERTIFICATE as exc:
        raise TrustError(f"public key is malformed: {exc}") from exc


def load_chain(chain_der: Sequence[bytes]) -> PublicKey:
    """Read the leaf's key of a certificate chain that a peer sent (leaf first, DER).

    Says nothing about who issued it: the key is what a proof is checked against.

    Raises:
      TrustError: empty, too long, malformed, or of an algorithm that the wire allows not.
    """
    if not 0 < len(chain_der) <= CHAIN_LENGTH_MAX:
        raise TrustError(f"certificate chain of {len(chain_der)}, must be 1 to {CHAIN_LENGTH_MAX}")
    try:
        return _accepted(x509.load_der_x509_certificate(chain_der[0]).public_key())
    except MALFORMED_CERTIFICATE as exc:
        raise TrustError(f"certificate is malformed: {exc}") from exc


def verify(key: PublicKey, signature: bytes, data: bytes) -> None:
    """Check a signature made by `Credentials.sign`.

    Raises:
      TrustError: it is not by this key over this data.
    """
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(_EC_HASHES[key.curve.name]))
        else:
            key.verify(signature, data, _PSS, hashes.SHA256())
    except InvalidSignature as exc:
        raise TrustError("signature does not match") from exc


def _check_password(password: bytes | None) -> None:
    if password is not None and not 0 < len(password) <= PASSWORD_BYTES_MAX:
        raise IdentityFileError(f"password of {len(password)} bytes, must be 1 to {PASSWORD_BYTES_MAX}")


def _private_key(pem: bytes, password: bytes | None) -> PrivateKey:
    _check_password(password)
    try:
        key = serialization.load_pem_private_key(pem, password)
    except TypeError as exc:
        if password is None:
            raise IdentityFileError("the private key is encrypted; give its password") from exc
        raise IdentityFileError("a password was given, but the private key is not encrypted; leave it out") from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        if password is not None and _is_encrypted(pem):
            raise IdentityFileError("wrong password, or the encrypted private key is damaged") from exc
        raise IdentityFileError("no private key in PEM form found") from exc
    if not isinstance(key, (ed25519.Ed25519PrivateKey, ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise IdentityFileError("the private key is not Ed25519, ECDSA or RSA")
    return key


def _is_encrypted(pem: bytes) -> bool:
    # A wrong password and a malformed file are the same ValueError; that one is missing is an error of its own.
    try:
        serialization.load_pem_private_key(pem, None)
    except TypeError:
        return True
    except (ValueError, UnsupportedAlgorithm):
        pass
    return False


def private_pem(key: PrivateKey, password: bytes | None) -> bytes:
    """A private key as PEM of PKCS #8, encrypted if there is a password.

    Raises:
      IdentityFileError: a password of no or too many bytes.
    """
    _check_password(password)
    encryption = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def read_certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Read all certificates of a PEM file; what else is in it, such as a key, is passed over.

    Raises:
      IdentityFileError: there is none, or one is malformed.
    """
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except MALFORMED_CERTIFICATE as exc:
        raise IdentityFileError("no certificate in PEM form found") from exc


def certificates_pem(chain: Iterable[x509.Certificate]) -> bytes:
    """Certificates as they stand in a file."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)


@attrs.frozen(eq=False, repr=False)
class Credentials:
    """A private key and the certificate chain of its public key (leaf first).

    Attributes:
      private_key: Ed25519, ECDSA P-256 or P-384, or RSA of 2048 to 4096 bits.
      chain: certificates, the leaf first.
      node_id: SHA-256 of the SubjectPublicKeyInfo.
      spki: that SubjectPublicKeyInfo, DER.
    """

    private_key: PrivateKey
    chain: tuple[x509.Certificate, ...]
    spki: bytes = attrs.field(init=False)
    node_id: NodeId = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        try:
            own = spki(_accepted(self.private_key.public_key()))
        except TrustError as exc:
            raise IdentityFileError(str(exc)) from None
        if not self.chain:
            raise IdentityFileError("there is no certificate for the key")
        if len(self.chain) > CHAIN_LENGTH_MAX:
            raise IdentityFileError(f"{len(self.chain)} certificates; peers accept at most {CHAIN_LENGTH_MAX}")
        try:
            certified = spki_of_certificate(self.chain[0])
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise IdentityFileError("the first certificate has a key of an unknown kind") from exc
        if certified != own:
            raise IdentityFileError("the first certificate is not for this private key")
        object.__setattr__(self, "spki", own)  # attrs' way for derived fields of a frozen class
        object.__setattr__(self, "node_id", node_id_of(own))

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Make an Ed25519 key and a self-signed certificate out of 32 secret bytes, always the same ones."""
        key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        return cls(key, (self_signed(key),))

    @classmethod
    def from_pem(cls, key: bytes, chain: bytes | None = None, *, password: bytes | None = None) -> Self:
        """Read a private key and its certificate chain, leaf first.

        Args:
          key: PEM; may hold the chain as well.
          chain: PEM of the chain, when it is not in ``key``.
          password: of an encrypted key.  One for a key that is not encrypted is refused, as OpenSSL does it: who
            gives it believes that a thief of the file could not use it.

        Raises:
          IdentityFileError: malformed, encrypted with another password or with one that is not given, of another
            algorithm, or the leaf is not for this key.
        """
        return cls(_private_key(key, password), read_certificates(key if chain is None else chain))

    def to_pem(self, password: bytes | None = None) -> bytes:
        """The key (PKCS #8, encrypted if there is a password) and the chain behind it, PEM.

        Raises:
          IdentityFileError: a password of no or too many bytes.
        """
        return private_pem(self.private_key, password) + certificates_pem(self.chain)

    def with_chain(self, chain: bytes) -> Self:
        """Give this key another certificate chain, as an authority issued it.

        Args:
          chain: PEM, leaf first.

        Raises:
          IdentityFileError: malformed, or the leaf is not for this key.
        """
        return type(self)(self.private_key, read_certificates(chain))

    @property
    def chain_der(self) -> tuple[bytes, ...]:
        """The chain as it travels in CONNECT and PONG, leaf first."""
        return tuple(c.public_bytes(serialization.Encoding.DER) for c in self.chain)

    def sign(self, data: bytes) -> bytes:
        """Sign with the algorithm of the key; `verify` is the other half."""
        if isinstance(self.private_key, ed25519.Ed25519PrivateKey):
            return self.private_key.sign(data)
        if isinstance(self.private_key, ec.EllipticCurvePrivateKey):
            return self.private_key.sign(data, ec.ECDSA(_EC_HASHES[self.private_key.curve.name]))
        return self.private_key.sign(data, _PSS, hashes.SHA256())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.node_id.short}>"  # never the key


def spki_of_certificate(certificate: x509.Certificate) -> bytes:
    """SubjectPublicKeyInfo of a certificate, DER."""
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
