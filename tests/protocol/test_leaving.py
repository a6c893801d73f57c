"""A hospital leaves a study that is running: at once, for good, and beside a process that serves.

The command is another process of the site: what decides stands on a second opening of its folder.
"""

from __future__ import annotations

import numpy as np
import pytest
from tests.security.attack_world import HostileServer
from tests.world import (
    MemorySites,
    ServerStopped,
    World,
    coordinate,
    expected_sum,
    make_world,
    published,
)

from fedward_client import steps
from fedward_client.approval import approve_plan, reject_plan
from fedward_client.round import SiteService
from fedward_client.studies import StudyState
from fedward_common.errors import OperatorError
from fedward_common.messages import (
    REPLIES,
    AgreeOrder,
    Begin,
    EvidenceOrder,
    MaskOrder,
    Publish,
    Refusal,
    ShareOrder,
    UnmaskOrder,
    WitnessOrder,
    WitnessReply,
    decode_message,
)
from fedward_common.progress import begin

LEFT = "this site has left the study"
AWAY, OWN = "site-4", 3
"""Who leaves, and its roster index."""

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


def leave(world: World, name: str = AWAY) -> StudyState:
    """What `plan reject` does, beside the process that serves."""
    with world.open(name) as site:
        return reject_plan(site, world.signed.open().digest)


def keys_of(world: World, name: str = AWAY) -> list[str]:
    folder = world.root / name
    found = [*(folder / "identity").glob("plan-*.key"), *(folder / "volatile").glob("*.key")]
    return [path.name for path in found]


def sealed(sites: MemorySites, name: str = AWAY) -> int:
    query = "SELECT count(*) FROM round_attempts WHERE sealed IS NOT NULL"
    return sites.site(name).folder.database.execute(query).fetchone()[0]


def debits(sites: MemorySites, name: str) -> list[int]:
    return [entry.e for entry in sites.site(name).ledger.entries()]


def test_a_hospital_leaves_a_running_study_and_the_others_finish_it(world):
    """The daemon has the study and its keys in memory; the command runs beside it."""

    events = []

    def on_round(event) -> None:
        events.append(event)
        if event.position == 2:
            assert len(keys_of(world)) == 2
            assert leave(world) is StudyState.WITHDRAWN
            assert keys_of(world) == []

    with world.sites(seed=5) as sites:
        server = coordinate(sites, on_round)
        history = server.run().history
        total = world.study.total_rounds
        assert [len(entry["sites"]) for entry in history] == [4, 4] + [3] * (total - 2)
        assert {name for name, _, _ in sites.refused} == {AWAY}
        assert {(r.kind, r.reason) for _, _, r in sites.refused} == {("PeerError", LEFT)}
        assert {ShareOrder, MaskOrder} <= {type(order) for _, order, _ in sites.refused}
        first = expected_sum(sites, events[0], server.digest, begin(world.study))
        assert np.array_equal(published(world, 1)[0], first)  # with what it contributed
        assert debits(sites, AWAY) == [1, 2]
        assert debits(sites, "site-1") == list(range(1, total + 1))
        entries = sites.site(AWAY).audit.entries()
        assert (entries[-1].kind, entries[-1].study) == ("leave", world.signed.open().digest)
        assert (entries[-1].size, entries[-1].ledger_count) == (len(world.signed.canonical), 2)
        assert (sealed(sites), keys_of(world)) == (0, [])


def test_a_new_process_and_a_new_server_change_nothing(world):
    def on_round(event) -> None:
        raise ServerStopped

    with world.sites() as sites:
        with pytest.raises(ServerStopped):
            coordinate(sites, on_round).run()
        leave(world)
        sites.restart(AWAY)
        before = sites.site(AWAY).ledger.head()
        study = next(order.study for _, order, _ in sites.sent if isinstance(order, ShareOrder))
        begun = next(order for _, order, _ in sites.sent if isinstance(order, Begin))
        for order in (
            begun, ShareOrder(study, 1), ShareOrder(study, 2), MaskOrder(study, 2, 0, (), b""),
            AgreeOrder(study, 1, b""), UnmaskOrder(study, 1, b"", 0), Publish(study, 0, ()),
            EvidenceOrder(study, 1, b"", 0, 0, b""),
        ):  # fmt: skip
            reply = decode_message(sites.ask(AWAY, order.encode()), REPLIES)
            assert reply == Refusal("PeerError", LEFT), order
        witness = WitnessOrder(study, (bytes(32), b"", b"", b""))
        told = decode_message(sites.ask(AWAY, witness.encode()), REPLIES)
        assert isinstance(told, WitnessReply)  # B6: for the sites that other studies need
        coordinate(sites).run()
        assert sites.site(AWAY).ledger.head() == before
        assert sites.site(AWAY).studies.running(study).state is StudyState.WITHDRAWN


@pytest.mark.parametrize("step", ["mask", "agree", "unmask"])
def test_what_a_process_works_out_meanwhile_is_not_stored(world, monkeypatch, step):
    """The order is in hand, its state and keys are loaded: then the operator decides (A2, A6)."""
    with world.sites() as sites:
        server = HostileServer(sites)
        masking, requests = server.mask_orders(server.share(1))
        if step == "mask":
            _decide_within(monkeypatch, world, steps, "addend")
            reply = server.ask(OWN, server.mask_order(requests[OWN]))
        else:
            agreeing, asked = server.mask(masking, requests).close()
            if step == "agree":
                _decide_within(monkeypatch, world, sites.site(AWAY).heads, "debited")
                reply = server.ask(OWN, server.agree_order(asked[OWN]))
            else:
                _, last = server.agree(agreeing, asked).close()
                _decide_within(monkeypatch, world, steps, "_following")
                reply = server.ask(OWN, server.unmask_order(last[OWN], next_e=2))
        assert isinstance(reply, Refusal)
        assert (
            reply.reason
            == {
                "mask": LEFT,
                "agree": "attempt 1 is not in flight at this site any more",
                "unmask": "attempt 1: the study is over at this site",
            }[step]
        )
        stored = "SELECT count(*) FROM round_replies WHERE step = ?"
        database = sites.site(AWAY).folder.database
        assert database.execute(stored, (step,)).fetchone() == (0,)
        assert sites.site(AWAY).studies.running(server.study).released == -1
        assert server.debits(OWN) == [1]  # it was made before, and is not taken back
        assert server.refused(OWN, ShareOrder(server.study, 2)).reason == LEFT
        assert (sealed(sites), keys_of(world)) == (0, [])


def test_seeds_that_a_process_draws_meanwhile_are_gone_at_once(world, monkeypatch):
    with world.sites() as sites:
        server = HostileServer(sites)
        _decide_within(monkeypatch, world, steps, "start")
        assert server.refused(OWN, ShareOrder(server.study, 1)).reason == LEFT
        assert (sealed(sites), keys_of(world)) == (0, [])


@pytest.mark.parametrize("process", [1, 2])
def test_an_addend_that_waits_for_its_delay_does_not_leave_any_more(tmp_path, process):
    """The operator decides within the delay, be it the one of a new process of the site (B2)."""
    queries = [{"kind": "count", "noise_multiplier": 5.0}]
    schedule = {"maximum_attempts": 9, "reply_delay_seconds": 5.0}
    world = make_world(tmp_path / "world", 4, queries=queries, schedule=schedule)
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == process:
            leave(world)

    def patient(site) -> SiteService:
        return SiteService(site, sleep=wait if site.name == AWAY else lambda _: None)

    with world.sites(service_of=patient) as sites:
        server = HostileServer(sites)
        _, requests = server.mask_orders(server.share(1))
        order = server.mask_order(requests[OWN])
        if process == 2:
            server.answered(OWN, order)
            sites.restart(AWAY)
        assert server.ask(OWN, order) == Refusal("PeerError", LEFT)
        assert len(waits) == process
        assert all(0 < seconds <= 5.0 for seconds in waits)
        assert server.debits(OWN) == [1]
        left = [entry.kind for entry in sites.site(AWAY).audit.entries()]
        assert left.count("mask") == process - 1
        assert (sealed(sites), keys_of(world)) == (0, [])


def test_a_kill_after_the_decision_leaves_no_key_behind(world):
    """The state is written first; what serves the site next destroys the keys (A1)."""
    with world.sites() as sites:
        server = HostileServer(sites)
        server.share(1)
        sites.site(AWAY).studies.withdraw(world.signed.open().digest)
        assert len(keys_of(world)) == 2
        sites.restart(AWAY)
        assert sites.service(AWAY)
        assert (sealed(sites), keys_of(world)) == (0, [])


def test_what_is_over_or_has_not_begun_cannot_be_left(world):
    digest = world.signed.open().digest
    with world.open(AWAY) as site, pytest.raises(OperatorError, match="is not running"):
        site.studies.withdraw(digest)
    with world.sites() as sites:
        HostileServer(sites)
    assert leave(world) is StudyState.WITHDRAWN
    log = _audit_length(world)
    with pytest.raises(OperatorError, match="its study is withdrawn here; nothing is left to dec"):
        leave(world)
    with world.open(AWAY) as site, pytest.raises(OperatorError, match="its study has begun"):
        approve_plan(site, digest)
    assert _audit_length(world) == log


def test_a_finished_study_is_not_decided_on(small, tmp_path):
    world = small.copy(tmp_path / "world")
    with world.sites() as sites:
        coordinate(sites).run()
    with pytest.raises(OperatorError, match="its study is finished here; nothing is left to dec"):
        leave(world, "site-1")


def _decide_within(monkeypatch, world: World, target, name: str) -> None:
    """The operator leaves the study when the process comes to ``name``, which then goes on."""
    does = getattr(target, name)

    def meanwhile(*given):
        monkeypatch.setattr(target, name, does)
        assert leave(world) is StudyState.WITHDRAWN
        return does(*given)

    monkeypatch.setattr(target, name, meanwhile)


def _audit_length(world: World) -> int:
    with world.open(AWAY) as site:
        return len(site.audit.entries())
