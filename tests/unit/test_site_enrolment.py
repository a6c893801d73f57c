"""A site is tied to one coordinator by its welcome, and its transport key can be exchanged (A1)."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta

import pytest
from tests.cli_world import client, ok
from tests.world import COORDINATOR

from fedward_client.enrolment import (
    NEXT_PUBLIC,
    NEXT_TRANSPORT,
    WELCOME,
    load_connection,
    pinned_coordinator,
    rotate,
)
from fedward_client.site_folder import open_site
from fedward_common import keys
from fedward_common.enrolment import certified_key, load_certificate, make_welcome
from fedward_common.errors import OperatorError
from fedward_common.identity import parse_site_public, spell
from fedward_common.randomness import os_random
from fedward_common.secret import SecretBytes
from fedward_server.certificates import issue_site, new_authority

NOW = datetime.now(UTC)
OTHER = SecretBytes(bytes(range(1, 33)))


@pytest.fixture(scope="module")
def authority():
    return new_authority(NOW, os_random)


@pytest.fixture
def site(tmp_path):
    path = tmp_path / "site"
    ok(client("init", "north", "--site", path))
    return path


@pytest.fixture
def offer(site, authority, tmp_path):
    """Writes the welcome that a coordinator makes of a SITE.pub; changes replace its parts."""

    def write(*, public=site / "SITE.pub", key=COORDINATOR, name="north", ca=authority, now=NOW):
        transport = parse_site_public(public.read_text()).transport
        certificate = issue_site(ca, name, transport, now, os_random)
        welcome = make_welcome(key, name, "gateway.example:8443", ca.certificate, certificate)
        path = tmp_path / f"{name}.welcome"
        path.write_text(welcome.to_text())
        return path

    return write


def test_a_welcome_is_pinned_after_its_fingerprint_was_compared(site, offer):
    file = offer()
    client("enrol", file, "--site", site).refused(2, "compare the fingerprint")
    assert not (site / "identity" / WELCOME).exists()
    done = ok(client("enrol", file, "--site", site, "--yes"))
    pinned = site / "identity" / WELCOME
    with open_site(site) as folder:
        connection = load_connection(folder)
        assert pinned_coordinator(folder.identity) == keys.signing_public(COORDINATOR)
    assert spell(connection.welcome.fingerprint) in done.out
    assert stat.S_IMODE(pinned.stat().st_mode) == 0o600
    status = client("status", "--site", site, "--json").json
    assert status["enrolled"]["gateway"] == "gateway.example:8443"
    assert status["daemon"] is None
    assert "daemon: not running" in ok(client("status", "--site", site)).out


def test_a_site_that_is_not_enrolled_does_not_run(site):
    client("run", "--site", site).refused(2, "not enrolled", "fedward-client enrol")


def test_a_renewal_by_the_same_coordinator_asks_nothing(site, offer):
    ok(client("enrol", offer(), "--site", site, "--yes"))
    before = (site / "identity" / WELCOME).read_text()
    ok(client("enrol", offer(), "--site", site))
    assert (site / "identity" / WELCOME).read_text() != before


def test_another_coordinator_is_refused_until_the_old_one_is_removed(site, offer):
    ok(client("enrol", offer(), "--site", site, "--yes"))
    file = offer(key=OTHER)
    client("enrol", file, "--site", site, "--yes").refused(2, "another coordinator", WELCOME)
    (site / "identity" / WELCOME).unlink()
    ok(client("enrol", file, "--site", site, "--yes"))


def _damage(text, field):
    record = json.loads(text)
    value = record[field]
    record[field] = value + 1 if isinstance(value, int) else value[:-4] + value[:4]
    return json.dumps(record)


@pytest.mark.parametrize(
    "field",
    ["name", "coordinator", "gateway", "authority", "certificate", "protocol", "signature"],
)
def test_a_changed_field_breaks_the_welcome(site, offer, field):
    file = offer()
    file.write_text(_damage(file.read_text(), field))
    client("enrol", file, "--site", site, "--yes").refused(2, file)
    assert not (site / "identity" / WELCOME).exists()


def test_a_welcome_for_another_site_key_or_time_is_refused(site, offer, authority, tmp_path):
    client("enrol", offer(name="south"), "--site", site, "--yes").refused(2, "for south")
    other = tmp_path / "other"
    ok(client("init", "north", "--site", other))
    wrong = offer(public=other / "SITE.pub")
    client("enrol", wrong, "--site", site, "--yes").refused(2, "another transport key")
    old = offer(now=NOW - timedelta(days=3000))
    client("enrol", old, "--site", site, "--yes").refused(2, "expired")


def test_another_protocol_is_refused_in_one_clear_line(site, offer, monkeypatch):
    from fedward_common import enrolment

    monkeypatch.setattr(enrolment, "PROTOCOL_VERSION", 2)
    file = offer()
    monkeypatch.undo()
    client("enrol", file, "--site", site, "--yes").refused(2, "speaks protocol 2", "same version")


def test_a_new_transport_key_waits_until_its_certificate_comes(site, offer):
    ok(client("enrol", offer(), "--site", site, "--yes"))
    old = (site / "identity" / "transport.key").read_text()
    shown = ok(client("rotate", "--site", site)).out
    following = parse_site_public((site / NEXT_PUBLIC).read_text())
    assert spell(following.fingerprint) in shown
    assert "enrol FILE --replace" in shown
    with open_site(site) as folder:
        assert rotate(folder).transport == following.transport  # again: the same key
        load_connection(folder)  # the old one still serves
    ok(client("enrol", offer(), "--site", site))  # a renewal of the old one meanwhile
    assert (site / "identity" / "transport.key").read_text() == old
    assert (site / "identity" / NEXT_TRANSPORT).exists()
    ok(client("enrol", offer(public=site / NEXT_PUBLIC), "--site", site))
    with open_site(site) as folder:
        certificate = load_certificate(load_connection(folder).welcome.certificate)
    assert certified_key(certificate) == following.transport
    assert parse_site_public((site / "SITE.pub").read_text()) == following
    assert not (site / "identity" / NEXT_TRANSPORT).exists()
    assert not (site / NEXT_PUBLIC).exists()


def test_a_kill_between_the_new_key_and_its_welcome_is_mended_by_enrolling_again(site, offer):
    ok(client("enrol", offer(), "--site", site, "--yes"))
    ok(client("rotate", "--site", site))
    file = offer(public=site / NEXT_PUBLIC)
    (site / "identity" / NEXT_TRANSPORT).rename(site / "identity" / "transport.key")
    with open_site(site) as folder, pytest.raises(OperatorError, match="enrol again"):
        load_connection(folder)
    ok(client("enrol", file, "--site", site))
    with open_site(site) as folder:
        load_connection(folder)


def test_a_damaged_pin_is_told_not_forgotten(site, offer):
    ok(client("enrol", offer(), "--site", site, "--yes"))
    pinned = site / "identity" / WELCOME
    pinned.write_text(_damage(pinned.read_text(), "gateway"))
    with open_site(site) as folder, pytest.raises(OperatorError, match=WELCOME):
        pinned_coordinator(folder.identity)


def test_a_certificate_of_another_authority_does_not_verify(site, offer, authority):
    file = offer(ca=new_authority(NOW, os_random))
    record = json.loads(file.read_text())
    mixed = make_welcome(
        COORDINATOR, "north", record["gateway"], authority.certificate, record["certificate"]
    )
    file.write_text(mixed.to_text())
    client("enrol", file, "--site", site, "--yes").refused(2, "not issued by the authority")
