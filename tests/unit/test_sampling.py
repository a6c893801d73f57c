"""Patients are sampled independently, images uniformly, floats on a 53-bit grid (B1, A5)."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.privacy_samples import seeded

from fedward_common.errors import MisuseError
from fedward_common.privacy.keystream import Keystream
from fedward_common.privacy.sampling import choose, poisson_sample
from fedward_common.randomness import os_random


def test_poisson_counts_are_binomial_and_pairs_independent():
    source = seeded(1)
    draws = np.zeros((4000, 50))
    for row in draws:
        row[poisson_sample(50, 0.3, source)] = 1
    counts = draws.sum(axis=1)
    assert abs(counts.mean() - 15) < 6 * np.sqrt(50 * 0.3 * 0.7 / 4000)
    assert abs(counts.var() / (50 * 0.3 * 0.7) - 1) < 0.15
    correlation = np.corrcoef(draws.T)[np.triu_indices(50, 1)]
    assert np.abs(correlation).max() < 6.5 / np.sqrt(4000)


@given(count=st.integers(0, 2000), rate=st.floats(1e-6, 1.0))
def test_a_sample_is_an_increasing_subset(count, rate):
    sample = poisson_sample(count, rate, os_random)
    assert sample.dtype == np.int64
    assert (np.diff(sample) > 0).all()
    assert sample.size == 0 or (sample[0] >= 0 and sample[-1] < count)


def test_rate_one_takes_everyone_and_a_tiny_rate_nearly_nobody():
    assert poisson_sample(100, 1.0, os_random).tolist() == list(range(100))
    assert poisson_sample(1000, 1e-12, os_random).size == 0
    assert poisson_sample(0, 0.5, os_random).size == 0


@pytest.mark.parametrize(("count", "rate"), [(-1, 0.5), (10, 0.0), (10, 1.1), (10, float("nan"))])
def test_impossible_samples_are_misuse(count, rate):
    with pytest.raises(MisuseError):
        poisson_sample(count, rate, os_random)


def test_every_subset_of_images_is_as_likely():
    source = seeded(2)
    seen = Counter(tuple(choose(source, 5, 2)) for _ in range(20_000))
    assert set(seen) == set(combinations(range(5), 2))
    assert stats.chisquare(list(seen.values())).pvalue > 1e-4


@settings(deadline=None)
@given(n=st.integers(0, 60), k=st.integers(0, 80))
def test_a_choice_has_the_right_size(n, k):
    chosen = choose(os_random, n, k)
    assert chosen.size == min(n, k)
    assert len(set(chosen.tolist())) == chosen.size
    assert sorted(chosen.tolist()) == chosen.tolist()


def test_negative_choices_are_misuse():
    for call in (lambda: choose(os_random, -1, 0), lambda: choose(os_random, 1, -1)):
        with pytest.raises(MisuseError):
            call()


def test_floats_are_uniform_on_the_53_bit_grid():
    values = Keystream(seeded(3)).unit_floats(200_000)
    assert values.dtype == np.float64
    assert values.min() >= 0
    assert values.max() < 1
    assert ((values * 2.0**53) % 1 == 0).all()
    assert ((values * 2.0**53) % 2 == 1).any(), "the last bit is used"
    assert stats.kstest(values, "uniform").pvalue > 1e-5
