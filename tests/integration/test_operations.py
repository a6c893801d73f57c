"""docs/operations.md does what it says: from empty folders to a finished study, by its commands."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.operations import DOCUMENT, MACHINES, POST, ROOT, TranscriptError, blocks, play

ROUNDS = 20


def test_every_machine_has_its_part():
    found = blocks(DOCUMENT.read_text("utf-8"))
    assert {block.machine for block in found} == {*MACHINES, POST}
    code = "\n".join(block.code for block in found)
    for command in (
        "fedward-server init", "fedward-server enrol", "fedward-server plan create",
        "fedward-server plan sign", "fedward-server run", "fedward-server status",
        "fedward-server report", "fedward-server stop", "fedward-client init",
        "fedward-client add", "fedward-client enrol", "fedward-client members confirm",
        "fedward-client plan import", "fedward-client plan show", "fedward-client plan approve",
        "fedward-client run", "fedward-client status", "fedward-client ledger show",
        "fedward-client audit verify",
    ):  # fmt: skip
        assert command in code


def test_a_block_that_fails_is_named(tmp_path):
    with pytest.raises(TranscriptError, match="line 2, on north: status 3"):
        play(tmp_path, text="```sh north\nexit 3\n```\n")


def test_an_unknown_machine_is_refused():
    with pytest.raises(TranscriptError, match="west"):
        blocks("```sh west\ntrue\n```\n")


@pytest.mark.slow
def test_from_nothing_to_a_finished_study(tmp_path):
    command = [sys.executable, "-m", "tests.operations", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    record = json.loads(done.stdout)
    assert record["cpu_seconds"] > 0
    study = tmp_path / "server" / "server" / "studies" / "chest"
    rounds = json.loads((study / "history.json").read_text())["rounds"]
    assert [entry["round"] for entry in rounds] == list(range(1, ROUNDS + 1))
    assert (study / "model.safetensors").stat().st_size > 0
    shown = {(ran["machine"], ran["line"]): ran["out"] for ran in record["blocks"]}
    told = [out for out in shown.values() if f"sum {ROUNDS}: " in out]
    assert len(told) == len(MACHINES) - 1
    for out in told:
        assert "chest" in out
        assert "is the sum of the addends" in out
    predictions = json.loads((tmp_path / "north" / "predictions.json").read_text())
    assert predictions["scores"]
