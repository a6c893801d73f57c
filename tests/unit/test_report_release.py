from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from tests import report_samples as samples

from fedward_common.errors import MisuseError, StorageError
from fedward_common.files import write_atomic
from fedward_server.report.model_card import model_card
from fedward_server.report.release import write_release, write_run
from fedward_simulations.report import write_simulation


@contextmanager
def file_size_limit(octets):
    """A disk that is full after ``octets`` bytes of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def tensors():
    wave = np.random.default_rng(0)
    return {
        "conv.weight": wave.normal(size=(8, 1, 3, 3)).astype(np.float32),
        "head.bias": np.asfortranarray(wave.normal(size=(3, 2))),
    }


def test_a_release_comes_back_and_its_card_names_it(tmp_path):
    run = samples.run_report()
    path = write_release(tmp_path / "new", tensors(), model_card(run), {"kind": "cnn"})
    with safe_open(path, framework="numpy") as stored:
        for name, tensor in tensors().items():
            assert np.array_equal(stored.get_tensor(name), tensor)
        metadata = stored.metadata()
    assert metadata["plan_digest"] == run.plan_digest
    assert metadata["kind"] == "cnn"
    assert float(metadata["epsilon_worst_case"]) == 9.71
    card = json.loads((path.parent / "model_card.json").read_bytes())
    assert card["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    text = (path.parent / "MODEL_CARD.md").read_text()
    for expected in (card["weights_sha256"], run.plan_digest, "9.71", "0.943 ± 0.006", "Limits"):
        assert expected in text
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "MODEL_CARD.md",
        "model.safetensors",
        "model_card.json",
    ]


def test_the_card_shows_the_metrics_that_it_was_given():
    card = model_card(samples.run_report(), evaluation=samples.metrics(), evaluated_on="test set")
    assert "## Metrics on test set" in card.markdown()
    assert "| AUC | 0.946 |" in card.markdown()
    assert card.as_dict()["metrics"]["auc_uncertainty"] is None
    without = model_card(replace(samples.run_report(), federation_metrics=None))
    assert "Metrics" not in without.markdown()


def test_hostile_names_stay_text_in_the_card():
    run = replace(samples.hostile_report().run, title="a\n# b\n|c|<script>")
    text = model_card(run).markdown()
    assert text.startswith("# a \\# b \\|c\\|\\<script\\>\n")
    assert "<script" not in text.replace("\\<script", "")
    assert "<img" not in text.replace("\\<img", "")


def test_a_model_that_is_not_finite_is_not_released(tmp_path):
    broken = {"w": np.array([1.0, np.nan])}
    with pytest.raises(MisuseError, match="'w'"):
        write_release(tmp_path, broken, model_card(samples.run_report()))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("write", "report"),
    [(write_run, samples.run_report()), (write_simulation, samples.simulation_report())],
)
def test_a_run_leaves_a_summary_and_a_page(tmp_path, write, report):
    page = write(tmp_path, report)
    assert page == tmp_path / "report.html"
    assert page.read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "summary.json").read_text())["epsilon"] == 1.998
    write(tmp_path, report)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "summary.json"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.json"
    write_atomic(target, b"old")
    with file_size_limit(1000), pytest.raises(StorageError, match=r"a\.json.*free disk space"):
        write_atomic(target, b"x" * 100_000)
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "report.html", b"")


def test_a_killed_writer_leaves_one_whole_version(tmp_path):
    target = tmp_path / "model.bin"
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from fedward_common.files import write_atomic
        version = 0
        while True:
            write_atomic(Path(sys.argv[1]), bytes([version % 256]) * 3_000_000)
            if version == 0:
                print("ready", flush=True)
            version += 1
    """)
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", program, str(target)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert writer.stdout.readline() == b"ready\n"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        content = target.read_bytes()
        assert len(content) == 3_000_000
        assert len(set(content)) == 1
    write_atomic(target, b"after")
    assert [p.name for p in tmp_path.iterdir()] == ["model.bin"]
