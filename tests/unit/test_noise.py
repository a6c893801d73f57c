"""The noise is a discrete Gaussian, from a fresh cryptographic key each time (B3)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.privacy_samples import seeded

from fedward_common.errors import MisuseError
from fedward_common.privacy.keystream import Keystream
from fedward_common.privacy.noise import MAX_SIGMA, discrete_gaussian
from fedward_common.randomness import os_random


def pmf(sigma: float, values: np.ndarray) -> np.ndarray:
    support = np.arange(-int(20 * sigma) - 20, int(20 * sigma) + 21)
    total = np.exp(-(support**2) / (2 * sigma**2)).sum()
    return np.exp(-(values.astype(float) ** 2) / (2 * sigma**2)) / total


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5, 7.9, 8.0, 16.3, 40.0])
def test_small_sigma_matches_the_mass_function(sigma):
    count = 400_000
    samples = discrete_gaussian(sigma, count, seeded(1))
    reach = int(3.5 * sigma) + 1
    values = np.arange(-reach, reach + 1)
    observed = np.array([(samples == value).sum() for value in values], dtype=float)
    expected = pmf(sigma, values) * count
    observed = np.append(observed, count - observed.sum())
    expected = np.append(expected, count - expected.sum())
    # Merge what is expected too rarely for a chi-square into the last cell.
    rare = expected < 10
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 0
    assert (
        stats.chisquare(observed[keep], expected[keep] * observed.sum() / expected.sum()).pvalue
        > 1e-3
    )


@pytest.mark.parametrize("sigma", [1000.0, 1234.5, 65_536.0, 3e6, 1e8])
def test_large_sigma_has_the_moments_and_the_shape_of_a_gaussian(sigma):
    count = 1_000_000
    samples = discrete_gaussian(sigma, count, seeded(2)) / sigma
    assert abs(samples.mean()) < 4 / np.sqrt(count)
    assert abs(samples.var() - 1) < 4 * np.sqrt(2 / count)
    assert abs(stats.kurtosis(samples)) < 4 * np.sqrt(24 / count)
    assert abs(stats.skew(samples)) < 4 * np.sqrt(6 / count)
    assert stats.kstest(samples[:200_000], "norm").pvalue > 1e-3


def test_low_bits_are_uniform():
    samples = discrete_gaussian(1e6, 500_000, seeded(3))
    counts = np.bincount(samples & 255, minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_tails_are_there():
    samples = np.abs(discrete_gaussian(5000.0, 4_000_000, seeded(4))) / 5000.0
    for threshold in (3.0, 4.0, 4.5):
        expected = 2 * stats.norm.sf(threshold) * samples.size
        assert abs((samples > threshold).sum() - expected) < 5 * np.sqrt(expected)


def test_calls_are_independent_and_never_repeat():
    source = seeded(5)
    first = discrete_gaussian(1e5, 100_000, source)
    second = discrete_gaussian(1e5, 100_000, source)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(100_000)
    assert (first == second).mean() < 1e-3
    shifted = np.corrcoef(first[:-1], first[1:])[0, 1]
    assert abs(shifted) < 5 / np.sqrt(100_000)


def test_the_sum_of_several_sites_carries_their_variances():
    total = sum(discrete_gaussian(2000.0, 300_000, seeded(10 + site)) for site in range(5))
    assert abs(total.var() / (5 * 2000.0**2) - 1) < 4 * np.sqrt(2 / 300_000)


@settings(max_examples=50, deadline=None)
@given(sigma=st.floats(0.1, MAX_SIGMA), count=st.integers(0, 300))
def test_any_size_and_sigma_gives_integers_in_reach(sigma, count):
    samples = discrete_gaussian(sigma, count, os_random)
    assert samples.shape == (count,)
    assert samples.dtype == np.int64
    assert not count or np.abs(samples).max() <= 11.5 * sigma + 2


@pytest.mark.parametrize(("sigma", "count"), [(0.0, 1), (float("nan"), 1), (2e12, 1), (10.0, -1)])
def test_impossible_requests_are_misuse(sigma, count):
    with pytest.raises(MisuseError):
        discrete_gaussian(sigma, count, os_random)


def test_each_call_takes_one_fresh_key():
    asked: list[int] = []

    def counting(count: int, /) -> bytes:
        asked.append(count)
        return os_random(count)

    discrete_gaussian(1e4, 100_000, counting)
    assert asked == [32]


def test_the_keystream_is_aes_256_counter_mode_from_zero():
    # NIST SP 800-38A has no vector from counter zero; the first block is AES-256(key, 0).
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = bytes(range(32))
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(bytes(16))
    words = Keystream(lambda _count: key).words(2)
    assert words.tobytes() == block
    assert words.dtype == np.dtype("<u8")
