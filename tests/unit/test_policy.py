"""A policy: empty refuses everything and says how to fill it, bad files are explained (G9)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.privacy_samples import GRADIENT

from fedward_client.hours import Hours
from fedward_client.policy import (
    AccountCap,
    Caps,
    PlanFacts,
    Policy,
    QueryFacts,
    Range,
    StudyRules,
)
from fedward_client.policy_file import default_policy_text, load_policy
from fedward_common.errors import OperatorError
from fedward_common.privacy.statement import privacy_statement

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
    reply_delay=5.0,
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


def written(tmp_path, text: str) -> Policy:
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return load_policy(path)


def test_the_policy_that_init_writes_refuses_everything_and_says_how_to_change_that(tmp_path):
    policy = written(tmp_path, default_policy_text())
    reasons = policy.refusals(FACTS)
    for account in ("train", "holdout"):
        assert any(f"[caps.{account}] epsilon is 0 or empty: set" in line for line in reasons)
        assert any(f"[caps.{account}] epsilon_worst_case is 0 or empty" in line for line in reasons)
    assert any("'cnn' is not in [studies] models" in reason for reason in reasons)
    assert all("\n" not in reason for reason in reasons)


CAPS = """\
[caps.train]
epsilon = {}
epsilon_worst_case = {}
[caps.holdout]
epsilon = {}
epsilon_worst_case = {}
[studies]
queries = ["count", "gradient", "histogram"]
models = ["cnn"]
"""
FILLED = ("4.0", "10.0", "2.0", "10.0")


def test_every_plan_is_refused_until_both_caps_of_both_accounts_are_filled_in(tmp_path):
    assert written(tmp_path, CAPS.format(*FILLED)).refusals(FACTS) == []
    train_only = replace(FACTS, accounts=FACTS.accounts[:1])
    for field in range(4):
        for empty in ('""', "0.0"):
            values = [empty if index == field else value for index, value in enumerate(FILLED)]
            policy = written(tmp_path, CAPS.format(*values))
            account = ("train", "holdout")[field // 2]
            name = ("epsilon", "epsilon_worst_case")[field % 2]
            for facts in (FACTS, train_only):  # whichever account the plan uses
                (reason,) = policy.refusals(facts)
                assert reason.startswith(f"[caps.{account}] {name} is 0 or empty")
        lines = CAPS.format(*FILLED).splitlines(keepends=True)
        del lines[(1, 2, 4, 5)[field]]
        assert len(written(tmp_path, "".join(lines)).refusals(FACTS)) == 1  # missing is empty


def test_a_worst_case_without_a_cap_is_a_choice_that_is_written_down(tmp_path):
    policy = written(tmp_path, CAPS.format("4.0", '"none"', "2.0", '"none"'))
    assert policy.refusals(replace(FACTS, accounts=(("train", 2.0, 1e9),))) == []
    assert policy.caps.train.epsilon_worst_case is None
    with pytest.raises(OperatorError, match=r"caps\.train\.epsilon:"):
        written(tmp_path, CAPS.format('"none"', "4.0", "2.0", "4.0"))


def test_the_example_in_the_policys_comment_costs_what_the_comment_says():
    statement = privacy_statement({"train": [GRADIENT]}, 1e-5, GRADIENT.rounds + 20)
    comment = " ".join(default_policy_text().replace("\n#", "").split())
    shape = f"{GRADIENT.rounds} training steps over {GRADIENT.sites} hospitals, of which "
    shape += f"{GRADIENT.t_min} must contribute and {GRADIENT.colluding} may collude, with sampling"
    shape += f" rate {GRADIENT.sampling_rate}, noise multiplier {GRADIENT.noise_multiplier}, delta "
    shape += f"1e-5 and 20 attempts to spare, cost epsilon {statement.epsilon:.2f} and in the "
    assert shape + f"worst case {statement.epsilon_worst_case:.2f}." in comment


def test_hours_hold_within_their_windows_by_the_sites_clock(tmp_path):
    hours = '[hours]\nmonday = ["08:00-12:00", "22:00-06:00"]\nsaturday = ["00:00-24:00"]\n'
    policy = written(tmp_path, CAPS.format(*FILLED) + hours)

    def is_open(day: int, time: str) -> bool:  # 2 January 2023 was a Monday
        return policy.is_open(datetime.fromisoformat(f"2023-01-{2 + day:02d}T{time}:00+01:00"))

    assert [is_open(0, t) for t in ("07:59", "08:00", "11:59", "12:00", "21:59", "22:00")] == [
        False, True, True, False, False, True,
    ]  # fmt: skip
    assert [is_open(1, t) for t in ("00:00", "05:59", "06:00", "08:30")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert [is_open(5, t) for t in ("00:00", "23:59")] == [True, True]
    assert not is_open(6, "00:00")
    assert not is_open(7, "05:00")  # the night before Monday is a Sunday's
    assert policy.refusals(FACTS) == []  # hours say when, not whether
    always = written(tmp_path, CAPS.format(*FILLED))
    assert always.is_open(datetime(2023, 1, 1, tzinfo=UTC))


@given(st.integers(0, 6), st.integers(0, 1439), st.integers(0, 1440), st.integers(0, 7 * 1440 - 1))
def test_a_window_is_open_exactly_for_its_length(day, start, end, minute):
    window = f"{start // 60:02d}:{start % 60:02d}-{end // 60:02d}:{end % 60:02d}"
    name = tuple(Hours.model_fields)[day]
    at = datetime(2023, 1, 2, tzinfo=UTC) + timedelta(minutes=minute)
    length = (end - start - 1) % 1440 + 1
    since = (minute - 1440 * day - start) % (7 * 1440)
    assert Hours.model_validate({name: [window]}).hold(at) == (since < length)


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
        ({"reply_delay": 0.0}, "no reply_delay_seconds"),
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
    benchmark = replace(FACTS, unsafe=True, colluding=0, unverified=7, reply_delay=0.0)
    policy = POLICY.model_copy(
        update={"studies": POLICY.studies.model_copy(update={"minimum_colluding": 0})}
    )
    assert policy.refusals(benchmark, simulation=True) == []
    assert len(policy.refusals(benchmark)) == 4


def test_all_reasons_come_at_once():
    assert len(POLICY.refusals(replace(FACTS, model="x", t_min=2, cohort=1, unsafe=True))) == 4


def test_a_policy_file_round_trips(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(
        "[caps.train]\nepsilon = 2\nepsilon_worst_case = 8.0\n"
        '[hours]\nfriday = ["09:00-17:00"]\n'
        '[studies]\nqueries = ["count"]\nmodels = ["svm"]\nclip = {min = 0.1, max = 1.0}\n',
        encoding="utf-8",
    )
    policy = load_policy(path)
    assert policy.caps.of("train") == AccountCap(epsilon=2.0, epsilon_worst_case=8.0)
    assert policy.caps.of("holdout") == AccountCap(epsilon_worst_case=0.0)
    assert policy.hours == Hours(friday=["09:00-17:00"])
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
        ("caps = 3\n", "caps"),
        ("[caps]\ntrain = 3\n", "caps.train"),
        ("[caps.test]\nepsilon = 3.0\n", "caps.test"),
        ("[hours]\nmonday = '08:00-12:00'\n", "hours.monday"),
        ("[hours]\nmonday = ['8:00-12:00']\n", "hours.monday.0"),
        ("[hours]\nmonday = ['08:00-24:30']\n", "hours.monday.0"),
        ("[hours]\nmontag = ['08:00-12:00']\n", "hours.montag"),
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
