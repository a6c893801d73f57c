"""Drafting: what is left out is chosen to fit the privacy asked for, what is given stays."""

from __future__ import annotations

from typing import Any

import pytest
from tests.world import example_roster, table_document

from fedward_common.errors import OperatorError, PlanError
from fedward_common.guarantee import spent_curve, statement_of
from fedward_common.plan.document import plan_from_canonical
from fedward_common.privacy import accounting
from fedward_common.study import Study
from fedward_server.planning import Target, draft_plan

GIVEN = 30.0


def draft(target: float, *, rounds: int = 20, attempts: int = 30, **changes: Any):
    queries = [
        {"kind": "count", "noise_multiplier": GIVEN},
        {"kind": "gradient", "rounds": rounds, "sampling_rate": 0.3, "clip": 1.0},
        {"kind": "histogram", "bins": 10},
    ]
    schedule = {"maximum_attempts": attempts}
    document = table_document(example_roster(), queries=queries, schedule=schedule) | changes
    return draft_plan(document, Target(target, 100), "draft.toml")


@pytest.mark.parametrize("target", [1.0, 2.0, 8.0])
def test_the_calibrated_plan_spends_what_was_asked_for_and_no_more(target):
    statement = statement_of(Study(draft(target)))
    by_account = {account: epsilon for account, epsilon, _ in statement.by_account}
    assert statement.epsilon == max(by_account.values())
    for epsilon in by_account.values():
        assert target - 0.02 < epsilon <= target
    assert statement.epsilon_worst_case > statement.epsilon


def test_retries_are_paid_for_in_advance():
    few, many = (
        Study(draft(2.0, attempts=attempts)).tasks[1].query.noise_multiplier
        for attempts in (22, 200)
    )
    assert many > few * 1.2


def test_given_numbers_are_left_alone():
    plan = draft(4.0)
    assert plan.queries[0].noise_multiplier == GIVEN
    queries = [
        {"kind": "count", "noise_multiplier": 7.0, "scale": 2.0**20, "ring_bound": 10**8},
        {"kind": "gradient", "rounds": 20, "sampling_rate": 0.3, "clip": 1.0},
    ]
    queries[1]["noise_multiplier"] = 9.0
    again = draft(4.0, queries=queries)
    assert again.queries[0].noise_multiplier == 7.0
    assert (again.queries[0].scale, again.queries[0].ring_bound) == (2.0**20, 10**8)
    assert again.queries[1].noise_multiplier == 9.0


def test_open_multipliers_of_one_account_are_equal_and_the_ring_holds():
    plan = draft(4.0)
    study = Study(plan)
    assert plan_from_canonical(plan.canonical) == plan
    assert plan.model.initial_sha256 == study.initial_sha256
    for task in study.tasks:
        study.mechanism(task)  # refuses what could wrap or is too coarse
    assert plan.queries[1].noise_multiplier != plan.queries[2].noise_multiplier


@pytest.mark.parametrize("target", [0.0, -1.0, 51.0, float("nan"), float("inf")])
def test_an_epsilon_that_cannot_be_is_refused(target):
    with pytest.raises(PlanError, match="epsilon") as caught:
        draft(target)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_an_epsilon_out_of_reach_is_refused():
    with pytest.raises(OperatorError):
        draft(0.05)  # the count alone, at the noise that was given, costs more


def test_fewer_attempts_than_rounds_are_refused():
    with pytest.raises(OperatorError, match="attempts") as caught:
        draft(2.0, attempts=21)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"secagg": {"t_min": 3, "colluding": 2}}, "colluding"),
        ({"secagg": {"t_min": 2, "colluding": 0}}, "t_min"),
        ({"roster": {"coordinator": "00" * 32, "sites": list(example_roster()[:2])}}, "roster"),
        ({"model": {"kind": "svm"}}, "features"),
        ({"model": {"kind": "svm", "features": "columns", "size": 3}}, "unknown key"),
        ({"queries": []}, "queries"),
        ({"privacy": {}}, "delta"),
        ({"schedule": {}}, "maximum_attempts"),
    ],
)
def test_defects_of_a_draft_are_the_plans(changes, word):
    with pytest.raises(PlanError, match=word) as caught:
        draft(2.0, **changes)
    assert "\n" not in str(caught.value)


def test_what_is_spent_grows_to_the_plans_whole_without_retries():
    plan = draft(2.0, attempts=22)
    study = Study(plan)
    positions = [1, 5, 10, 21, 22]
    spent = spent_curve(study, positions)
    assert spent == sorted(spent)
    assert spent[-1] == spent[-2]  # the histogram is the other account's
    assert spent[-1] <= statement_of(study).epsilon
    by_account = {account: epsilon for account, epsilon, _ in statement_of(study).by_account}
    assert spent[-1] > 0.9 * by_account["train"]
    held_out = spent_curve(study, positions, "holdout")
    assert held_out[:-1] == [0.0] * 4
    assert held_out[-1] > 0


def test_attempts_in_vain_are_spent_as_well():
    study = Study(draft(2.0, attempts=30))
    last = study.total_rounds
    plain = spent_curve(study, range(1, last + 1))
    assert spent_curve(study, range(1, last + 1), attempts=range(1, last + 1)) == plain
    first = spent_curve(study, [1, 2, last], attempts=[3])  # two tries for the first sum failed
    assert first[0] > plain[0]
    assert plain[1] < first[1]
    assert plain[-1] < first[-1] <= statement_of(study).epsilon
    gradient = spent_curve(study, [5, 6], attempts=[1, 2, 3, 4, 5, 9])
    assert gradient[0] == plain[4]
    mechanisms = [study.mechanism(task) for task in study.tasks if task.split == "train"]
    rates = [(m.noise_multiplier, m.sampling_rate) for m in mechanisms]
    assert len(rates) == 2
    exact = accounting.epsilon(
        [accounting.Mechanism(*rates[0], 1), accounting.Mechanism(*rates[1], 8)], 1e-5
    )
    assert gradient[1] == pytest.approx(exact, abs=5e-3)
