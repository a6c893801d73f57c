"""Second moments and the principal components that every member computes from them (0021)."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.query_samples import COLUMNS, COMPONENTS, progress_before, study_of
from tests.world import example_roster, table_document

from fedward_common.eigen import MAX_SIDE, principal
from fedward_common.errors import MisuseError, PeerError, PlanError
from fedward_common.progress import advance, decode_progress
from fedward_common.queries import covariance
from fedward_common.study import Study
from fedward_server.planning import Target, draft_plan

ZERO, ONE = np.zeros(COLUMNS), np.ones(COLUMNS)
ANY_FLOAT = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(COLUMNS)), elements=ANY_FLOAT)
)
@settings(max_examples=150, deadline=None)
def test_a_patients_vector_is_bounded_whatever_the_inputs(inputs):
    matrix = covariance.moment(inputs, ZERO, ONE, 2.0)
    vector = covariance.flatten(matrix)
    assert vector.shape == (covariance.dimension(COLUMNS),)
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(np.linalg.norm(matrix))
    assert np.linalg.norm(vector) <= covariance.clip(2.0) * (1 + 1e-12)


@given(arrays.arrays(np.float32, (3, COLUMNS), elements=st.floats(-0.375, 0.375, width=32)))
@settings(deadline=None)
def test_short_inputs_give_their_mean_second_moment(inputs):
    rows = inputs.astype(np.float64)
    found = covariance.moment(inputs, ZERO, ONE, 2.0)
    assert np.allclose(found, np.mean([np.outer(row, row) for row in rows], axis=0), atol=1e-12)
    flat = covariance.flatten(found)
    assert np.allclose(covariance.unflatten(flat, COLUMNS), found)
    summed = covariance.total([inputs, inputs], ZERO, ONE, 2.0)
    assert np.allclose(summed, 2 * flat, rtol=1e-12)


def test_inputs_are_centred_before_they_are_clipped():
    inputs = np.full((1, COLUMNS), 0.9, dtype=np.float32)
    centred = covariance.moment(inputs, np.full(COLUMNS, 0.9), np.full(COLUMNS, 0.1), 1.0)
    assert np.abs(centred).max() < 1e-10


def spectrum(side: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.normal(size=(side, side)))[0]
    values = 2.0 ** -np.arange(side)
    return (vectors * values) @ vectors.T, vectors, values


@pytest.mark.parametrize("side", [3, 10, 60])
def test_directions_are_the_eigenvectors_in_their_order(side):
    matrix, vectors, values = spectrum(side, side)
    found, quotients = principal(matrix, 3)
    assert np.allclose(found.T @ found, np.eye(3), atol=1e-5)
    assert np.allclose(np.abs((found * vectors[:, :3]).sum(axis=0)), 1.0, atol=1e-4)
    assert np.allclose(quotients, values[:3], rtol=1e-4)


def test_what_has_no_direction_is_zero_and_nothing_divides_by_it():
    found, quotients = principal(np.diag([3.0, 2.0, 0.0, 0.0]), 4)
    assert np.allclose(np.abs(found), np.eye(4) * [1, 1, 0, 0], atol=1e-6)
    assert np.allclose(quotients, [3, 2, 0, 0], atol=1e-6)
    assert not principal(np.zeros((4, 4)), 2)[0].any()
    for count, side in ((0, 4), (5, 4), (1, MAX_SIDE + 1)):
        with pytest.raises(MisuseError):
            principal(np.zeros((side, side)), count)


def exact_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The product in Python's integers: no rounding, whatever the order."""
    whole = [[int(value) for value in row] for row in left]
    columns = [[int(value) for value in column] for column in right.T]
    return np.array(
        [[float(sum(a * b for a, b in zip(r, c, strict=True))) for c in columns] for r in whole]
    )


class Exact(np.ndarray):
    """An array whose matrix products are summed backwards, one by one, in whole numbers."""

    def __matmul__(self, other):
        left, right = np.asarray(self), np.asarray(other)
        flat = np.atleast_2d(right.T).T if right.ndim == 1 else right
        product = exact_product(np.atleast_2d(left)[:, ::-1], flat[::-1])
        shaped = product.reshape(left.shape[:-1] + right.shape[1:])
        return shaped.view(Exact) if shaped.shape else float(shaped)


def test_no_order_of_summation_changes_a_bit():
    """The products are of whole numbers below 2^53: BLAS, threads and fused steps all agree."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(24, 24))
    matrix = noise + noise.T  # eigenvalues close together: where LAPACK's builds differ
    found, quotients = principal(matrix, 4)
    again, others = principal(matrix.view(Exact), 4)
    assert np.asarray(again).tobytes() == found.tobytes()
    assert np.asarray(others).tobytes() == quotients.tobytes()


def test_no_zero_is_negative():
    """Its sign would depend on the order in which products were added."""
    found, quotients = principal(np.diag([3.0, -2.0, 0.0, 0.0]), 4)
    for values in (found, quotients, principal(-np.zeros((4, 4)), 2)[0]):
        assert not np.signbit(values[values == 0.0]).any()


def test_the_bits_are_those_of_every_machine():
    """Made once, kept for good: another result on any machine would split a federation."""
    words = np.random.Philox(key=7).random_raw(100 * 100)
    noise = (words >> np.uint64(11)).astype(np.float64).reshape(100, 100) * 2.0**-53
    found, quotients = principal(noise + noise.T, 5)
    digest = hashlib.sha256(found.astype("<f8").tobytes() + quotients.astype("<f8").tobytes())
    assert digest.hexdigest() == BITS


BITS = "8fa7acaa1f9574b9c4f4f3df000ac597eae1f24923ab9aef49d9bf248711cf45"


@pytest.fixture(scope="module")
def study():
    return study_of("svm-pca")


def test_the_model_is_on_components_and_the_inputs_are_not(study):
    assert study.channels == COLUMNS
    assert study.parameters == COMPONENTS + 1
    task = study.tasks[2]
    assert (task.name, task.split, task.rounds) == ("2:covariance", "train", 1)
    assert (task.dimension, task.clip) == (15, 4.0)
    assert study.mechanism(task).clip == 4.0


def test_the_fold_keeps_the_projection_and_not_the_sum(study):
    before = progress_before(study, "covariance")
    assert before.projection.shape == (COLUMNS, 0)
    rows = np.random.default_rng(1).normal(size=(200, COLUMNS)) * [3, 2, 1, 0.1, 0.1]
    total = covariance.flatten(rows.T @ rows)
    after = advance(study, before, total)
    assert after.projection.shape == (COLUMNS, COMPONENTS)
    assert [index for index, _ in after.results] == [0, 1]
    again = decode_progress(after.encode())
    assert again.encode() == after.encode()
    assert np.array_equal(again.projection, after.projection)
    task = study.tasks[3]
    assert after.public_digest(task) != before.public_digest(task)
    flat = after.projection / np.linalg.norm(after.projection, axis=0)
    assert np.allclose(np.abs(np.diag(flat[:3])), 1.0, atol=0.05)


def test_components_of_the_inputs_have_length_about_one(study):
    before = progress_before(study, "covariance")
    rng = np.random.default_rng(2)
    inputs = (rng.normal(size=(500, COLUMNS)) * 0.2 * before.scale + before.mean).astype(np.float32)
    divisor = study.divisor(before.counts)
    total = covariance.total(([row][0][None] for row in inputs), before.mean, before.scale, 2.0)
    after = advance(study, before, total * divisor / 500)
    seen = after.model_inputs(inputs)
    assert seen.shape == (500, COMPONENTS)
    assert np.mean(np.sum(seen.astype(np.float64) ** 2, axis=1)) == pytest.approx(1.0, abs=0.1)
    assert after.standardisation.scale.tolist() == [1.0]
    assert before.model_inputs(inputs) is inputs


def test_a_damaged_projection_is_refused(study):
    state = progress_before(study, "gradient")
    data = state.encode()
    raw = state.projection.astype("<f8").tobytes()
    at = data.index(raw)
    assert decode_progress(data).projection.shape == (COLUMNS, COMPONENTS)
    for bad in (data[:at], data[:at] + data[at + 8 :]):
        with pytest.raises(PeerError):
            decode_progress(bad)


QUERY = {"kind": "covariance", "clip": 1.0, "components": 2, "noise_multiplier": 5.0}
COUNT = {"kind": "count", "noise_multiplier": 5.0}
STEPS = {
    "kind": "gradient",
    "rounds": 2,
    "sampling_rate": 0.5,
    "clip": 1.0,
    "noise_multiplier": 5.0,
}


@pytest.mark.parametrize(
    ("queries", "problem"),
    [
        ([COUNT, QUERY, QUERY, STEPS], "queries.2: a second covariance query; remove it"),
        ([COUNT, STEPS, QUERY], "queries.1: asks about components before queries.2"),
        ([COUNT, QUERY, {**COUNT, "kind": "moments"}], "queries.2: would move what queries.1"),
        ([QUERY, STEPS], "queries.0: needs a divisor"),
        ([COUNT, {**QUERY, "components": 4}, STEPS], "queries.1.components: 4 of 3 inputs"),
    ],
)
def test_a_plan_whose_components_make_no_sense_is_refused(queries, problem):
    document = table_document(example_roster(), queries=queries)
    with pytest.raises(PlanError) as caught:
        draft_plan(document, Target(epsilon=8.0, patients_per_site=60), "plan")
    assert any(line.startswith(problem) for line in caught.value.problems), caught.value.problems


def test_networks_see_images_and_no_components():
    document = table_document(
        example_roster(),
        cohort={},
        model={"kind": "cnn"},
        queries=[COUNT, {**QUERY, "components": 1}, STEPS],
    )
    with pytest.raises(PlanError) as caught:
        draft_plan(document, Target(epsilon=8.0, patients_per_site=60), "plan")
    assert any("model.kind = 'svm'" in line for line in caught.value.problems)


def test_a_plan_with_components_reads_back_as_it_was_signed(study):
    assert json.loads(study.plan.canonical)["queries"][2]["components"] == COMPONENTS
    assert Study(study.plan).initial_sha256 == study.plan.model.initial_sha256
