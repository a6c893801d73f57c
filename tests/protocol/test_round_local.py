"""Whole studies with local training and with principal components, over the wire (0020, 0021)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.world import coordinate, expected_sum, fold_all, make_world, published

from fedward_client.privacy_audit.replay import attempts_in_log, replay
from fedward_client.running import open_running
from fedward_common.errors import StorageError
from fedward_server.run_record import release_tensors

LOCAL = {
    "kind": "fedavg",
    "noise_multiplier": 5.0,
    "rounds": 2,
    "local_steps": 3,
    "sampling_rate": 0.5,
    "clip": 1.0,
    "local_learning_rate": 0.5,
    "update_clip": 2.0,
}
QUERIES = (
    {"kind": "count", "noise_multiplier": 5.0},
    {"kind": "moments", "noise_multiplier": 5.0},
    {"kind": "covariance", "noise_multiplier": 5.0, "clip": 2.0, "components": 2},
    LOCAL,
    {"kind": "histogram", "noise_multiplier": 5.0, "bins": 6},
)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("local") / "world"
    schedule = {"maximum_attempts": 8, "momentum": 0.0, "final_learning_rate": 1.0}
    return make_world(root, 4, queries=[dict(query) for query in QUERIES], schedule=schedule)


@pytest.fixture
def world(template, tmp_path):
    return template.copy(tmp_path / "world")


def test_every_sum_is_that_of_the_sites_addends_and_all_hold_the_same_bits(world):
    events = []
    with world.sites(seed=5) as sites:
        coordinator = coordinate(sites, events.append)
        checkpoint = coordinator.run()
        study, sums = world.study, published(world, world.study.total_rounds)
        states = fold_all(study, sums)
        for event, before, total in zip(events, states, sums, strict=False):
            assert np.array_equal(total, expected_sum(sites, event, coordinator.digest, before)), (
                event.query
            )
        assert checkpoint.progress.encode() == states[-1].encode()
        for name in world.names:
            running = open_running(sites.site(name), coordinator.digest)
            assert running.progress.encode() == states[-1].encode()
    assert [event.query for event in events] == [
        *("count", "moments", "covariance", "fedavg", "fedavg", "histogram")
    ]
    final = states[-1]
    assert final.projection.shape == (3, 2)
    assert release_tensors(study, final)["projection"].tobytes() == final.projection.tobytes()
    # Averaging moves the model by the mean of four changes of norm 2 at most.
    moved = np.linalg.norm(states[4].state.parameters - states[3].state.parameters)
    assert 0 < moved <= 2.0


def test_the_ledger_has_the_steps_of_every_round_before_anything_leaves(world):
    with world.sites() as sites:
        coordinate(sites).run()
        site = sites.site("site-1")
        entries = site.ledger.entries()
        assert [(debit.query, debit.steps) for debit in entries] == [
            *(("0:count", 1), ("1:moments", 1), ("2:covariance", 1)),
            *(("3:fedavg", 3), ("3:fedavg", 3), ("4:histogram", 1)),
        ]
        local, count = entries[3], entries[0]
        assert local.worst_noise_multiplier == local.noise_multiplier == 5.0
        assert count.worst_noise_multiplier == pytest.approx(5.0 / math.sqrt(2))
        assert replay(site, attempts_in_log(site)).finding.passed


def test_a_site_killed_between_its_local_steps_pays_the_round_once(world, monkeypatch):
    """The debit stands before the first step; the attempt is then done afresh, or never."""
    from fedward_client import addend as door

    calls = 0
    honest = door.vector_sum

    def dies_in_the_second_step(study, task, *rest):
        nonlocal calls
        calls += task.local_steps > 0
        if calls == 2:
            raise StorageError("the process ends here")
        return honest(study, task, *rest)

    monkeypatch.setattr(door, "vector_sum", dies_in_the_second_step)
    with world.sites(reopen=True) as sites:
        checkpoint = coordinate(sites).run()
        assert world.study.finished(checkpoint.progress.position)
        for name in world.names:
            keys = [(debit.query, debit.e) for debit in sites.site(name).ledger.entries()]
            assert len(set(keys)) == len(keys)
            assert len(keys) >= world.study.total_rounds - 1
    assert calls > 2
