"""The budget as an operator reads it: what a plan would cost, what was spent, and a picture."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from PIL import Image
from tests.cli_world import client, ok
from tests.world import World, coordinate, make_world

CAPS = """\
[caps.train]
epsilon = 3.0
epsilon_worst_case = 5.0
delta = 1e-5
[caps.holdout]
epsilon = 3.0
epsilon_worst_case = "none"
delta = 1e-5
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> World:
    """Three sites; count, moments, three gradient steps and a histogram, with four retries."""
    root = tmp_path_factory.mktemp("budget") / "template"
    return make_world(root, 3, schedule={"maximum_attempts": 10})


@pytest.fixture
def world(template, tmp_path) -> World:
    world = template.copy(tmp_path / "world")
    (world.root / "study.plan").write_bytes(world.signed.to_file())
    return world


@pytest.fixture
def site(world):
    path = world.root / "site-1"
    policy = (path / "policy.toml").read_text()
    (path / "policy.toml").write_text(CAPS + policy[policy.index("[studies]") :])
    return path


def test_a_forecast_says_both_epsilons_what_is_left_and_that_retries_are_counted(world, site):
    plan = world.root / "study.plan"
    shown = ok(client("ledger", "forecast", plan, "--site", site)).out
    assert "account train, at delta 1e-05: 0 attempts so far" in shown
    assert "this plan adds 5 and allows 4 retries" in shown
    assert "this plan adds 1 and allows 4 retries" in shown
    header = r"enforced +as if fixed in advance +cap +left"
    assert len(re.findall(header, shown)) == 2
    figures = client("ledger", "forecast", plan, "--site", site, "--json").json
    train = figures["train"]
    assert (train["rounds"], train["retries"], train["debits"]) == (5, 4, 9)
    assert train["before"]["debits"] == 0
    assert train["before"]["left"] == train["cap"] == 3.0
    assert train["left"] == pytest.approx(3.0 - train["epsilon"])
    assert train["left_worst_case"] == pytest.approx(5.0 - train["epsilon_worst_case"])
    assert train["epsilon_fixed"] < train["epsilon"] < train["epsilon_worst_case"]
    assert figures["holdout"]["epsilon_worst_case"] is None
    assert figures["holdout"]["epsilon_worst_case_fixed"] > figures["holdout"]["epsilon_fixed"]
    for value in ("epsilon", "epsilon_fixed", "left", "left_worst_case"):
        assert f"{train[value]:.3f}" in shown


def test_a_plan_over_the_cap_is_told_in_table_json_and_review(world, site):
    text = (site / "policy.toml").read_text()
    (site / "policy.toml").write_text(text.replace("epsilon = 3.0", "epsilon = 1.0", 1))
    plan = world.root / "study.plan"
    shown = ok(client("ledger", "forecast", plan, "--site", site)).out
    assert "account train: this plan would go over the cap" in shown
    assert "account holdout: this plan" not in shown
    figures = client("ledger", "forecast", plan, "--site", site, "--json").json
    assert figures["train"]["over_the_cap"]
    assert figures["train"]["left"] == 0.0


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_forecast_can_be_seen(world, site, tmp_path, ending):
    path = tmp_path / f"forecast.{ending}"
    plan = world.root / "study.plan"
    shown = ok(client("ledger", "forecast", plan, "--site", site, "--plot", path)).out
    assert f"picture: {path}" in shown
    if ending == "png":
        with Image.open(path) as picture:
            assert min(picture.size) > 600
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
    else:
        drawn = path.read_text()
        for words in ("cap 3", "cap 5", "enforced", "as if fixed in advance", "retries it allows"):
            assert words in drawn


def test_a_picture_that_cannot_be_written_is_told_before_it_is_worked_out(world, site, tmp_path):
    plan = world.root / "study.plan"
    where = ("--site", site, "--plot")
    client("ledger", "forecast", plan, *where, tmp_path / "f.pdf").refused(2, "f.pdf", ".png")
    client("ledger", "forecast", plan, *where, tmp_path / "no" / "f.png").refused(2, "folder")


def test_what_was_spent_is_a_table_of_studies_and_attempts(world, site):
    assert "nothing was ever debited" in ok(client("ledger", "show", "--site", site)).out
    with world.sites() as sites:
        coordinate(sites).run()
    shown = ok(client("ledger", "show", "--site", site)).out
    lines = shown.splitlines()
    for row in (
        r"study +account +query +rounds +attempts +epsilon +worst case",
        r"tiny +train +0:count +1 +1 +\d\.\d{3} +\d\.\d{3}",
        r"tiny +train +2:gradient +3 +3",
        r"tiny +holdout +3:histogram +1 +1 +\d\.\d{3} +\d\.\d{3}",
    ):
        assert any(re.fullmatch(row, line) for line in lines)
    found = client("ledger", "show", "--site", site, "--json").json
    assert [(row["query"], row["rounds"], row["attempts"]) for row in found["debits"]] == [
        ("0:count", 1, 1),
        ("1:moments", 1, 1),
        ("2:gradient", 3, 3),
        ("3:histogram", 1, 1),
    ]
    assert {row["name"] for row in found["debits"]} == {"tiny"}
    assert found["accounts"]["train"]["left"] == 3.0 - found["accounts"]["train"]["epsilon"]
    alone = re.search(r"0:count +1 +1 +(\S+)", shown).group(1)
    assert alone == f"{found['accounts']['train']['epsilon_fixed']:.3f}"  # its only study


def test_a_second_study_begins_where_the_first_ended(world, site):
    with world.sites() as sites:
        coordinate(sites).run()
    figures = client("ledger", "forecast", world.root / "study.plan", "--site", site, "--json").json
    spent = client("ledger", "show", "--site", site, "--json").json["accounts"]
    assert figures["train"]["before"] == spent["train"]
    assert figures["train"]["debits"] == spent["train"]["debits"] + 9


def test_only_a_picture_waits_for_matplotlib(world, site):
    plan = str(world.root / "study.plan")
    code = (
        "import sys, fedward_client.cli as c\n"
        f"sys.argv = ['x', 'ledger', 'forecast', {plan!r}, '--site', {str(site)!r}]\n"
        "try: c.main()\n"
        "except SystemExit: print('matplotlib.figure' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
