"""Debit first, then look: no image is opened, and no addend leaves, without a row in the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pytest
from tests.world import GRADIENT, MemorySites, World, coordinate, make_world, published

from fedward_client.debit import Debit
from fedward_client.round import UNSERVED
from fedward_client.running import Running
from fedward_client.site import Site
from fedward_common.messages import (
    REPLIES,
    AgreeOrder,
    Begin,
    MaskOrder,
    Message,
    Refusal,
    ShareOrder,
    UnmaskOrder,
    decode_message,
)

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

TIGHT = """\
[caps.train]
epsilon = {epsilon}
epsilon_worst_case = "none"
delta = 1e-3

[caps.holdout]
epsilon = 100.0
epsilon_worst_case = "none"
delta = 1e-3

[studies]
queries = ["count", "moments", "gradient", "histogram"]
models = ["svm"]
minimum_cohort = 1
"""


@pytest.fixture
def world(small, tmp_path) -> World:
    return small.copy(tmp_path / "world")


class Touched(BaseException):
    """The power fails at the moment a patient is looked at."""


@dataclass
class Witness:
    """A cohort that notes what the ledger on the disk said whenever a patient was opened."""

    site: Site
    patients: object
    seen: list[int] = field(default_factory=list)
    fails: bool = False

    def __len__(self) -> int:
        return len(self.patients)

    @property
    def labels(self):
        return self.patients.labels

    def patient(self, index: int):
        self.seen.append(len(self.site.ledger.entries()))
        if self.fails:
            raise Touched
        return self.patients.patient(index)


def watch(sites: MemorySites, name: str, digest: bytes, *, fails: bool = False) -> Witness:
    """Put a witness before the training patients of a site's running study."""
    running: Running = sites.service(name)._study(digest)
    witness = Witness(sites.site(name), running.cohort("train"), fails=fails)
    running._cohorts["train"] = witness
    return witness


def first_mask_order(world: World) -> tuple[MaskOrder, bytes]:
    """Run until site-1 has got its first MaskOrder, which is lost; returns it and the study."""
    caught: list[MaskOrder] = []

    class Caught(Exception):  # noqa: N818
        pass

    def fate(name: str, order: Message) -> str:
        if isinstance(order, MaskOrder) and name == "site-1":
            caught.append(order)
            raise Caught
        return "ok"

    with world.sites(seed=3, fate=fate) as sites, pytest.raises(Caught):
        coordinate(sites).run()
    return caught[0], caught[0].study


def test_the_debit_is_on_the_disk_before_a_patient_is_opened(world):
    order, study = first_mask_order(world)
    with world.sites(seed=3) as sites:
        witness = watch(sites, "site-1", study)
        assert not isinstance(decode_message(sites.ask("site-1", order.encode()), REPLIES), Refusal)
        assert witness.seen
        assert set(witness.seen) == {1}
        entry = sites.site("site-1").ledger.entries()[0]
    mechanism = world.study.mechanism(world.study.tasks[0])
    assert entry == Debit.of(mechanism, study=study, e=1, account="train")


def test_a_crash_between_debit_and_addend_keeps_the_one_debit(world):
    order, study = first_mask_order(world)
    with world.sites(seed=None) as sites:
        watch(sites, "site-1", study, fails=True)
        with pytest.raises(Touched):
            sites.ask("site-1", order.encode())
        sites.restart("site-1")
        assert len(sites.site("site-1").ledger.entries()) == 1
        first = sites.ask("site-1", order.encode())
        assert not isinstance(decode_message(first, REPLIES), Refusal)
        assert len(sites.site("site-1").ledger.entries()) == 1
        sites.site("site-1").ledger.verify()


def test_past_the_cap_no_patient_is_opened_and_nothing_leaves(world, caplog):
    order, study = first_mask_order(world)
    policy = world.root / "site-1" / "policy.toml"
    policy.write_text(TIGHT.format(epsilon=0.01), encoding="utf-8")
    with world.sites(seed=3) as sites:
        witness = watch(sites, "site-1", study)
        for _ in range(2):
            reply = decode_message(sites.ask("site-1", order.encode()), REPLIES)
            assert isinstance(reply, Refusal)
            assert reply.kind == "PolicyRefusalError"
            assert reply.reason == UNSERVED  # how much is left is nobody else's business
        assert "account 'train'" in caplog.text
        assert witness.seen == []
        assert sites.site("site-1").ledger.entries() == []
        stored = sites.site("site-1").rounds.replied(study, order.e, order.TAG, order.encode())
        assert stored is None
    policy.write_text(TIGHT.format(epsilon=100.0), encoding="utf-8")
    with world.sites(seed=3) as sites:  # the attempt itself was not harmed
        reply = decode_message(sites.ask("site-1", order.encode()), REPLIES)
        assert not isinstance(reply, Refusal)


def test_the_ledger_holds_exactly_the_attempts_for_which_an_addend_left(template, tmp_path):
    """The truth of B6: what a recorder at the door saw is a subset of the debits, each once."""
    world = template.copy(tmp_path / "four")

    def fate(name: str, order: Message) -> str:
        lost = isinstance(order, MaskOrder) and order.e % 2 == 1 and name in {"site-1", "site-2"}
        return "mute" if lost else "ok"

    with world.sites(fate=fate) as sites:
        coordinate(sites).run()
        for name in world.names:
            seen = {
                (order.study, order.e)
                for site, order, reply in sites.sent
                if site == name
                and isinstance(order, MaskOrder)
                and not isinstance(decode_message(reply, REPLIES), Refusal)
            }
            debited = [(entry.study, entry.e) for entry in sites.site(name).ledger.entries()]
            assert len(debited) == len(set(debited))
            assert seen == set(debited)
            assert len(seen) == 2 * 6  # every second attempt was in vain, and paid for


def test_debits_carry_the_plans_parameters_in_the_plans_order(world):
    with world.sites() as sites:
        coordinate(sites).run()
        entries = sites.site("site-2").ledger.entries()
    study = world.study
    expected = [
        Debit.of(study.mechanism(task), study=entries[0].study, e=e, account=task.split)
        for e, task in enumerate((t for t in study.tasks for _ in range(t.rounds)), start=1)
    ]
    assert entries == expected
    assert len({total.tobytes() for total in published(world, 4)}) == 4
    assert all(np.any(total) for total in published(world, 4))


OPEN, CLOSED = (datetime(2023, 1, 2, hour, tzinfo=UTC) for hour in (12, 20))
"""A Monday's noon and evening."""


def with_hours(world: World, *names: str) -> None:
    """These sites compute on Mondays from eight to six."""
    for name in names:
        with (world.root / name / "policy.toml").open("a", encoding="utf-8") as policy:
            policy.write('\n[hours]\nmonday = ["08:00-18:00"]\n')


def test_outside_its_hours_a_site_is_absent_and_nothing_is_debited(template, tmp_path, caplog):
    world = template.copy(tmp_path / "four")
    with_hours(world, "site-2")
    clock = [OPEN]

    def closes(event) -> None:
        clock[0] = CLOSED if event.position in (1, 2, 3) else OPEN

    with world.sites() as sites:
        sites.service("site-2")._now = lambda: clock[0]
        history = coordinate(sites, closes).run().history
        debits = [entry.e for entry in sites.site("site-2").ledger.entries()]
        refusals = {(name, reply.kind) for name, _, reply in sites.refused}
    took_part = ["site-2" in entry["sites"] for entry in history]
    assert took_part == [True, False, False, False, True, True]
    assert debits == [entry["e"] for entry in history if "site-2" in entry["sites"]]
    assert refusals == {("site-2", "Closed")}


@pytest.fixture(scope="module")
def spare(tmp_path_factory) -> World:
    """Three sites, all needed; two sums, and one attempt more than that."""
    queries = [{**GRADIENT, "rounds": 2}]
    root = tmp_path_factory.mktemp("hours") / "spare"
    nominal = {"maximum_attempts": 3, "nominal_patients": 40}
    return make_world(root, 3, queries=queries, schedule=nominal)


@pytest.mark.parametrize("closing", [ShareOrder, MaskOrder, AgreeOrder, UnmaskOrder])
def test_an_attempt_that_was_computed_in_time_is_finished_after_hours(spare, tmp_path, closing):
    """All three sites are needed: whatever is refused stops the attempt, and the server waits."""
    world = spare.copy(tmp_path / "world")
    with_hours(world, "site-1")
    clock, asked = [OPEN], []

    def fate(name: str, order: Message) -> str:
        if name == "site-1" and isinstance(order, closing) and order.e == 1:
            clock[0] = CLOSED
        if name == "site-1" and clock[0] is CLOSED and isinstance(order, Begin):
            asked.append(order)
            clock[0] = OPEN if len(asked) > 5 else CLOSED
        return "ok"

    with world.sites(fate=fate) as sites:
        sites.service("site-1")._now = lambda: clock[0]
        if closing in (AgreeOrder, UnmaskOrder):
            sites.on_order = lambda _, order, __: clock.__setitem__(
                0, OPEN if isinstance(order, UnmaskOrder) else clock[0]
            )
        history = coordinate(sites).run().history
        debits = [entry.e for entry in sites.site("site-1").ledger.entries()]
    if closing in (AgreeOrder, UnmaskOrder):
        assert [entry["e"] for entry in history] == [1, 2]
        assert sites.refused == []
    else:
        # One attempt was begun in vain; waiting used up no other.
        assert [entry["e"] for entry in history] == [2, 3]
        assert len(asked) == 6
    assert debits == [entry["e"] for entry in history]
