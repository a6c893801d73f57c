"""Both guarantees of B4, the grid's charge of B3, and the words for them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.privacy_samples import GRADIENT

from fedward_common.errors import MisuseError, OperatorError, PlanError
from fedward_common.privacy.accounting import Mechanism, calibrate, epsilon
from fedward_common.privacy.grid import GRID_SHARE, grid_charge
from fedward_common.privacy.statement import account_epsilon, mechanism_of, privacy_statement

COUNT = replace(
    GRADIENT,
    query="count",
    dimension=2,
    clip=1.0,
    noise_multiplier=30.0,
    sampling_rate=1.0,
    rounds=1,
    scale=2.0**18,
    ring_bound=200_000_000,
)
HISTOGRAM = replace(COUNT, query="histogram", dimension=64, noise_multiplier=4.0)
ACCOUNTS = {"train": [COUNT, GRADIENT], "holdout": [HISTOGRAM]}


def test_each_guarantee_is_the_accountants_at_its_noise():
    statement = privacy_statement(ACCOUNTS, 1e-5, 202)
    plain = [Mechanism(30.0, 1.0, 1), Mechanism(5.8, 0.2, 200)]
    assert statement.epsilon == pytest.approx(epsilon(plain, 1e-5), abs=2e-3)
    alone = [Mechanism(m.noise_multiplier / math.sqrt(5), m.sampling_rate, m.rounds) for m in plain]
    assert statement.epsilon_worst_case == pytest.approx(epsilon(alone, 1e-5), abs=1e-2)
    assert statement.epsilon_one_curious is None
    assert statement.by_account[0] == ("train", statement.epsilon, statement.epsilon_worst_case)
    name, held_out, _ = statement.by_account[1]
    assert name == "holdout"
    assert held_out == pytest.approx(epsilon([Mechanism(4.0, 1.0, 1)], 1e-5), abs=2e-3)


def test_without_tolerated_collusion_one_curious_member_is_stated_beside():
    benchmark = replace(GRADIENT, t_min=8, colluding=0)
    statement = privacy_statement({"train": [benchmark]}, 1e-5, 200)
    curious = [Mechanism(5.8 * math.sqrt(7 / 8), 0.2, 200)]
    assert statement.epsilon_one_curious == pytest.approx(epsilon(curious, 1e-5), abs=2e-3)
    assert statement.epsilon < statement.epsilon_one_curious < statement.epsilon_worst_case
    assert any("against outsiders and the server only" in line for line in statement.sentences)
    assert any("one curious site" in line for line in statement.sentences)


def test_retries_cost_and_are_counted():
    plain = privacy_statement(ACCOUNTS, 1e-5, 202)
    retried = privacy_statement(ACCOUNTS, 1e-5, 232)
    assert retried.epsilon > plain.epsilon
    assert retried.by_account[1][1] > plain.by_account[1][1]
    with pytest.raises(OperatorError, match="maximum_attempts"):
        privacy_statement(ACCOUNTS, 1e-5, 201)


def test_a_calibrated_plan_states_no_more_than_its_target():
    noise = calibrate(2.0, 1e-5, lambda s: [Mechanism(30.0, 1.0, 1), Mechanism(s, 0.2, 200)])
    accounts = {"train": [COUNT, replace(GRADIENT, noise_multiplier=noise)]}
    assert 1.99 < privacy_statement(accounts, 1e-5, 201).epsilon <= 2.0


def test_figures_in_words_are_rounded_up():
    statement = privacy_statement(ACCOUNTS, 1e-5, 202)
    shown = float(statement.sentences[1].split()[2])
    assert statement.epsilon <= shown < statement.epsilon + 0.01
    assert "any 1 of the 8 sites" in statement.sentences[1]
    assert any("two sites" in line for line in statement.sentences)


def test_a_grid_that_takes_more_than_a_hundredth_of_delta_is_refused():
    coarse = replace(GRADIENT, scale=2.0**15, dimension=500)
    with pytest.raises(PlanError, match="integer grid"):
        account_epsilon([coarse], 1e-7, 0, coarse.honest)


def test_the_grid_is_charged_to_delta():
    charge = grid_charge(1.0, 1e-5, 2 * (1e-8) ** 2, strict=True)
    assert charge.delta == pytest.approx((1 + math.e) * 1e-8)
    assert charge.epsilon == 0.0
    with pytest.raises(PlanError, match="hundredth"):
        grid_charge(1.0, 1e-5, 2 * (1e-7) ** 2, strict=True)


def test_the_worst_case_falls_back_to_a_charge_on_epsilon():
    divergence = 2 * (1e-9) ** 2
    with pytest.raises(PlanError):
        grid_charge(25.0, 1e-5, divergence, strict=True)
    charge = grid_charge(25.0, 1e-5, divergence, strict=False)
    assert charge.delta == GRID_SHARE * 1e-5
    assert 0 < charge.epsilon < 1e-4
    with pytest.raises(PlanError):
        grid_charge(25.0, 1e-5, 1e-10, strict=False)


def test_the_log_ratio_bound_holds_for_the_densities_themselves():
    # The elementary bound behind the fallback: |log ratio| <= max(1, x^2) / (24 sigma^2).
    from scipy.integrate import quad

    sigma = 20.0
    normaliser = sum(math.exp(-(k**2) / (2 * sigma**2)) for k in range(-2000, 2001))
    for k in range(0, 200, 5):
        discrete = math.exp(-(k**2) / (2 * sigma**2)) / normaliser
        rounded, _ = quad(
            lambda x: math.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi)),
            k - 0.5,
            k + 0.5,
            epsabs=0,
            epsrel=1e-13,
        )
        bound = max(1.0, (k / sigma) ** 2) / (24 * sigma**2)
        assert abs(math.log(discrete / rounded)) <= bound * (1 + 1e-6)


def test_queries_of_different_rosters_have_no_common_statement():
    with pytest.raises(MisuseError):
        privacy_statement({"train": [GRADIENT, replace(GRADIENT, t_min=7)]}, 1e-5, 400)
    with pytest.raises(MisuseError):
        privacy_statement({"train": []}, 1e-5, 1)


def test_a_mechanism_keeps_rate_and_rounds():
    assert mechanism_of(GRADIENT, 5) == Mechanism(5.8, 0.2, 200)
