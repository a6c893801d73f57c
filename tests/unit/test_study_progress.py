"""The fold over published sums: the same bits at the server and at every site."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.query_samples import study_of

from fedward_common.errors import MisuseError, PeerError
from fedward_common.progress import Progress, advance, begin, decode_progress
from fedward_common.study import Study

MANY = 12


@pytest.fixture(scope="module")
def study() -> Study:
    return study_of("svm-4")


def sums_of(study: Study, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    dimensions = [task.dimension for task in study.tasks for _ in range(task.rounds)]
    return [rng.normal(30.0, 5.0, d) for d in dimensions]


def fold(study: Study, sums: list[np.ndarray]) -> list[Progress]:
    states = [begin(study)]
    for total in sums:
        states.append(advance(study, states[-1], total))
    return states


def same(one: Progress, other: Progress) -> bool:
    return one.encode() == other.encode()


def test_server_and_site_fold_to_identical_bits(study):
    """A site decodes, folds and encodes again after every sum; the server never does."""
    server = fold(study, sums_of(study))
    site = begin(Study(study.plan))
    for total, expected in zip(sums_of(study), server[1:], strict=True):
        stored = site.encode()
        site = advance(Study(study.plan), decode_progress(stored), total)
        assert same(site, expected)
    assert study.finished(server[-1].position)
    assert not study.finished(server[-2].position)


def test_encoding_round_trips_at_every_position(study):
    for state in fold(study, sums_of(study)):
        again = decode_progress(state.encode())
        assert same(again, state)
        assert again.position == state.position
        assert again.state.step == state.state.step
        assert np.array_equal(again.state.average, state.state.average)
        assert np.array_equal(again.mean, state.mean)
        assert np.array_equal(again.scale, state.scale)
        assert np.array_equal(again.counts, state.counts)
        assert [i for i, _ in again.results] == [i for i, _ in state.results]


def test_damaged_encodings_are_refused(study):
    data = fold(study, sums_of(study))[-1].encode()
    for bad in (b"", data[:-1], data + b"\0", data[:7] + b"x" + data[8:], data[:-9] + data[-8:]):
        with pytest.raises(PeerError):
            decode_progress(bad)


def test_a_sum_of_a_wrong_length_is_refused_and_one_too_many_as_well(study):
    states = fold(study, sums_of(study))
    for state, total in zip(states, sums_of(study), strict=False):
        for wrong in (total[:-1], np.append(total, 0.0), np.zeros(0), total[None]):
            with pytest.raises(PeerError):
                advance(study, state, wrong)
    with pytest.raises(MisuseError):
        advance(study, states[-1], sums_of(study)[-1])


def test_the_public_digest_differs_at_every_position_even_if_the_model_stands_still(study):
    """No public input is used twice (A2)."""
    sums = [np.zeros_like(total) for total in sums_of(study)]
    states = fold(study, sums)
    digests = [state.public_digest(study.at(state.position)[0]) for state in states[:-1]]
    assert len(set(digests)) == study.total_rounds


def test_the_public_digest_covers_model_and_standardisation(study):
    state = fold(study, sums_of(study)[:3])[-1]
    task, _ = study.at(state.position)
    assert task.query.kind == "gradient"
    moved = state.state.parameters.copy()
    moved[0] = np.nextafter(moved[0], 1.0)
    others = [
        replace(state, state=replace(state.state, parameters=moved)),
        replace(state, mean=state.mean + 1e-16 + np.spacing(state.mean)),
        replace(state, scale=state.scale * 1.0000001),
        replace(state, position=state.position + 1),
    ]
    digests = {other.public_digest(task) for other in [state, *others]}
    assert len(digests) == 5


def test_results_reach_their_place(study):
    sums = sums_of(study)
    last = fold(study, sums)[-1]
    by_index = dict(last.results)
    assert sorted(by_index) == [0, 1, 3]
    assert np.array_equal(by_index[0], sums[0])
    assert np.array_equal(last.counts, sums[0])
    assert np.array_equal(by_index[3], sums[-1])
    divisor = sums[0].sum()
    channels = study.channels
    assert np.allclose(last.mean, np.clip(sums[1][:channels] / divisor, -1, 1))


def test_gradients_are_divided_by_clip_rate_and_the_noised_count():
    study = study_of("svm-4", 0.3)
    sums = sums_of(study)
    after_moments = fold(study, sums[:2])[-1]
    stepped = advance(study, after_moments, sums[2])
    task, _ = study.at(2)
    hyper = study.hyperparameters
    gradient = sums[2] / (task.clip * 0.3 * sums[0].sum())
    rate = hyper.learning_rate * (1 + np.cos(np.pi / hyper.steps)) / 2
    expected = after_moments.state.parameters - rate * (1 - hyper.momentum) * gradient
    assert np.allclose(stepped.state.parameters, expected, rtol=1e-12)


def test_a_count_that_noise_made_negative_leaves_a_usable_divisor(study):
    assert study.divisor(np.array([-5.0, 2.0])) == 1.0
    with pytest.raises(MisuseError):
        study.divisor(np.zeros(0))


def test_positions_name_the_task_and_its_round(study):
    places = [study.at(position) for position in range(study.total_rounds)]
    assert [task.index for task, _ in places] == [0, 1, 2, 2, 2, 2, 3]
    assert [number for _, number in places] == [0, 0, 0, 1, 2, 3, 0]
    assert len({(task.name, number) for task, number in places}) == study.total_rounds
    with pytest.raises(MisuseError):
        study.at(study.total_rounds)


def test_the_initial_model_is_the_same_bits_everywhere(study):
    again = Study(study.plan)
    assert again.initial_parameters.tobytes() == study.initial_parameters.tobytes()
    assert begin(study).state.parameters.shape == (study.parameters,)
    assert again == study
    assert hash(again) == hash(study)
