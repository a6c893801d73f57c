"""Who may connect: enrolment, renewal, replacement with its grace, revocation, and what is kept."""

from __future__ import annotations

import stat
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from fedward_common.enrolment import load_certificate, parse_welcome
from fedward_common.errors import IntegrityError, OperatorError, StorageError
from fedward_common.identity import SiteIdentity
from fedward_common.keys import new_transport_key
from fedward_common.randomness import os_random
from fedward_server import consortium
from fedward_server.admission import Admission
from fedward_server.authority_lines import append_line, read_lines
from fedward_server.certificates import GATEWAY_DAYS
from fedward_server.consortium import (
    GRACE,
    Gateway,
    admitted,
    authority_of,
    enrol_site,
    found_consortium,
    gateway_certificate,
    gateway_of,
    refused,
    retire,
    retiring,
    revoke_site,
    write_revocations,
)
from fedward_server.server_folder import create_server

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GATEWAY = Gateway("fed.example.org:9443", "10.0.0.1:443", 9444)


@pytest.fixture
def folder(tmp_path):
    made = create_server(tmp_path / "server")
    found_consortium(made, GATEWAY, NOW, os_random)
    return made


def north() -> SiteIdentity:
    return SiteIdentity.generate("north", os_random)


def enrol(folder, who, now=NOW, **options):
    enrolled = enrol_site(folder, who.public().to_text(), "SITE.pub", now, os_random, **options)
    return parse_welcome(enrolled.welcome.read_text(), "welcome")


def revoked_serials(folder) -> set[int]:
    text = (folder.path / "authority" / "revoked.crl").read_bytes()
    return {entry.serial_number for entry in x509.load_pem_x509_crl(text)}


def serial(welcome) -> int:
    return load_certificate(welcome.certificate).serial_number


def rotated(who: SiteIdentity) -> SiteIdentity:
    return replace(who, transport=new_transport_key(os_random))


def test_an_enrolled_site_gets_its_welcome_and_is_admitted(folder):
    who = north()
    welcome = enrol(folder, who)
    welcome.check_site(who.public())
    assert welcome.gateway == GATEWAY.address
    assert admitted(folder.path, NOW) == {who.public().transport: "north"}
    assert revoked_serials(folder) == set()
    assert gateway_of(folder.path) == GATEWAY
    assert (GATEWAY.host, GATEWAY.bind) == ("fed.example.org", ("10.0.0.1", 443))


def test_secret_files_are_the_owners_only(folder):
    gateway_certificate(folder.path, NOW, os_random)
    for name in ("authority/key", "gateway.tls", "coordinator.key"):
        assert stat.S_IMODE((folder.path / name).stat().st_mode) == 0o600


def test_enrolling_again_renews_the_certificate_and_the_old_one_stays_good(folder):
    who = north()
    first = enrol(folder, who)
    second = enrol(folder, who, NOW + timedelta(days=300))
    assert serial(first) != serial(second)
    assert revoked_serials(folder) == set()
    assert len(admitted(folder.path, NOW)) == 1


def test_another_site_of_the_name_is_refused_without_replace(folder):
    enrol(folder, north())
    with pytest.raises(OperatorError, match="another site of this name"):
        enrol(folder, north())


def test_a_rotated_key_has_a_grace_that_ends_with_its_successors_first_use(folder):
    who = north()
    old = enrol(folder, who)
    new = rotated(who)
    enrol(folder, new, replace=True)
    both = {who.public().transport: "north", new.public().transport: "north"}
    assert admitted(folder.path, NOW) == both
    assert retiring(folder.path, NOW) == {who.public().transport: "north"}
    assert revoked_serials(folder) == set()
    retire(folder.path, "north", NOW)
    assert admitted(folder.path, NOW) == {new.public().transport: "north"}
    assert revoked_serials(folder) == {serial(old)}


def test_the_grace_ends_by_itself(folder):
    who = north()
    enrol(folder, who)
    enrol(folder, rotated(who), replace=True)
    before, after = NOW + GRACE - timedelta(seconds=1), NOW + GRACE
    assert who.public().transport in admitted(folder.path, before)
    assert who.public().transport not in admitted(folder.path, after)


def test_another_identity_in_its_place_has_no_grace(folder):
    old, new = north(), north()
    welcome = enrol(folder, old)
    enrol(folder, new, replace=True)
    assert admitted(folder.path, NOW) == {new.public().transport: "north"}
    assert revoked_serials(folder) == {serial(welcome)}


def test_a_revoked_site_is_out_with_all_its_keys_and_certificates(folder):
    who = north()
    new = rotated(who)
    serials = {serial(enrol(folder, who)), serial(enrol(folder, who))}
    serials |= {serial(enrol(folder, new, replace=True))}
    revoke_site(folder.path, "north", NOW)
    assert admitted(folder.path, NOW) == {}
    assert folder.sites() == ()
    assert revoked_serials(folder) == serials
    assert not list((folder.path / "sites").iterdir())
    for key in (who, new):
        with pytest.raises(OperatorError, match="revoked"):
            enrol(folder, key, replace=True)
    fresh = rotated(new)
    enrol(folder, fresh)
    assert admitted(folder.path, NOW) == {fresh.public().transport: "north"}


def test_a_revocation_that_was_cut_short_counts(folder):
    """Killed after the record and before anything else."""
    who = north()
    enrol(folder, who)
    public = folder.path / "sites" / "north.pub"
    text = public.read_text()
    revoke_site(folder.path, "north", NOW)
    public.write_text(text)
    assert admitted(folder.path, NOW) == {}


def test_a_revocation_in_a_rotation_that_was_cut_short_is_finished(folder, monkeypatch):
    """Killed at any step, and done again: the old key of the rotation is out too."""
    for step in ("retire", "write_revocations", "append_line"):
        old = north()
        enrol(folder, old)
        new = rotated(old)
        enrol(folder, new, replace=True)
        assert len(admitted(folder.path, NOW)) == 2
        with monkeypatch.context() as patch:
            patch.setattr(consortium, step, _killed)
            with pytest.raises(KeyboardInterrupt):
                revoke_site(folder.path, "north", NOW)
        revoke_site(folder.path, "north", NOW)
        assert admitted(folder.path, NOW) == {}
        assert {old.public().transport, new.public().transport} <= refused(folder.path, NOW)
        assert not (folder.path / "sites" / "north.pub").exists()
        revoke_site(folder.path, "north", NOW)  # nothing is left to do, and no mistake


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_folder_of_sites_that_is_away_shuts_nobody_out(folder):
    enrol(folder, north())
    admission = Admission(folder.path)
    assert admission.refresh()
    (folder.path / "sites").rename(folder.path / "moved")
    for _ in range(2):
        with pytest.raises(StorageError, match="sites: not there"):
            admission.refresh()
        assert list(admission.names().values()) == ["north"]
    with pytest.raises(StorageError, match="sites: not there"):
        write_revocations(folder.path, NOW)
    assert revoked_serials(folder) == set()
    (folder.path / "moved").rename(folder.path / "sites")
    admission.refresh()
    assert list(admission.names().values()) == ["north"]


def test_records_that_two_processes_add_at_once_are_all_kept(folder):
    def add(worker: int) -> None:
        for number in range(20):
            append_line(folder.path, "test.jsonl", {"n": f"{worker} {number}"})

    threads = [threading.Thread(target=add, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({line["n"] for line in read_lines(folder.path, "test.jsonl")}) == 60


@pytest.mark.parametrize("late", [False, True])
def test_a_stolen_identity_comes_back_with_no_key(folder, late):
    who = north()
    enrol(folder, who)
    revoke_site(folder.path, "north", NOW, identity=not late)
    if late:  # the key was known to be stolen, the identity became known to be later
        revoke_site(folder.path, "north", NOW, identity=True)
    with pytest.raises(OperatorError, match="this identity was revoked as stolen"):
        enrol(folder, rotated(who))
    other = north()
    enrol(folder, other)
    assert admitted(folder.path, NOW) == {other.public().transport: "north"}


def test_nobody_of_that_name_can_be_revoked(folder):
    enrol(folder, north())
    with pytest.raises(OperatorError, match="site south: not enrolled; enrolled sites: north"):
        revoke_site(folder.path, "south", NOW)


def test_the_address_is_set_once(folder):
    with pytest.raises(OperatorError, match="set already"):
        found_consortium(folder, GATEWAY, NOW, os_random)


def test_a_folder_without_an_address_enrols_without_a_welcome(tmp_path):
    made = create_server(tmp_path / "server")
    who = north()
    enrolled = enrol_site(made, who.public().to_text(), "SITE.pub", NOW, os_random)
    assert enrolled.welcome is None
    with pytest.raises(OperatorError, match="init --address"):
        gateway_of(made.path)


def test_the_gateways_certificate_is_renewed_in_time(folder):
    path = gateway_certificate(folder.path, NOW, os_random)
    first = path.read_bytes()
    assert gateway_certificate(folder.path, NOW, os_random).read_bytes() == first
    late = NOW + timedelta(days=GATEWAY_DAYS - 1)
    assert gateway_certificate(folder.path, late, os_random).read_bytes() != first


@pytest.mark.parametrize("name", ["certificate", "key"])
def test_a_damaged_authority_is_named(folder, name):
    (folder.path / "authority" / name).write_bytes(b"")
    with pytest.raises(IntegrityError, match="the CA is damaged; restore it from a backup"):
        authority_of(folder.path)


def test_an_authority_with_another_key_is_named(folder):
    (folder.path / "authority" / "key").write_bytes(new_transport_key(os_random).reveal())
    with pytest.raises(IntegrityError, match="key and certificate differ"):
        authority_of(folder.path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"address": "x", "listen": "y", "admin_port": 1}']
)
def test_a_damaged_address_is_named(folder, text):
    (folder.path / "gateway.json").write_text(text)
    with pytest.raises(IntegrityError, match="restore it from a backup"):
        gateway_of(folder.path)
