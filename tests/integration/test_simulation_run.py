"""`fedward-simulate run` as a person runs it: its summary, its folder, and kill -9 at any stage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedward_client.site import open_site
from fedward_simulations.scenario import find_scenario

COMMAND = [sys.executable, "-c", "from fedward_simulations.cli import main; main()", "run"]
LIMIT = 240
ROUNDS = 6
SUMS = ROUNDS + 2

PROMISED = {
    "auc",
    "accuracy",
    "sensitivity",
    "specificity",
    "f1",
    "epsilon",
    "epsilon_worst_case",
    "delta",
    "rounds",
    "parameters",
    "bytes_per_site_per_round",
    "seconds",
    "baselines",
}
"""The keys of `--json` that issue 2 names."""

PHANTOM = """\
title = "Three tiny hospitals"
evaluate_every = 1

[data]
source = "phantom"
sites = 3
patients = 90
size = 28
images_per_patient = 2

[budget]
epsilon = 8.0
delta = 1e-5
patients_per_site = 30

[plan.study]
name = "phantom"
classes = ["normal", "opacity"]

[plan.cohort]
images_per_patient = 2

[plan.preprocess]
size = 28

[plan.model]
kind = "cnn"
width = 8

[[plan.queries]]
kind = "count"

[[plan.queries]]
kind = "moments"

[[plan.queries]]
kind = "gradient"
rounds = 3
sampling_rate = 0.5
clip = 0.1

[[plan.queries]]
kind = "histogram"
bins = 4

[baselines]
pooled = false
pooled_private = false
alone = false
local_fedavg = false
"""


@dataclass(frozen=True)
class Ran:
    """A finished process."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        return json.loads(self.out)


def start(scenario: Path, out: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, str(scenario), "--out", str(out), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def run(scenario: Path, out: Path) -> Ran:
    process = start(scenario, out)
    stdout, stderr = process.communicate(timeout=LIMIT)
    return Ran(process.returncode, stdout, stderr)


def run_and_kill(scenario: Path, out: Path, once: str) -> None:
    """Kill the whole process group as soon as the file ``once`` is there."""
    process = start(scenario, out)
    end = time.monotonic() + LIMIT
    try:
        while not (out / once).exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def write_table_scenario(folder: Path, *, pooled: bool = False, seed: int = 0) -> Path:
    """The packaged table scenario with few rounds and next to no baselines."""
    text = find_scenario("breast-cancer").read_text(encoding="utf-8")
    text = text.replace("rounds = 100", f"rounds = {ROUNDS}")
    text = text.replace("seed = 0", f"seed = {seed}").split("[baselines]")[0]
    text += f"\n[baselines]\npooled = {str(pooled).lower()}\n"
    text += "pooled_private = false\nalone = false\nlocal_fedavg = false\n"
    path = folder / "table.toml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def attempts(out: Path) -> list[int]:
    rounds = json.loads((out / "server" / "history.json").read_text())["rounds"]
    return [entry["e"] for entry in rounds]


def debits(out: Path) -> dict[str, list[tuple[bytes, int]]]:
    found = {}
    for folder in sorted((out / "sites").iterdir()):
        with open_site(folder) as site:
            found[folder.name] = [(entry.study, entry.e) for entry in site.ledger.entries()]
            site.ledger.verify()
            site.audit.verify()
    return found


def model(out: Path) -> dict[str, bytes]:
    return {k: v.tobytes() for k, v in load_file(out / "model.safetensors").items()}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> tuple[Path, Path, dict[str, Any]]:
    """A finished run of the table: scenario, folder, summary."""
    folder = tmp_path_factory.mktemp("table")
    scenario = write_table_scenario(folder)
    return scenario, folder / "run", run(scenario, folder / "run").summary


def test_the_summary_holds_what_was_promised(table):
    _, out, summary = table
    assert summary.keys() >= PROMISED
    assert summary["rounds"] == SUMS
    assert summary["parameters"] == 31
    assert 3.9 < summary["epsilon"] <= 4.0
    assert summary["epsilon_worst_case"] > summary["epsilon"]
    assert summary["delta"] == pytest.approx(1e-5)
    for key in ("auc", "accuracy", "sensitivity", "specificity", "f1"):
        assert 0.5 < summary[key] <= 1.0
    assert summary["bytes_per_site_per_round"] > 4 * 31
    assert summary["baselines"]["linear_svc"]["accuracy"] > 0.9
    assert json.loads((out / "summary.json").read_text()).keys() >= PROMISED


def test_the_folder_holds_model_card_and_report(table):
    _, out, _ = table
    tensors = load_file(out / "model.safetensors")
    assert tensors["head.weight"].size == 30
    assert all(np.isfinite(value).all() for value in tensors.values())
    assert (out / "MODEL_CARD.md").read_text().startswith("#")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert attempts(out) == list(range(1, SUMS + 1))
    for entries in debits(out).values():
        assert [e for _, e in entries] == list(range(1, SUMS + 1))


def test_a_second_run_of_a_folder_trains_nothing_and_tells_the_same(table):
    scenario, out, summary = table
    state = (out / "server" / "state.bin").stat()
    before, spent = model(out), debits(out)
    again = run(scenario, out).summary
    volatile = {"command", "created", "seconds"}
    assert {k: v for k, v in again.items() if k not in volatile} == {
        k: v for k, v in summary.items() if k not in volatile
    }
    assert model(out) == before
    assert debits(out) == spent
    after = (out / "server" / "state.bin").stat()
    assert (after.st_ino, after.st_mtime_ns) == (state.st_ino, state.st_mtime_ns)


def test_another_scenario_does_not_get_this_folder(table, tmp_path):
    _, out, _ = table
    before = model(out)
    ran = run(write_table_scenario(tmp_path, seed=1), out)
    assert ran.code == 2
    lines = ran.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert str(out) in lines[0]
    assert ran.out == ""
    assert model(out) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "once",
    [
        "run.json",
        "sites/site-03/site.db",
        "plan.signed",
        "server/attempts.json",
        "server/sums/000003.u32",
        f"server/sums/{SUMS - 1:06d}.u32",
        "summary.json",
    ],
)
def test_killed_at_any_stage_it_resumes_to_the_same_bits(table, tmp_path, once):
    _, straight, summary = table
    scenario = write_table_scenario(tmp_path)
    out = tmp_path / "run"
    run_and_kill(scenario, out, once)
    history = out / "server" / "history.json"
    done = attempts(out) if history.exists() else []
    resumed = run(scenario, out).summary
    assert attempts(out)[: len(done)] == done  # no round was done again
    assert attempts(out) == list(range(1, SUMS + 1))
    for entries in debits(out).values():
        assert [e for _, e in entries] == list(range(1, SUMS + 1))
    assert model(out) == model(straight)
    for key in ("auc", "accuracy", "epsilon", "rounds"):
        assert resumed[key] == summary[key]


@pytest.mark.slow
def test_killed_among_the_baselines_it_keeps_those_that_are_done(tmp_path):
    scenario = write_table_scenario(tmp_path, pooled=True)
    out = tmp_path / "run"
    run_and_kill(scenario, out, "baselines/pooled-000.bin")
    kept = (out / "baselines" / "pooled-000.bin").stat().st_mtime_ns
    summary = run(scenario, out).summary
    assert (out / "baselines" / "pooled-000.bin").stat().st_mtime_ns == kept
    assert 0.5 < summary["baselines"]["pooled"]["auc"] <= 1.0


@pytest.mark.slow
def test_tiny_hospitals_from_dicom_to_model(tmp_path):
    scenario = tmp_path / "phantom.toml"
    scenario.write_text(PHANTOM, encoding="utf-8")
    out = tmp_path / "run"
    summary = run(scenario, out).summary
    assert summary.keys() >= PROMISED
    assert summary["rounds"] == 6
    assert attempts(out) == list(range(1, 7))
    assert 7.9 < summary["epsilon"] <= 8.0
    assert summary["baselines"] == {}
    assert len(list((out / "hospitals").rglob("*.dcm"))) > 90
    assert all(len(entries) == 6 for entries in debits(out).values())
    assert len(debits(out)) == 3


@pytest.mark.slow
def test_without_reproducible_two_runs_share_no_sum(tmp_path):
    sums = []
    for number in range(2):
        scenario = write_table_scenario(tmp_path / str(number))
        text = scenario.read_text().replace("reproducible = true", "reproducible = false")
        scenario.write_text(text)
        out = tmp_path / str(number) / "run"
        assert run(scenario, out).summary["reproducible"] is False
        sums += [path.read_bytes() for path in (out / "server" / "sums").glob("*.u32")]
    assert len(set(sums)) == len(sums) == 2 * SUMS
