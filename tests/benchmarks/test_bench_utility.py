"""``fedward-simulate bench utility``: its federation is the real one, its models are kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedward_common.errors import OperatorError
from fedward_common.progress import Progress, decode_progress
from fedward_simulations.bench.cli import app
from fedward_simulations.bench.utility.models import Cell, balanced
from fedward_simulations.bench.utility.plot import draw
from fedward_simulations.bench.utility.request import METHODS, Variant, make_request, stages
from fedward_simulations.bench.utility.table import Mean, lines
from fedward_simulations.comparison import Job, setting_of, train
from fedward_simulations.federation import approve_everywhere, federate, plan_for
from fedward_simulations.material import prepare
from fedward_simulations.phantom import phantom_arrays
from fedward_simulations.randomness import Randomness
from fedward_simulations.scenario import Scenario, load_scenario

SEED = 3
NOISE = "noise_multiplier = 5.0"  # given, so that nothing is calibrated
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CNN_MODEL = '[plan.model]\nkind = "cnn"\nwidth = 4'
MAPS_MODEL = f'{CNN_MODEL}\nfeatures = "scattering"'
SVM_MODEL = '[plan.model]\nkind = "svm"\nfeatures = "hog"'
VIEWS = "augmentation = { copies = 2, shift = 0.1, rotation = 10.0, zoom = 0.1, intensity = 0.2 }"
SCENARIO = """\
title = "Three tiny hospitals"
seed = {seed}

[data]
source = "images"
sites = 3
plain = true

[budget]
epsilon = 8.0
delta = 1e-5
patients_per_site = 30

[plan.study]
name = "tiny"
title = "Opacity or normal"
classes = ["normal", "opacity"]

[plan.preprocess]
size = 28

{model}

[[plan.queries]]
kind = "count"
{noise}

[[plan.queries]]
kind = "moments"
{noise}

[[plan.queries]]
kind = "gradient"
rounds = 3
sampling_rate = 0.5
clip = 0.1
{noise}
{views}

[plan.schedule]
learning_rate = 1.0

[baselines]
fedavg_rounds = 1
local_learning_rate = 0.5
"""


def write_scenario(folder: Path, model: str = CNN_MODEL, noise: str = NOISE) -> Path:
    views = VIEWS if model == CNN_MODEL else ""
    path = folder / "tiny.toml"
    path.write_text(SCENARIO.format(seed=SEED, model=model, noise=noise, views=views))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    arrays = phantom_arrays(60, 28, 2, 1)
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(
        path,
        **{
            f"{split}_{what}": getattr(arrays, f"{split}_{what}")
            for split in ("train", "val", "test")
            for what in ("images", "labels")
        },
    )
    return path


def same(ours: Progress, theirs: Progress) -> bool:
    """All that follows from the sums on training patients, bit for bit."""
    pairs = (
        (ours.state.parameters, theirs.state.parameters),
        (ours.state.velocity, theirs.state.velocity),
        (ours.state.average, theirs.state.average),
        (ours.mean, theirs.mean),
        (ours.scale, theirs.scale),
        (ours.counts, theirs.counts),
    )
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


@pytest.mark.parametrize("model", [CNN_MODEL, MAPS_MODEL, SVM_MODEL], ids=["cnn", "maps", "svm"])
def test_the_sum_without_masks_is_the_federation(model, images, tmp_path):
    scenario, _ = load_scenario(str(write_scenario(tmp_path, model)))
    randomness = Randomness(scenario.seed)
    material = prepare(scenario, tmp_path, images, randomness, lambda *_: None, "tiny")
    signed = plan_for(scenario, material.sites, randomness)
    approve_everywhere(signed, material.sites, lambda *_: None)
    outcome = federate(signed, material.sites, tmp_path / "server", lambda _: None)
    for site in material.sites:
        site.close()
    names = [site.name for site in material.sites]
    setting = setting_of(scenario, tmp_path / "sites", names, signed.open(), outcome.study)
    masked = outcome.checkpoint.progress
    assert masked.state.step == 3
    assert same(decode_progress(train(setting, Job("federated"))), masked)
    # Another study's batches and noise give another model: the comparison can fail.
    other = setting_of(scenario, tmp_path / "sites", names, signed.open(), b"another study")
    assert not same(decode_progress(train(other, Job("federated"))), masked)


def test_pooled_training_is_paired_with_ours(images, tmp_path):
    """Almost without noise they agree: initial model, batches and views are the same."""
    quiet = write_scenario(tmp_path, noise="noise_multiplier = 0.001")
    scenario, _ = load_scenario(str(quiet))
    randomness = Randomness(scenario.seed)
    material = prepare(scenario, tmp_path, images, randomness, lambda *_: None, "tiny")
    plan = plan_for(scenario, material.sites, randomness).open()
    names = [site.name for site in material.sites]
    for site in material.sites:
        site.close()

    def model(kind: str, study: bytes) -> np.ndarray:
        setting = setting_of(scenario, tmp_path / "sites", names, plan, study)
        return decode_progress(train(setting, Job(kind))).state.parameters

    ours, pooled = (model(kind, plan.digest) for kind in ("federated", "pooled_private"))
    unpaired = model("pooled_private", b"another study")
    moved = np.linalg.norm(pooled - unpaired)
    assert np.linalg.norm(ours - pooled) < 0.05 * moved


@pytest.mark.slow
def test_a_bench_keeps_its_models_and_goes_on(images, tmp_path):
    scenario, out = write_scenario(tmp_path), tmp_path / "out"
    command = ["utility", "--images", str(images), "--scenario", str(scenario), "--seeds", "3-4"]
    command += ["--epsilon", "8", "--epsilon", "4", "--no-dropout", "--out", str(out), "--json"]
    command += ["--method", "federated", "--method", "local_fedavg"]
    runner = CliRunner()
    first = runner.invoke(app, [*command, "--plot", str(tmp_path / "plot.png")])
    assert first.exit_code == 0, first.output
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG_SIGNATURE)
    found = json.loads(first.stdout)
    assert len(found["cells"]) == 8
    assert {tuple(line["seeds"]) for line in found["lines"]} == {(3, 4)}
    models = {path: path.read_bytes() for path in out.rglob("federated-*.bin")}
    assert len(models) == 4
    gone = min(models)
    gone.unlink()
    kept = {path: path.stat().st_mtime_ns for path in models if path != gone}
    again = runner.invoke(app, command)
    assert json.loads(again.stdout) == found
    assert gone.read_bytes() == models[gone]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert json.loads((out / "utility.json").read_text()) == found


def cell(method: str, seed: int, auc: float, variant: Variant | None = None) -> Cell:
    epsilon = math.inf if method == "pooled" else 1.9
    of = variant or Variant(2.0, None, 0)
    return Cell("cnn", method, of, seed, auc, 0.5 + auc / 4, auc / 2, epsilon, 3 * epsilon)


def test_balanced_decisions_divide_by_the_shares():
    scores = np.array([[0.4, 0.6], [0.2, 0.8], [0.7, 0.3]], dtype=np.float32)
    assert balanced(scores, np.array([100.0, 300.0])).tolist() == [0, 1, 0]  # from 0.75 on
    assert balanced(scores, np.array([100.0, 100.0])).tolist() == [1, 1, 0]
    assert balanced(scores, np.array([-3.0, 1e6])).tolist() == [0, 0, 0]  # noise below zero


def test_differences_are_paired_by_seed():
    cells = [cell("federated", seed, 0.90 + 0.01 * seed) for seed in range(3)]
    cells += [cell("pooled_private", seed, 0.91 + 0.01 * seed) for seed in (2, 1, 0)]
    cells += [cell("local_fedavg", 1, 0.80), cell("pooled", 0, 0.97)]
    table = lines(cells)
    assert [line.method for line in table] == [m for m in METHODS if m != "alone"]
    ours = table[0]
    assert ours.auc.mean == pytest.approx(0.91)
    assert ours.auc.error == pytest.approx(0.01 / math.sqrt(3))
    ahead = ours.over["pooled_private"]
    assert ahead.mean == pytest.approx(-0.01)
    assert ahead.error == pytest.approx(0.0, abs=1e-12)
    assert ours.over["local_fedavg"] == Mean(pytest.approx(0.11), None)
    assert table[-1].epsilon is None
    assert draw(table).startswith(PNG_SIGNATURE)


def test_the_first_epsilon_has_every_method():
    request = make_request(
        ["pneumonia-cnn"],
        Path("images.npz"),
        epsilons=[2.0, 1.0],
        seeds="0-4",
        methods=None,
        dropout=True,
        split="test",
    )
    assert list(request.seeds) == [0, 1, 2, 3, 4]
    trained = {(variant, m) for variant, methods in stages(request) for m in methods}
    assert {m for variant, m in trained if variant == Variant(2.0, None, 0)} == set(METHODS)
    assert (Variant(2.0, 6, 1), "federated") in trained
    assert (Variant(1.0, None, 0), "pooled") not in trained
    assert len(trained) == sum(len(methods) for _, methods in stages(request))


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"seeds": "4-0"}, "--seeds"), ({"seeds": "a"}, "--seeds"), ({"methods": ["x"]}, "--method")],
)
def test_wrong_words_are_named(changes, named):
    words = {"epsilons": [2.0], "seeds": "0", "methods": None, "dropout": False, "split": "test"}
    with pytest.raises(OperatorError, match=named):
        make_request(["pneumonia-cnn"], Path("images.npz"), **(words | changes))


def test_a_variant_changes_budget_and_thresholds_only():
    scenario: Scenario = load_scenario("pneumonia-cnn")[0]
    changed = Variant(1.0, 6, 1).of(scenario, 7)
    assert (changed.budget.epsilon, changed.seed) == (1.0, 7)
    assert (changed.federation.t_min, changed.federation.colluding) == (6, 1)
    assert (changed.plan, changed.data) == (scenario.plan, scenario.data)
