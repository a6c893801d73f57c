"""The consortium's CA: what it signs can do what it is for, and no more."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedward_common.enrolment import certified_key
from fedward_common.errors import MisuseError
from fedward_common.identity import SiteIdentity
from fedward_common.randomness import os_random
from fedward_server.certificates import (
    GATEWAY_DAYS,
    RENEW_DAYS,
    SITE_DAYS,
    issue_server,
    issue_site,
    needs_renewal,
    new_authority,
    revocation_list,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SITE = SiteIdentity.generate("north", os_random)
AUTHORITY = new_authority(NOW, os_random)


def parsed(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def site_certificate() -> str:
    return issue_site(AUTHORITY, "north", SITE.public().transport, NOW, os_random)


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind).value


def test_a_site_gets_its_own_key_certified_for_clients_only():
    made = parsed(site_certificate())
    assert certified_key(made) == SITE.public().transport
    assert made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "north"
    assert list(extension(made, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not extension(made, x509.BasicConstraints).ca
    assert not extension(made, x509.KeyUsage).key_cert_sign
    assert made.not_valid_after_utc == NOW + timedelta(days=SITE_DAYS)
    assert made.not_valid_before_utc < NOW
    made.verify_directly_issued_by(parsed(AUTHORITY.certificate))


def test_the_authority_signs_certificates_and_no_authority():
    own = parsed(AUTHORITY.certificate)
    constraints = extension(own, x509.BasicConstraints)
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert extension(own, x509.KeyUsage).crl_sign
    assert not extension(own, x509.KeyUsage).digital_signature
    stranger = parsed(new_authority(NOW, os_random).certificate)
    with pytest.raises((ValueError, InvalidSignature)):
        parsed(site_certificate()).verify_directly_issued_by(stranger)


def test_a_server_gets_a_certificate_for_its_names():
    pair = issue_server(AUTHORITY, ["fed.example.org", "10.1.2.3", "[::1]"], NOW, os_random)
    made = parsed(pair.certificate)
    names = extension(made, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == ["fed.example.org"]
    found = names.get_values_for_type(x509.IPAddress)
    assert found == [ipaddress.ip_address("10.1.2.3"), ipaddress.ip_address("::1")]
    assert list(extension(made, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert made.not_valid_after_utc == NOW + timedelta(days=GATEWAY_DAYS)
    key = load_pem_private_key(pair.key_pem(), password=None)
    assert key.public_key().public_numbers() == made.public_key().public_numbers()


def test_serials_are_positive_and_differ():
    serials = {parsed(site_certificate()).serial_number for _ in range(20)}
    assert len(serials) == 20
    assert all(0 < serial < 2**159 for serial in serials)


def test_a_revocation_list_names_serials():
    made = parsed(site_certificate())
    text = revocation_list(AUTHORITY, [made.serial_number, 5, 5], NOW)
    crl = x509.load_pem_x509_crl(text.encode())
    assert crl.is_signature_valid(parsed(AUTHORITY.certificate).public_key())
    assert {entry.serial_number for entry in crl} == {made.serial_number, 5}
    assert crl.last_update_utc < NOW < crl.next_update_utc


def test_it_is_told_when_to_renew():
    text = site_certificate()
    ends = NOW + timedelta(days=SITE_DAYS)
    assert not needs_renewal(text, ends - timedelta(days=RENEW_DAYS, seconds=1))
    assert needs_renewal(text, ends - timedelta(days=RENEW_DAYS) + timedelta(seconds=1))


def test_a_key_that_nobody_checked_is_a_bug():
    with pytest.raises((MisuseError, ValueError)):
        issue_site(AUTHORITY, "north", b"\x30\x00", NOW, os_random)
