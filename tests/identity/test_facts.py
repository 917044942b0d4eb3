"""What certificates say, also those of others, and whether a chain leads to a root."""

from __future__ import annotations

import base64
import datetime
from typing import Any, Final

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from macula_trio._identity.authority import RealmAuthority, alternative_name
from macula_trio._identity.certificate import realm_server_name
from macula_trio._identity.chain import chain_problem
from macula_trio._identity.facts import certificate_renewal, read_facts
from macula_trio._identity.keys import Credentials, node_id_of, read_certificates, spki_of_certificate
from macula_trio.errors import IdentityFileError

REALM: Final = "org.example.home"
NOW: Final = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
DAY: Final = datetime.timedelta(days=1)
SECOND: Final = datetime.timedelta(seconds=1)  # OpenSSL changed its mind about the very last one
KEY: Final = ed25519.Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
NODE: Final = Credentials.from_seed(b"\x03" * 32)
AUTHORITY: Final = RealmAuthority.create(REALM, key=KEY, serial=7, now=NOW)
ROOT: Final = AUTHORITY.certificate
LEAF: Final = AUTHORITY.issue(
    ed25519.Ed25519PrivateKey.from_private_bytes(b"\x03" * 32).public_key(),
    serial=8,
    now=NOW,
    names=[alternative_name("node.example.org"), alternative_name("192.0.2.7")],
)


def certificate(*extensions: x509.ExtensionType, organisation: str = REALM) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, organisation)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(5)
        .not_valid_before(NOW)
        .not_valid_after(NOW + 3 * DAY)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(KEY, None)


def test_what_a_member_says() -> None:
    facts = read_facts(LEAF)
    assert (facts.realm, facts.server_name) == (REALM, realm_server_name(REALM))
    assert facts.names == ("node.example.org", "192.0.2.7")
    assert (facts.node_id, facts.authority) == (NODE.node_id, False)
    assert facts.subject == f"O={REALM},CN={NODE.node_id.hex()[:32]}"
    assert facts.issuer == f"O={REALM},CN={REALM}"
    assert (facts.valid_from, facts.valid_until) == (LEAF.not_valid_before_utc, LEAF.not_valid_after_utc)
    assert facts.renewal == certificate_renewal(LEAF)


def test_what_a_root_and_a_certificate_of_nobody_say() -> None:
    root, own = read_facts(ROOT), read_facts(NODE.chain[0])
    assert (root.realm, root.authority, root.names) == (REALM, True, ())
    assert (own.realm, own.server_name, own.authority, own.names) == (None, None, False, ())
    assert own.usages == ("serverAuth", "clientAuth")


def test_what_certificates_of_a_company_say() -> None:
    authority = trustme.CA()
    leaf = read_certificates(authority.issue_cert("node.example.org", "192.0.2.7").cert_chain_pems[0].bytes())[0]
    facts = read_facts(leaf)
    assert (facts.realm, facts.server_name, facts.names) == (None, None, ("node.example.org", "192.0.2.7"))
    assert "digitalSignature" in facts.usages
    assert "serverAuth" in facts.usages
    assert read_facts(read_certificates(authority.cert_pem.bytes())[0]).authority
    assert read_facts(certificate(x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.2.3.4")]))).usages == ("1.2.3.4",)


def test_the_name_of_a_realm_is_believed_only_beside_its_server_name() -> None:
    def named(*names: str) -> x509.SubjectAlternativeName:
        return x509.SubjectAlternativeName([x509.DNSName(name) for name in names])

    own, other = realm_server_name(REALM), realm_server_name("org.example.work")
    assert read_facts(certificate()).realm is None
    nameless = read_facts(certificate(named(other)))
    assert (nameless.realm, nameless.server_name, nameless.names) == (None, other, ())
    both = read_facts(certificate(named(other, "a.example", own)))
    assert (both.realm, both.server_name, both.names) == (REALM, own, (other, "a.example"))


def test_renewal_is_due_when_a_third_of_the_lifetime_is_left() -> None:
    assert certificate_renewal(certificate()) == NOW + 2 * DAY
    lifetime = LEAF.not_valid_after_utc - LEAF.not_valid_before_utc
    assert LEAF.not_valid_after_utc - certificate_renewal(LEAF) == lifetime / 3


# -- malformed -----------------------------------------------------------------------------------------------------


def reread(data: bytes) -> x509.Certificate:
    body = base64.encodebytes(data)
    return read_certificates(b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n")[0]


def test_parts_that_are_malformed_are_an_error_of_ours() -> None:
    data = LEAF.public_bytes(serialization.Encoding.DER)
    usage, alternative = bytes.fromhex("0603551d0f"), bytes.fromhex("0603551d11")
    twice = reread(data.replace(usage, alternative))  # a second SubjectAlternativeName
    with pytest.raises(IdentityFileError, match="certificate is malformed"):
        read_facts(twice)
    odd_key = reread(data.replace(bytes.fromhex("300506032b6570032100"), bytes.fromhex("300506032b6579032100")))
    with pytest.raises(IdentityFileError, match="certificate is malformed"):
        read_facts(odd_key)


@pytest.mark.filterwarnings("ignore::UserWarning")  # `cryptography` on names and numbers that it reads all the same
@given(st.sampled_from([LEAF, ROOT]), st.integers(0, 2000), st.binary(min_size=1, max_size=2))
@settings(max_examples=400)
def test_a_damaged_certificate_is_an_error_of_ours_or_tells_its_own_key(
    genuine: x509.Certificate, position: int, patch: bytes
) -> None:
    data = bytearray(genuine.public_bytes(serialization.Encoding.DER))
    position %= len(data) - 1
    data[position : position + len(patch)] = patch
    try:
        damaged = reread(bytes(data))
        facts = read_facts(damaged)
    except IdentityFileError:
        return
    assert facts.node_id == node_id_of(spki_of_certificate(damaged))
    if damaged != genuine:
        assert chain_problem([damaged], [ROOT], now=NOW) is not None


# -- chains --------------------------------------------------------------------------------------------------------


def test_a_member_leads_to_its_root_as_long_as_both_are_valid() -> None:
    assert chain_problem([LEAF], [ROOT], now=NOW) is None
    assert chain_problem([LEAF, ROOT], [ROOT], now=NOW) is None
    assert chain_problem([ROOT], [ROOT], now=NOW) is None
    assert chain_problem([LEAF], [ROOT], now=LEAF.not_valid_after_utc - SECOND) is None
    for moment, complaint in (
        (LEAF.not_valid_after_utc + SECOND, "expired"),
        (LEAF.not_valid_before_utc - SECOND, "not yet valid"),
    ):
        assert complaint in (chain_problem([LEAF], [ROOT], now=moment) or "")


def test_the_time_of_another_zone_is_the_same_time() -> None:
    east = datetime.timezone(datetime.timedelta(hours=14))
    end = LEAF.not_valid_after_utc.astimezone(east)
    assert chain_problem([LEAF], [ROOT], now=end - SECOND) is None
    assert chain_problem([LEAF], [ROOT], now=end + SECOND) is not None


@pytest.mark.parametrize(
    "options",
    [{"realm": "org.example.work", "key": KEY}, {"realm": REALM, "key": NODE.private_key}],
    ids=["another realm", "another key"],
)
def test_a_member_does_not_lead_to_another_root(options: dict[str, Any]) -> None:
    other = RealmAuthority.create(**options, serial=9, now=NOW).certificate
    assert chain_problem([LEAF], [other], now=NOW) is not None
    assert chain_problem([LEAF], [other, ROOT], now=NOW) is None


def test_a_certificate_of_nobody_leads_nowhere_and_not_to_itself_in_the_chain() -> None:
    assert chain_problem(NODE.chain, [ROOT], now=NOW) is not None
    assert chain_problem([LEAF, ROOT], [NODE.chain[0]], now=NOW) is not None


def test_a_certificate_that_only_openssl_finds_malformed_leads_nowhere_and_nobody_to_it() -> None:
    data = LEAF.public_bytes(serialization.Encoding.DER)
    odd = reread(data.replace(b"example.home0*", b"ex\xffmple.home0*", 1))  # no UTF-8 in the subject
    assert odd.public_key() == LEAF.public_key()
    assert "malformed" in str(chain_problem([odd], [ROOT], now=NOW))
    assert "malformed" in str(chain_problem([LEAF], [odd], now=NOW))
    with pytest.raises(IdentityFileError, match="certificate is malformed"):
        read_facts(odd)


def test_a_chain_with_a_missing_link_leads_nowhere() -> None:
    company = trustme.CA()
    site = company.create_child_ca()
    chain = [read_certificates(blob.bytes())[0] for blob in site.issue_cert("node.example.org").cert_chain_pems]
    root = read_certificates(company.cert_pem.bytes())
    now = max(root[0].not_valid_before_utc, *(one.not_valid_before_utc for one in chain)) + DAY
    assert chain_problem(chain, root, now=now) is None
    assert chain_problem(chain[:1], root, now=now) is not None
