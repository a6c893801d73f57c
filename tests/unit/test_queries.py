"""Every query's vector is bounded by its public constant, whatever a patient or a model holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.query_samples import study_of

from fedward_common.models.prediction import Standardisation
from fedward_common.queries import count, moments
from fedward_common.queries.histogram import Layout

ANY_FLOAT = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(classes=st.integers(2, 64), data=st.data())
def test_a_count_is_one_patient_in_one_class(classes, data):
    label = data.draw(st.integers(0, classes - 1))
    vector = count.vector(label, classes)
    assert vector.shape == (count.dimension(classes),)
    assert np.linalg.norm(vector) == count.CLIP
    assert vector[label] == 1.0


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3)),
        elements=ANY_FLOAT,
    )
)
@settings(max_examples=150, deadline=None)
def test_moments_are_bounded_for_any_input(inputs):
    channels = inputs.shape[1]
    vector = moments.vector(inputs)
    assert vector.shape == (moments.dimension(channels),)
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) <= moments.clip(channels) * (1 + 1e-12)


@given(arrays.arrays(np.float32, (3, 5), elements=st.floats(-1, 1, width=32)))
@settings(deadline=None)
def test_moments_of_bounded_features_are_the_means(inputs):
    vector = moments.vector(inputs)
    assert np.allclose(vector[:5], inputs.mean(axis=0), atol=1e-6)
    assert np.allclose(vector[5:], (inputs.astype(np.float64) ** 2).mean(axis=0), atol=1e-6)


def test_moments_over_many_patients_give_mean_and_deviation():
    rng = np.random.default_rng(0)
    images = [rng.normal(0.2, 0.3, (2, 2, 8, 8)).clip(-1, 1).astype(np.float32) for _ in range(40)]
    total = np.sum([moments.vector(image) for image in images], axis=0)
    mean, scale = moments.interpret(total, 40.0)
    pooled = np.concatenate(images).astype(np.float64).transpose(1, 0, 2, 3).reshape(2, -1)
    assert np.allclose(mean, pooled.mean(axis=1))
    assert np.allclose(scale, pooled.std(axis=1))


@given(
    arrays.arrays(np.float64, 6, elements=st.floats(-1e12, 1e12)),
    st.floats(1.0, 1e9),
)
def test_whatever_noise_leaves_the_standardisation_is_usable(total, divisor):
    mean, scale = moments.interpret(total, divisor)
    Standardisation(mean, scale)  # refuses what is not finite or not positive
    assert np.all(np.abs(mean) <= 1)
    assert np.all(scale >= moments.MINIMUM_SCALE)


@given(
    classes=st.integers(2, 9),
    bins=st.integers(2, 200),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_a_histogram_vector_has_the_same_norm_for_every_patient(classes, bins, data):
    layout = Layout(classes, bins)
    scores = data.draw(arrays.arrays(np.float32, classes, elements=ANY_FLOAT))
    label = data.draw(st.integers(0, classes - 1))
    vector = layout.vector(scores, label)
    assert vector.shape == (layout.dimension,)
    assert np.linalg.norm(vector) == pytest.approx(layout.clip, rel=1e-12)
    assert set(np.unique(vector)) <= {0.0, 1.0}
    assert layout.confusion(vector).shape == (classes, classes)
    assert layout.confusion(vector).sum() == 1.0
    assert layout.confusion(vector)[label].sum() == 1.0


@pytest.mark.parametrize(
    ("score", "cell"), [(0.0, 0), (0.099, 0), (0.1, 1), (0.5, 5), (0.999, 9), (1.0, 9), (2.0, 9)]
)
@pytest.mark.parametrize("label", [0, 1])
def test_scores_fall_in_the_bin_that_holds_them(score, cell, label):
    layout = Layout(2, 10)
    vector = layout.vector(np.array([1 - score, score], dtype=np.float32), label)
    assert np.flatnonzero(vector).tolist() == [label * 10 + cell]


def test_the_tasks_carry_the_public_bounds():
    study = study_of("cnn-4")
    by_kind = {task.query.kind: task for task in study.tasks}
    assert by_kind["count"].clip == 1.0
    assert by_kind["count"].dimension == 4
    assert by_kind["moments"].clip == pytest.approx(np.sqrt(2))
    assert by_kind["gradient"].dimension == study.parameters
    assert by_kind["histogram"].clip == pytest.approx(np.sqrt(5))
    assert by_kind["histogram"].dimension == 4 * 2 * 8 + 16
    assert by_kind["histogram"].split == "holdout"
    assert {by_kind[k].split for k in ("count", "moments", "gradient")} == {"train"}
