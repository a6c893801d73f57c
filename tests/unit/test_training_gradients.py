"""Per-patient clipped gradients: equal to autograd, bounded, and independent of company."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward_client.training.augmentation import DRAWS, Augmentation, draw, views
from fedward_client.training.gradients import Patient, RuntimeOptions, clipped_sum
from fedward_common.errors import MisuseError, OperatorError
from fedward_common.models.features import model_input_shape
from fedward_common.models.losses import per_image_loss
from fedward_common.models.networks import build
from fedward_common.models.parameters import initial_parameters, load_flat, parameter_count
from fedward_common.models.prediction import Standardisation, identity_standardisation
from fedward_common.models.spec import ModelSpec

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

G = 2.0**-18
SPECS = {
    "cnn": ModelSpec(kind="cnn", input_shape=(1, 28, 28)),
    "cnn-colour-64": ModelSpec(kind="cnn", input_shape=(3, 64, 64), classes=5),
    "cnn-classic": ModelSpec(kind="cnn-classic", input_shape=(1, 28, 28), classes=3),
    "cnn-maps": ModelSpec(kind="cnn", features="scattering", width=8, input_shape=(1, 28, 28)),
    "svm": ModelSpec(kind="svm", input_shape=(6,), features="columns"),
    "svm-ovr": ModelSpec(kind="svm", input_shape=(6,), features="columns", classes=4),
    "svm-cs": ModelSpec(
        kind="svm", input_shape=(6,), features="columns", classes=4, multiclass="crammer-singer"
    ),
}
STRONG = Augmentation(copies=3, shift=0.1, rotation=15, zoom=0.2, flip=True, intensity=0.3)


class Stream:
    """A seeded byte stream for tests: the same bytes whatever the sizes of the requests."""

    def __init__(self, seed: int = 0) -> None:
        self._blocks = hashlib.shake_256(seed.to_bytes(8, "big")).digest(1 << 18)
        self._used = 0

    def __call__(self, count: int, /) -> bytes:
        self._used += count
        return self._blocks[self._used - count : self._used]


def patients(spec: ModelSpec, counts: list[int], seed: int = 0) -> list[Patient]:
    rng = np.random.default_rng(seed)
    return [
        Patient(
            rng.random((count, *model_input_shape(spec)), dtype=np.float32),
            int(rng.integers(spec.classes)),
        )
        for count in counts
    ]


def some_parameters(spec: ModelSpec) -> np.ndarray:
    noise = np.random.default_rng(1).normal(size=parameter_count(spec))
    return initial_parameters(spec, 5) + 0.1 * noise


def summed(spec: ModelSpec, batch: list[Patient], **changes: object) -> np.ndarray:
    arguments: dict = {
        "clip": 1.0,
        "images_per_patient": 4,
        "augmentation": Augmentation(),
        "standardisation": identity_standardisation(),
        "random": Stream(),
        "runtime": RuntimeOptions(micro_batch=8),
        "parameters": some_parameters(spec),
    } | changes
    return clipped_sum(spec, arguments.pop("parameters"), batch, **arguments)


def by_autograd(spec: ModelSpec, patient: Patient) -> np.ndarray:
    """The unclipped mean gradient of one patient, computed in float64 without Opacus."""
    module = build(spec)
    load_flat(module, some_parameters(spec))
    module.double()
    inputs = torch.from_numpy(patient.inputs).double()
    labels = torch.full((len(inputs),), patient.label)
    per_image_loss(spec)(module(inputs), labels).mean().backward()
    return np.concatenate([value.grad.numpy().ravel() for value in module.parameters()])


@pytest.mark.parametrize("engine", ["opacus", "opacus-functorch"])
@pytest.mark.parametrize("name", SPECS)
def test_equals_plain_autograd_per_patient(name, engine):
    spec = SPECS[name]
    batch = patients(spec, [1, 3, 4, 1, 2])
    vectors = [by_autograd(spec, patient) for patient in batch]
    clip = float(np.median([np.linalg.norm(vector) for vector in vectors]))  # some are clipped
    expected = sum(vector * min(1, clip / np.linalg.norm(vector)) for vector in vectors)
    got = summed(spec, batch, clip=clip, runtime=RuntimeOptions(micro_batch=4, engine=engine))
    assert got.dtype == np.float64
    assert np.linalg.norm(got - expected) < 1e-5 * clip * len(batch)


@pytest.mark.parametrize("augmentation", [Augmentation(), STRONG])
@pytest.mark.parametrize("clip", [0.01, 1.0, 100.0])
def test_a_patient_with_fifty_images_moves_the_sum_by_at_most_clip(clip, augmentation):
    spec = SPECS["cnn"]
    others, heavy = patients(spec, [1, 2, 5, 1]), patients(spec, [50], seed=9)
    without = summed(spec, others, clip=clip, augmentation=augmentation)
    with_heavy = summed(spec, others + heavy, clip=clip, augmentation=augmentation)
    assert np.linalg.norm(with_heavy - without) <= clip * (1 + G)
    assert np.linalg.norm(with_heavy - without) > 0


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_the_sum_of_n_patients_is_at_most_n_clips(count, micro_batch, seed):
    spec = SPECS["svm-ovr"]
    batch = patients(spec, [1 + seed % 7] * count, seed)
    got = summed(spec, batch, clip=0.3, runtime=RuntimeOptions(micro_batch=micro_batch))
    assert np.linalg.norm(got) <= 0.3 * count * (1 + 1e-12)


@pytest.mark.parametrize("name", ["cnn", "cnn-colour-64", "cnn-classic", "cnn-maps", "svm-ovr"])
def test_a_patients_vector_does_not_depend_on_company(name):
    spec = SPECS[name]
    batch = patients(spec, [2, 1, 3, 1, 1, 4, 2])
    alone = [summed(spec, [patient], clip=1e9) for patient in batch]
    for end in range(1, len(batch)):
        step = summed(spec, batch[: end + 1], clip=1e9) - summed(spec, batch[:end], clip=1e9)
        assert np.linalg.norm(step - alone[end]) <= G * np.linalg.norm(alone[end])
    reverse = summed(spec, batch[::-1], clip=1e9)
    assert np.linalg.norm(reverse - sum(alone)) <= G * np.linalg.norm(sum(alone))


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5, 64])
def test_the_micro_batch_changes_speed_only(micro_batch):
    spec = SPECS["cnn"]
    batch = patients(spec, [1, 6, 2, 1])
    arguments = {"images_per_patient": 3, "augmentation": STRONG}
    got = summed(spec, batch, runtime=RuntimeOptions(micro_batch=micro_batch), **arguments)
    expected = summed(spec, batch, **arguments)
    assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)


def test_at_most_k_images_count_each_patient_once():
    spec = SPECS["svm"]
    twin = patients(spec, [1])[0]
    copies = Patient(np.repeat(twin.inputs, 50, axis=0), twin.label)
    once, many = summed(spec, [twin], clip=1e9), summed(spec, [copies], clip=1e9)
    assert np.allclose(once, many, rtol=1e-6)


def test_the_choice_of_images_comes_from_the_random_source():
    spec = ModelSpec(kind="svm", input_shape=(12,), features="columns")
    patient = Patient(np.eye(12, dtype=np.float32), 1)  # gradient shows which rows were used
    seen = np.zeros(12)
    for seed in range(120):
        got = summed(
            spec,
            [patient],
            images_per_patient=3,
            clip=1e9,
            random=Stream(seed),
            parameters=np.zeros(13),
        )[:12]
        assert sorted(np.round(-3 * got)) == [0.0] * 9 + [1.0] * 3
        seen += got < 0
    assert (seen > 10).all()
    assert (seen < 60).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200, -1e300])
@pytest.mark.parametrize("name", ["cnn", "svm"])
def test_a_hostile_model_gives_a_finite_bounded_sum(name, value):
    spec = SPECS[name]
    batch = patients(spec, [1, 2, 1])
    for index in (0, -1, slice(None)):
        parameters = some_parameters(spec)
        parameters[index] = value
        got = summed(spec, batch, parameters=parameters)
        assert np.isfinite(got).all()
        assert np.linalg.norm(got) <= 3 * (1 + 1e-12)


def test_non_finite_images_do_not_spread_to_other_patients():
    spec = SPECS["cnn"]
    clean, (broken,) = patients(spec, [1, 1, 1]), patients(spec, [1], seed=3)
    broken.inputs[0, 0, 3, 3] = np.nan
    with_broken = summed(spec, [clean[0], broken, *clean[1:]])
    assert np.linalg.norm(with_broken - summed(spec, clean)) <= 1.0 + 1e-9
    assert np.isfinite(with_broken).all()


def test_an_empty_batch_gives_zeros():
    spec = SPECS["cnn"]
    got = summed(spec, [])
    assert got.shape == (parameter_count(spec),)
    assert not got.any()


def test_standardisation_precedes_the_model():
    spec = SPECS["cnn-colour-64"]
    batch = patients(spec, [1, 2])
    constants = Standardisation(np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.4]))
    mean, scale = (np.reshape(v, (3, 1, 1)) for v in (constants.mean, constants.scale))
    by_hand = [Patient(((p.inputs - mean) / scale).astype(np.float32), p.label) for p in batch]
    got = summed(spec, batch, standardisation=constants)
    assert np.allclose(got, summed(spec, by_hand), atol=1e-5)
    assert not np.allclose(got, summed(spec, batch), atol=1e-3)


def test_the_processs_thread_count_is_restored():
    before = torch.get_num_threads()
    summed(SPECS["svm"], patients(SPECS["svm"], [1]), runtime=RuntimeOptions(threads=before + 1))
    assert torch.get_num_threads() == before


def test_misuse_is_refused_before_any_work():
    for name in ("svm", "cnn-maps"):
        with pytest.raises(MisuseError, match="features are fixed"):
            summed(SPECS[name], [], augmentation=STRONG)
    with pytest.raises(MisuseError):
        summed(SPECS["cnn"], [], clip=0.0)
    with pytest.raises(OperatorError, match="micro_batch"):
        RuntimeOptions(micro_batch=0)
    with pytest.raises(OperatorError, match=r"shift.*zoom|zoom.*shift"):
        Augmentation(shift=2, zoom=-1)


def test_views_vary_with_the_draws_and_keep_the_image_at_their_centre():
    images = torch.rand(2, 1, 28, 28)
    count = 2 * STRONG.copies
    random_views = views(images, torch.from_numpy(draw(count, os.urandom)), STRONG)
    assert random_views.shape == (count, 1, 28, 28)
    assert len({view.numpy().tobytes() for view in random_views}) == count
    neutral = torch.zeros(count, DRAWS)  # zero draws: no rotation, shift, zoom or contrast
    assert torch.allclose(views(images, neutral, STRONG), images.repeat_interleave(3, 0), atol=1e-5)
    mirrored = neutral.clone()
    mirrored[:, 5] = -1
    assert torch.allclose(
        views(images, mirrored, STRONG), images.flip(-1).repeat_interleave(3, 0), atol=1e-5
    )


def test_a_shift_moves_by_the_stated_share_of_the_side():
    image = torch.zeros(1, 1, 40, 40)
    image[..., 20, 20] = 1
    draws = torch.zeros(1, DRAWS)
    draws[0, 3] = 1.0
    moved = views(image, draws, Augmentation(shift=0.1))
    assert moved[0, 0, 20, 16] == pytest.approx(1, abs=1e-4)


def test_draws_are_uniform_and_take_a_fixed_number_of_bytes():
    stream = Stream(4)
    values = draw(2000, stream)
    assert stream._used == 2000 * DRAWS * 4
    assert values.min() >= -1
    assert values.max() < 1
    assert abs(values.mean()) < 0.03
    assert values.std() == pytest.approx(3**-0.5, abs=0.02)
