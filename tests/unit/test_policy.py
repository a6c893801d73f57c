"""A policy: empty refuses everything and says how to fill it, bad files are explained (G9)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from fedward_client.policy import (
    AccountCap,
    Caps,
    PlanFacts,
    Policy,
    QueryFacts,
    Range,
    StudyRules,
    default_policy_text,
    load_policy,
)
from fedward_common.errors import OperatorError

FACTS = PlanFacts(
    queries=(
        QueryFacts("count", "train", 1.0, 30.0, 1.0),
        QueryFacts("gradient", "train", 0.1, 5.8, 0.2),
        QueryFacts("histogram", "holdout", 1.0, 4.0, 1.0),
    ),
    model="cnn",
    t_min=6,
    colluding=1,
    unverified=0,
    cohort=500,
    accounts=(("train", 2.0, 6.3), ("holdout", 1.0, 3.0)),
    delta=1e-5,
    unsafe=False,
)
POLICY = Policy(
    caps=Caps(
        train=AccountCap(epsilon=4.0, epsilon_worst_case=10.0, delta=1e-5),
        holdout=AccountCap(epsilon=2.0, delta=1e-5),
    ),
    studies=StudyRules(
        queries=["count", "gradient", "histogram"],
        models=["cnn", "svm"],
        noise_multiplier=Range(min=1.0, max=100.0),
        clip=Range(min=0.0, max=2.0),
    ),
)


def test_a_fitting_plan_is_accepted():
    assert POLICY.refusals(FACTS) == []


def test_the_policy_that_init_writes_refuses_everything_and_says_how_to_change_that(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(default_policy_text(), encoding="utf-8")
    policy = load_policy(path)
    assert policy == Policy()
    reasons = policy.refusals(FACTS)
    assert any("[caps.train] epsilon is 0: set the epsilon" in reason for reason in reasons)
    assert any("[caps.holdout] epsilon is 0" in reason for reason in reasons)
    assert any("'cnn' is not in [studies] models" in reason for reason in reasons)
    assert all("\n" not in reason for reason in reasons)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"accounts": (("train", 4.1, 6.0),)}, "epsilon 4.1 is above [caps.train] epsilon 4"),
        ({"accounts": (("train", 2.0, 11.0),)}, "worst-case epsilon 11 is above"),
        ({"delta": 1e-4}, "delta 0.0001 is above"),
        ({"model": "resnet"}, "model 'resnet'"),
        ({"t_min": 2}, "t_min 2"),
        ({"colluding": 0}, "no colluding site"),
        ({"cohort": 49}, "minimum_cohort 50"),
        ({"unverified": 2}, "2 members of the roster are unverified"),
        ({"unsafe": True}, "unsafe_for_simulation"),
        ({"queries": (QueryFacts("pca", "train", 1.0, 30.0, 1.0),)}, "query 'pca'"),
        ({"queries": (QueryFacts("count", "train", 3.0, 30.0, 1.0),)}, "clip 3"),
        ({"queries": (QueryFacts("count", "train", 1.0, 0.5, 1.0),)}, "noise_multiplier 0.5"),
        ({"queries": (QueryFacts("count", "train", 1.0, float("nan"), 1.0),)}, "nan"),
    ],
)
def test_each_rule_refuses_with_its_reason(change, reason):
    reasons = POLICY.refusals(replace(FACTS, **change))
    assert any(reason in line for line in reasons), reasons


def test_a_refusal_never_tells_the_size_of_the_cohort():
    assert "37" not in " ".join(POLICY.refusals(replace(FACTS, cohort=37)))


def test_only_a_simulation_takes_unsafe_plans():
    benchmark = replace(FACTS, unsafe=True, colluding=0, unverified=7)
    policy = POLICY.model_copy(
        update={"studies": POLICY.studies.model_copy(update={"minimum_colluding": 0})}
    )
    assert policy.refusals(benchmark, simulation=True) == []
    assert len(policy.refusals(benchmark)) == 3


def test_all_reasons_come_at_once():
    assert len(POLICY.refusals(replace(FACTS, model="x", t_min=2, cohort=1, unsafe=True))) == 4


def test_a_policy_file_round_trips(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(
        "[caps.train]\nepsilon = 2\nepsilon_worst_case = 8.0\n"
        '[studies]\nqueries = ["count"]\nmodels = ["svm"]\nclip = {min = 0.1, max = 1.0}\n',
        encoding="utf-8",
    )
    policy = load_policy(path)
    assert policy.caps.of("train") == AccountCap(epsilon=2.0, epsilon_worst_case=8.0)
    assert policy.caps.of("holdout") == AccountCap()
    assert policy.studies.clip.min == 0.1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[caps.train]\nepsilo = 2.0\n", "caps.train.epsilo"),
        ("[caps.train]\nepsilon = -1.0\n", "caps.train.epsilon"),
        ("[caps.train]\nepsilon = nan\n", "caps.train.epsilon"),
        ("[caps.train]\nepsilon = '2'\n", "caps.train.epsilon"),
        ("[caps.train]\ndelta = 0.5\n", "caps.train.delta"),
        ("[studies]\nminimum_contributors = 2\n", "studies.minimum_contributors"),
        ("[studies]\nqueries = 'count'\n", "studies.queries"),
        ("[studies]\nallow_unsafe = true\n", "studies.allow_unsafe"),
        ("[caps.train\n", "not valid TOML"),
        ("\x00", "not valid TOML"),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_field(tmp_path, text, named):
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(OperatorError) as caught:
        load_policy(path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_the_operators_error(tmp_path):
    with pytest.raises(OperatorError, match="cannot read"):
        load_policy(tmp_path / "absent.toml")
    (tmp_path / "policy.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OperatorError, match="cannot read"):
        load_policy(tmp_path / "policy.toml")


def test_a_policy_cannot_be_changed_in_memory():
    with pytest.raises(ValidationError):
        POLICY.caps.train.epsilon = 100.0
