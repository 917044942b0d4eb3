from __future__ import annotations

import base64
import datetime
import hashlib
import warnings
from typing import Final, TypeAlias

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa, x25519
from hypothesis import given, settings
from hypothesis import strategies as st

from macula_trio._identity.files import Identity
from macula_trio._identity.keys import (
    CHAIN_LENGTH_MAX,
    PASSWORD_BYTES_MAX,
    SPKI_BYTES_MAX,
    Credentials,
    load_chain,
    load_spki,
    node_id_of,
    spki,
    spki_of_certificate,
    verify,
)
from macula_trio.errors import IdentityFileError, TrustError

AnyKey: TypeAlias = (
    ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | dsa.DSAPrivateKey
)

# RFC 8032, section 7.1, test 1; its SubjectPublicKeyInfo is RFC 8410's prefix and the key.
SEED: Final = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
SPKI: Final = bytes.fromhex("302a300506032b6570032100d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
DATA: Final = b"what is signed"
OID_ED25519: Final = bytes.fromhex("06032b6570")

ACCEPTED: Final[dict[str, AnyKey]] = {
    "Ed25519": ed25519.Ed25519PrivateKey.from_private_bytes(SEED),
    "P-256": ec.derive_private_key(7, ec.SECP256R1()),
    "P-384": ec.derive_private_key(7, ec.SECP384R1()),
    "RSA-2048": rsa.generate_private_key(65537, 2048),
}
REFUSED: Final[dict[str, AnyKey]] = {
    "P-521": ec.derive_private_key(7, ec.SECP521R1()),
    "secp256k1": ec.derive_private_key(7, ec.SECP256K1()),
    "Ed448": ed448.Ed448PrivateKey.from_private_bytes(bytes(57)),
    "RSA-1024": rsa.generate_private_key(65537, 1024),
}


def certify(key: AnyKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody")])
    no_hash = isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey))
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2050, 1, 1, tzinfo=datetime.UTC))
        .sign(key, None if no_hash else hashes.SHA256())
    )


def pem_of(key: AnyKey, password: bytes | None = None) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption(),
    )


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def armoured(label: str, data: bytes) -> bytes:
    return f"-----BEGIN {label}-----\n".encode() + base64.encodebytes(data) + f"-----END {label}-----\n".encode()


def credentials(name: str) -> Credentials:
    key = ACCEPTED[name]
    return Credentials.from_pem(pem_of(key), pem(certify(key)))


every_accepted = pytest.mark.parametrize("name", ACCEPTED)
every_refused = pytest.mark.parametrize("name", REFUSED)


# -- what a key can do ---------------------------------------------------------------------------------------------


@every_accepted
def test_what_a_key_signs_the_certificate_verifies(name: str) -> None:
    owner = credentials(name)
    verify(load_chain(owner.chain_der), owner.sign(DATA), DATA)


@every_accepted
def test_what_a_key_signs_the_public_key_alone_verifies(name: str) -> None:
    owner = credentials(name)
    verify(load_spki(owner.spki), owner.sign(DATA), DATA)


@every_accepted
def test_a_signature_is_not_one_of_other_data_nor_when_it_is_cut_or_changed(name: str) -> None:
    owner = credentials(name)
    key, signature = load_spki(owner.spki), owner.sign(DATA)
    changed = signature[:-1] + bytes([signature[-1] ^ 1])
    for forged in (b"", signature[:-1], signature + b"\0", changed, bytes(len(signature))):
        with pytest.raises(TrustError, match="does not match"):
            verify(key, forged, DATA)
    with pytest.raises(TrustError, match="does not match"):
        verify(key, signature, DATA + b".")


@every_accepted
def test_a_signature_is_not_one_of_another_key(name: str) -> None:
    signature = credentials(name).sign(DATA)
    for other in ACCEPTED.keys() - {name}:
        with pytest.raises(TrustError):
            verify(load_spki(credentials(other).spki), signature, DATA)
    with pytest.raises(TrustError):
        verify(load_spki(Credentials.from_seed(bytes(32)).spki), signature, DATA)


def test_the_algorithms_are_those_that_the_design_names() -> None:
    public = {name: key.public_key() for name, key in ACCEPTED.items()}
    signatures = {name: credentials(name).sign(DATA) for name in ACCEPTED}
    ed, p256, p384, pss = public["Ed25519"], public["P-256"], public["P-384"], public["RSA-2048"]
    assert isinstance(ed, ed25519.Ed25519PublicKey)
    assert isinstance(p256, ec.EllipticCurvePublicKey)
    assert isinstance(p384, ec.EllipticCurvePublicKey)
    assert isinstance(pss, rsa.RSAPublicKey)
    ed.verify(signatures["Ed25519"], DATA)
    p256.verify(signatures["P-256"], DATA, ec.ECDSA(hashes.SHA256()))
    p384.verify(signatures["P-384"], DATA, ec.ECDSA(hashes.SHA384()))
    salted = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    pss.verify(signatures["RSA-2048"], DATA, salted, hashes.SHA256())


# -- names ---------------------------------------------------------------------------------------------------------


@every_accepted
def test_the_node_id_is_the_hash_of_the_public_key_in_the_certificate(name: str) -> None:
    owner = credentials(name)
    public = ACCEPTED[name].public_key()
    expected = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert owner.spki == expected == spki(load_chain(owner.chain_der)) == spki_of_certificate(owner.chain[0])
    assert owner.node_id == hashlib.sha256(expected).digest() == node_id_of(owner.spki)
    assert expected in owner.chain_der[0]


def test_a_seed_gives_the_key_that_the_rfc_says_and_always_the_same_bytes() -> None:
    first, second = Credentials.from_seed(SEED), Credentials.from_seed(SEED)
    assert first.spki == SPKI
    assert first.node_id == hashlib.sha256(SPKI).digest()
    assert first.to_pem() == second.to_pem()
    assert first.chain_der == second.chain_der
    assert first.sign(DATA) == second.sign(DATA)
    assert Credentials.from_seed(bytes(32)).node_id != first.node_id


def test_the_representation_shows_the_short_id_and_no_key() -> None:
    owner = Identity.from_seed(SEED)
    assert repr(owner) == f"<Identity {owner.node_id.hex()[:8]}>" == str(owner)


# -- reading PEM ---------------------------------------------------------------------------------------------------


@every_accepted
def test_what_was_written_is_read_again(name: str) -> None:
    owner = credentials(name)
    again = Credentials.from_pem(owner.to_pem())
    assert (again.node_id, again.chain_der, again.to_pem()) == (owner.node_id, owner.chain_der, owner.to_pem())


def test_a_certificate_of_a_company_works_with_its_issuers_behind_it() -> None:
    authority = trustme.CA()
    leaf = authority.create_child_ca().issue_cert("node.example.org")
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    owner = Identity.from_pem(leaf.private_key_pem.bytes(), chain)
    assert isinstance(owner, Identity)
    assert isinstance(owner.private_key, ec.EllipticCurvePrivateKey)
    assert len(owner.chain_der) == 2
    verify(load_chain(owner.chain_der), owner.sign(DATA), DATA)
    assert Identity.from_pem(leaf.private_key_and_cert_chain_pem.bytes()).chain_der == owner.chain_der


@every_refused
def test_another_kind_of_key_is_refused_as_an_identity(name: str) -> None:
    key = REFUSED[name]
    with pytest.raises(IdentityFileError, match="key is not Ed25519, ECDSA"):
        Credentials.from_pem(pem_of(key), pem(certify(key)))


def test_a_key_that_cannot_sign_is_refused() -> None:
    key = x25519.X25519PrivateKey.from_private_bytes(SEED).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(IdentityFileError, match="not Ed25519, ECDSA or RSA"):
        Credentials.from_pem(key, pem(certify(ACCEPTED["P-256"])))


# -- encrypted keys ------------------------------------------------------------------------------------------------


@every_accepted
def test_an_encrypted_key_is_read_with_its_password(name: str) -> None:
    owner = credentials(name)
    written = owner.to_pem(b"secret")
    assert written.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    again = Credentials.from_pem(written, password=b"secret")
    assert (again.to_pem(), again.chain_der) == (owner.to_pem(), owner.chain_der)


def test_a_key_that_openssl_encrypted_in_its_old_way_is_read_with_its_password() -> None:
    key = ACCEPTED["RSA-2048"]
    old = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(b"secret"),
    )
    assert Credentials.from_pem(old + pem(certify(key)), password=b"secret").chain[0] == certify(key)


@pytest.mark.parametrize("name", ["Ed25519", "RSA-2048"])
def test_an_encrypted_key_without_its_password_is_refused_with_the_mend(name: str) -> None:
    with pytest.raises(IdentityFileError, match="encrypted; give its password"):
        Credentials.from_pem(credentials(name).to_pem(b"secret"))
    with pytest.raises(IdentityFileError, match="^wrong password, or the encrypted private key is damaged$"):
        Credentials.from_pem(credentials(name).to_pem(b"secret"), password=b"Secret")


def test_a_password_for_a_key_that_is_not_encrypted_is_refused() -> None:
    with pytest.raises(IdentityFileError, match="a password was given, but the private key is not encrypted"):
        Credentials.from_pem(Credentials.from_seed(SEED).to_pem(), password=b"secret")


@pytest.mark.parametrize("content", [b"", b"garbage", armoured("ENCRYPTED PRIVATE KEY", b"garbage")])
def test_what_is_no_key_is_not_blamed_on_the_password(content: bytes) -> None:
    with pytest.raises(IdentityFileError, match="no private key in PEM form"):
        Credentials.from_pem(content, pem(certify(ACCEPTED["P-256"])), password=b"secret")


@pytest.mark.parametrize("size", [0, PASSWORD_BYTES_MAX + 1])
def test_a_password_that_openssl_does_not_take_is_refused_in_both_directions(size: int) -> None:
    owner = Credentials.from_seed(SEED)
    with pytest.raises(IdentityFileError, match=f"password of {size} bytes, must be 1 to 1023"):
        owner.to_pem(b"p" * size)
    with pytest.raises(IdentityFileError, match=f"password of {size} bytes, must be 1 to 1023"):
        Credentials.from_pem(owner.to_pem(b"secret"), password=b"p" * size)


def test_the_longest_password_works_in_both_directions() -> None:
    password = bytes(range(1, 256)) * 5
    owner = Credentials.from_seed(SEED)
    longest = password[:PASSWORD_BYTES_MAX]
    assert Credentials.from_pem(owner.to_pem(longest), password=longest).node_id == owner.node_id


@given(st.integers(0, 400), st.binary(min_size=1, max_size=3))
@settings(max_examples=100)
def test_a_damaged_encrypted_key_is_an_error_of_ours_or_the_same_key(position: int, patch: bytes) -> None:
    written = bytearray(Credentials.from_seed(SEED).to_pem(b"secret"))
    written[position : position + len(patch)] = patch
    for password in (b"secret", None):
        try:
            owner = Credentials.from_pem(bytes(written), password=password)
        except IdentityFileError:
            continue
        assert owner.spki == SPKI


# -- another chain for a key ---------------------------------------------------------------------------------------


def test_an_identity_keeps_its_key_when_it_gets_another_chain() -> None:
    before = Identity.from_seed(SEED)
    issued, issuer = certify(ACCEPTED["Ed25519"]), certify(ACCEPTED["P-256"])
    after = before.with_chain(pem(issued) + pem(issuer))
    assert type(after) is Identity
    assert (after.node_id, after.private_key) == (before.node_id, before.private_key)
    assert after.chain == (issued, issuer)
    assert before.chain != after.chain


def test_a_chain_of_another_key_is_refused() -> None:
    with pytest.raises(IdentityFileError, match="not for this private key"):
        Identity.from_seed(SEED).with_chain(pem(certify(ACCEPTED["P-256"])))
    with pytest.raises(IdentityFileError, match="no certificate in PEM form"):
        Identity.from_seed(SEED).with_chain(b"")


# -- other files ---------------------------------------------------------------------------------------------------


def test_a_certificate_of_another_key_is_refused() -> None:
    with pytest.raises(IdentityFileError, match="not for this private key"):
        Credentials.from_pem(pem_of(ACCEPTED["P-256"]), pem(certify(ACCEPTED["P-384"])))


def test_the_issuer_in_front_of_the_leaf_is_refused() -> None:
    leaf = trustme.CA().create_child_ca().issue_cert("node.example.org")
    chain = b"".join(blob.bytes() for blob in reversed(leaf.cert_chain_pems))
    with pytest.raises(IdentityFileError, match="not for this private key"):
        Credentials.from_pem(leaf.private_key_pem.bytes(), chain)


@pytest.mark.parametrize("chain", [None, b"", b"garbage", armoured("CERTIFICATE", b"garbage")])
def test_a_key_without_a_certificate_is_refused(chain: bytes | None) -> None:
    with pytest.raises(IdentityFileError, match="no certificate in PEM form"):
        Credentials.from_pem(pem_of(ACCEPTED["P-256"]), chain)


def test_an_empty_chain_is_refused() -> None:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(SEED)
    with pytest.raises(IdentityFileError, match="no certificate for the key"):
        Credentials(key, ())


@pytest.mark.parametrize("key", [b"", b"garbage", pem(certify(ACCEPTED["P-256"])), armoured("PRIVATE KEY", b"garbage")])
def test_what_is_no_private_key_is_refused(key: bytes) -> None:
    with pytest.raises(IdentityFileError, match="no private key in PEM form"):
        Credentials.from_pem(key, pem(certify(ACCEPTED["P-256"])))


def test_a_chain_that_every_peer_would_refuse_is_refused_here_already() -> None:
    key = ACCEPTED["Ed25519"]
    certificate = pem(certify(key))
    owner = Credentials.from_pem(pem_of(key), certificate * CHAIN_LENGTH_MAX)
    assert load_chain(owner.chain_der)
    with pytest.raises(IdentityFileError, match="9 certificates"):
        Credentials.from_pem(pem_of(key), certificate * (CHAIN_LENGTH_MAX + 1))


def test_a_certificate_with_a_key_of_an_unknown_kind_is_refused() -> None:
    odd = Credentials.from_seed(SEED).chain_der[0].replace(OID_ED25519, bytes.fromhex("06032b6579"), 2)
    with pytest.raises(IdentityFileError, match="unknown kind"):
        Credentials.from_pem(pem_of(ACCEPTED["Ed25519"]), armoured("CERTIFICATE", odd))


def test_a_certificate_of_a_version_to_come_is_refused() -> None:
    odd = Credentials.from_seed(SEED).chain_der[0].replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020107"), 1)
    with pytest.raises(IdentityFileError, match="no certificate in PEM form"):
        Credentials.from_pem(pem_of(ACCEPTED["Ed25519"]), armoured("CERTIFICATE", odd))
    with pytest.raises(TrustError, match="malformed"):
        load_chain([odd])


# -- what peers send -----------------------------------------------------------------------------------------------


@every_refused
def test_a_peers_key_of_another_kind_is_refused(name: str) -> None:
    key = REFUSED[name]
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(TrustError, match="key is not Ed25519"):
        load_spki(public)
    with pytest.raises(TrustError, match="key is not Ed25519"):
        load_chain([der(certify(key))])


def test_a_certificate_that_only_warns_does_not_escape_where_warnings_are_errors() -> None:
    before = der(Credentials.from_seed(SEED).chain[0])
    serial = before.index(b"\x02\x13\x01") + 2  # an INTEGER of 19 bytes
    odd = before[:serial] + b"\x81" + before[serial + 1 :]
    with pytest.raises(TrustError, match="malformed.*serial number"):
        load_chain([odd])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert spki(load_chain([odd])) == Credentials.from_seed(SEED).spki


@pytest.mark.parametrize(("bits", "accepted"), [(2047, False), (2048, True), (4096, True), (4097, False)])
def test_rsa_keys_have_2048_to_4096_bits(bits: int, accepted: bool) -> None:
    key = rsa.RSAPublicNumbers(65537, (1 << (bits - 1)) + 1).public_key()
    data = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if accepted:
        assert spki(load_spki(data)) == data
    else:
        with pytest.raises(TrustError, match="RSA of 2048 to 4096"):
            load_spki(data)


@pytest.mark.parametrize("bits", [17, 64, 65, 3071])
def test_an_rsa_key_that_makes_others_compute_is_refused(bits: int) -> None:
    """OpenSSL bounds the exponent only where the modulus has more than 3,072 bits; 5 ms for each value are many."""
    key = rsa.RSAPublicNumbers((1 << (bits - 1)) + 1, (1 << 3071) + 1).public_key()
    data = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if bits <= 64:
        assert spki(load_spki(data)) == data
    else:
        with pytest.raises(TrustError, match="exponent of more than 64 bits"):
            load_spki(data)


@pytest.mark.parametrize("size", [0, CHAIN_LENGTH_MAX + 1])
def test_a_chain_without_a_leaf_or_with_too_many_issuers_is_refused(size: int) -> None:
    with pytest.raises(TrustError, match=f"chain of {size}"):
        load_chain([Credentials.from_seed(SEED).chain_der[0]] * size)


def test_a_long_public_key_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(TrustError, match=f"public key of {SPKI_BYTES_MAX + 1} bytes"):
        load_spki(bytes(SPKI_BYTES_MAX + 1))
    with pytest.raises(TrustError, match="malformed"):
        load_spki(bytes(SPKI_BYTES_MAX))


GENUINE: Final = tuple(der(certify(key)) for key in (*ACCEPTED.values(), *REFUSED.values()))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A certificate with a few bytes changed, taken out or put in."""
    data = bytearray(draw(st.sampled_from(GENUINE)))
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, len(data) - 1))
        data[position : position + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


@given(damaged() | st.binary(max_size=80))
@settings(max_examples=400)
def test_a_damaged_certificate_is_an_error_of_ours_or_another_key(data: bytes) -> None:
    try:
        key = load_chain([data])
    except TrustError:
        pass
    else:
        assert node_id_of(spki(key))
    try:
        owner = Credentials.from_pem(pem_of(ACCEPTED["Ed25519"]), armoured("CERTIFICATE", data))
    except IdentityFileError:
        pass
    else:
        assert owner.spki == SPKI


@given(st.sampled_from(sorted(ACCEPTED)), st.integers(0, 600), st.binary(min_size=1, max_size=2))
@settings(max_examples=60)
def test_a_damaged_public_key_is_an_error_of_ours_or_has_another_id(name: str, position: int, patch: bytes) -> None:
    own = credentials(name).spki
    data = own[: position % len(own)] + patch + own[position % len(own) + len(patch) :]
    try:
        load_spki(data)
    except TrustError:
        return
    assert data == own or node_id_of(data) != node_id_of(own)


@given(st.sampled_from(sorted(ACCEPTED)), st.binary(max_size=300))
@settings(max_examples=60)
def test_no_invented_signature_is_accepted(name: str, signature: bytes) -> None:
    with pytest.raises(TrustError):
        verify(load_spki(credentials(name).spki), signature, DATA)
