"""``fedward-simulate bench training`` compares equal work and says what it measured."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fedward_client.training.runtime import RuntimeOptions
from fedward_simulations.bench.cli import app
from fedward_simulations.bench.resident import resident_peak
from fedward_simulations.bench.training import (
    BARS,
    SITE,
    Measure,
    Result,
    document,
    measure,
    peak_bytes,
    run,
)
from fedward_simulations.bench.training_modes import MODES, Case, make_pass
from fedward_simulations.bench.training_plot import draw

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SMALL = Case(28, 1)
PRIVATE = ("fedward", "opacus", "opacus-ew", "opacus-ghost")


@pytest.fixture(scope="module")
def result() -> Result:
    return measure(Case(28, 4), 1, passes=1)


@pytest.mark.parametrize("side", [28, 64])
def test_all_private_modes_compute_the_same_sum(side):
    case = Case(side, 1)
    batch = [make_pass(case) for _ in range(2)]
    sums = {mode: run(MODES[mode](case), case, batch).double() for mode in PRIVATE}
    for mode in PRIVATE[1:]:
        assert (sums[mode] - sums["fedward"]).norm() < 1e-4 * sums["fedward"].norm()


def test_clipping_is_of_patients_not_of_views():
    case = Case(28, 4)
    batch = [make_pass(case)]
    ours, hooks, ghost = (
        run(MODES[mode](case), case, batch).double()
        for mode in ("fedward", "opacus", "opacus-ghost")
    )
    assert (hooks - ours).norm() < 1e-4 * ours.norm()
    assert (ghost - ours).norm() > 0.1 * ours.norm()


def test_the_layout_in_memory_changes_nothing():
    batch = [make_pass(SMALL)]
    plain, last = (run(MODES[mode](SMALL), SMALL, batch) for mode in ("plain", "plain-last"))
    assert torch.allclose(plain, last, rtol=1e-3, atol=1e-3)
    private = run(MODES["fedward"](SMALL), SMALL, batch)
    assert (plain - private).norm() > 0.1 * private.norm()  # clip 1 does clip


def test_a_pass_is_what_training_makes_of_it():
    for case in (Case(28, 4), Case(64, 1), Case(224, 4)):
        part = make_pass(case)
        assert case.rows == max(1, RuntimeOptions().views_per_pass(case.side**2) // case.copies)
        assert part.images.shape == (case.rows, 1, case.side, case.side)
        assert len(part.draws) == case.rows * case.copies
        assert case.augmentation.changes_images == (case.copies > 1)


def test_every_mode_is_measured_and_plain_is_the_unit(result):
    assert set(result.ratios) == {*MODES, SITE}
    assert result.ratios["plain"] == 1.0
    assert all(each.images_per_second > 0 for each in result.measures)
    assert all(each.peak_bytes is None for each in result.measures)


@pytest.mark.parametrize(
    ("ours", "peer", "meets"), [(0.6, 0.5, True), (0.6, 0.7, False), (0.3, 0.2, False)]
)
def test_the_bar_is_plain_torch_and_the_best_of_opacus(ours, peer, meets):
    ratios = {"plain": 1.0, "fedward": ours, "opacus": 0.1, "opacus-ew": peer}
    measures = [Measure(mode, 1.0, ratio, None) for mode, ratio in ratios.items()]
    assert Result(SMALL, 1, measures).meets_bar is meets
    assert BARS == {28: 0.44, 64: 0.55, 224: 0.55}


def _hold(megabytes: int) -> int:
    return len(np.ones(megabytes << 20, dtype=np.uint8))


def _holder():
    return lambda: _hold(64)


def test_the_peak_is_that_of_the_function():
    peak = resident_peak(_holder)
    assert 60 << 20 < peak < 80 << 20  # the kernel counts in batches of pages


@pytest.mark.slow
def test_memory_of_every_mode_is_measured_in_a_process_of_its_own():
    peaks = {mode: peak_bytes(mode, SMALL) for mode in ("plain", "fedward", SITE)}
    assert all(2**20 < peak < 2**30 for peak in peaks.values())


def test_the_document_and_the_picture_hold_every_case(result):
    record = json.loads(json.dumps(document([result])))
    (case,) = record["results"]
    assert (case["side"], case["views_per_image"]) == (28, 4)
    assert {mode["mode"] for mode in case["modes"]} == {*MODES, SITE}
    assert record["versions"]["opacus"]
    assert record["bars"]["28"] == BARS[28]
    picture = draw([result])
    assert picture.startswith(PNG_SIGNATURE)
    width, height = struct.unpack(">II", picture[16:24])
    assert width > 2 * height > 800


def test_the_command_prints_json_only_and_writes_its_files(tmp_path):
    small = ["training", "--side", "28", "--copies", "1", "--repeats", "1", "--no-memory"]
    files = ["--out", str(tmp_path / "t.json"), "--plot", str(tmp_path / "t.png")]
    done = CliRunner().invoke(app, [*small, *files, "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert json.loads((tmp_path / "t.json").read_text()) == record
    assert (tmp_path / "t.png").read_bytes().startswith(PNG_SIGNATURE)
    shown = CliRunner().invoke(app, small)
    assert "Training, one thread" in shown.stdout
    assert "opacus-ghost" in shown.stdout
    assert f"28 px, 1 views an image, {SMALL.rows} images a pass" in shown.stderr
