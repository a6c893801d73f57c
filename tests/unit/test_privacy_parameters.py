"""Parameters that break the guarantee cannot be constructed; chosen rings never wrap (A5, B3)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.privacy_samples import GRADIENT

from fedward_common.errors import OperatorError, PlanError
from fedward_common.privacy.noise import discrete_gaussian
from fedward_common.privacy.parameters import (
    MODULUS,
    MechanismParameters,
    choose_ring,
    float_slack,
    largest_batch,
)
from fedward_common.randomness import os_random


def test_derived_numbers_are_those_of_the_protocol():
    delta = 2.0**23 * 0.1 * 1.001 + math.sqrt(5700)
    assert GRADIENT.sensitivity == pytest.approx(delta, rel=1e-12)
    assert GRADIENT.site_sigma == pytest.approx(5.8 * delta / math.sqrt(5), rel=1e-12)
    assert GRADIENT.noise_multiplier_of(GRADIENT.honest) == pytest.approx(5.8)
    assert GRADIENT.noise_multiplier_of(1) == pytest.approx(5.8 / math.sqrt(5))
    # delta_grid of B3 without its factor: sqrt(d T / 1152) / sigma_grid^2.
    divergence = 200 * GRADIENT.grid_divergence_of(1)
    expected = math.sqrt(5700 * 200 / 1152) / GRADIENT.site_sigma**2
    assert math.sqrt(divergence / 2) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dimension", 0),
        ("clip", 0.0),
        ("clip", math.inf),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.nan),
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.5),
        ("rounds", 0),
        ("scale", 0.0),
        ("ring_bound", 0),
        ("slack", -0.1),
        ("sites", 2),
        ("t_min", 9),
        ("colluding", 5),
        ("colluding", -1),
    ],
)
def test_each_value_out_of_range_is_named(field, value):
    with pytest.raises(PlanError, match=field) as caught:
        replace(GRADIENT, **{field: value})
    assert isinstance(caught.value, OperatorError)
    assert caught.value.exit_code == 2


def test_all_problems_are_listed_at_once():
    with pytest.raises(PlanError) as caught:
        replace(GRADIENT, clip=-1.0, rounds=0, slack=2.0)
    assert [problem.split()[0] for problem in caught.value.problems] == ["clip", "rounds", "slack"]
    assert "'gradient'" in str(caught.value)


def test_a_grid_that_is_too_coarse_is_refused():
    with pytest.raises(PlanError, match="below 1000"):
        replace(GRADIENT, scale=2.0**10)


def test_a_ring_that_may_wrap_is_refused_exactly_at_the_bound():
    noise = 10 * GRADIENT.noise_multiplier * GRADIENT.sensitivity * math.sqrt(8 / 5)
    fits = math.floor((MODULUS // 2 - noise) / 8)
    assert replace(GRADIENT, ring_bound=fits).ring_bound == fits
    with pytest.raises(PlanError, match="may wrap"):
        replace(GRADIENT, ring_bound=fits + 1)


def test_a_ring_that_clamps_one_patient_is_refused():
    with pytest.raises(PlanError, match="clamped"):
        replace(GRADIENT, ring_bound=1000)


@settings(max_examples=200, deadline=None)
@given(
    dimension=st.integers(1, 2_000_000),
    clip=st.floats(1e-3, 1e3),
    noise=st.floats(0.5, 100.0),
    rate=st.floats(0.01, 1.0),
    sites=st.integers(3, 50),
    patients=st.integers(10, 2000),
    data=st.data(),
)
def test_a_chosen_ring_is_valid_and_never_clamps_an_honest_batch(
    dimension, clip, noise, rate, sites, patients, data
):
    t_min = data.draw(st.integers(2, sites))
    colluding = data.draw(st.integers(0, t_min - 2))
    batch = largest_batch(patients, rate)
    shared = {
        "dimension": dimension,
        "clip": clip,
        "noise_multiplier": noise,
        "sampling_rate": rate,
        "slack": float_slack(batch),
        "sites": sites,
        "t_min": t_min,
        "colluding": colluding,
    }
    scale, bound = choose_ring(**shared, expected_patients_per_site=patients)
    parameters = MechanismParameters(query="any", rounds=1, scale=scale, ring_bound=bound, **shared)
    assert math.log2(scale).is_integer()
    assert bound >= scale * clip * batch + 1  # rounding moves a coordinate by less than one
    larger = scale * 2 * clip * (1 + shared["slack"]) * sites * batch
    assert (
        larger + 2 * 10 * noise * parameters.sensitivity * math.sqrt(sites / parameters.honest)
        > MODULUS // 2 * 0.99 - 4 * sites
    ), "twice the scale would have fitted"


def test_rounding_hardly_adds_noise_at_a_realistic_size():
    scale, bound = choose_ring(
        dimension=5700,
        clip=0.1,
        noise_multiplier=5.8,
        sampling_rate=0.2,
        slack=0.0,
        sites=8,
        t_min=6,
        colluding=1,
        expected_patients_per_site=600,
    )
    chosen = replace(GRADIENT, scale=scale, ring_bound=bound, slack=0.0)
    assert 0 < chosen.noise_overhead < 1e-3


def test_a_ring_without_room_is_the_operators_error():
    with pytest.raises(PlanError, match="noise_multiplier"):
        choose_ring(
            dimension=10**6,
            clip=1.0,
            noise_multiplier=1e6,
            sampling_rate=1.0,
            slack=0.0,
            sites=8,
            t_min=6,
            colluding=1,
            expected_patients_per_site=100,
        )


def test_a_batch_larger_than_announced_is_rare():
    rng = np.random.default_rng(0)
    for patients, rate in ((100, 0.05), (589, 0.2), (5000, 0.5)):
        limit = largest_batch(patients, rate)
        assert limit < patients
        assert rng.binomial(patients, rate, size=200_000).max() <= limit
    assert largest_batch(100, 1.0) == 100


def test_the_sum_bound_holds_for_honest_sums_and_fails_for_a_large_forgery():
    contributors, batch = 6, 150
    bound = GRADIENT.sum_bound(contributors, batch)
    honest = np.zeros(GRADIENT.dimension)
    honest[0] = contributors * batch * GRADIENT.scale * GRADIENT.clip
    for _ in range(contributors):
        honest += discrete_gaussian(GRADIENT.site_sigma, GRADIENT.dimension, os_random)
    assert np.linalg.norm(honest) <= bound
    uniform = np.random.default_rng(0).integers(-(2**31), 2**31, GRADIENT.dimension)
    assert np.linalg.norm(uniform.astype(float)) > bound
