from __future__ import annotations

import datetime
import hashlib
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from macula_trio._identity.certificate import realm_server_name
from macula_trio._identity.keys import Credentials

SEEDS: Final = [bytes([number]) * 32 for number in range(20)]


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_a_valid_certificate_that_its_own_key_signed(seed: bytes) -> None:
    owner = Credentials.from_seed(seed)
    certificate = x509.load_der_x509_certificate(owner.chain_der[0])
    assert certificate.version is x509.Version.v3
    assert isinstance(certificate.public_key(), ed25519.Ed25519PublicKey)
    certificate.verify_directly_issued_by(certificate)
    assert 0 < certificate.serial_number < 2**159  # RFC 5280, section 4.1.2.2


def test_it_says_that_it_is_no_authority_and_serves_both_sides_of_tls() -> None:
    certificate = Credentials.from_seed(SEEDS[0]).chain[0]
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert not usages.critical
    assert set(usages.value) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_its_dates_depend_on_no_clock() -> None:
    certificate = Credentials.from_seed(SEEDS[0]).chain[0]
    assert certificate.not_valid_before_utc == datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    assert certificate.not_valid_after_utc == datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)


def test_its_name_and_number_come_from_the_key() -> None:
    owner, other = Credentials.from_seed(SEEDS[0]), Credentials.from_seed(SEEDS[1])
    digest = hashlib.sha256(owner.spki).hexdigest()
    (common_name,) = owner.chain[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert common_name.value == digest[:32]
    assert owner.chain[0].issuer == owner.chain[0].subject
    assert f"{owner.chain[0].serial_number:x}" == f"1{digest[:36]}"
    assert owner.chain[0].serial_number != other.chain[0].serial_number


def test_every_one_has_the_same_size_so_that_replays_send_the_same_datagrams() -> None:
    assert len({len(Credentials.from_seed(seed).chain_der[0]) for seed in SEEDS}) == 1


def test_the_name_of_a_realm_is_a_dns_name_whatever_the_realm_is_called() -> None:
    assert realm_server_name("org.example.home") == f"{hashlib.sha256(b'org.example.home').hexdigest()[:32]}.realm"
    assert realm_server_name("org.example.home") != realm_server_name("org.example.home2")
    assert realm_server_name("ü" * 1000).removesuffix(".realm").isalnum()
