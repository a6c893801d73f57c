"""Epsilon equals dp_accounting's, calibrations keep to their target, filters are sound (B5)."""

from __future__ import annotations

import math
from itertools import pairwise

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fedward_common.errors import MisuseError, OperatorError
from fedward_common.privacy.accounting import (
    Mechanism,
    calibrate,
    composed_cost,
    epsilon,
    epsilon_curve,
    extra_attempts,
    rdp_epsilon,
    with_retries,
)
from fedward_common.privacy.renyi import RenyiFilter, renyi_cost

PLAN = (Mechanism(30.0, 1.0, 1), Mechanism(30.0, 1.0, 1), Mechanism(5.8, 0.2, 200))


def oracle(mechanisms, delta: float) -> float:
    """The same history, composed event by event by dp_accounting's own accountant."""
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    for item in mechanisms:
        gaussian = dp_accounting.GaussianDpEvent(item.noise_multiplier)
        event = dp_accounting.PoissonSampledDpEvent(item.sampling_rate, gaussian)
        accountant.compose(event, item.rounds)
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize(
    "history",
    [
        PLAN,
        (Mechanism(1.1, 0.01, 1000),),
        (Mechanism(20.0, 1.0, 30), Mechanism(2.0, 0.1, 50), Mechanism(4.0, 1.0, 1)),
        (*PLAN, *PLAN, Mechanism(3.0, 0.05, 7)),
    ],
)
@pytest.mark.parametrize("delta", [1e-5, 1e-6])
def test_epsilon_equals_dp_accounting(history, delta):
    assert epsilon(history, delta) == pytest.approx(oracle(history, delta), abs=1e-3)


HISTORIES = st.lists(
    st.builds(
        Mechanism,
        noise_multiplier=st.floats(1.5, 40.0),
        sampling_rate=st.sampled_from([0.01, 0.05, 0.2, 0.5, 1.0]),
        rounds=st.integers(1, 80),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=8, deadline=None)
@given(history=HISTORIES, delta=st.sampled_from([1e-5, 1e-6, 1e-3]))
def test_epsilon_of_any_history_equals_dp_accounting(history, delta):
    """Queries of both kinds, sampled and of every patient, in any mixture and number."""
    assert epsilon(history, delta) == pytest.approx(oracle(history, delta), abs=1e-3)


def test_one_gaussian_has_its_closed_form():
    # Balle and Wang 2018, theorem 8.
    sigma, delta = 2.0, 1e-5
    value = epsilon([Mechanism(sigma, 1.0, 1)], delta)

    def exact(eps: float) -> float:
        half = 1 / (2 * sigma)
        return norm.cdf(half - eps * sigma) - math.exp(eps) * norm.cdf(-half - eps * sigma)

    assert exact(value) <= delta  # pessimistic
    assert exact(value - 1e-3) > delta  # and tight


def test_order_and_grouping_do_not_matter_and_nothing_costs_nothing():
    split = (Mechanism(5.8, 0.2, 150), PLAN[0], Mechanism(5.8, 0.2, 50), PLAN[1])
    assert epsilon(split, 1e-5) == epsilon(PLAN, 1e-5)
    assert epsilon([], 1e-5) == 0.0
    assert rdp_epsilon([], 1e-5) == 0.0


def test_composition_is_not_a_sum_of_fresh_accountants():
    once = epsilon([Mechanism(5.8, 0.2, 1)], 1e-5)
    many = epsilon([Mechanism(5.8, 0.2, 50)], 1e-5)
    assert once < many < 50 * once


@pytest.mark.parametrize("values", [(0.0, 0.1, 1), (1.0, 0.0, 1), (1.0, 1.1, 1), (1.0, 0.5, 0)])
def test_impossible_mechanisms_are_misuse(values):
    with pytest.raises(MisuseError):
        Mechanism(*values)


def test_an_impossible_delta_is_misuse():
    with pytest.raises(MisuseError, match="delta"):
        epsilon(PLAN, 0.0)


def test_the_curve_rises_to_the_plans_epsilon():
    steps = range(0, 203, 20)
    curve = epsilon_curve(PLAN, 1e-5, [*steps, 202])
    assert curve[0] == 0.0
    assert all(a < b for a, b in pairwise(curve))
    assert curve[-1] == pytest.approx(epsilon(PLAN, 1e-5), abs=5e-3)
    assert curve[1] == pytest.approx(epsilon([*PLAN[:2], Mechanism(5.8, 0.2, 18)], 1e-5), abs=5e-3)


@pytest.mark.parametrize("target", [0.5, 1.0, 2.0, 8.0])
def test_a_calibration_meets_its_target_and_wastes_nothing(target):
    def build(noise: float):
        return [Mechanism(30.0, 1.0, 2), Mechanism(noise, 0.2, 200)]

    noise = calibrate(target, 1e-5, build)
    assert oracle(build(noise), 0.99e-5) <= target
    assert oracle(build(noise * 0.995), 0.99e-5) > target


def test_a_calibration_against_fixed_noise_that_costs_too_much_says_so():
    with pytest.raises(OperatorError, match="out of reach"):
        calibrate(0.01, 1e-5, lambda noise: [Mechanism(30.0, 1.0, 2), Mechanism(noise, 0.2, 10)])


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_target_is_the_operators_error(target):
    with pytest.raises(OperatorError, match="epsilon"):
        calibrate(target, 1e-5, lambda noise: [Mechanism(noise, 0.2, 10)])


def test_retries_are_charged_at_the_most_expensive_query():
    charged = with_retries(PLAN, 10, 1e-5)
    assert charged == (*PLAN, Mechanism(5.8, 0.2, 10))
    assert with_retries(PLAN, 0, 1e-5) == PLAN
    most = epsilon(charged, 1e-5)
    assert epsilon((*PLAN, Mechanism(30.0, 1.0, 10)), 1e-5) < most
    for cheap in range(1, 10, 2):
        mixed = (*PLAN, Mechanism(30.0, 1.0, cheap), Mechanism(5.8, 0.2, 10 - cheap))
        assert epsilon(mixed, 1e-5) < most


def test_fewer_attempts_than_rounds_is_the_operators_error():
    assert extra_attempts(200, 220) == 20
    with pytest.raises(OperatorError, match="maximum_attempts is 100"):
        extra_attempts(200, 100)


def test_the_renyi_filter_is_a_little_above_the_exact_figure():
    cost = composed_cost(PLAN)
    exact = epsilon(PLAN, 1e-5)
    filtered = RenyiFilter(2.0, 1e-5).epsilon_of(cost)
    assert exact < rdp_epsilon(PLAN, 1e-5) <= filtered < 1.15 * exact


@settings(max_examples=60, deadline=None)
@given(
    cap=st.floats(0.1, 20.0),
    steps=st.lists(
        st.tuples(st.sampled_from([0.8, 1.5, 3.0, 10.0]), st.sampled_from([0.05, 0.3, 1.0])),
        min_size=1,
        max_size=60,
    ),
)
def test_whatever_a_filter_lets_through_stays_within_its_cap(cap, steps):
    gate = RenyiFilter(cap, 1e-5)
    cost = np.zeros_like(renyi_cost(1.0, 1.0))
    taken, before = [], 0.0
    for noise, rate in steps:
        after = cost + renyi_cost(noise, rate)
        assert gate.epsilon_of(after) >= before  # never decreases
        if gate.epsilon_of(after) <= cap:
            cost, before = after, gate.epsilon_of(after)
            taken.append(Mechanism(noise, rate, 1))
    if taken:
        assert epsilon(taken, 1e-5, interval=1e-3) <= cap + 1e-2


def test_the_shares_of_a_filter_add_up_to_its_delta():
    # Each watched order converts with its own delta; invert the conversion and add them up.
    from fedward_common.privacy.renyi import ORDERS

    gate = RenyiFilter(2.0, 1e-5)
    total = 0.0
    for order, offset in zip(ORDERS, gate._offset, strict=True):
        if math.isfinite(offset):
            total += math.exp((order - 1) * (math.log1p(-1 / order) - offset)) / order
    assert total == pytest.approx(1e-5, rel=1e-6)


def test_an_empty_history_is_always_allowed_and_a_zero_cap_allows_nothing():
    gate = RenyiFilter(0.0, 1e-5)
    assert gate.epsilon_of(np.zeros_like(renyi_cost(1.0, 1.0))) == 0.0
    assert gate.epsilon_of(renyi_cost(1000.0, 0.01)) > 0.0
