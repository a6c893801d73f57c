"""How a site computes: the ``[runtime]`` of its configuration, and the device that it gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cli_world import client, ok

from fedward_client.site import create_site, open_site
from fedward_client.training.augmentation import Augmentation
from fedward_client.training.gradients import Patient, clipped_sum
from fedward_client.training.runtime import RuntimeOptions
from fedward_common.errors import OperatorError
from fedward_common.models.parameters import initial_parameters
from fedward_common.models.prediction import identity_standardisation
from fedward_common.models.spec import ModelSpec
from fedward_simulations.randomness import SeededStream

WITHOUT_GPU = "no GPU on this machine"


@pytest.fixture
def made(tmp_path):
    create_site(tmp_path / "site", "north")
    return tmp_path / "site"


def configure(site, old: str, new: str) -> None:
    config = site / "config.toml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


def test_a_new_site_has_written_what_it_computes_with(made):
    with open_site(made) as site:
        assert site.runtime == RuntimeOptions(engine="fedward", device="auto", threads=1)
        assert site.runtime.micro_batch is None


def test_a_configuration_from_before_has_the_same(made):
    text = (made / "config.toml").read_text()
    (made / "config.toml").write_text(text[: text.index("# Speed and memory")])
    with open_site(made) as site:
        assert site.runtime == RuntimeOptions(device="auto")


def test_what_is_configured_is_used_and_shown(made):
    configure(made, 'engine = "fedward"', 'engine = "opacus"')
    configure(made, 'device = "auto"', 'device = "cpu"')
    configure(made, "threads = 1", "threads = 3")
    configure(made, "# micro_batch = 256", "micro_batch = 32")
    expected = {"micro_batch": 32, "threads": 3, "device": "cpu", "engine": "opacus"}
    with open_site(made) as site:
        assert site.runtime == RuntimeOptions(**expected)
    with open_site(made, runtime=RuntimeOptions(threads=2)) as site:  # a simulation's own
        assert site.runtime.threads == 2
    assert ok(client("status", "--site", made, "--json")).json["runtime"] == expected


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("threads = 1", "thread = 1", "runtime.thread: unknown key; remove it or correct"),
        ("threads = 1", "threads = 0", "runtime.threads = 0: "),
        ("threads = 1", 'threads = "2"', "runtime.threads = '2': "),
        ('engine = "fedward"', 'engine = "fast"', "runtime.engine = 'fast': "),
        ('device = "auto"', 'device = "gpu"', "runtime.device = 'gpu': "),
        ("# micro_batch = 256", "micro_batch = -1", "runtime.micro_batch"),
        ("[runtime]", "[run]", "run: unknown key; remove it or correct its spelling"),
    ],
)
def test_what_is_misspelt_is_refused_in_one_line_with_file_field_and_remedy(
    made, old, new, complaint
):
    configure(made, old, new)
    shown = client("status", "--site", made)
    assert shown.status == 2
    (line,) = shown.err.strip().splitlines()
    assert str(made / "config.toml") in line
    assert complaint in line
    assert line.endswith(("change it", "spelling")), line


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_machine_without_a_gpu_computes_on_the_processor(device):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert RuntimeOptions(device=device).torch_device == "cpu"


def test_a_gpu_that_is_not_there_is_told(made):
    with pytest.raises(OperatorError, match=r"'cuda:77', but this machine shows \d+ GPUs: set"):
        _ = RuntimeOptions(device="cuda:77").torch_device
    for name in ("gpu", "cuda:", "mps", "cpu:0", ""):
        with pytest.raises(OperatorError, match=r"runtime\.device"):
            RuntimeOptions(device=name)


def some_sum(device: str) -> np.ndarray:
    spec = ModelSpec(kind="cnn", input_shape=(1, 28, 28))
    rng = np.random.default_rng(0)
    batch = [Patient(rng.random((2, *spec.input_shape), dtype=np.float32), n % 2) for n in range(9)]
    return clipped_sum(
        spec,
        initial_parameters(spec, 5),
        batch,
        clip=0.5,
        images_per_patient=2,
        augmentation=Augmentation(copies=2, shift=0.1),
        standardisation=identity_standardisation(),
        random=SeededStream(0, "views"),
        runtime=RuntimeOptions(device=device, micro_batch=8),
    )


def test_auto_gives_the_same_sum():
    assert np.allclose(some_sum("auto"), some_sum("cpu"), atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason=WITHOUT_GPU)
def test_a_gpu_computes_the_processors_sum_twice_alike():
    assert RuntimeOptions(device="auto").torch_device == "cuda"
    first = some_sum("cuda:0")
    assert first.tobytes() == some_sum("cuda:0").tobytes()
    assert np.allclose(first, some_sum("cpu"), atol=1e-4)
