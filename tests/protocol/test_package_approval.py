"""An approval is for one plan, of one coordinator, computed by one package (G2, G7)."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.cli_world import client, ok
from tests.world import (
    COORDINATOR,
    POLICY,
    TARGET,
    ServerStopped,
    World,
    coordinate,
    roster_entry,
    table_document,
)

from fedward_client import package
from fedward_client.admission import receive_proposal
from fedward_client.approval import approve_plan, review
from fedward_client.enrolment import enrol
from fedward_client.package import package_digest, too_old_for
from fedward_client.round import UNSERVED, SiteService
from fedward_client.site import Site
from fedward_common import keys
from fedward_common.enrolment import make_welcome
from fedward_common.errors import OperatorError, PolicyRefusalError
from fedward_common.messages import (
    REPLIES,
    AgreeOrder,
    Begin,
    MaskOrder,
    Propose,
    Refusal,
    ShareOrder,
    StepReply,
    UnmaskOrder,
    decode_message,
)
from fedward_common.plan.signing import SignedPlan, sign_plan
from fedward_common.randomness import os_random
from fedward_common.secret import SecretBytes
from fedward_server.certificates import issue_site, new_authority
from fedward_server.planning import draft_plan

OTHER = SecretBytes(bytes(range(1, 33)))
CODE = """\
import fedward_client
from fedward_client.package import package_digest
print(package_digest().hex(), fedward_client.__file__)
"""


def exchange_package(site: Path) -> None:
    """As if the package that runs now were another than the one that the site approved with."""
    with sqlite3.connect(site / "site.db") as database:
        database.execute("UPDATE approved_packages SET package = ?", (b"\x01" * 32,))


def signed_plan(world: World, coordinator: SecretBytes = COORDINATOR, **changes) -> SignedPlan:
    roster = []
    for name in world.names:
        with world.open(name) as site:
            roster.append(roster_entry(site))
    document = table_document(roster, **changes)
    document["roster"]["coordinator"] = keys.signing_public(coordinator).hex()
    document["study"]["id"] = os_random(16).hex()
    return sign_plan(draft_plan(document, TARGET, "test"), coordinator)


def enrol_with(site: Site, coordinator: SecretBytes) -> None:
    now = datetime.now(UTC)
    authority = new_authority(now, os_random)
    certificate = issue_site(authority, site.name, site.identity.public().transport, now, os_random)
    enrol(
        site.folder,
        make_welcome(coordinator, site.name, "127.0.0.1:1", authority.certificate, certificate),
    )


def digest_in(path: Path) -> str:
    """The digest that a process works out with the packages in ``path``."""
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True
    )
    digest, file = done.stdout.split()
    assert file.startswith(str(path))
    return digest


def test_the_digest_is_of_every_file_and_its_name(tmp_path):
    for name in package.PACKAGES:
        source = Path(str(sys.modules[name].__file__)).parent
        shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    found = [digest_in(tmp_path)]
    assert found == [package_digest().hex()]
    note = tmp_path / "fedward_common" / "note.txt"
    for text in ("", "x"):
        note.write_text(text)
        found.append(digest_in(tmp_path))
    note.rename(note.with_name("other.txt"))
    found.append(digest_in(tmp_path))
    assert len(set(found)) == len(found)


def test_a_study_does_not_begin_with_another_package_than_the_approved_one(small, tmp_path):
    world = small.copy(tmp_path / "world")
    digest, approvals = world.signed.open().digest, []
    for name in world.names:
        with world.open(name) as site:
            approvals.append(site.studies.all()[0].approval)
    begin = Begin(digest, tuple(approvals)).encode()
    exchange_package(world.root / "site-1")
    with world.open("site-1") as site:
        service = SiteService(site)
        refusal = decode_message(service.handle(begin), REPLIES)
        assert refusal == Refusal("PolicyRefusalError", UNSERVED)
        shown = ok(client("plan", "show", digest.hex(), "--site", world.root / "site-1")).out
        assert "approve it again" in shown
        approve_plan(site, digest)
        assert site.studies.all()[0].approval == approvals[0]  # others hold it already
        assert not isinstance(decode_message(service.handle(begin), REPLIES), Refusal)
        assert [entry.kind for entry in site.audit.entries()] == ["approve", "approve"]


def test_an_attempt_in_flight_is_finished_and_no_other_begun_until_approved_again(
    template, tmp_path
):
    world = template.copy(tmp_path / "world")
    site, kinds = world.root / "site-4", (ShareOrder, MaskOrder, AgreeOrder, UnmaskOrder)
    answers: list[tuple[type, int, bool]] = []

    def on_order(name, order, reply) -> None:
        if name != site.name or not isinstance(order, kinds):
            return
        answered = isinstance(decode_message(reply, REPLIES), StepReply)
        answers.append((type(order), order.e, answered))
        if isinstance(order, MaskOrder) and order.e == 1 and answered:
            exchange_package(site)

    contributors = []
    with world.sites(on_order=on_order) as sites:

        def on_round(event) -> None:
            contributors.append(event.contributors)
            if event.position == 3:
                ok(client("plan", "approve", world.signed.open().digest.hex(), "--site", site))

        coordinate(sites, on_round).run()
    assert [(kind, good) for kind, e, good in answers if e == 1][-2:] == [
        (AgreeOrder, True),
        (UnmaskOrder, True),
    ]
    assert not [
        kind for kind, e, good in answers if e in (2, 3) and good and kind is not ShareOrder
    ]
    present = ["site-4" in names for names in contributors]
    assert present[:3] == [True, False, False]
    assert present[-1]


def test_a_study_under_way_is_approved_again_for_its_package_only(template, tmp_path):
    world = template.copy(tmp_path / "world")
    site, digest = world.root / "site-1", world.signed.open().digest

    def stop(_) -> None:
        raise ServerStopped

    with world.sites() as sites, pytest.raises(ServerStopped):
        coordinate(sites, stop).run()
    tight = POLICY.replace("epsilon = 100.0", "epsilon = 0.01")
    (site / "policy.toml").write_text(tight)  # its debits so far would count twice
    with world.open("site-1") as opened:
        before = opened.studies.all()
        with pytest.raises(OperatorError, match="has begun"):
            approve_plan(opened, digest)
        exchange_package(site)
        approve_plan(opened, digest)
        assert opened.packages.is_approved(digest)
        assert opened.studies.all() == before


def test_a_process_opens_what_its_running_studies_need_before_its_first_order(
    template, tmp_path, caplog
):
    world = template.copy(tmp_path / "world")

    def stop(_) -> None:
        raise ServerStopped

    with world.sites() as sites, pytest.raises(ServerStopped):
        coordinate(sites, stop).run()
    with world.open("site-1") as site:
        service = SiteService(site)
        service.warm_up()
        (running,) = service._running.values()
        assert set(running._cohorts) == {"train", "holdout"}
        assert caplog.text == ""


def test_a_plan_that_needs_a_newer_package_is_refused_by_name(small, tmp_path):
    world = small.copy(tmp_path / "world")
    signed = signed_plan(world, protocol={"minimum_package": "0.10.0"})
    with world.open("site-1") as site:
        receive_proposal(site, Propose(signed.canonical, signed.signature))
        assert any("needs fedward 0.10.0" in r for r in review(site, signed.open().digest).refusals)
        with pytest.raises(PolicyRefusalError, match=r"needs fedward 0\.10\.0; this is .*upgrade"):
            approve_plan(site, signed.open().digest)
    assert too_old_for("0.1.0") is None
    assert too_old_for("0.0.99") is None


def test_an_enrolled_site_hears_one_coordinator(small, tmp_path):
    world = small.copy(tmp_path / "world")
    foreign = signed_plan(world, OTHER)
    with world.open("site-1") as site:
        enrol_with(site, COORDINATOR)
        with pytest.raises(PolicyRefusalError, match="signed by coordinator"):
            receive_proposal(site, Propose(foreign.canonical, foreign.signature))
        own = signed_plan(world, study={"name": "next", "classes": ["a", "b"]})
        receive_proposal(site, Propose(own.canonical, own.signature))
    file = tmp_path / "foreign.plan"
    file.write_bytes(foreign.to_file())
    done = client("plan", "import", file, "--site", world.root / "site-1")
    done.refused(2, "signed by coordinator", "enrolled with")


def test_a_plan_from_before_the_enrolment_is_neither_approved_nor_begun(small, tmp_path):
    world = small.copy(tmp_path / "world")
    foreign = signed_plan(world, OTHER)
    with world.open("site-1") as site:
        receive_proposal(site, Propose(foreign.canonical, foreign.signature))
        enrol_with(site, COORDINATOR)
        with pytest.raises(PolicyRefusalError, match="signed by coordinator"):
            approve_plan(site, foreign.open().digest)
    with world.open("site-2") as site:
        enrol_with(site, OTHER)  # its approved plan is COORDINATOR's
        order = Begin(world.signed.open().digest, (b"", b"", b""))
        refusal = decode_message(SiteService(site).handle(order.encode()), REPLIES)
    assert refusal == Refusal("PolicyRefusalError", UNSERVED)
