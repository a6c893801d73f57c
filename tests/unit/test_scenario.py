"""Scenarios: those that ship are valid, others are refused with every defect named."""

from __future__ import annotations

import pytest
from tests.world import COORDINATOR, example_roster

from fedward_common.errors import OperatorError, PlanError
from fedward_common.plan.document import read_toml
from fedward_common.study import Study
from fedward_server.planning import Target, draft_plan
from fedward_simulations.randomness import Randomness, SeededStream
from fedward_simulations.scenario import (
    find_scenario,
    load_scenario,
    packaged_scenarios,
    parse_scenario,
)

SHIPPED = {"breast-cancer", "pneumonia-cnn", "pneumonia-svm"}


def test_the_promised_scenarios_ship():
    assert set(packaged_scenarios()) >= SHIPPED


@pytest.mark.parametrize("name", packaged_scenarios())
def test_every_packaged_scenario_is_valid_and_gives_a_plan(name):
    scenario, text = load_scenario(name)
    assert text.startswith("#")
    assert scenario.budget.epsilon > 0
    document = {
        **scenario.plan,
        "study": {"id": "00" * 16, **scenario.plan["study"]},
        "roster": {"coordinator": "00" * 32, "sites": list(example_roster())},
        "privacy": {"delta": scenario.budget.delta},
        "secagg": {"t_min": 3, "colluding": 0},
        "schedule": {"maximum_attempts": 1000, **scenario.plan["schedule"]},
    }
    for query in document["queries"]:
        query.setdefault("noise_multiplier", 20.0)
    budget = Target(scenario.budget.epsilon, scenario.budget.patients_per_site)
    study = Study(draft_plan(document, budget, name))
    kinds = [task.query.kind for task in study.tasks]
    assert "gradient" in kinds
    assert kinds[-1] == "histogram"


def fresh() -> dict:
    return read_toml(find_scenario("breast-cancer"))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(epsilon=1.0),
        lambda d: d["data"].update(hospitals=5),
        lambda d: d["budget"].update(gamma=1.0),
        lambda d: d.update(baselines={"central": True}),
        lambda d: d.update(federation={"tmin": 3}),
    ],
)
def test_an_unknown_key_is_refused(change):
    document = fresh()
    change(document)
    with pytest.raises(PlanError, match="unknown key") as caught:
        parse_scenario(document, "mine.toml")
    assert str(caught.value).startswith("mine.toml: ")
    assert caught.value.exit_code == 2


def test_all_defects_at_once():
    document = fresh()
    document["data"]["sites"] = 0
    document["data"]["source"] = "pacs"
    document["budget"]["delta"] = 1.5
    del document["title"]
    with pytest.raises(PlanError) as caught:
        parse_scenario(document, "mine.toml")
    for field in ("data.sites = 0", "data.source = 'pacs'", "budget.delta = 1.5", "title: missing"):
        assert field in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", [None, {"alone": True}, {"pooled": False}])
def test_baselines_are_refused_beside_local_training(section):
    document = fresh()
    document["plan"]["queries"].append({"kind": "fedavg"})
    document.pop("baselines")
    if section is not None:
        document["baselines"] = section
    with pytest.raises(PlanError, match="fedavg query; set pooled"):
        parse_scenario(document, "mine.toml")
    off = dict.fromkeys(("pooled", "pooled_private", "alone", "local_fedavg"), False)
    document["baselines"] = off
    assert not parse_scenario(document, "mine.toml").baselines.any


def test_a_name_that_is_none_lists_those_that_are():
    with pytest.raises(OperatorError, match="breast-cancer"):
        load_scenario("brest-cancer")
    with pytest.raises(OperatorError, match="no such file"):
        load_scenario("absent.toml")


def test_seeded_randomness_repeats_by_label_and_only_by_label():
    one = Randomness(3)("addend", b"study", 4)
    assert one(8) + one(24) == Randomness(3)("addend", b"study", 4)(32)
    streams = {
        SeededStream(seed, *label)(16)
        for seed in (3, 4)
        for label in (("addend", 4), ("addend", 5), ("share", 4), ("addend", "4"), ("addend4",))
    }
    assert len(streams) == 10
    assert Randomness(None)("addend")(16) != Randomness(None)("addend")(16)
    assert len(COORDINATOR) == 32
