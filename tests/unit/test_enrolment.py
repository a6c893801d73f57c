"""The welcome: whoever changes a byte of it, or shows it to another site, is found out."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from fedward_common import keys
from fedward_common.enrolment import (
    MAX_TEXT,
    Welcome,
    address_problem,
    coordinator_fingerprint,
    make_welcome,
    parse_welcome,
)
from fedward_common.errors import OperatorError, PeerError
from fedward_common.identity import SiteIdentity
from fedward_common.randomness import os_random
from fedward_server.certificates import issue_site, new_authority

NOW = datetime(2030, 1, 1, tzinfo=UTC)
COORDINATOR = keys.new_key(os_random)
NORTH = SiteIdentity.generate("north", os_random)
AUTHORITY = new_authority(NOW, os_random)


def certificate(who: SiteIdentity = NORTH, authority=AUTHORITY) -> str:
    return issue_site(authority, who.name, who.public().transport, NOW, os_random)


def welcome(**changes) -> Welcome:
    given = {
        "coordinator": COORDINATOR,
        "name": "north",
        "gateway": "fed.example.org:9443",
        "authority": AUTHORITY.certificate,
        "certificate": certificate(),
    }
    return make_welcome(**(given | changes))


def changed(**fields) -> str:
    return json.dumps({**json.loads(welcome().to_text()), **fields})


def test_what_is_written_is_read_again():
    written = welcome()
    assert parse_welcome(written.to_text(), "x") == written
    written.check_site(NORTH.public())
    assert written.fingerprint == coordinator_fingerprint(keys.signing_public(COORDINATOR))


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "south"},
        {"gateway": "evil.example.org:9443"},
        {"gateway": "fed.example.org:9444"},
        {"authority": new_authority(NOW, os_random).certificate},
        {"certificate": certificate(SiteIdentity.generate("north", os_random))},
        {"coordinator": keys.signing_public(keys.new_key(os_random)).hex()},
        {"protocol": 2},
        {"signature": "00" * 64},
    ],
)
def test_a_changed_field_breaks_the_signature(fields):
    with pytest.raises(OperatorError, match="x: the signature of a 'welcome' message is not valid"):
        parse_welcome(changed(**fields), "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON"),
        ("[" * 5000, "no JSON"),
        ("[]", "it has the fields format, name"),
        ("{}", "it has the fields format, name"),
        (changed(extra=1), "it has the fields format, name"),
        (changed(name=7), "name: of the wrong type"),
        (changed(protocol=True), "protocol: of the wrong type"),
        (changed(format=2), "format: 2 instead of 1"),
        (changed(name="../../north"), "name: use 1 to 63"),
        (changed(gateway="fed.example.org"), "gateway: give HOST:PORT"),
        (changed(authority="x"), "a certificate is malformed"),
        (changed(certificate="€"), "a certificate is malformed"),
        (changed(coordinator="00"), "coordinator: not 32 bytes"),
        (changed(signature="zz"), "signature: not hexadecimal"),
        (" " * (MAX_TEXT + 1), "too long"),
    ],
)
def test_a_malformed_one_is_told_in_one_line(text, words):
    with pytest.raises(OperatorError) as caught:
        parse_welcome(text, "north.welcome")
    line = str(caught.value)
    assert line.startswith("north.welcome: ")
    assert words in line
    assert "\n" not in line


def test_the_certificate_must_be_issued_by_the_authority_beside_it():
    other = new_authority(NOW, os_random)
    text = welcome(certificate=certificate(authority=other)).to_text()
    with pytest.raises(OperatorError, match="not issued by the authority"):
        parse_welcome(text, "x")


def test_an_authority_that_signed_another_one_is_none():
    text = welcome(authority=certificate()).to_text()
    with pytest.raises(OperatorError, match="not issued by the authority"):
        parse_welcome(text, "x")


def test_it_is_for_one_site_one_key_and_one_protocol(monkeypatch):
    with pytest.raises(PeerError, match="for north, not for south"):
        welcome().check_site(SiteIdentity.generate("south", os_random).public())
    with pytest.raises(PeerError, match="another transport key"):
        welcome().check_site(SiteIdentity.generate("north", os_random).public())
    monkeypatch.setattr("fedward_common.enrolment.PROTOCOL_VERSION", 2)
    later = welcome()
    monkeypatch.undo()
    with pytest.raises(PeerError, match="speaks protocol 2, this package 1"):
        later.check_site(NORTH.public())


@pytest.mark.parametrize("address", ["a:1", "10.0.0.1:65535", "[::1]:9443", "x-y.example.org:443"])
def test_good_addresses(address):
    assert address_problem(address) is None


@pytest.mark.parametrize(
    "address",
    ["", "a", "a:", ":1", "a:0", "a:65536", "a:1x", "a b:1", "::1:1", "http://a:1", "a/b:1"],
)
def test_bad_addresses(address):
    assert address_problem(address) is not None
