from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward_server.report import text
from fedward_server.report.model import Estimate


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59.7, "1 min 00 s"),
        (134.0, "2 min 14 s"),
        (3599.9, "1 h 00 min"),
        (math.nan, text.NOTHING),
    ],
)
def test_durations_never_show_sixty_seconds(seconds, written):
    assert text.duration(seconds) == written


@pytest.mark.parametrize(
    ("octets", "written"),
    [(0, "0 bytes"), (999, "999 bytes"), (23_456, "23.5 kB"), (4e6, "4.00 MB"), (234e6, "234 MB")],
)
def test_sizes_show_three_digits(octets, written):
    assert text.size(octets) == written


@pytest.mark.parametrize(
    ("value", "written"), [(1e-5, "10⁻⁵"), (1e-3, "10⁻³"), (2.5e-6, "2.5·10⁻⁶"), (0.0, "0")]
)
def test_small_probabilities_are_powers_of_ten(value, written):
    assert text.small(value) == written


def test_an_estimate_shows_its_noise_and_an_exact_figure_none():
    assert text.estimate(Estimate(0.9456, 0.0061)) == "0.946 ± 0.006"
    assert text.estimate(Estimate(0.9456)) == "0.946"
    assert text.estimate(Estimate(math.nan)) == text.NOTHING
    assert text.epsilon(None) == "none"


def test_moments_are_read_or_left_alone():
    assert text.moment("2026-11-21T20:49:31+00:00") == "21 November 2026, 20:49 UTC"
    assert text.moment("yesterday") == "yesterday"


@given(st.floats(0.0, 50.0), st.floats(0.0, 0.01))
def test_best_guess_is_the_bound_of_its_source(epsilon, delta):
    # Kairouz, Oh, Viswanath 2015: a test's error rates satisfy (a + e^eps b >= 1 - delta) both
    # ways; their sum is least where they are equal, at (1 - delta) / (1 + e^eps)
    error = (1.0 - delta) / (1.0 + math.exp(epsilon))
    assert text.best_guess(epsilon, delta) == pytest.approx(1.0 - error, abs=1e-12)
    assert 0.5 <= text.best_guess(epsilon, delta) <= 1.0


@given(st.floats(0.0, 1e6))
def test_a_bound_is_never_shown_as_certainty(epsilon):
    written = text.percent(text.best_guess(epsilon, 1e-5))
    assert not written.startswith("100")
