"""Sites that fall silent anywhere: the sum is exactly that of its contributors, or there is none.

The server's loop and the sites' services are the production ones; what gets lost is drawn.
"""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.world import (
    GRADIENT,
    STEPS,
    World,
    coordinate,
    expected_sum,
    fold_all,
    make_world,
    published,
)

from fedward_common.messages import (
    MAX_SUMS,
    AgreeOrder,
    Begin,
    MaskOrder,
    Message,
    Publish,
    ShareOrder,
    UnmaskOrder,
)
from fedward_server.coordinator import StudyFailedError

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

SUMS = 6
SITES = ("site-1", "site-2", "site-3", "site-4")
LOSSES = st.dictionaries(
    st.tuples(st.integers(1, 8), st.sampled_from(STEPS), st.sampled_from(SITES)),
    st.sampled_from(["lost", "mute"]),
    max_size=14,
)


def check_sums_against_addends(world: World, losses, seed: int = 5) -> list[tuple[str, ...]]:
    """Run under the losses; every published sum must be its contributors'. Returns them.

    Step 4 is asked for until it is answered: a loss of it happens once.
    """
    losses = dict(losses)

    def fate(name: str, order: Message) -> str:
        key = (getattr(order, "e", 0), type(order), name)
        return losses.pop(key, "ok") if isinstance(order, UnmaskOrder) else losses.get(key, "ok")

    events = []
    with world.sites(seed=seed, fate=fate) as sites:
        coordinator = coordinate(sites, events.append)
        checkpoint = coordinator.run()
        states = fold_all(world.study, published(world, SUMS))
        for event in events:
            total = published(world, SUMS)[event.position - 1]
            before = states[event.position - 1]
            expected = expected_sum(sites, event, coordinator.digest, before)
            assert np.array_equal(total, expected)
        debited = {name: [entry.e for entry in sites.site(name).ledger.entries()] for name in SITES}
    # Server and all sites end with the same bits, and no attempt was used twice.
    assert states[-1].encode() == checkpoint.progress.encode()
    attempts = [event.e for event in events]
    assert attempts == sorted(set(attempts))
    for name in SITES:
        assert len(debited[name]) == len(set(debited[name]))
        took = {event.e for event in events if name in event.contributors}
        assert took <= set(debited[name])
        with world.open(name) as site:
            record = site.studies.by_plan(world.signed.open().digest)
            assert record is not None
            assert record.progress == checkpoint.progress.encode()
    return [event.contributors for event in events]


@given(losses=LOSSES)
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_losses_leave_exact_sums(template, tmp_path, losses):
    check_drawn(template, tmp_path, losses)


@pytest.mark.slow
@given(losses=LOSSES)
@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_losses_leave_exact_sums_more_examples(template, tmp_path, losses):
    check_drawn(template, tmp_path, losses)


numbers = itertools.count()


def check_drawn(template: World, tmp_path, losses) -> None:
    world = template.copy(tmp_path / f"example-{next(numbers)}")
    try:
        for contributors in check_sums_against_addends(world, losses):
            assert len(contributors) >= 3  # t_min
    finally:
        shutil.rmtree(world.root)


@pytest.mark.parametrize("how", ["lost", "mute"])
@pytest.mark.parametrize("step", STEPS)
def test_one_site_silent_at_one_step_does_not_stop_the_round(template, tmp_path, step, how):
    world = template.copy(tmp_path / "world")
    losses = {(2, step, "site-3"): how}
    contributors = check_sums_against_addends(world, losses)
    # In attempt 2 step 1 rides on the step before: nothing is asked for that could be lost.
    rides = step is ShareOrder
    late = step in {AgreeOrder, UnmaskOrder} or rides
    assert contributors[1] == (SITES if late else ("site-1", "site-2", "site-4"))
    assert contributors[2] == SITES


@pytest.mark.parametrize("step", [MaskOrder, AgreeOrder])
def test_below_the_threshold_the_attempt_ends_and_the_next_one_succeeds(template, tmp_path, step):
    world = template.copy(tmp_path / "world")
    losses = {(2, step, name): "lost" for name in ("site-3", "site-4")}
    with world.sites(fate=lambda n, o: losses.get((getattr(o, "e", 0), type(o), n), "ok")) as sites:
        history = coordinate(sites).run().history
    assert [entry["e"] for entry in history] == [1, 3, 4, 5, 6, 7]
    assert all(len(entry["sites"]) == 4 for entry in history)


def test_below_the_threshold_at_step_4_the_same_is_asked_until_enough_answer(template, tmp_path):
    """A2: who has released computes on no public input twice, so no other attempt is made."""
    world = template.copy(tmp_path / "world")
    asked = []

    def fate(name: str, order: Message) -> str:
        if not isinstance(order, UnmaskOrder) or order.e != 2:
            return "ok"
        asked.append((name, order.encode()))
        return "ok" if name in {"site-1", "site-2"} or len(asked) > 9 else "lost"

    with world.sites(fate=fate) as sites:
        history = coordinate(sites).run().history
        assert sites.refused == []
    assert [entry["e"] for entry in history] == [1, 2, 3, 4, 5, 6]
    assert len({data for _, data in asked}) == 1
    assert [name for name, _ in asked].count("site-1") == 1


def test_the_attempts_of_the_plan_are_all_that_a_server_gets(small, tmp_path):
    """Three sites are needed and one never masks: the plan ends, and what was paid stays paid.

    It allows no retry, so that a site gives each of its sums one addend and then refuses.
    """
    world = small.copy(tmp_path / "world")

    def fate(name: str, order: Message) -> str:
        return "lost" if isinstance(order, MaskOrder) and name == "site-2" else "ok"

    with world.sites(fate=fate) as sites:
        with pytest.raises(StudyFailedError, match="all 4 attempts"):
            coordinate(sites).run()
        assert [entry.e for entry in sites.site("site-1").ledger.entries()] == [1]
        assert sites.site("site-2").ledger.entries() == []
        coordinator = coordinate(sites)
        with pytest.raises(StudyFailedError):
            coordinator.run()
        for e in (0, 5, 2**31 - 1):
            data = sites.ask("site-1", ShareOrder(coordinator.digest, e).encode())
            assert b"PolicyRefusalError" in data


def test_the_last_attempt_still_gives_its_sum_when_more_sums_would_follow(small, tmp_path):
    """Its step 4 must not ask for an e that the plan does not have."""
    world = small.copy(tmp_path / "world")

    def fate(name: str, order: Message) -> str:
        return "lost" if isinstance(order, MaskOrder) and order.e == 1 else "ok"

    with world.sites(fate=fate) as sites:
        with pytest.raises(StudyFailedError):
            coordinate(sites).run()
        assert sites.refused == []
    assert len(published(world, 3)) == 3


def test_an_absent_site_catches_up_from_sums_alone_and_then_takes_part(tmp_path):
    """Away for more sums than one message carries; it ends with the same bits as everyone."""
    rounds = MAX_SUMS + 6
    queries = [{"kind": "count", "noise_multiplier": 5.0}, {**GRADIENT, "rounds": rounds}]
    world = make_world(tmp_path / "world", 4, queries=queries)
    kinds = []

    def back_at_the_end(event) -> None:
        if event.position == 1:
            sites.offline.add("site-4")
        if event.position == rounds - 1:
            sites.offline.clear()

    def note(name: str, order: Message, _: bytes) -> None:
        if name == "site-4":
            kinds.append(type(order))

    with world.sites(seed=2, on_order=note) as sites:
        checkpoint = coordinate(sites, back_at_the_end).run()
        assert sites.refused == []
        entries = sites.site("site-4").ledger.entries()
    assert Publish in kinds[:-1]
    away = [entry["sites"] for entry in checkpoint.history]
    assert "site-4" in away[0]
    assert all("site-4" not in names for names in away[1 : rounds - 1])
    assert all("site-4" in names for names in away[rounds - 1 :])
    assert [entry.e for entry in entries] == [1, rounds, rounds + 1]
    with world.open("site-4") as site:
        record = site.studies.by_plan(world.signed.open().digest)
        assert record is not None
        assert record.progress == checkpoint.progress.encode()


def test_a_site_that_misses_the_beginning_is_admitted_later(tmp_path):
    """Five sites: of four, each needs the three others as witnesses when it starts (B6)."""
    world = make_world(tmp_path / "world", 5, secagg={"t_min": 4, "colluding": 1})

    def fate(name: str, order: Message) -> str:
        early = name == "site-5" and isinstance(order, Begin) and not events
        return "lost" if early else "ok"

    events = []
    with world.sites(fate=fate) as sites:
        history = coordinate(sites, events.append).run().history
    # Its service refuses step 1 of a study that it has not begun: one round without it.
    assert "site-5" not in history[0]["sites"]
    assert all("site-5" in entry["sites"] for entry in history[1:])


def test_every_member_must_approve_even_if_fewer_would_suffice(template, tmp_path):
    """The server waits for the roster; nobody is asked for a share before that."""
    world = template.copy(tmp_path / "world")

    class Waiting(Exception):  # noqa: N818
        pass

    asked = []

    def fate(name: str, order: Message) -> str:
        asked.append((name, type(order)))
        if len(asked) > 12:
            raise Waiting
        return "lost" if name == "site-4" else "ok"

    with world.sites(fate=fate) as sites, pytest.raises(Waiting):
        coordinate(sites).run()
    assert ShareOrder not in {kind for _, kind in asked}
    assert Begin not in {kind for _, kind in asked}
