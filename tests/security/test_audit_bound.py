"""The lower bound holds where the truth is known, and is not far from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward_client.privacy_audit.one_run import (
    ERROR_RATE,
    Guesses,
    gaussian_epsilon,
    gaussian_lower_bound,
    shapeless_lower_bound,
)
from fedward_common.errors import MisuseError
from fedward_common.privacy.accounting import Mechanism, epsilon

DELTA = 1e-5
RUNS = 60


def gaussian_guesses(rng, mu: float, canaries: int, made: int) -> Guesses:
    """The best adversary against a Gaussian mechanism with independent canaries."""
    present = rng.integers(0, 2, canaries).astype(bool)
    scores = rng.normal(size=canaries) + mu * (present - 0.5)
    surest = np.argsort(-np.abs(scores))[:made]
    return Guesses(canaries, made, int(np.sum((scores[surest] > 0) == present[surest])))


def test_epsilon_of_a_gaussian_is_what_the_accountant_says():
    for noise in (0.8, 2.0, 7.0):
        exact = epsilon([Mechanism(noise, 1.0, 1)], DELTA)
        assert gaussian_epsilon(1 / noise, DELTA) == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("mu", [0.3, 0.5, 1.5])
def test_a_gaussian_mechanism_is_seldom_refuted_and_mostly_seen(mu):
    rng = np.random.default_rng(1)
    truth = gaussian_epsilon(mu, DELTA)
    found = [gaussian_lower_bound(gaussian_guesses(rng, mu, 1500, 300), DELTA) for _ in range(RUNS)]
    wrong = sum(bound > truth for bound in found)
    assert wrong <= RUNS * ERROR_RATE + 3 * math.sqrt(RUNS * ERROR_RATE)
    assert np.median(found) > 0.35 * truth


@pytest.mark.parametrize("truth", [0.5, 2.0])
def test_randomised_response_is_seldom_refuted_and_mostly_seen(truth):
    """The mechanism that attains (epsilon, 0): each coin is told rightly with e^eps : 1."""
    rng = np.random.default_rng(2)
    right = 1 / (1 + math.exp(-truth))
    found = [
        shapeless_lower_bound(Guesses(1000, 1000, int(rng.binomial(1000, right))), DELTA)
        for _ in range(RUNS)
    ]
    assert sum(bound > truth for bound in found) <= RUNS * ERROR_RATE + 5
    assert np.median(found) > 0.6 * truth


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 300), st.data())
def test_more_right_guesses_never_prove_less(made, data):
    correct = data.draw(st.integers(0, made - 1))
    fewer = gaussian_lower_bound(Guesses(300, made, correct), DELTA)
    assert gaussian_lower_bound(Guesses(300, made, correct + 1), DELTA) >= fewer
    assert fewer == 0.0 or correct > made / 2


def test_a_count_that_cannot_be_is_refused():
    for wrong in ((10, 0, 0), (10, 5, 6), (10, 11, 3), (10, 5, -1)):
        with pytest.raises(MisuseError):
            Guesses(*wrong)
