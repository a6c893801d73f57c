"""A7: a server that publishes a false sum, and one that serves false evidence for a true one.

Real site services behind the real coordinator; every site asks for the evidence of every sum.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from tests.world import MemorySites, World, coordinate

from fedward_client import agent
from fedward_client.audits import Verdict
from fedward_client.round import SiteService
from fedward_client.studies import StudyState
from fedward_common.messages import (
    REPLIES,
    EvidenceOrder,
    EvidenceReply,
    MaskOrder,
    Message,
    Refusal,
    WitnessOrder,
    WitnessReply,
    decode_message,
)
from fedward_common.secagg.server import Summed
from fedward_common.secagg.transcript import Transcript
from fedward_server import coordinator
from fedward_server.grid_sites import GridSites
from fedward_server.rounds import RoundRunner
from fedward_simulations.grid import InMemoryGrid, bind

SUMS = 3


class Caught(Exception):  # noqa: N818  (not an error: the lie is found)
    """The sites have stopped the study."""


class LyingRunner(RoundRunner):
    """An honest server in everything but one thing: it publishes another second sum."""

    def attempt(self, e, progress) -> Summed:
        summed = super().attempt(e, progress)
        if progress.position != 1:
            return summed
        return dataclasses.replace(summed, total=summed.total + np.uint32(1))


def verdicts(sites: MemorySites, name: str) -> dict[int, Verdict]:
    study = next(order.study for _, order, _ in sites.sent if isinstance(order, MaskOrder))
    return {audit.number: audit.verdict for audit in sites.site(name).audits.of_study(study)}


def test_an_honest_server_proves_every_sum_to_every_site(auditing, tmp_path):
    world: World = auditing.copy(tmp_path / "world")
    with world.sites(seed=3) as sites:
        assert coordinate(sites).run().progress.position == SUMS
        assert sites.refused == []
        for name in world.names:
            assert verdicts(sites, name) == dict.fromkeys(range(1, SUMS + 1), Verdict.TRUE)
            kinds = [entry.kind for entry in sites.site(name).audit.entries()]
            assert kinds.count("audit-true") == SUMS
    assert list((world.server / "addends").glob("*")) == []  # gone with the last checkpoint


def test_a_server_that_publishes_a_false_sum_is_caught_by_an_audit(auditing, tmp_path, monkeypatch):
    """'server publishes a false sum': it serves what the members signed, and that sums otherwise.

    Every site that audits stops the study: no later step is served, not even under a new server.
    """
    monkeypatch.setattr(coordinator, "RoundRunner", LyingRunner)
    world: World = auditing.copy(tmp_path / "world")

    def refused_at_last(_: str, order: Message) -> str:
        if len(sites.refused) > 5:
            raise Caught
        return "ok"

    with world.sites(seed=3, fate=refused_at_last) as sites:
        with pytest.raises(Caught):
            coordinate(sites).run()
        for name in world.names:
            assert verdicts(sites, name)[1] is Verdict.TRUE
            assert verdicts(sites, name)[2] is Verdict.FALSE
            site = sites.site(name)
            assert [e.kind for e in site.audit.entries()].count("audit-false") == 1
            site.audit.verify()
        spent = [sites.site(name).ledger.head() for name in world.names]
        mask = next(order for _, order, _ in sites.sent if isinstance(order, MaskOrder))
        for name in world.names:
            sites.restart(name)
            reply = decode_message(sites.ask(name, mask.encode()), REPLIES)
            assert isinstance(reply, Refusal)
            assert reply.reason == "this site has stopped the study: a published sum was false"
            assert list((world.root / name / "identity").glob("plan-*")) == []  # A1
            witness = WitnessOrder(mask.study, (b"", bytes(32), b"", b""))
            told = decode_message(sites.ask(name, witness.encode()), REPLIES)
            assert isinstance(told, WitnessReply)  # B6: for the sites that other studies need
        assert [sites.site(name).ledger.head() for name in world.names] == spent


def test_a_lie_is_caught_over_the_grid_that_flower_uses(auditing, tmp_path, monkeypatch):
    """'server publishes a false sum': the same through ServerApp's grid and ClientApps."""
    monkeypatch.setattr(coordinator, "RoundRunner", LyingRunner)
    world: World = auditing.copy(tmp_path / "world")
    opened = [world.open(name) for name in world.names]
    services = {node: SiteService(site) for node, site in enumerate(opened, 1)}
    client = agent.make_app(lambda context: services[context.node_id])
    nodes = {node: bind(client, Context(1, node, {}, RecordDict(), {})) for node in services}
    grid = InMemoryGrid(nodes)
    try:
        sites = GridSites(grid, world.signed.open().roster.sites)
        lying = coordinator.Coordinator(world.signed, sites, world.server)
        lying.run()  # its last sum is the one in whose round the lie is found
        for site in opened:
            audit = site.audits.find(lying.digest, 2)
            assert audit is not None
            assert audit.verdict is Verdict.FALSE
            assert site.studies.running(lying.digest).state is StudyState.STOPPED
    finally:
        grid.close()
        for site in opened:
            site.close()


@pytest.fixture(scope="module")
def served(auditing, tmp_path_factory):
    """A study in which site-1 got no evidence, and what site-2 got of the second sum and third."""
    world: World = auditing.copy(tmp_path_factory.mktemp("evidence") / "world")
    kept: dict[int, list[EvidenceOrder]] = {2: [], 3: []}

    def fate(name: str, order: Message) -> str:
        if isinstance(order, EvidenceOrder):
            if name == "site-1":
                return "lost"
            if name == "site-2" and order.number in kept:
                kept[order.number].append(order)
        return "ok"

    with world.sites(seed=3, fate=fate) as sites:
        coordinate(sites).run()
        yield sites, kept


def feed(sites: MemorySites, orders: list[EvidenceOrder]) -> Refusal | None:
    """The refusal with which site-1 meets the evidence, or None if it takes it all."""
    for order in orders:
        reply = decode_message(sites.ask("site-1", order.encode()), REPLIES)
        if isinstance(reply, Refusal):
            return reply
        assert isinstance(reply, EvidenceReply)
    return None


def changed(orders: list[EvidenceOrder], at: int, **fields) -> list[EvidenceOrder]:
    return [dataclasses.replace(o, **fields) if n == at else o for n, o in enumerate(orders)]


def test_evidence_that_proves_nothing_is_refused_and_true_evidence_taken(served):
    """'server publishes a false sum': it cannot prove one with another attempt's, or less."""
    sites, kept = served
    good, other = kept[2], kept[3]
    assert verdicts(sites, "site-1")[2] is Verdict.UNSERVED
    transcript = Transcript.decode(good[0].transcript)
    renamed = dataclasses.replace(
        transcript, context=dataclasses.replace(transcript.context, e=transcript.context.e + 1)
    )
    y = good[1].data
    late = bytes([y[0] ^ 1]) + y[1:]
    bad = {
        "another attempt": changed(good, 0, transcript=other[0].transcript),
        "the same under another e": changed(good, 0, transcript=renamed.encode()),
        "a y of another attempt": changed(good, 1, data=other[1].data[: len(y)]),
        "a late y": changed(good, 1, data=late),
        "a missing y": [good[0], good[2]],
        "no transcript": changed(good, 0, transcript=b""),
        "a longer y": changed(good, 1, data=y + bytes(4)),
        "out of order": changed(good, 1, offset=4),
    }
    for orders in bad.values():
        assert feed(sites, orders) is not None
        assert verdicts(sites, "site-1")[2] is Verdict.REFUSED
    entries = [e.kind for e in sites.site("site-1").audit.entries()]
    assert entries.count("audit-refused") == 1  # a hostile server does not fill the log
    study = dataclasses.replace(good[0], study=bytes(32))
    assert feed(sites, [study]) is not None
    unasked = [dataclasses.replace(order, number=9) for order in good]
    assert "has not asked" in feed(sites, unasked).reason
    assert feed(sites, good) is None
    assert verdicts(sites, "site-1")[2] is Verdict.TRUE
    assert "has not asked" in feed(sites, good).reason  # decided once


def test_a_site_keeps_the_evidence_of_one_sum_in_memory(auditing, tmp_path):
    """Evidence that begins and never ends is dropped when that of another sum begins."""
    kept: dict[int, list[EvidenceOrder]] = {}

    def first_piece_only(name: str, order: Message) -> str:
        if not isinstance(order, EvidenceOrder) or name != "site-1":
            return "ok"
        kept.setdefault(order.number, []).append(order)
        return "ok" if order.transcript else "lost"

    with auditing.copy(tmp_path / "world").sites(seed=3, fate=first_piece_only) as sites:
        coordinate(sites).run()
        assert sorted(kept) == [1, 2, 3]
        assert feed(sites, kept[SUMS][1:]) is None  # it was the last to begin
        stale = feed(sites, kept[2][1:])
        assert "does not begin with its transcript" in stale.reason
