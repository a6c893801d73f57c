"""Rounds of local training: what leaves, what it costs, and what the ledger says of it (0020)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.query_samples import ArrayCohort, cohort_of, progress_before, stream, study_of

from fedward_client.addend import addend, grid_sum, local_change, site_noise, vector_sum
from fedward_client.database import open_database
from fedward_client.debit import Allowance, Debit
from fedward_client.ledger import Ledger
from fedward_client.policy import AccountCap, Caps
from fedward_client.privacy_audit.replay import compare
from fedward_client.training.runtime import RuntimeOptions
from fedward_common import optimizer
from fedward_common.explain import explain
from fedward_common.guarantee import spent_curve, statement_of
from fedward_common.privacy.accounting import Mechanism, epsilon, rdp_epsilon, with_retries
from fedward_common.privacy.statement import mechanism_of
from fedward_common.progress import advance
from fedward_common.queries.task import update_ring
from fedward_common.secagg.ring import unwrap

RUNTIME = RuntimeOptions(micro_batch=8)
CAP = AccountCap(epsilon=50.0, epsilon_worst_case=50.0, delta=1e-5)
CAPS = Caps(train=CAP, holdout=CAP)


@pytest.fixture(scope="module")
def study():
    return study_of("svm-local", 0.4)


@pytest.fixture(scope="module")
def task(study):
    return next(task for task in study.tasks if task.query.kind == "fedavg")


def change(study, task, cohort, seed, **changes):
    query = task.query.model_copy(update=changes)
    progress = progress_before(study, "fedavg")
    return local_change(study, task, query, progress, cohort, stream(seed), RUNTIME)


def test_a_round_is_its_steps_one_after_another_each_a_private_sum_of_one_site(study, task):
    """Recomputed step by step from the same draws, with the noise of one site alone."""
    cohort, before, query = cohort_of(study, 3), progress_before(study, "fedavg"), task.query
    draws, moved = stream(8), np.zeros(task.dimension)
    per_site = before.counts.sum() / 3
    for _ in range(query.local_steps):
        state = replace(before.state, parameters=before.state.parameters + moved)
        total = vector_sum(study, task, replace(before, state=state), cohort, draws, RUNTIME)
        noised = grid_sum(task, total, draws) + site_noise(study, task, draws)
        gradient = noised / query.scale / (query.clip * query.sampling_rate * per_site)
        moved = moved - query.local_learning_rate * gradient
    found = change(study, task, cohort, 8, update_clip=1e6)
    assert np.allclose(found, moved, rtol=1e-12)
    assert np.linalg.norm(moved) > 0


def test_the_noise_of_a_step_is_that_of_one_site_alone(study, task):
    """sigma Delta, not sigma Delta / sqrt(t_min - c): no other site is in it."""
    mechanism = study.mechanism(task)
    assert mechanism.honest == 2
    assert mechanism.site_sigma == pytest.approx(
        task.query.noise_multiplier * mechanism.sensitivity
    )
    draws = np.concatenate([site_noise(study, task, stream(n, "noise")) for n in range(500)])
    assert np.std(draws) / mechanism.site_sigma == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("norm", [1e-3, 0.7, 100.0])
def test_what_leaves_is_no_longer_than_the_plan_says(study, task, norm):
    for seed in range(4):
        found = change(study, task, cohort_of(study, seed), seed, update_clip=norm)
        assert 0 < np.linalg.norm(found) <= norm * (1 + 1e-12)
    long = change(study, task, cohort_of(study, 1), 1, update_clip=norm, local_learning_rate=1e6)
    assert np.linalg.norm(long) == pytest.approx(norm)


def test_the_addend_is_the_change_on_a_ring_that_no_sum_of_sites_wraps(study, task):
    scale, bound = update_ring(task.query.update_clip, 3)
    assert (task.scale, task.ring_bound) == (scale, bound)
    assert 3 * bound < 2**31
    assert scale * task.query.update_clip + 1 <= bound
    assert scale * task.query.update_clip > bound / 2 - 1
    before = progress_before(study, "fedavg")
    totals = np.zeros(task.dimension, dtype=np.uint32)
    changes = np.zeros(task.dimension)
    for seed in range(3):
        cohort = cohort_of(study, seed)
        totals += addend(study, task, before, cohort, stream(seed), RUNTIME)
        changes += change(study, task, cohort, seed)
    assert np.allclose(task.ring.decode(totals), changes, atol=3.0 / scale)
    assert np.linalg.norm(unwrap(totals)) <= study.sum_bound(task, 3)


def test_a_sum_longer_than_three_changes_is_above_its_bound(study, task):
    longest = np.zeros(task.dimension)
    longest[0] = 3.01 * task.query.update_clip * task.scale
    assert np.linalg.norm(longest) > study.sum_bound(task, 3)


def test_the_model_moves_by_the_mean_change_over_the_roster(study, task):
    before = progress_before(study, "fedavg")
    total = np.random.default_rng(0).normal(size=task.dimension)
    after = advance(study, before, total)
    expected = optimizer.advance(before.state, -total / 3, study.hyperparameters)
    assert np.array_equal(after.state.parameters, expected.parameters)
    assert study.hyperparameters.steps == task.rounds
    plain = replace(study.hyperparameters, learning_rate=1.0, momentum=0.0, final=1.0)
    averaged = optimizer.advance(before.state, -total / 3, plain)
    assert np.allclose(averaged.parameters, before.state.parameters + total / 3)


def test_nobody_in_the_cohort_still_gives_a_noised_change(study, task):
    found = change(study, task, ArrayCohort([]), 5)
    assert np.all(found != 0)


def test_the_account_pays_every_local_step_at_the_sites_own_noise(study, task):
    query, steps = task.query, task.rounds * task.local_steps
    assert steps == 8
    mechanism = study.mechanism(task)
    for honest in (1, 2, 3):  # whoever colludes: the other sites' noise is in no local step
        assert mechanism_of(mechanism, honest) == Mechanism(query.noise_multiplier, 0.4, 4, 2)
        assert mechanism.grid_divergence_of(honest) == mechanism.grid_divergence_of(1)
    shared = replace(mechanism, local_steps=0, ring_bound=mechanism.ring_bound // 8, scale=2.0**20)
    alone = mechanism_of(shared, 1).noise_multiplier
    assert alone == pytest.approx(query.noise_multiplier / math.sqrt(2))
    eight = [Mechanism(query.noise_multiplier, 0.4, 8)]
    assert epsilon([mechanism_of(mechanism, 1)], 1e-5) == epsilon(eight, 1e-5)
    assert rdp_epsilon([mechanism_of(mechanism, 1)], 1e-5) == rdp_epsilon(eight, 1e-5)


def test_the_grid_of_a_round_is_charged_for_all_its_steps(study, task):
    mechanism = study.mechanism(task)
    once = replace(mechanism, local_steps=1).grid_divergence_of(1)
    assert mechanism.grid_divergence_of(1) == pytest.approx(2 * once)


def test_a_retry_of_a_round_costs_all_its_steps():
    dear, cheap = Mechanism(5.0, 0.4, 4, 10), Mechanism(4.0, 0.4, 30)
    charged = with_retries([cheap, dear], 3, 1e-5)
    assert charged[-1] == Mechanism(5.0, 0.4, 3, 10)
    assert epsilon(charged, 1e-5) == epsilon([cheap, Mechanism(5.0, 0.4, 70)], 1e-5)


def test_the_statement_and_the_curve_count_the_steps(study):
    statement = statement_of(study)
    assert any("Local training" in sentence for sentence in statement.sentences)
    assert not any("Local" in line for line in statement_of(study_of("svm", 0.4)).sentences)
    shared = statement_of(study_of("svm", 0.4))  # as many steps of the same noise, shared
    assert statement.epsilon > shared.epsilon
    curve = spent_curve(study, range(study.total_rounds + 1))
    assert curve == sorted(curve)
    assert curve[3] < curve[6]


def test_the_plan_is_explained_in_plain_words(study):
    (line,) = [line for line in explain(study).computed if line.startswith("fedavg")]
    assert "4 rounds of 2 training steps within each hospital" in line
    assert "noise of this hospital alone" in line
    assert "clipped to norm 0.7" in line


@pytest.fixture
def ledger(tmp_path):
    return Ledger(open_database(tmp_path / "site.db"))


def test_the_ledger_debits_a_round_as_all_its_steps_and_reads_it_back(
    study, task, ledger, tmp_path
):
    mechanism = study.mechanism(task)
    debits = [Debit.of(mechanism, study=b"s" * 32, e=e, account="train") for e in (1, 2, 3)]
    assert {debit.steps for debit in debits} == {2}
    allowance = Allowance({mechanism.query: 3}, 0)
    for debit in debits:
        ledger.debit(debit, CAPS, allowance)
    again = Ledger(open_database(tmp_path / "site.db"))
    assert again.entries() == debits
    spent = again.spent("train", CAPS)
    exact = epsilon([Mechanism(mechanism.noise_multiplier, 0.4, 6)], 1e-5)
    assert spent.debits == 3
    assert spent.epsilon_fixed == pytest.approx(exact, abs=1e-3)
    assert spent.epsilon_worst_case_fixed == pytest.approx(exact, abs=1e-3)
    assert compare(debits, {"train": spent}, []).finding.passed
    short = [replace(debit, steps=1) for debit in debits]  # a ledger that counts rounds is found
    assert not compare(short, {"train": spent}, []).finding.passed


def test_a_forecast_of_local_training_is_what_the_debits_then_cost(study, task, ledger):
    mechanism = study.mechanism(task)
    forecast = ledger.forecast("train", [mechanism], 0, CAPS)
    allowance = Allowance({mechanism.query: 4}, 0)
    for e in range(1, 5):
        entry = Debit.of(mechanism, study=b"s" * 32, e=e, account="train")
        ledger.debit(entry, CAPS, allowance)
    assert ledger.spent("train", CAPS) == forecast
