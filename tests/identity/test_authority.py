"""What a realm's CA issues, and that QUIC's own verification believes it."""

from __future__ import annotations

import base64
import datetime
import ipaddress
from typing import Any, Final

import aioquic.tls
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import crypto

from macula_trio._identity.authority import (
    CA_LIFETIME,
    CLOCK_SKEW,
    NAMES_MAX,
    NODE_LIFETIME,
    RealmAuthority,
    alternative_name,
    certificate_request,
    requested_key,
)
from macula_trio._identity.certificate import realm_server_name
from macula_trio._identity.facts import read_facts
from macula_trio._identity.keys import Credentials, node_id_of, spki, spki_of_certificate
from macula_trio.errors import IdentityFileError, MeshError, RealmMismatch, TrustError

REALM: Final = "org.example.home"
NOW: Final = datetime.datetime(2026, 3, 1, 12, 30, 15, 678_900, tzinfo=datetime.UTC)
DAY: Final = datetime.timedelta(days=1)
LONG_REALM: Final = ".".join(f"part-{number}" for number in range(100, 128))  # several times what X.520 allows

CA_KEY: Final = ed25519.Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
OTHER_CA_KEY: Final = ed25519.Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
NODE: Final = Credentials.from_seed(b"\x03" * 32)
KEYS: Final[dict[str, Any]] = {
    "Ed25519": NODE.private_key,
    "P-256": ec.derive_private_key(7, ec.SECP256R1()),
    "P-384": ec.derive_private_key(7, ec.SECP384R1()),
    "RSA-2048": rsa.generate_private_key(65537, 2048),
}
every_kind = pytest.mark.parametrize("kind", KEYS)


def authority(
    realm: str = REALM, *, key: ed25519.Ed25519PrivateKey = CA_KEY, now: datetime.datetime = NOW, **options: Any
) -> RealmAuthority:
    return RealmAuthority.create(realm, key=key, serial=7, now=now, **options)


def issue(ca: RealmAuthority, key: Any = NODE.private_key, **options: Any) -> x509.Certificate:
    return ca.issue(key.public_key(), **{"serial": 8, "now": NOW, **options})


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def openssl(leaf: x509.Certificate, root: x509.Certificate, now: datetime.datetime = NOW) -> None:
    """What aioquic asks, at a time of ours."""
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(root))
    store.set_time(now)
    crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), []).verify_certificate()


# -- the root ------------------------------------------------------------------------------------------------------


def test_the_root_is_an_authority_and_nothing_else() -> None:
    root = authority().certificate
    root.verify_directly_issued_by(root)
    assert root.serial_number == 7
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 1)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (True, True, False)
    identifier = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert identifier.value == x509.SubjectKeyIdentifier.from_public_key(CA_KEY.public_key())
    assert read_facts(root).usages == ("keyCertSign", "cRLSign")


def test_the_root_is_valid_for_ten_years_and_at_once_where_clocks_are_behind() -> None:
    root = authority().certificate
    assert root.not_valid_before_utc == NOW.replace(microsecond=0) - CLOCK_SKEW
    assert root.not_valid_after_utc == NOW.replace(microsecond=0) + CA_LIFETIME


@pytest.mark.parametrize("realm", [REALM, "x", "y" * 255, LONG_REALM, "y" * 64, "y" * 65])
def test_the_name_of_the_realm_is_read_back_from_root_and_leaf_however_long_it_is(realm: str) -> None:
    ca = authority(realm)
    again = RealmAuthority.from_pem(ca.key_pem(b"secret"), pem(ca.certificate), password=b"secret")
    assert again.realm == realm
    assert again.certificate == ca.certificate
    assert again.key.public_key() == ca.key.public_key()
    leaf = issue(again)
    for certificate in (ca.certificate, leaf):
        facts = read_facts(certificate)
        assert (facts.realm, facts.server_name, facts.names) == (realm, realm_server_name(realm), ())
        names = [attribute.value for attribute in certificate.subject]
        assert max(map(len, names)) <= 64  # X.520, Annex C
    (common_name,) = ca.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert common_name.value == realm[:64]
    openssl(leaf, ca.certificate)


@pytest.mark.parametrize("realm", ["", "two words", "ü", "y" * 256, "a..b"])
def test_what_is_no_name_of_a_realm_gets_no_authority(realm: str) -> None:
    with pytest.raises(ValueError, match="realm"):
        authority(realm)


@pytest.mark.parametrize("lifetime", [datetime.timedelta(), -DAY])
def test_a_lifetime_that_is_over_before_it_begins_is_refused(lifetime: datetime.timedelta) -> None:
    with pytest.raises(ValueError, match="over before it begins"):
        authority(lifetime=lifetime)
    with pytest.raises(ValueError, match="over before it begins"):
        issue(authority(), lifetime=lifetime)


def test_the_representation_shows_no_key() -> None:
    ca = authority()
    raw = ca.key.private_bytes_raw().hex()
    assert repr(ca) == f"<RealmAuthority {REALM}>" == str(ca)
    assert raw not in repr(ca)


# -- what it issues ------------------------------------------------------------------------------------------------


@every_kind
def test_openssl_and_quic_believe_what_was_issued(kind: str) -> None:
    # aioquic reads the clock, so this one authority begins today.
    now = datetime.datetime.now(datetime.UTC)
    ca = authority(now=now)
    leaf = issue(ca, KEYS[kind], now=now)
    root = pem(ca.certificate)
    openssl(leaf, ca.certificate, now)
    aioquic.tls.verify_certificate(leaf, [], server_name=realm_server_name(REALM), cadata=root)
    aioquic.tls.verify_certificate(leaf, [ca.certificate], server_name=realm_server_name(REALM), cadata=root)
    with pytest.raises(aioquic.tls.AlertBadCertificate, match="doesn't match"):
        aioquic.tls.verify_certificate(leaf, [], server_name=realm_server_name("other"), cadata=root)
    stranger = authority(key=OTHER_CA_KEY, now=now)  # another key under the same names
    with pytest.raises(aioquic.tls.AlertBadCertificate):
        aioquic.tls.verify_certificate(leaf, [], server_name=realm_server_name(REALM), cadata=pem(stranger.certificate))


def test_quic_believes_further_names_too() -> None:
    now = datetime.datetime.now(datetime.UTC)
    ca = authority(now=now)
    names = [alternative_name(text) for text in ("Node.example.org", "192.0.2.7", "2001:db8::7")]
    leaf = issue(ca, now=now, names=names)
    for name in (realm_server_name(REALM), "node.example.org", "192.0.2.7", "2001:db8::7"):
        aioquic.tls.verify_certificate(leaf, [], server_name=name, cadata=pem(ca.certificate))
    assert read_facts(leaf).names == ("node.example.org", "192.0.2.7", "2001:db8::7")


@every_kind
def test_a_leaf_is_for_the_nodes_own_key_and_for_both_sides_of_tls(kind: str) -> None:
    ca, key = authority(), KEYS[kind]
    leaf = issue(ca, key)
    leaf.verify_directly_issued_by(ca.certificate)
    own = spki(key.public_key())
    assert spki_of_certificate(leaf) == own
    (common_name,) = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert common_name.value == node_id_of(own).hex()[:32]
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert leaf.extensions.get_extension_for_class(x509.KeyUsage).critical
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert set(purposes.value) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert read_facts(leaf).usages == ("digitalSignature", "serverAuth", "clientAuth")
    issuer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    root = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert issuer.key_identifier == root.digest
    subject = leaf.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert subject == x509.SubjectKeyIdentifier.from_public_key(key.public_key())


@every_kind
def test_a_node_takes_its_certificate_beside_its_key(kind: str) -> None:
    key = KEYS[kind]
    owner = Credentials(key, (issue(authority(), key),))
    assert owner.node_id == node_id_of(spki(key.public_key()))


def test_a_leaf_is_valid_for_ninety_days_by_default_and_at_once_where_clocks_are_behind() -> None:
    leaf = issue(authority(now=NOW - 100 * DAY))
    assert leaf.not_valid_before_utc == NOW.replace(microsecond=0) - CLOCK_SKEW
    assert leaf.not_valid_after_utc == NOW.replace(microsecond=0) + NODE_LIFETIME
    assert leaf.serial_number == 8


@pytest.mark.parametrize("left", [30 * DAY, datetime.timedelta(seconds=2)])
def test_no_leaf_outlives_its_authority(left: datetime.timedelta) -> None:
    ca = authority()
    root = ca.certificate
    leaf = issue(ca, now=root.not_valid_after_utc - left)
    assert leaf.not_valid_after_utc == root.not_valid_after_utc
    openssl(leaf, root, root.not_valid_after_utc - datetime.timedelta(seconds=1))


def test_no_leaf_is_older_than_its_authority() -> None:
    ca = authority()
    leaf = issue(ca, now=NOW - CLOCK_SKEW)
    assert leaf.not_valid_before_utc == ca.certificate.not_valid_before_utc


@pytest.mark.parametrize("late", [datetime.timedelta(), DAY])
def test_an_authority_whose_time_is_over_issues_nothing(late: datetime.timedelta) -> None:
    ca = authority()
    with pytest.raises(TrustError, match="valid from 2026-03-01 to 2036-03-01 only"):
        issue(ca, now=ca.certificate.not_valid_after_utc + late)
    with pytest.raises(TrustError, match="valid from 2026-03-01"):
        issue(ca, now=NOW - 2 * CLOCK_SKEW)


def test_an_authority_issues_for_no_other_realm() -> None:
    ca = authority()
    assert read_facts(issue(ca, realm=REALM)).realm == REALM
    with pytest.raises(RealmMismatch, match="CA of realm org.example.home, not of org.example.work"):
        issue(ca, realm="org.example.work")


@pytest.mark.parametrize(
    "key",
    [ec.derive_private_key(7, ec.SECP521R1()), ed448.Ed448PrivateKey.from_private_bytes(bytes(57))],
    ids=["P-521", "Ed448"],
)
def test_a_key_that_no_peer_would_accept_gets_no_certificate(key: Any) -> None:
    with pytest.raises(TrustError, match="key is not Ed25519"):
        issue(authority(), key)


# -- further names -------------------------------------------------------------------------------------------------


def test_further_names_are_dns_names_or_addresses() -> None:
    assert alternative_name("a") == x509.DNSName("a")
    assert alternative_name("Node-1.example_2.org") == x509.DNSName("node-1.example_2.org")
    assert alternative_name("xn--mller-kva.example") == x509.DNSName("xn--mller-kva.example")
    assert alternative_name("::1") == x509.IPAddress(ipaddress.ip_address("::1"))


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "a..b", "-a", "a-", "müller.example", "*.example.org", "a b", "a/b", "192.0.2", "192.0.2.256"),
        *("[::1]", "fe80::1%eth0", "x" * 64, f"{'x' * 60}." * 5, "example.org.", "node\n"),
        *(f"{'0' * 32}.realm", "X.Realm"),
    ],
)
def test_what_is_no_further_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a DNS name|without a scope|belong to realms"):
        alternative_name(text)


def test_the_names_of_one_certificate_are_bounded() -> None:
    longest = [
        alternative_name(f"{number:02}.{'x' * 62}.{'x' * 62}.{'x' * 62}.{'x' * 61}") for number in range(NAMES_MAX)
    ]
    leaf = issue(authority(LONG_REALM), names=longest)
    assert len(leaf.public_bytes(serialization.Encoding.DER)) < 8 * 1024  # half of what may come before proof
    with pytest.raises(ValueError, match=f"{NAMES_MAX + 1} names"):
        issue(authority(), names=[*longest, alternative_name("one.more")])


# -- the files of an authority -------------------------------------------------------------------------------------


def test_the_key_of_an_authority_is_encrypted() -> None:
    ca = authority()
    key = ca.key_pem(b"secret")
    assert key.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    for password, complaint in ((b"Secret", "wrong password"), (None, "is encrypted")):
        with pytest.raises(IdentityFileError, match=complaint):
            RealmAuthority.from_pem(key, pem(ca.certificate), password=password)
    with pytest.raises(IdentityFileError, match="password of 0 bytes"):
        ca.key_pem(b"")


def test_the_certificate_of_another_authority_is_refused() -> None:
    with pytest.raises(IdentityFileError, match="not for this private key"):
        RealmAuthority.from_pem(
            authority().key_pem(b"secret"), pem(authority(key=OTHER_CA_KEY).certificate), password=b"secret"
        )


def self_made(*extensions: x509.ExtensionType, organisation: str = REALM) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(CA_KEY.public_key())
        .serial_number(5)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return pem(builder.sign(CA_KEY, None))


IS_CA: Final = x509.BasicConstraints(ca=True, path_length=None)
NAMED: Final = x509.SubjectAlternativeName([x509.DNSName(realm_server_name(REALM))])
IDENTIFIED: Final = x509.SubjectKeyIdentifier.from_public_key(CA_KEY.public_key())


def test_only_a_ca_that_tells_its_realm_is_an_authority() -> None:
    key = CA_KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert RealmAuthority.from_pem(key, self_made(IS_CA, NAMED, IDENTIFIED)).realm == REALM
    for certificate in (
        self_made(NAMED, IDENTIFIED),
        self_made(x509.BasicConstraints(ca=False, path_length=None), NAMED, IDENTIFIED),
        self_made(IS_CA, IDENTIFIED),
        self_made(IS_CA, NAMED),
        self_made(IS_CA, NAMED, IDENTIFIED, organisation="another.realm"),
    ):
        with pytest.raises(IdentityFileError, match="not the CA of a realm"):
            RealmAuthority.from_pem(key, certificate)
    company = trustme.CA()
    with pytest.raises(IdentityFileError, match="not the CA of a realm"):
        RealmAuthority.from_pem(company.private_key_pem.bytes(), company.cert_pem.bytes())


# -- requests ------------------------------------------------------------------------------------------------------


def csr_pem(request: x509.CertificateSigningRequest) -> bytes:
    return request.public_bytes(serialization.Encoding.PEM)


@every_kind
def test_a_request_carries_the_key_and_its_proof(kind: str) -> None:
    key = KEYS[kind]
    owner = Credentials(key, (issue(authority(), key),))
    request = certificate_request(owner)
    assert request.is_signature_valid
    found = requested_key(csr_pem(request))
    assert spki(found) == owner.spki
    assert spki_of_certificate(authority().issue(found, serial=8, now=NOW)) == owner.spki


def test_what_a_request_asks_for_beside_its_key_is_not_given() -> None:
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "king")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("bank.example")]), critical=False)
        .sign(NODE.private_key, None)  # type: ignore[arg-type]
    )
    found = requested_key(csr_pem(greedy))
    assert authority().issue(found, serial=8, now=NOW) == issue(authority())


def test_a_request_that_its_key_did_not_sign_is_refused() -> None:
    data = bytearray(certificate_request(NODE).public_bytes(serialization.Encoding.DER))
    data[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(data))
    with pytest.raises(TrustError, match="not signed by its own key"):
        requested_key(csr_pem(forged))
    stolen = certificate_request(NODE).public_bytes(serialization.Encoding.DER)
    victim = spki(CA_KEY.public_key())
    assert NODE.spki in stolen
    with pytest.raises(TrustError, match="not signed by its own key"):
        requested_key(csr_pem(x509.load_der_x509_csr(stolen.replace(NODE.spki, victim))))


@pytest.mark.parametrize("content", [b"", b"garbage", csr_pem(certificate_request(NODE))[:120], pem(NODE.chain[0])])
def test_what_is_no_request_is_refused(content: bytes) -> None:
    with pytest.raises(IdentityFileError, match="no certificate request"):
        requested_key(content)


def test_a_request_for_a_key_that_no_peer_would_accept_is_refused() -> None:
    key = ec.derive_private_key(7, ec.SECP521R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA512())
    with pytest.raises(TrustError, match="key is not Ed25519"):
        requested_key(csr_pem(request))


def armoured(data: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(data) + b"-----END CERTIFICATE REQUEST-----\n"


@given(st.integers(0, 300), st.binary(min_size=1, max_size=2))
@settings(max_examples=200)
def test_a_damaged_request_is_an_error_of_ours_or_proves_the_same_key(position: int, patch: bytes) -> None:
    data = bytearray(certificate_request(NODE).public_bytes(serialization.Encoding.DER))
    position %= len(data)
    data[position : position + len(patch)] = patch
    try:
        found = requested_key(armoured(bytes(data)))
    except MeshError:
        return
    assert spki(found) == NODE.spki
