"""The main path of hospital and coordinator, command by command, as its operators would run it."""

from __future__ import annotations

import json
import re
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from tests.cli_world import EPSILON, FIXED_DRAFT, PROGRAMS, call, client, ok, run, server
from tests.dicom_cases import FILES

from fedward_client.site import open_site
from fedward_common.identity import parse_site_public, spell
from fedward_common.plan.files import read_signed_plan
from fedward_simulations.federation import federate

ENOUGH = 50.0
HEAVY = {"torch", "flwr", "dp_accounting", "skimage"}
DICOM = ("CT_small.dcm", "MR_small_RLE.dcm", "examples_rgb_color.dcm", "JPEG2000.dcm", "rtplan.dcm")


def test_init_makes_keys_and_a_policy_that_refuses_everything(tmp_path):
    path = tmp_path / "site"
    shown = ok(run("fedward-client", "init", "north", "--site", path)).out
    public = parse_site_public((path / "SITE.pub").read_text())
    assert spell(public.fingerprint) in shown
    assert "refuses every study" in shown
    for key in (path / "identity").iterdir():
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    client("init", "north", "--site", path).refused(2, path, "already exists")


def test_the_site_folder_may_come_from_the_environment(site, monkeypatch):
    monkeypatch.setenv("FEDWARD_SITE", str(site))
    assert client("status", "--json").json["site"] == "north"


def test_real_dicom_is_added_once(site, tmp_path):
    folder = tmp_path / "pacs"
    folder.mkdir()
    for name in DICOM:
        (folder / name).write_bytes((FILES / name).read_bytes())
    (folder / "note.txt").write_text("not an image")
    where = (folder, "--site", site)
    report = run("fedward-client", "add", *where, "--skip-unreadable", "--json").json
    assert (report["found"], report["ignored"]) == (len(DICOM), 1)
    assert report["used"] >= 2
    assert report["used"] + sum(report["excluded"].values()) == len(DICOM)
    again = ok(client("add", *where, "--skip-unreadable")).out
    assert f"used: 0, known already: {report['used']}, duplicates: 0" in again
    counts = client("status", "--site", site, "--json").json["catalogue"]
    assert counts["instances"] == report["used"]


def test_a_table_is_added(site, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("id,label,age\nP1,1,30\nP2,0,40.5\n")
    assert "patients: 2" in ok(client("add", table, "--table", "--site", site)).out
    assert client("status", "--site", site, "--json").json["catalogue"]["table_rows"] == 2
    client("add", table, "--table", "--labels", table, "--site", site).refused(2, table)


def test_a_plan_is_told_in_plain_words_and_refused_until_the_policy_allows_it(federation):
    site, digest = federation.sites[0], federation.digest
    ok(client("plan", "import", federation.plan, "--site", site))
    assert f"{digest[:16]}  proposed   chest" in ok(client("plan", "show", "--site", site)).out
    shown = ok(client("plan", "show", digest[:8], "--site", site)).out
    for words in (
        "tell normal, opacity from grey images of 28 x 28 pixels",
        "2 training steps",
        "no image, label, count, score or metric",
        f"Epsilon is {EPSILON:.2f} at delta 1e-05",
        "In the worst case",
        "over the cap",
        "site-01: this site",
        "site-02: not verified by this site",
        "[caps.train] epsilon is 0",
        "State: proposed",
    ):
        assert words in shown
    refused = client("plan", "approve", digest[:8], "--site", site)
    refused.refused(2, "[caps.train] epsilon is 0", "query 'gradient'", "2 members", "model 'cnn'")
    reasons = client("plan", "show", digest[:8], "--site", site, "--json").json["refusals"]
    assert len(reasons) >= 6
    federation.import_everywhere(ENOUGH)
    assert "approved" in ok(client("plan", "approve", digest[:8], "--site", site)).out
    assert "State: approved" in ok(client("plan", "show", digest, "--site", site)).out


def test_a_budget_that_would_not_last_is_refused_before_the_study_begins(federation):
    site = federation.sites[0]
    federation.import_everywhere(EPSILON + 0.2)  # enough for the plan, not for the ledger's filter
    after = client("ledger", "forecast", federation.plan, "--site", site, "--json").json["train"]
    assert after["epsilon_fixed"] < EPSILON + 0.2 < after["epsilon"]
    assert "over the cap" in ok(client("ledger", "forecast", federation.plan, "--site", site)).out
    done = client("plan", "approve", federation.digest, "--site", site)
    done.refused(2, "[caps.train] does not last to the end of the plan")


def test_a_decision_may_be_changed_until_the_study_begins(federation):
    site, digest = federation.sites[0], federation.digest
    federation.import_everywhere(ENOUGH)
    ok(client("plan", "approve", digest, "--site", site))
    (key,) = (site / "identity").glob("plan-*.key")
    first = key.read_text()
    ok(client("plan", "approve", digest, "--site", site))
    assert key.read_text() == first  # others may hold the first approval
    ok(client("plan", "reject", digest, "--site", site))
    assert not key.exists()
    client("plan", "import", federation.plan, "--site", site).refused(2, "rejected")
    ok(client("plan", "approve", digest, "--site", site))
    assert key.read_text() != first


def test_members_are_confirmed_by_a_person(federation, site):
    other = federation.sites[1] / "SITE.pub"
    done = run("fedward-client", "members", "confirm", other, "--site", site)
    done.refused(2, other, "--yes")
    fingerprint = parse_site_public(other.read_text()).fingerprint
    confirmed = ok(client("members", "confirm", other, "--yes", "--site", site)).out
    assert spell(fingerprint) in confirmed
    other.write_text(other.read_text().replace("site-02", "site-09"))
    client("members", "confirm", other, "--yes", "--site", site).refused(2, other, "signature")


def test_a_study_runs_and_everything_it_cost_is_on_record(federation):
    federation.import_everywhere(ENOUGH)
    for path in federation.sites:
        ok(client("plan", "approve", federation.digest, "--site", path))
    _train(federation)
    site = federation.sites[0]

    state = client("status", "--site", site, "--json").json
    assert [study["state"] for study in state["studies"]] == ["finished"]
    ledger = client("ledger", "show", "--site", site, "--json").json
    assert ledger["accounts"]["train"]["debits"] == 3
    assert ledger["accounts"]["holdout"]["debits"] == 1
    assert 0 < ledger["accounts"]["train"]["epsilon_fixed"] <= EPSILON
    assert sum(debit["attempts"] for debit in ledger["debits"]) == 4
    table = ok(client("ledger", "show", "--site", site)).out
    assert re.search(r"chest  +train  +1:gradient  +2  +2$", table, re.MULTILINE)
    assert client("ledger", "verify", "--site", site, "--json").json["ledger"]["entries"] == 4
    assert client("audit", "verify", "--site", site, "--json").json["audit"]["entries"] > 4
    shown = ok(client("plan", "show", federation.digest, "--site", site)).out
    assert shown.endswith("State: finished\n")
    client("plan", "approve", federation.digest, "--site", site).refused(2, "has begun")

    page = Path(ok(server("report", "chest", "--server", federation.server)).out.split()[-1])
    assert page.read_text().startswith("<!doctype html>")
    model = page.parent / "model.safetensors"
    images = federation.hospital("site-01") / "dicom"
    found = client("predict", model, images, "--site", site, "--json").json
    assert len(found["scores"]) == state["catalogue"]["instances"]
    for scores in found["scores"].values():
        assert set(scores) == {"normal", "opacity"}
        assert sum(scores.values()) == pytest.approx(1.0, abs=1e-5)
    one = ok(client("predict", model, min(images.rglob("*.dcm")), "--site", site)).out
    assert one.split(":")[0] in found["scores"]


def test_an_altered_ledger_or_log_is_found(federation):
    federation.import_everywhere(ENOUGH)
    site = federation.sites[0]
    ok(client("plan", "approve", federation.digest, "--site", site))
    with sqlite3.connect(site / "site.db") as database:
        database.execute("DROP TRIGGER chain_rows_fixed")
        database.execute("UPDATE chain_rows SET payload = zeroblob(64) WHERE chain = 'audit'")
    client("audit", "verify", "--site", site).refused(1, "audit chain")


def test_a_plan_cannot_be_replaced_or_signed_by_another(federation, tmp_path):
    plan = federation.root / "chest.plan.json"
    sizes = ("--epsilon", EPSILON, "--patients-per-site", 20, "--server", federation.server)
    federation.draft.write_text(FIXED_DRAFT)
    server("plan", "create", federation.draft, *sizes, "--out", plan).refused(2, plan, "exists")
    second = tmp_path / "second.json"
    ok(server("plan", "create", federation.draft, *sizes, "--out", second))
    server("plan", "sign", second, "--server", federation.server).refused(2, "another name")
    other = tmp_path / "other"
    ok(server("init", "--server", other))
    server("plan", "sign", plan, "--server", other).refused(2, plan, "coordinator")
    assert not (other / "studies").exists()


def test_both_sides_explain_a_plan_alike(federation):
    site = federation.sites[0]
    ok(client("plan", "import", federation.plan, "--site", site))
    mine = client("plan", "show", federation.digest, "--site", site, "--json").json
    theirs = server("plan", "show", federation.plan, "--json").json
    drafted = server("plan", "show", federation.root / "chest.plan.json", "--json").json
    assert mine["explanation"] == theirs["explanation"] == drafted["explanation"]
    assert mine["epsilon_worst_case"] == theirs["epsilon_worst_case"] > mine["epsilon"]


def test_a_report_waits_for_the_study_to_finish(federation):
    server("report", "chest", "--server", federation.server).refused(2, "0 of 4 sums")
    server("report", "other", "--server", federation.server).refused(2, "studies: chest")


def test_text_of_a_plan_cannot_drive_the_terminal(federation, tmp_path):
    draft = tmp_path / "draft.toml"
    draft.write_text(FIXED_DRAFT.replace('"Opacity or', '"\\u001b[2J\\u001b[1mOpacity or'))
    plan = tmp_path / "plan.json"
    sizes = ("--epsilon", EPSILON, "--patients-per-site", 20, "--server", federation.server)
    shown = ok(server("plan", "create", draft, *sizes, "--out", plan)).out
    assert "\x1b" not in shown + ok(server("plan", "show", plan)).out
    json.loads(plan.read_text())


@pytest.mark.parametrize("program", ["fedward-client", "fedward-server", "fedward-simulate"])
def test_every_command_shows_an_example(program):
    for path in _commands(program):
        shown = ok(call(program, *path, "--help"))
        assert f"Example: {' '.join((program, *path))}" in " ".join(shown.out.split())


@pytest.mark.parametrize("package", ["fedward_client", "fedward_server"])
def test_help_does_not_wait_for_heavy_libraries(package):
    code = (
        f"import sys, {package}.cli as c; sys.argv = ['x', '--help']\n"
        "try: c.main()\n"
        f"except SystemExit: print(*{HEAVY} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def _commands(program):
    module = sys.modules[PROGRAMS[program].__module__]

    def walk(command, path):
        if hasattr(command, "commands"):
            for name, inner in command.commands.items():
                yield from walk(inner, (*path, name))
        else:
            yield path

    return list(walk(typer.main.get_command(module.app), ()))


def _train(federation):
    """Run the study through ServerApp and ClientApp, as the deployment will over a network."""
    signed, _ = read_signed_plan(federation.plan)
    sites = [open_site(path) for path in federation.sites]
    try:
        federate(signed, sites, federation.plan.parent, lambda _: None)
    finally:
        for opened in sites:
            opened.close()
