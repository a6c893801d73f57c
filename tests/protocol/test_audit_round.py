"""``fedward-client audit round``: a sum is proven to an operator, who reads the verdict (A3.5)."""

from __future__ import annotations

import pytest
from tests.cli_world import client
from tests.world import GRADIENT, World, coordinate, make_world

from fedward_client.audits import Audits, Subject, Verdict
from fedward_client.database import open_database
from fedward_common.errors import FedwardError
from fedward_common.messages import EvidenceOrder, MaskOrder, Message, ShareOrder, StepReply
from fedward_common.messages import decode_message as decode

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

SUMS = 4


class Paused(Exception):  # noqa: N818
    """The server stops for a while."""


@pytest.fixture
def begun(small, tmp_path) -> World:
    """A study of four sums of which two are published."""
    world = small.copy(tmp_path / "world")

    def fate(_: str, order: Message) -> str:
        if isinstance(order, MaskOrder) and order.e == 3:
            raise Paused
        return "ok"

    with world.sites(seed=1, fate=fate) as sites, pytest.raises(Paused):
        coordinate(sites).run()
    return world


def audit(world: World, number: int, *more: str):
    return client("audit", "round", number, "--site", world.root / "site-1", *more)


def test_a_registered_sum_is_asked_for_and_proven(begun):
    told = audit(begun, 3)
    assert told.out == "sum 3: will be asked for when the sum is published\n"
    asked, served = [], []

    def note(name: str, order: Message, reply: bytes) -> None:
        if isinstance(order, MaskOrder) and decode(reply, (StepReply,)).wish:
            asked.append((name, order.position, decode(reply, (StepReply,)).wish))
        if isinstance(order, EvidenceOrder):
            served.append((name, order.number))

    with begun.sites(seed=1, on_order=note) as sites:
        coordinate(sites).run()
        assert sites.refused == []
    assert asked == [("site-1", 2, 3)]
    assert served == [("site-1", 3)] * 3
    record = audit(begun, 3, "--json").json
    assert (record["round"], record["verdict"], record["detail"]) == (3, "true", "")
    assert "is the sum of the addends" in audit(begun, 3).out


def test_the_last_sum_is_proven_too(begun):
    audit(begun, SUMS)
    with begun.sites(seed=1) as sites:
        coordinate(sites).run()
    assert audit(begun, SUMS, "--json").json["verdict"] == "true"
    assert not list((begun.server / "addends").glob("*"))


def test_a_piece_of_evidence_that_comes_twice_is_answered_twice(begun):
    audit(begun, 3)
    again = []

    def repeat(name: str, order: Message, reply: bytes) -> None:
        if isinstance(order, EvidenceOrder):
            again.append(sites.service(name).handle(order.encode()) == reply)

    with begun.sites(seed=1, on_order=repeat) as sites:
        coordinate(sites).run()
        assert sites.refused == []
    assert again == [True] * 3
    assert audit(begun, 3, "--json").json["verdict"] == "true"


def test_a_server_that_restarts_after_the_last_sum_learns_of_the_wish_again(begun):
    audit(begun, SUMS)

    def fate(_: str, order: Message) -> str:
        if isinstance(order, EvidenceOrder):
            raise Paused
        return "ok"

    with begun.sites(seed=1, fate=fate) as sites, pytest.raises(Paused):
        coordinate(sites).run()
    assert audit(begun, SUMS, "--json").json["verdict"] == "asked"
    with begun.sites(seed=1) as sites:
        coordinate(sites).run()
    assert audit(begun, SUMS, "--json").json["verdict"] == "true"


def test_evidence_that_never_comes_is_told_as_such(begun, caplog):
    audit(begun, 2)
    audit(begun, 3)

    def fate(_: str, order: Message) -> str:
        return "lost" if isinstance(order, EvidenceOrder) and order.number == 2 else "ok"

    with begun.sites(seed=1, fate=fate) as sites:
        coordinate(sites).run()
    assert audit(begun, 2, "--json").json["verdict"] == "unserved"
    assert audit(begun, 3, "--json").json["verdict"] == "true"
    assert "sum 2: the server did not serve the evidence asked for" in caplog.text


def test_what_cannot_be_audited_is_refused_in_one_line(begun, tmp_path):
    audit(begun, 1).refused(2, "sum 1", "its evidence is gone", "name one after 1")
    audit(begun, 9).refused(2, "sum 9", "the study has 4 sums")
    audit(begun, 3, "--plan", "zz").refused(2, "plan zz", "no such study has begun here")
    queries = [{**GRADIENT, "rounds": 1}]
    secagg = {"t_min": 3, "colluding": 0, "unsafe_for_simulation": True}
    with pytest.raises(FedwardError):  # a deployed site takes part in no such study
        make_world(tmp_path / "zero", 3, queries=queries, secagg=secagg)


def test_a_false_sum_is_told_with_status_1_and_what_was_wrong(begun):
    with begun.open("site-1") as site:
        study = site.studies.all()[0].digest
        audits = Audits(site.folder.database)
        audits.ask(study, 2, Subject(2, "q", 0, bytes(32), 4, bytes(32)))
        audits.decide(study, 2, Verdict.FALSE, "the members' addends sum to aa, published bb")
        site.studies.stop(study)
    told = audit(begun, 2)
    assert told.status == 1
    assert "the published sum is NOT that of the addends; the study is stopped here" in told.out
    assert "the members' addends sum to aa, published bb" in told.out
    status = client("status", "--site", begun.root / "site-1")
    assert "stopped" in status.out
    with begun.sites(seed=1) as sites:
        reply = sites.ask("site-1", ShareOrder(study, 9).encode())
        assert b"this site has stopped the study" in reply
        assert not list((begun.root / "site-1" / "volatile").glob("*.key"))  # A6


def test_a_registered_sum_that_was_passed_over_is_unserved_when_a_later_one_is_asked_for(tmp_path):
    audits = Audits(open_database(tmp_path / "site.db"))
    study, subject = bytes(32), Subject(3, "gradient", 2, bytes(32), 4, bytes(32))
    audits.register(study, 2)
    audits.register(study, 5)
    audits.ask(study, 3, subject)
    verdicts = [(audit.number, audit.verdict) for audit in audits.of_study(study)]
    assert verdicts == [(2, Verdict.UNSERVED), (3, Verdict.ASKED), (5, Verdict.REGISTERED)]
