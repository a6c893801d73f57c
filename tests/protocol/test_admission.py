"""A study begins only under the plan that this site approved, with everyone's approval (A1)."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
from tests.world import (
    COORDINATOR,
    TARGET,
    World,
    coordinate,
    make_sites,
    published,
    roster_entry,
    table_document,
)

from fedward_client.admission import MAX_WAITING, receive_proposal
from fedward_client.approval import approve_plan, reject_plan, review
from fedward_client.round import UNSERVED, SiteService
from fedward_client.site import open_site
from fedward_common import __version__, keys
from fedward_common.errors import OperatorError, PolicyRefusalError
from fedward_common.identity import Approval, SiteIdentity, approve
from fedward_common.messages import (
    REPLIES,
    Begin,
    Hello,
    HelloReply,
    Propose,
    ProposeReply,
    Publish,
    Refusal,
    ShareOrder,
    WitnessesNeeded,
    decode_message,
)
from fedward_common.plan.document import Plan
from fedward_common.plan.signing import SignedPlan, sign_plan
from fedward_common.randomness import os_random
from fedward_common.secret import SecretBytes
from fedward_common.study import Study
from fedward_server.coordinator import StudyFailedError
from fedward_server.planning import draft_plan


@pytest.fixture
def world(small, tmp_path) -> World:
    return small.copy(tmp_path / "world")


@pytest.fixture
def service(world):
    with open_site(world.root / "site-1") as site:
        yield SiteService(site)


def ask(service: SiteService, message) -> object:
    return decode_message(service.handle(message.encode()), REPLIES)


def refused(service: SiteService, message, kind: str, reason: str = "") -> None:
    reply = ask(service, message)
    assert isinstance(reply, Refusal)
    assert reply.kind == kind
    # A peer is told of its own fault; why the site's operator or policy says no stays inside.
    assert reason in reply.reason if kind == "PeerError" else reply.reason == UNSERVED
    assert "\n" not in reply.reason


def approvals_of(world: World) -> tuple[bytes, ...]:
    return tuple(approval_of(world, name) for name in world.names)


def approval_of(world: World, name: str) -> bytes:
    with world.open(name) as site:
        record = site.studies.by_plan(world.signed.open().digest)
        assert record is not None
        assert record.approval is not None
        return record.approval


def proposal(signed: SignedPlan) -> Propose:
    return Propose(signed.canonical, signed.signature)


def changed(plan: Plan, change) -> SignedPlan:
    document = json.loads(plan.canonical)
    change(document)
    return sign_plan(Plan.model_validate_json(json.dumps(document)), COORDINATOR)


CHANGES = {
    "sigma": lambda d: d["queries"][1].update(noise_multiplier=0.5),
    "clip": lambda d: d["queries"][1].update(clip=0.5),
    "sampling rate": lambda d: d["queries"][1].update(sampling_rate=0.9),
    "rounds": lambda d: d["queries"][1].update(rounds=1),
    "query": lambda d: d["queries"].pop(),
    "model": lambda d: d["model"].update(init_seed=5, initial_sha256=None),
    "schedule": lambda d: d["schedule"].update(learning_rate=5.0),
    "t_min": lambda d: d["secagg"].update(colluding=0),
}


def test_a_site_says_who_it_is_over_a_fresh_nonce_only(service, world):
    nonce = os_random(32)
    reply = ask(service, Hello(nonce))
    assert isinstance(reply, HelloReply)
    assert (reply.name, reply.package) == ("site-1", __version__)
    key = bytes.fromhex(world.signed.open().roster.sites[0].identity)
    keys.verify(key, reply.signature, "hello", nonce, "site-1")
    refused(service, Hello(b"short"), "PeerError", "nonce")


@pytest.mark.parametrize("name", CHANGES)
def test_a_study_of_another_plan_than_the_approved_one_does_not_begin(service, world, name):
    other = changed(world.signed.open(), CHANGES[name])
    digest = other.open().digest
    assert ask(service, proposal(other)) == ProposeReply(b"")
    refused(service, Begin(digest, approvals_of(world)), "PolicyRefusalError")
    refused(service, ShareOrder(digest, 1), "PolicyRefusalError")
    refused(service, Publish(digest, 0, ()), "PolicyRefusalError")


@pytest.mark.parametrize("name", CHANGES)
def test_a_server_that_means_another_plan_gets_the_approved_sums_or_none(small, tmp_path, name):
    """Nothing of a query comes from the server: not sigma, C, q, the query or the model."""
    honest, world = (small.copy(tmp_path / kind) for kind in ("honest", "other"))
    with honest.sites(seed=7) as sites:
        coordinate(sites).run()
    with world.sites(seed=7) as sites:
        coordinator = coordinate(sites)
        coordinator._study = Study(changed(world.signed.open(), CHANGES[name]).open())
        with contextlib.suppress(StudyFailedError):
            coordinator.run()
        entries = [sites.site(site).ledger.entries() for site in world.names]
    got = len(list((world.server / "sums").glob("*.u32")))
    pairs = zip(published(world, got), published(honest, got), strict=True)
    assert all(np.array_equal(total, expected) for total, expected in pairs)
    own = {task.name: world.study.mechanism(task) for task in world.study.tasks}
    assert all(entries)
    for entry in (entry for ledger in entries for entry in ledger):
        assert entry.noise_multiplier == own[entry.query].noise_multiplier
        assert entry.worst_noise_multiplier == own[entry.query].noise_multiplier_of(1)
        assert entry.sampling_rate == own[entry.query].sampling_rate


def test_a_plan_signed_by_another_key_is_not_even_shown(service, world):
    plan = world.signed.open()
    forged = keys.sign(SecretBytes(b"\x07" * 32), "plan", plan.digest)
    refused(service, Propose(plan.canonical, forged), "PeerError", "signature")
    refused(service, Propose(plan.canonical, b""), "PeerError", "signature")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"[" * 100_000, b"\xff", b'{"a":' * 5000, b"0" * 5000, b"NaN"]
)
def test_bytes_that_are_no_plan_are_refused(service, data):
    refused(service, Propose(data, bytes(64)), "PeerError", "plan")


def test_another_encoding_of_the_approved_plan_is_refused(service, world):
    spaced = json.dumps(json.loads(world.signed.canonical)).encode()
    refused(service, Propose(spaced, world.signed.signature), "PeerError", "canonical")


def test_approvals_must_be_every_members_own_for_this_plan(service, world):
    digest = world.signed.open().digest
    good = approvals_of(world)
    stranger = SiteIdentity.generate("stranger", os_random)
    encryption = keys.encryption_public(keys.new_key(os_random))
    own = Approval.decode(good[1])
    others = {
        "missing": good[:2],
        "one too many": (*good, good[0]),
        "twice": (good[0], good[1], good[1]),
        "another order": (good[0], good[2], good[1]),
        "stranger": (*good[:2], approve(stranger.identity, digest, encryption).encode()),
        "another plan": (
            *good[:2],
            approve(SecretBytes(bytes(32)), bytes(32), encryption).encode(),
        ),
        "not its signature": (
            good[0],
            replace(own, encryption=encryption).encode(),
            good[2],
        ),
        "garbage": (*good[:2], b"garbage"),
        "empty": (*good[:2], b""),
    }
    for approvals in others.values():
        refused(service, Begin(digest, approvals), "PeerError", "")
    reply = ask(service, Begin(digest, good))
    assert isinstance(reply, WitnessesNeeded)  # it has begun, and wants to hear the others (B6)
    assert ask(service, Begin(digest, good)) == reply


def test_a_study_is_not_begun_twice_under_other_approvals(world):
    digest = world.signed.open().digest
    good = approvals_of(world)
    with open_site(world.root / "site-3") as site:
        again = approve(
            site.identity.identity, digest, keys.encryption_public(keys.new_key(os_random))
        ).encode()
        other = (*good[:2], again)
        # Its own approval exchanged for another valid one by its own key: not as it was given.
        refused(SiteService(site), Begin(digest, other), "PeerError", "own approval")
    with open_site(world.root / "site-1") as site:
        service = SiteService(site)
        assert isinstance(ask(service, Begin(digest, good)), WitnessesNeeded)
        refused(service, Begin(digest, other), "PeerError", "not begun twice")


def test_without_the_operator_nothing_begins(tmp_path):
    names = make_sites(tmp_path, 3)
    roster = []
    for name in names:
        with open_site(tmp_path / name) as site:
            roster.append(roster_entry(site))
    plan = draft_plan(table_document(roster, queries=COUNT), TARGET, "test")
    signed = sign_plan(plan, COORDINATOR)
    with open_site(tmp_path / names[0]) as site:
        service = SiteService(site)
        assert ask(service, proposal(signed)) == ProposeReply(b"")
        refused(service, Begin(plan.digest, ()), "PolicyRefusalError")
        reject_plan(site, plan.digest)
        refused(service, proposal(signed), "PolicyRefusalError")
        refused(service, Begin(plan.digest, ()), "PolicyRefusalError")


COUNT = [{"kind": "count", "noise_multiplier": 5.0}]
SCHEDULE = {"maximum_attempts": 60, "reply_delay_seconds": 5.0}


def test_what_the_operator_may_not_approve(tmp_path):
    """An unsafe plan, a colluding bound of zero, unverified members, and another site's seat."""
    names = make_sites(tmp_path, 3)
    roster = []
    for name in names:
        with open_site(tmp_path / name) as site:
            roster.append(roster_entry(site))

    def reasons(verify: int = 3, **changes) -> tuple[str, ...]:
        sections = {"queries": COUNT, "schedule": SCHEDULE, **changes}
        document = table_document(sections.pop("roster", roster), **sections)
        signed = sign_plan(draft_plan(document, TARGET, "test"), COORDINATOR)
        publics = []
        for name in names[:verify]:
            with open_site(tmp_path / name) as other:
                publics.append(other.identity.public())
        with open_site(tmp_path / names[0]) as site:
            for public in publics:
                site.members.confirm(public)
            receive_proposal(site, proposal(signed))
            found = review(site, signed.open().digest).refusals
            if found:
                with pytest.raises(PolicyRefusalError) as caught:
                    approve_plan(site, signed.open().digest)
                assert all(reason in str(caught.value) for reason in found)
            return found

    assert "unverified" in " ".join(reasons(verify=1))
    assert reasons() == ()
    unsafe = {"t_min": 3, "colluding": 0, "unsafe_for_simulation": True}
    assert "unsafe_for_simulation" in " ".join(reasons(secagg=unsafe))
    assert "colluding" in " ".join(reasons(secagg={"t_min": 3, "colluding": 0}))
    hasty = {"maximum_attempts": 60}
    assert "no reply_delay_seconds" in " ".join(reasons(schedule=hasty))
    impostor = [{**roster[0], "identity": roster[1]["identity"][::-1]}, *roster[1:]]
    assert "roster" in " ".join(reasons(roster=impostor))


def test_proposals_cannot_fill_the_site(service, world):
    plan = world.signed.open()
    for number in range(MAX_WAITING):
        other = changed(plan, lambda d, n=number: d["study"].update(title=f"plan {n}"))
        assert ask(service, proposal(other)) == ProposeReply(b"")
    more = changed(plan, lambda d: d["study"].update(title="one more"))
    refused(service, proposal(more), "OperatorError")
    assert ask(service, proposal(world.signed)) == ProposeReply(approval_of(world, "site-1"))


def test_a_plan_that_breaks_a_rule_never_reaches_a_signature(service, world):
    """Only fields are checked on receipt; the rules across sections stop the approval."""
    two = changed(world.signed.open(), lambda d: d["roster"]["sites"].pop())
    ask(service, proposal(two))
    with open_site(world.root / "site-1") as site, pytest.raises(OperatorError, match="roster"):
        approve_plan(site, two.open().digest)


def test_the_key_of_a_finished_study_is_destroyed_at_every_site(world):
    with world.sites() as sites:
        coordinate(sites).run()
    for name in world.names:
        assert list((world.root / name / "identity").glob("plan-*.key")) == []
        assert list((world.root / name / "volatile").glob("*.key")) == []


def test_approving_again_changes_nothing_but_after_a_no_the_key_is_a_new_one(world):
    digest = world.signed.open().digest
    before = approval_of(world, "site-1")
    with open_site(world.root / "site-1", simulation=True) as site:
        key = site.encryption_key(digest)
        approve_plan(site, digest)
        assert approval_of(world, "site-1") == before
        assert site.encryption_key(digest) == key
        reject_plan(site, digest)
        with pytest.raises(OperatorError):
            site.encryption_key(digest)
        approve_plan(site, digest)
    assert approval_of(world, "site-1") != before
    with world.sites() as sites:
        assert coordinate(sites).run().progress.position == 4
        assert sites.refused == []
