"""What the server decodes: the exact sum and noise of the claimed size, never the same twice."""

from __future__ import annotations

import numpy as np
import pytest
from tests.world import (
    COLUMNS,
    GRADIENT,
    RUNTIME,
    World,
    coordinate,
    fold_all,
    make_world,
    published,
    randomness_of,
)

from fedward_client.addend import vector_sum
from fedward_client.study_cohort import open_cohort
from fedward_common.messages import REPLIES, MaskOrder, Message, StepReply, decode_message
from fedward_common.secagg.messages import MaskedAddend, MaskRequest
from fedward_common.secagg.ring import unwrap

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

ROUNDS = 12


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> World:
    """Four sites, of which t_min - c = 3 - 1 carry the claim; sums of 600, 2 and 4 coordinates."""
    queries = [
        {"kind": "histogram", "noise_multiplier": 4.0, "bins": 300},
        {"kind": "count", "noise_multiplier": 4.0},
        {**GRADIENT, "rounds": ROUNDS},
    ]
    return make_world(tmp_path_factory.mktemp("wide") / "world", 4, queries=queries)


def noise_of(world: World, seed: int, offline: tuple[str, ...] = ()) -> list[np.ndarray]:
    """Noise of every published sum over the claimed deviation (per coordinate, grid units).

    The pooled, un-noised sum is computed centrally from the same draws: what is left of the
    federation's sum is the sites' noise and their random rounding.
    """
    study = world.study
    left = []
    with world.sites(seed=seed) as sites:
        coordinator = coordinate(
            sites, lambda event: sites.offline.update(offline) if event.position == 1 else None
        )
        history = coordinator.run().history
        sums = published(world, study.total_rounds)
        states = fold_all(study, sums)
        for total, before, entry in zip(sums, states, history, strict=False):
            task, _ = study.at(before.position)
            pooled = np.zeros(task.dimension)
            for name in entry["sites"]:
                cohort = open_cohort(sites.site(name).folder, study, task.split)
                random = randomness_of(name, seed)("addend", coordinator.digest, entry["e"])
                pooled += vector_sum(study, task, before, cohort, random, RUNTIME)
            mechanism = study.mechanism(task)
            claim = mechanism.noise_multiplier * mechanism.sensitivity
            left.append((unwrap(total) - pooled * task.query.scale) / claim)
    return left


def test_the_federation_is_pooled_dp_sgd_with_noise_of_the_claimed_size(wide, tmp_path):
    noise = noise_of(wide.copy(tmp_path / "world"), seed=11)
    assert len(noise) == ROUNDS + 2
    values = np.concatenate(noise)
    assert values.size > 600
    # |U2| = 4 sites, t_min - c = 2: twice the claim's variance. 650 draws: sd of the ratio 0.055;
    # a wrong sqrt(t_min - c), sqrt(n) or sqrt(8) would be off by a factor of 1.3 or more.
    assert np.mean(values**2) == pytest.approx(4 / 2, rel=0.2)
    assert abs(values.mean()) < 4 * np.sqrt(2.0 / values.size)
    lag = np.corrcoef(noise[0][:-1], noise[0][1:])[0, 1]
    assert abs(lag) < 0.17


def test_fewer_contributors_never_leave_less_than_the_claim(wide, tmp_path):
    noise = noise_of(wide.copy(tmp_path / "world"), seed=12, offline=("site-2",))
    # The histogram is the first sum and has everyone; t_min = 3 sites stay for the others.
    few = np.concatenate(noise[1:])
    assert np.mean(noise[0] ** 2) == pytest.approx(4 / 2, rel=0.25)
    assert np.mean(few**2) > 1.0
    assert np.mean(few**2) == pytest.approx(3 / 2, rel=0.6)


def test_noise_of_different_rounds_and_sites_is_independent(wide, tmp_path):
    noise = [n for n in noise_of(wide.copy(tmp_path / "world"), seed=13) if n.size == noise_size()]
    stacked = np.stack(noise)
    assert stacked.shape[0] == ROUNDS
    assert len({n.tobytes() for n in stacked}) == ROUNDS
    carried = np.mean(stacked[1:] * stacked[:-1]) / np.mean(stacked**2)
    assert abs(carried) < 0.5  # reused noise gives 1; 44 products have a deviation of 0.15


def noise_size() -> int:
    return len(COLUMNS) + 1


def first_round(world: World) -> dict[str, tuple[MaskRequest, bytes]]:
    """What each site was shown and sent at the first attempt: its round keys and its y."""
    seen = {}
    dimension = world.study.tasks[0].dimension

    class Enough(Exception):  # noqa: N818
        pass

    def note(name: str, order: Message, data: bytes) -> None:
        if not isinstance(order, MaskOrder):
            return
        reply = decode_message(data, REPLIES)
        assert isinstance(reply, StepReply)
        sent = MaskedAddend.decode(reply.reply, dimension)
        seen[name] = MaskRequest.decode(order.request), sent.y
        if len(seen) == len(world.names):
            raise Enough

    with world.sites(on_order=note) as sites, pytest.raises(Enough):
        coordinate(sites).run()
    return seen


def test_two_runs_of_one_deployment_never_repeat_a_key_a_mask_or_a_noise_vector(wide, tmp_path):
    """The same folders twice, as after restoring a backup: everything random is new."""
    runs = [wide.copy(tmp_path / str(n)) for n in range(2)]
    first, second = (first_round(world) for world in runs)
    for name in wide.names:
        mine, other = first[name], second[name]
        for key, again in zip(mine[0].keys, other[0].keys, strict=True):
            assert key.A != again.A
            assert key.B != again.B
        same = np.frombuffer(mine[1], "<u4") == np.frombuffer(other[1], "<u4")
        assert same.sum() <= 1  # of 600: as two uniform vectors
    for world in runs:
        with world.sites() as sites:
            coordinate(sites).run()
    one, two = (unwrap(published(world, 1)[0]) for world in runs)
    difference = one - two  # the histogram asks everyone: only noise and rounding differ
    mechanism = wide.study.mechanism(wide.study.tasks[0])
    deviation = mechanism.site_sigma * np.sqrt(2 * 4)
    assert np.mean(difference == 0) < 0.01
    assert np.std(difference) == pytest.approx(deviation, rel=0.15)
