"""A restarted server goes on under the approvals that its study began with (A1)."""

from __future__ import annotations

import logging

import pytest
from tests.world import coordinate

from fedward_client.round import SiteService
from fedward_common.errors import IntegrityError, OperatorError
from fedward_common.identity import Approval, approve
from fedward_common.messages import ORDERS, Propose, ProposeReply, decode_message
from fedward_server import approvals
from fedward_server.approvals import APPROVALS, load_approvals

AWAY = "site-4"


class Stop(Exception):  # noqa: N818  (the test ends the server)
    pass


def stop(_event) -> None:
    raise Stop


def test_a_server_restarts_while_a_tolerated_member_is_away(world):
    with world.sites() as sites:
        first = coordinate(sites, stop)
        with pytest.raises(Stop):
            first.run()
        sites.offline.add(AWAY)
        asked = len(sites.sent)
        second = coordinate(sites)
        history = second.run().history
        assert not any(isinstance(order, Propose) for _, order, _ in sites.sent[asked:])
    assert second.digest == first.digest
    assert len(history) == world.study.total_rounds
    assert AWAY in history[0]["sites"]
    assert AWAY not in history[-1]["sites"]


def test_members_whose_approval_is_awaited_are_named_in_one_line(world, caplog, monkeypatch):
    asked = 0
    monkeypatch.setattr(approvals, "POLL_SECONDS", 0.0)

    def late(name: str, order) -> str:
        nonlocal asked
        asked += isinstance(order, Propose) and name == AWAY
        return "lost" if isinstance(order, Propose) and name == AWAY and asked < 3 else "ok"

    caplog.set_level(logging.INFO, "fedward_server.approvals")
    with world.sites(fate=late) as sites, pytest.raises(Stop):
        coordinate(sites, stop).run()
    lines = [r.getMessage() for r in caplog.records if "waiting for" in r.getMessage()]
    assert lines == [f"waiting for the approval of {AWAY}"]


def test_an_approval_with_another_members_key_is_not_taken(world, caplog, monkeypatch):
    """No group can be formed with it: the server waits for a key of its own, and says so."""
    monkeypatch.setattr(approvals, "POLL_SECONDS", 0.0)
    digest = world.signed.open().digest
    with world.open("site-1") as other:
        stolen = Approval.decode(other.studies.by_plan(digest).approval).encryption
    copies = iter([True, True])

    class Copycat(SiteService):
        def __init__(self, site) -> None:
            super().__init__(site)
            self._member = site.identity

        def handle(self, data: bytes) -> bytes:
            answer = super().handle(data)
            order = decode_message(data, ORDERS)
            if isinstance(order, Propose) and self._member.name == AWAY and next(copies, False):
                return ProposeReply(
                    approve(self._member.identity, digest, stolen).encode()
                ).encode()
            return answer

    with world.sites(service_of=Copycat) as sites, pytest.raises(Stop):
        coordinate(sites, stop).run()
    told = [r.getMessage() for r in caplog.records if "another member's" in r.getMessage()]
    assert told == [f"{AWAY}: its encryption key is another member's: approval refused"] * 2


def test_a_plan_that_a_member_rejects_is_not_proposed_for_ever(world):
    """The study fails by the hospital's name, so that the next one can run."""
    digest = world.signed.open().digest
    with world.open(AWAY) as site:
        site.studies.reject(digest)
    with world.sites() as sites, pytest.raises(OperatorError, match=f"^{AWAY} refuses the plan"):
        coordinate(sites, stop).run()


def test_kept_approvals_are_for_one_plan_and_checked(world):
    plan = world.signed.open()
    assert load_approvals(world.server, plan) is None
    with world.sites() as sites, pytest.raises(Stop):
        coordinate(sites, stop).run()
    stored = load_approvals(world.server, plan)
    assert stored is not None
    members = [bytes.fromhex(site.identity) for site in plan.roster.sites]
    assert [approval.identity for approval in stored] == members
    path = world.server / APPROVALS
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="damaged") as caught:
        load_approvals(world.server, plan)
    assert "\n" not in str(caught.value)
