"""Which certificates belong to a realm: trustme's, a realm's own, a company's, and none of the others."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from realm_tools import BEGIN, CLIENT, END, NAME, REALM, SERVER, Authority, usage

from macula_trio._identity.chain import Validity, load_authority, parse_certificates, verify_chain
from macula_trio._identity.keys import CHAIN_LENGTH_MAX, Credentials
from macula_trio._identity.proof import Side
from macula_trio.errors import ErrorCode, TrustError

NOW = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
ROOT = Authority.create()
BOTH: tuple[Side, ...] = ("dialer", "listener")


def verify(
    owner: Credentials,
    *,
    root: Authority = ROOT,
    side: Side | None = "listener",
    name: str | None = NAME,
    now: datetime.datetime = NOW,
) -> Validity:
    return verify_chain(owner.chain, roots=[root.certificate], side=side, name=name, now=now)


def refusal(owner: Credentials, **changes: Any) -> str:
    with pytest.raises(TrustError) as caught:
        verify(owner, **changes)
    assert caught.value.code is ErrorCode.UNTRUSTED
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("side", [*BOTH, None])
def test_a_good_chain_is_taken_until_its_first_certificate_expires(side: Side | None) -> None:
    owner = ROOT.issue(begin=NOW - DAY, end=NOW + DAY)
    assert verify(owner, side=side) == Validity(NOW - DAY, NOW + DAY)
    assert verify(ROOT.issue(), side=side) == Validity(BEGIN, END)


@pytest.mark.parametrize("key_type", list(trustme.KeyType))
def test_chains_of_trustme_are_taken_with_their_critical_extensions(key_type: trustme.KeyType) -> None:
    ca = trustme.CA(key_type=key_type)
    for issuer in (ca, ca.create_child_ca()):
        leaf = issuer.issue_cert(NAME, key_type=key_type)
        owner = Credentials.from_pem(leaf.private_key_and_cert_chain_pem.bytes())
        root = load_authority(ca.cert_pem.bytes())
        for side in (*BOTH, None):
            verify_chain(owner.chain, roots=root, side=side, name=NAME, now=NOW)


def test_intermediate_authorities_are_taken_when_they_are_sent() -> None:
    owner = ROOT.child(101).child(102).issue()
    assert len(owner.chain) == 3
    verify(owner)
    shuffled = Credentials(owner.private_key, (owner.chain[0], owner.chain[2], owner.chain[1]))
    verify(shuffled)
    assert "unable to get local issuer" in refusal(Credentials(owner.private_key, owner.chain[:2]))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "RSA"],
)
def test_any_key_that_a_node_may_have_can_be_certified(key: Any) -> None:
    verify(ROOT.issue(key=key))


def test_dates_count_by_the_clock_that_is_given() -> None:
    owner = ROOT.issue(begin=NOW, end=NOW + DAY)
    verify(owner)
    assert "not yet valid" in refusal(owner, now=NOW - DAY)
    assert "expired" in refusal(owner, now=NOW + 2 * DAY)
    verify(owner, now=(NOW + DAY / 2).astimezone(datetime.timezone(datetime.timedelta(hours=9))))
    assert "expired" in refusal(Authority.create(end=NOW - DAY).issue(), root=Authority.create(end=NOW - DAY))
    old = ROOT.child(end=NOW - DAY)
    assert "expired" in refusal(old.issue())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"names": ()}, "does not carry the name"),
        ({"names": ["other.realm"]}, "does not carry the name"),
        ({"names": [NAME + "x", "x" + NAME]}, "does not carry the name"),
        ({"names": ["10.0.0.1"]}, "does not carry the name"),
        ({"authority": True, "key_usage": None}, "that of an authority"),
        ({"authority": True, "key_usage": usage(key_cert_sign=True)}, "that of an authority"),
        ({"key_usage": usage(key_cert_sign=True)}, "may sign certificates"),
        ({"key_usage": usage(digital_signature=False)}, "no digitalSignature"),
        ({"extended": [CLIENT]}, "no serverAuth, which a listener needs"),
        ({"extended": [ExtendedKeyUsageOID.CODE_SIGNING]}, "no serverAuth"),
        ({"more": [x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"?")]}, "unhandled critical"),
    ],
)
def test_what_is_wrong_with_a_leaf_is_said(changes: dict[str, Any], reason: str) -> None:
    assert reason in refusal(ROOT.issue(**changes))


def test_usages_are_those_of_the_side_that_shows_them() -> None:
    server, client = ROOT.issue(extended=[SERVER]), ROOT.issue(extended=[CLIENT])
    verify(server, side="listener")
    verify(client, side="dialer")
    assert "no clientAuth, which a dialer needs" in refusal(server, side="dialer")
    for owner in (server, client):
        verify(owner, side=None)
    assert "neither" in refusal(ROOT.issue(extended=[ExtendedKeyUsageOID.EMAIL_PROTECTION]), side=None)


@pytest.mark.parametrize("extended", [None, [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]])
def test_a_certificate_without_usages_is_for_everything(extended: Any) -> None:
    for side in (*BOTH, None):
        verify(ROOT.issue(extended=extended, key_usage=None), side=side)


def test_the_usages_of_an_authority_bind_what_it_issues() -> None:
    for_mail = ROOT.child(extended=[ExtendedKeyUsageOID.EMAIL_PROTECTION])
    assert "no serverAuth" in refusal(for_mail.issue())
    verify(ROOT.child(extended=[SERVER]).issue())


def test_an_authority_binds_its_paths_and_names() -> None:
    assert "path length" in refusal(ROOT.child(101, path_length=0).child(102).issue())
    elsewhere = x509.NameConstraints(permitted_subtrees=[x509.DNSName("example.org")], excluded_subtrees=None)
    assert "subtree" in refusal(ROOT.child(more=[elsewhere]).issue())


def test_a_node_issues_nothing() -> None:
    node = ROOT.issue()
    forged = Authority(node.private_key, node.chain[0], node.chain).issue(9)
    assert "invalid CA certificate" in refusal(forged)


def test_other_authorities_are_strangers_even_by_the_same_name() -> None:
    assert "unable to get local issuer" in refusal(Authority.create(2).issue())
    namesake = Authority.create(1, key=ed25519.Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32))
    assert namesake.certificate.subject == ROOT.certificate.subject
    refusal(namesake.issue())
    assert "self-signed" in refusal(Credentials.from_seed(bytes(32)))
    # It brings its own root along.
    owner = namesake.issue()
    refusal(Credentials(owner.private_key, (*owner.chain, namesake.certificate)))


def test_a_certificate_signed_with_sha1_is_not_taken() -> None:
    """Made by openssl's command line, because `cryptography` makes none any more."""
    chain = x509.load_pem_x509_certificates(SHA1_LEAF.encode())
    root = load_authority(SHA1_ROOT.encode())
    now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    with pytest.raises(TrustError, match="SHA-1|too weak"):
        verify_chain(chain, roots=root, side="listener", name="node.example.org", now=now)


def test_names_are_those_of_hosts_and_addresses_too() -> None:
    owner = ROOT.issue(names=["node1.example.org", "*.mesh.example.org", "192.0.2.7", "2001:db8::7"])
    for name in ("node1.example.org", "NODE1.example.org", "a.mesh.example.org", "192.0.2.7", "2001:db8::7"):
        verify(owner, name=name)
    for name in ("node2.example.org", "mesh.example.org", "a.b.mesh.example.org", "192.0.2.8", "", "a b", "\ud800"):
        refusal(owner, name=name)
    verify(owner, name=None)


def test_an_authority_is_read_from_pem_and_must_be_one() -> None:
    other = Authority.create(2)
    assert load_authority(ROOT.pem + other.pem) == (ROOT.certificate, other.certificate)
    for data in (b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"):
        with pytest.raises(TrustError, match="no certificate in PEM form"):
            load_authority(data)
    node = ROOT.issue().to_pem()
    with pytest.raises(TrustError, match="not that of an authority"):
        load_authority(ROOT.pem + node)


def test_a_chain_is_short_and_well_formed() -> None:
    chain = ROOT.issue().chain_der
    assert len(parse_certificates(chain)) == 1
    with pytest.raises(TrustError, match="must be 1 to"):
        parse_certificates([])
    with pytest.raises(TrustError, match="must be 1 to"):
        parse_certificates(chain * (CHAIN_LENGTH_MAX + 1))
    with pytest.raises(TrustError, match="malformed"):
        parse_certificates([chain[0][:-1]])
    assert REALM


SHA1_ROOT = """\
-----BEGIN CERTIFICATE-----
MIIDEzCCAfugAwIBAgIUCFeG8gHmU+QANobS1iB55Vu58/0wDQYJKoZIhvcNAQEL
BQAwGDEWMBQGA1UEAwwNb2xkIGF1dGhvcml0eTAgFw0yNjExMjUwODUxMDNaGA8y
MTI2MTEwMTA4NTEwM1owGDEWMBQGA1UEAwwNb2xkIGF1dGhvcml0eTCCASIwDQYJ
KoZIhvcNAQEBBQADggEPADCCAQoCggEBANBtco6Hb7LDbuzRG0HxQtZScxtaxoic
3Vowy9/ajv/L7BxytDdKb/ZlRQYHZ5pAjm0LPdixtE0QtbExag6p5Wf6sLyXtVFg
EaOUhJgD1paERSGj4/hrb91g6oyGSM0SV1et9EvP50OPSJp+xxjpzSEC2T7+qndE
Y/J71Z/gbVcnWLJRnkm0MDwDAMrs53+LpryLImXn4UA0lK4iqHnQxxha4h9yFh8v
PwRy1ZtPKiDJfNjIQu+5f7/VDO4hx8KQ2DZEoqZiWmyV7VrHrXMcn7GWRkt40Ey+
rvmxUcn7rNkDupt5/QcT08bmnT6EU72npX8Dxpu6VSgpUmTPhKm3oVUCAwEAAaNT
MFEwHQYDVR0OBBYEFKqt2o4H0emY/jUkAgagTuVqDfACMB8GA1UdIwQYMBaAFKqt
2o4H0emY/jUkAgagTuVqDfACMA8GA1UdEwEB/wQFMAMBAf8wDQYJKoZIhvcNAQEL
BQADggEBAEQevVQObkR6A+8+L3lQXYMndTr5vUg3bH2IKsmnNaVHu6CZlqvm5EEp
p7QLah95EQCdQ+7ax6uYiYJwIyEFPKuJ1qQQ8rpkEd2wlBI/v7mcEnx4cZy285+4
HsMA2iOFLzF2jGvzBaDnWm9fDhAdeIEd6BNt+DlysvASoIysEWHi4SH9m3sN32sN
Oe0L+VK/2avWRsznqshPD57mmI02O0849PPJJKCGz3mfQSbRUZ1ssomt5Nt92ZkZ
JU3o2zbo8jlCpU1SG0V1uIO14aWR8t5KzfODo8OaZUyl26BXqBW0j8mWmAkPwLei
CpHbi7JJ48HMAtJFYlYw3bs2qjUg998=
-----END CERTIFICATE-----
"""
SHA1_LEAF = """\
-----BEGIN CERTIFICATE-----
MIICZzCCAU+gAwIBAgIBATANBgkqhkiG9w0BAQUFADAYMRYwFAYDVQQDDA1vbGQg
YXV0aG9yaXR5MCAXDTI2MTEyNTA4NTEwM1oYDzIxMjYxMTAxMDg1MTAzWjAPMQ0w
CwYDVQQDDARub2RlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEZiNmu3SQUi7o
wBeRZIAK4WFoN+YEBz+uXYDVXI+H2VEyCX2ErQ5bcch15QII2BQoPWb7BeUil2dk
vu79bI3rW6OBjTCBijAMBgNVHRMBAf8EAjAAMBsGA1UdEQQUMBKCEG5vZGUuZXhh
bXBsZS5vcmcwHQYDVR0lBBYwFAYIKwYBBQUHAwEGCCsGAQUFBwMCMB0GA1UdDgQW
BBSCxJe7CKhXqCAR4KGFESsS4bVJ6zAfBgNVHSMEGDAWgBSqrdqOB9HpmP41JAIG
oE7lag3wAjANBgkqhkiG9w0BAQUFAAOCAQEAOSIfUDQHmIxGfuG5C2UGp5dtsblO
KQgnzWhoOcI5jJ4gSyfGE6998uMuBhSES7X34fQbiyYhkEdY8XrF8lMvQ79Y3xtc
XvaryY8GVP5QgsThn8KYPvmfuLYj9ybfAmN4taZ629Kq08n3w2uiOWmTVdAozswI
pHXys3U7Gm8WsmyZygX7EqWUEKv8NnowefhzK62taXe16Dm4NoNP/hzy1nCJpm53
kFYI8kBcYFY+qFGOAQg5K6grDQOpKvgLgWLRfXaKSnOUX95oOnlBJ+i5sVmSV1DE
Ge8rMhrrzzPN2vuMx5NfNf7jxQ5ToV8X3oeuwgwtXrDHhe/kXHtC/m9pIA==
-----END CERTIFICATE-----
"""
